"""A surrogate gives the deployed model's own gradient where it is the same function, counted."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ibisa_onnx.bottleneck import Bottleneck
from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.exact import ExactGradient
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.model import DeployedModel, PassCounter

Function = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def program(network: torch.nn.Module, images: torch.Tensor, tmp_path: Path) -> Path:
    """The network as a `.pt2` file that takes any number of images."""
    batch = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    path = tmp_path / "surrogate.pt2"
    torch.export.save(torch.export.export(network, (images,), dynamic_shapes=batch), path)
    return path


def gradient(function: Function, images: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(images)[:, 1].sum(), images)
    return found


def test_module_and_file_give_the_exact_gradient(
    deployed: Callable[..., DeployedModel],
    network: torch.nn.Module,
    program: Path,
    images: torch.Tensor,
) -> None:
    bottleneck = Bottleneck(images[:1], images[1:])
    masks = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    exact = gradient(ExactGradient(deployed(), "scores")(bottleneck), masks)
    for source in (network, program, str(program)):
        found = gradient(SurrogateGradient(source, PassCounter())(bottleneck), masks)
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


def test_passes_are_counted(network: torch.nn.Module, images: torch.Tensor) -> None:
    passes = PassCounter()
    function = SurrogateGradient(network, passes).scores
    gradient(function, images)
    assert (passes.forward, passes.backward) == (2, 2)
    assert (passes.forward_calls, passes.backward_calls) == (1, 1)
    with torch.no_grad():
        function(images[:1])
    assert (passes.forward, passes.backward) == (3, 2)


def test_the_module_itself_is_left_alone(network: torch.nn.Module, images: torch.Tensor) -> None:
    network.train()
    gradient(SurrogateGradient(network, PassCounter()).scores, images)
    assert network.training
    assert all(each.grad is None for each in network.parameters())
    network.eval()


def test_half_precision_comes_back_as_float32(images: torch.Tensor) -> None:
    half = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(243, 5)).half()
    convert = torch.nn.Module()
    convert.forward = lambda x: half(x.half())
    assert SurrogateGradient(convert, PassCounter()).scores(images).dtype == torch.float32


def damaged(kind: str, folder: Path) -> Path:
    path = folder / "surrogate.pt2"
    if kind == "nonsense":
        path.write_bytes(b"this is no program")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "another zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "hello")
    elif kind == "a state dict":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "nonsense", "empty", "a folder", "another zip", "a state dict"]
)
def test_a_bad_file_is_one_line_and_nothing_else(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = damaged(kind, tmp_path)
    with caplog.at_level(logging.DEBUG), pytest.raises(GradientError) as caught:
        SurrogateGradient(path, PassCounter())
    assert str(path) in str(caught.value)
    assert "torch.export.save" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "warnings above" not in str(caught.value)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err + caplog.text


def test_a_cut_file_too(
    program: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    program.write_bytes(program.read_bytes()[:500])
    with pytest.raises(GradientError, match="no surrogate that torch can load"):
        SurrogateGradient(program, PassCounter())
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_torchs_log_speaks_again_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("torch.export")
    before = list(log.filters)
    with pytest.raises(GradientError):
        SurrogateGradient(damaged("nonsense", tmp_path), PassCounter())
    assert log.filters == before


class Returns(torch.nn.Module):
    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = what

    def forward(self, images: torch.Tensor) -> object:
        return self.what


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (torch.nn.Linear(7, 5), "failed on images.*mat1"),
        (torch.nn.Conv2d(4, 1, 1), "failed on images.*channels"),
        (Returns({"logits": torch.ones(2, 5)}), "returns dict.*one tensor"),
        (Returns((torch.ones(2, 5),)), "returns tuple"),
    ],
)
def test_the_wrong_program_is_one_line(
    module: torch.nn.Module, says: str, images: torch.Tensor
) -> None:
    passes = PassCounter()
    with pytest.raises(GradientError, match=says) as caught:
        SurrogateGradient(module, passes).scores(images)
    assert "\n" not in str(caught.value)
    assert passes.forward == 0
