"""A surrogate gives the deployed model's own gradient where it is the same function, counted."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.base import MaskedModel
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.onnx_backward import ExactGradient
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.gradients.surrogate_file import ARCHIVED_FACTS
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCounter


@pytest.fixture
def masked(images: np.ndarray) -> MaskedImages:
    return MaskedImages(images[:1], images[1:])


@pytest.fixture
def masks() -> np.ndarray:
    """Three masks of a grid that is not square, float32 [3, 1, 4, 6]."""
    return np.random.default_rng(0).random((3, 1, 4, 6), np.float32)


@pytest.fixture
def program(network: torch.nn.Module, images: np.ndarray, tmp_path: Path) -> Path:
    """The network as a `.pt2` file that takes any number of images."""
    batch = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    path = tmp_path / "surrogate.pt2"
    example = (torch.from_numpy(images),)
    torch.export.save(torch.export.export(network, example, dynamic_shapes=batch), path)
    return path


def through(source: Any, masked: MaskedImages, passes: PassCounter | None = None) -> MaskedModel:
    """The function from masks to scores of a surrogate, a file or a module."""
    return SurrogateGradient(source, "scores", trust=True)(masked, passes or PassCounter())


def gradient(function: MaskedModel, masks: np.ndarray) -> np.ndarray:
    """The gradient of class 1, of each mask."""
    raw, saved = function.forward(masks)
    classes = raw["scores"].shape[1]
    cotangent = np.eye(classes, dtype=np.float32)[[1] * len(masks)]
    return function.backward(saved, {"scores": cotangent})


def test_module_and_file_give_the_exact_gradient(
    deployed: Callable[..., DeployedModel],
    network: torch.nn.Module,
    program: Path,
    masked: MaskedImages,
    masks: np.ndarray,
) -> None:
    exact = gradient(ExactGradient(deployed(), ("scores",))(masked, PassCounter()), masks)
    for source in (network, program, str(program)):
        found = gradient(through(source, masked), masks)
        assert (found.shape, found.dtype) == (masks.shape, np.float32)
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (4, 6), (9, 9), (20, 3)])
def test_masks_of_any_grid(
    network: torch.nn.Module, masked: MaskedImages, grid: tuple[int, int]
) -> None:
    mask = np.random.default_rng(1).random((1, 1, *grid), np.float32)
    leaf = torch.tensor(mask, requires_grad=True)
    image, baseline = (torch.from_numpy(each) for each in (masked.images, masked.baselines))
    mixed = torch.lerp(baseline, image, F.interpolate(leaf, masked.size, mode="bilinear"))
    (expected,) = torch.autograd.grad(network(mixed)[0, 1], leaf)
    found = gradient(through(network, masked), mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


class Tokens(torch.nn.Module):
    """Normalization and then tokens, as in XCiT: its cotangent lies otherwise than its image."""

    def __init__(self, kind: type[torch.nn.Module]) -> None:
        super().__init__()
        self.norm, self.head = kind(3), torch.nn.Linear(3 * 81, 5)
        if isinstance(self.norm, torch.nn.BatchNorm2d):
            self.norm.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.norm(images)).flatten(2).transpose(1, 2)
        return self.head(hidden.flatten(1))


@pytest.mark.parametrize("kind", [torch.nn.BatchNorm2d, torch.nn.InstanceNorm2d])
@pytest.mark.parametrize("exported", [False, True])
def test_a_single_image_is_normalized_with_the_right_gradient(
    images: np.ndarray, tmp_path: Path, kind: type[torch.nn.Module], exported: bool
) -> None:
    """PyTorch 2.13 and 2.14 alone are off by more than the whole gradient here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Tokens(kind).eval()
    image = torch.from_numpy(images[:1])
    source: Any = net
    if exported:
        source = tmp_path / "by-hand.pt2"
        torch.export.save(torch.export.export(net, (image,)), source)
    leaf = image.clone().requires_grad_(True)
    score = SurrogateGradient(source, "scores", trust=True).scores(leaf)[0, 1]
    (found,) = torch.autograd.grad(score, leaf)
    twice = images[[0, 0]].astype(np.float64)  # of which torch makes no mistake
    leaf = torch.from_numpy(twice).requires_grad_(True)
    (expected,) = torch.autograd.grad(net.double()(leaf)[0, 1], leaf)
    np.testing.assert_allclose(found, expected[:1], rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_torchscript_is_warned_of(
    deployed: Callable[..., DeployedModel], network: torch.nn.Module, images: np.ndarray
) -> None:
    model = deployed()
    assert SurrogateGradient(network, "scores").warnings(model) == ()
    scripted = torch.jit.trace(network, torch.from_numpy(images))
    (warning,) = SurrogateGradient(scripted, "scores").warnings(model)
    assert "TorchScript" in warning


def test_passes_are_counted(
    network: torch.nn.Module, masked: MaskedImages, masks: np.ndarray
) -> None:
    passes = PassCounter()
    function = through(network, masked, passes)
    gradient(function, masks)
    assert (passes.forward, passes.backward) == (3, 3)
    assert (passes.forward_calls, passes.backward_calls) == (1, 1)
    function.forward(masks[:1])
    assert (passes.forward, passes.backward) == (4, 3)


def test_the_module_itself_is_left_alone(
    network: torch.nn.Module, masked: MaskedImages, masks: np.ndarray
) -> None:
    network.train()
    gradient(through(network, masked), masks)
    assert network.training
    assert all(each.grad is None for each in network.parameters())
    network.eval()


class Wraps(torch.nn.Module):
    """A module from any function of images, with a weight as every trained one has."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function, self.weight = function, torch.nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> Any:
        return self.function(images)


def test_half_precision_comes_back_as_float32(masked: MaskedImages, masks: np.ndarray) -> None:
    half = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(243, 5)).half()
    function = through(Wraps(lambda x: half(x.half())), masked)
    assert function.forward(masks)[0]["scores"].dtype == np.float32
    assert gradient(function, masks).dtype == np.float32


@pytest.mark.parametrize("axes", [(), (1,), (1, 1)])
def test_scores_may_have_axes_of_one(
    network: torch.nn.Module, masked: MaskedImages, masks: np.ndarray, axes: tuple[int, ...]
) -> None:
    plain = through(network, masked)
    module = Wraps(lambda x: network(x).reshape(len(x), -1, *axes))
    function = through(module, masked)
    np.testing.assert_array_equal(
        function.forward(masks)[0]["scores"], plain.forward(masks)[0]["scores"]
    )
    np.testing.assert_array_equal(gradient(function, masks), gradient(plain, masks))


def test_one_score_an_image_needs_no_axis_for_it(masked: MaskedImages, masks: np.ndarray) -> None:
    function = through(Wraps(lambda x: x.mean((1, 2, 3))), masked)
    raw, saved = function.forward(masks)
    assert raw["scores"].shape == (3, 1)
    assert function.backward(saved, {"scores": np.ones_like(raw["scores"])}).any()


def test_what_does_not_depend_on_the_image_has_a_gradient_of_zero(
    masked: MaskedImages, masks: np.ndarray
) -> None:
    module = Wraps(lambda x: 0 * module.weight + torch.ones(len(x), 5))
    found = gradient(through(module, masked), masks)
    assert found.shape == masks.shape
    assert not found.any()


def test_a_surrogate_that_takes_no_gradients_is_refused(
    network: torch.nn.Module, masked: MaskedImages, masks: np.ndarray
) -> None:
    function = through(Wraps(torch.no_grad()(network)), masked)
    with pytest.raises(GradientError, match="no gradient") as caught:
        function.forward(masks)
    assert "\n" not in str(caught.value)


def test_whoever_asks_may_have_switched_gradients_off(
    network: torch.nn.Module, masked: MaskedImages, masks: np.ndarray
) -> None:
    function = through(network, masked)
    wanted = gradient(function, masks)
    with torch.no_grad():
        np.testing.assert_array_equal(gradient(function, masks), wanted)


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
        SurrogateGradient(path, "scores", trust=True)
    assert str(path) in str(caught.value)
    if kind not in ("missing", "a folder"):
        assert "torch.export.save" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "warnings above" not in str(caught.value)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err + caplog.text


def test_a_file_may_have_any_name(program: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = program.rename(program.with_suffix(".bin"))
    SurrogateGradient(named, "scores", trust=True)
    assert caplog.text == ""


def test_a_cut_file_too(
    program: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    program.write_bytes(program.read_bytes()[:500])
    with pytest.raises(GradientError, match="not a surrogate that torch can load"):
        SurrogateGradient(program, "scores", trust=True)
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_torchs_log_speaks_again_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("torch.export")
    before = list(log.filters)
    with pytest.raises(GradientError):
        SurrogateGradient(damaged("another zip", tmp_path), "scores", trust=True)
    assert log.filters == before


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (torch.nn.Linear(7, 5), "failed on images.*mat1"),
        (torch.nn.Conv2d(4, 1, 1), "failed on images.*channels"),
        (Wraps(lambda _: {"logits": torch.ones(2, 5)}), "returned dict.*one tensor"),
        (Wraps(lambda _: (torch.ones(2, 5),)), "returned tuple"),
    ],
)
def test_the_wrong_program_is_one_line(
    module: torch.nn.Module, says: str, masked: MaskedImages, masks: np.ndarray
) -> None:
    passes = PassCounter()
    with pytest.raises(GradientError, match=says) as caught:
        through(module, masked, passes).forward(masks)
    assert "\n" not in str(caught.value)
    assert passes.forward == 0


def with_facts(network: torch.nn.Module, images: np.ndarray, path: Path, facts: str) -> Path:
    exported = torch.export.export(network, (torch.from_numpy(images),))
    torch.export.save(exported, path, extra_files={ARCHIVED_FACTS: facts})
    return path


class Digests(SimpleNamespace):
    """A model of which the digests alone are known."""

    def __init__(self, file: str | None, graph: str | None = None) -> None:
        super().__init__(sha256=file, graph_sha256=graph)


def test_a_file_says_of_which_model_it_is(
    network: torch.nn.Module, images: np.ndarray, tmp_path: Path
) -> None:
    facts = '{"model": "m.onnx", "model_sha256": "abc", "certified": true}'
    path = with_facts(network, images, tmp_path / "s.pt2", facts)
    surrogate = SurrogateGradient(path, "scores", trust=True)
    assert surrogate.warnings(Digests("abc")) == ()
    assert surrogate.warnings(Digests(None)) == ()  # a function has no digest
    (warning,) = surrogate.warnings(Digests("def"))
    assert "another model, m.onnx" in warning


@pytest.mark.parametrize("facts", ["{}", "[]", "nonsense", '{"model_sha256": null}'])
def test_a_file_need_not_say_anything(
    network: torch.nn.Module, images: np.ndarray, tmp_path: Path, facts: str
) -> None:
    path = with_facts(network, images, tmp_path / "s.pt2", facts)
    assert SurrogateGradient(path, "scores", trust=True).warnings(Digests("abc")) == ()
