"""A surrogate written beside the model explains as the model's own gradient does."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from ibisa_exporters.onnx_export import Form, save, to_onnx
from ibisa_exporters.surrogate import write_surrogate
from ibisa_exporters.trained import TrainedModel
from ibisa_exporters.verification import check, verify
from onnx import numpy_helper
from torch import nn

from ibisa_onnx import Explainer, Options
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.errors import ExportError
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics.agreement import spearman
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.signature import Layout
from ibisa_onnx.preprocessing.spec import Preprocessing

pytest.importorskip("onnxscript", reason="torch writes ONNX by onnxscript")

# The demo's network as its file has it: batch normalization folded into the convolutions.
_DEMO = """
from torch import nn
from ibisa_exporters.demo_model import MEAN, PREPROCESSING, STD, DemoNet
from ibisa_onnx.errors import ExportError
from ibisa_onnx.demo import LABELS


def demo():
    net = DemoNet()
    for place, layer in enumerate(net.features):
        if isinstance(layer, nn.BatchNorm2d):
            before = net.features[place - 1]
            net.features[place - 1] = nn.Conv2d(
                before.in_channels, before.out_channels, before.kernel_size, before.stride,
                before.padding,
            )
            net.features[place] = nn.Identity()
    net.preprocessing, net.labels = PREPROCESSING, LABELS
    return net
"""


@pytest.fixture
def demo(cli, tmp_path):
    """The demo's trained network, exported with its surrogate: demo.onnx, demo.surrogate.onnx."""
    (tmp_path / "demo.py").write_text(_DEMO)
    weights = {
        each.name: torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in onnx.load(model_path()).graph.initializer
    }
    torch.save(weights, tmp_path / "weights.pt")
    result = cli("export", "demo.py:demo", "--weights", "weights.pt", "--surrogate", "-q")
    assert result.out.split() == ["demo.onnx", "demo.surrogate.onnx"], result.err
    (tmp_path / "demo.py").unlink()
    return tmp_path


def test_the_maps_are_the_same(demo):
    alike = Options(activation=0)  # of a surrogate the features are not known
    exact = Explainer(demo / "demo.onnx", options=alike)
    surrogate = Explainer(
        demo / "demo.onnx",
        gradient="surrogate",
        surrogate=demo / "demo.surrogate.onnx",
        options=alike,
    )
    scene = scene_path()
    for target in ("star", "striped ball"):
        one, two = exact.explain(scene, target), surrogate.explain(scene, target)
        assert (one.certificate.gradient, two.certificate.gradient) == ("exact", "surrogate")
        assert two.certificate.difference < 1e-4
        assert one.map.std() > 0
        assert spearman(one.map, two.map) > 0.99
    spec = Explainer(model_path()).preprocessing.spec
    assert exact.preprocessing.spec == replace(spec, guessed=())  # the export said all of it


def test_it_knows_which_model_it_goes_with(cli, demo):
    words = ("--gradient", "surrogate", "--surrogate", "demo.surrogate.onnx", "-o", "map.png")
    assert "made for another model" not in cli("run", "demo.onnx", scene_path(), *words).err
    assert cli("annotate", "demo.onnx", "--preprocess", "tf", "-o", "said.onnx").code == 0
    assert "made for another model" not in cli("run", "said.onnx", scene_path(), *words).err
    other = cli("run", model_path(), scene_path(), *words)
    assert "was made for another model, demo.onnx" in other.err


def test_it_takes_any_number_of_images_and_holds_no_code(demo):
    file = demo / "demo.surrogate.onnx"
    scores = DeployedModel.open(file).run(np.zeros((3, 3, 128, 128), np.float32), ["scores"])
    assert scores["scores"].shape == (3, 8)
    content = file.read_bytes()
    assert b"demo.py" not in content
    assert b"functional.adaptive" not in content


def test_a_float_surrogate_of_any_batch_goes_with_a_file_of_halves(cli, module):
    words = (f"{module}:net", "-o", "half.onnx", "--half", "--fixed-batch", "2", "--surrogate")
    assert cli("export", *words).code == 0
    model = DeployedModel.open("half.surrogate.onnx")
    assert (model.image.dtype, model.image.batch) == ("float32", None)
    run = ("run", "half.onnx", scene_path(), "--target", "1", "--json", "-o", "map.png")
    said = cli(*run, "--gradient", "surrogate", "--surrogate", "half.surrogate.onnx")
    assert json.loads(said.out)["certificate"]["gradient"] == "surrogate"
    assert "another model" not in said.err


def test_weights_that_are_too_large_go_beside_it(cli, module, monkeypatch):
    monkeypatch.setattr("ibisa_exporters.onnx_export._LARGEST", 100)
    monkeypatch.setattr("ibisa_exporters.onnx_export._SMALLEST_EXTERNAL", 64)
    done = cli("export", f"{module}:net", "-o", "net.onnx", "--surrogate", "-q")
    names = ("net.onnx", "net.surrogate.onnx")
    assert done.out.split() == [each for name in names for each in (name, f"{name}.data")]
    run = ("run", "net.onnx", scene_path(), "--target", "1", "-o", "map.png")
    said = cli(*run, "--gradient", "surrogate", "--surrogate", "net.surrogate.onnx")
    assert said.code == 0, said.err


class ChannelsLast(nn.Module):
    """A network of [N, H, W, C], as Keras has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.conv(images.permute(0, 3, 1, 2)))
        return self.head(hidden.mean((2, 3)))


def test_channels_last(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ChannelsLast().eval()
    spec = Preprocessing((24, 28), scale=1 / 255, layout="NHWC")
    model = TrainedModel("last", net, torch.zeros(1, 24, 28, 3), spec, layout=Layout.NHWC)
    path, surrogate = tmp_path / "last.onnx", tmp_path / "last.surrogate.onnx"
    save(to_onnx(model, Form()), path)
    found = verify(path, model, Form(), spec, [read_image(scene_path())])
    check(found, 1e-5)
    write_surrogate(model, surrogate, {})
    options = {"preprocessing": spec, "options": Options(activation=0)}
    exact = Explainer(path, **options).explain(scene_path(), 1)
    other = Explainer(path, gradient="surrogate", surrogate=surrogate, **options)
    assert spearman(exact.map, other.explain(scene_path(), 1).map) > 0.99
    assert np.ptp(exact.map) >= 0


class Crossed(nn.Module):
    """Batch normalization whose cotangent comes transposed, which torch derives wrongly alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3 * 64, 5)
        nn.init.normal_(self.norm.weight)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.norm(images)).flatten(2).transpose(1, 2)
        return self.head(hidden.flatten(1))


def test_one_image_has_the_gradient_that_it_has_among_two(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Crossed().eval()
        x = torch.randn(2, 3, 8, 8)
    model = TrainedModel("crossed", net, torch.zeros(1, 3, 8, 8))
    write_surrogate(model, tmp_path / "net.onnx", {})
    write_surrogate(model, tmp_path / "net.pt2", {})
    surrogate = torch.export.load(tmp_path / "net.pt2").module()

    def gradient(images):
        leaf = images.clone().requires_grad_(True)
        return torch.autograd.grad(surrogate(leaf)[:, 1].sum(), leaf)[0]

    (expected,) = torch.autograd.functional.vjp(
        lambda images: net.double()(images)[:, 1], x.double(), torch.ones(2, dtype=torch.float64)
    )[1:]
    torch.testing.assert_close(gradient(x), expected.float())
    torch.testing.assert_close(gradient(x[:1]), expected[:1].float())


class Edge(nn.Module):
    """Units so near to zero that another order of rounding switches some of them."""

    def __init__(self, first: torch.Tensor) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(64), nn.Linear(64, 5)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.running_mean)
        with torch.no_grad():
            scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
            self.norm.bias.copy_((self.norm.running_mean - first) * scale)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(images[:, :1].expand(-1, 64, -1, -1)))
        return self.head(hidden.mean((2, 3)))


def test_units_that_rounding_switches_are_no_difference(tmp_path):
    seen = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Edge(seen[0, 0, 0, 0]).eval()
    model = TrainedModel("edge", net, torch.zeros(1, 3, 16, 16))
    write_surrogate(model, tmp_path / "net.pt2", {})
    surrogate = torch.export.load(tmp_path / "net.pt2").module()
    slopes = []
    for each in (net, surrogate):
        leaf = seen.clone().requires_grad_(True)
        slopes.append(torch.autograd.grad(each(leaf)[:, 1].sum(), leaf)[0])
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3 * slopes[0].abs().max()  # else it proves none


class Odd(nn.Module):
    """A network that is another while it is exported: in its scores, or in its gradient alone."""

    def __init__(self, of_scores: bool) -> None:
        super().__init__()
        self.conv, self.of_scores = nn.Conv2d(3, 5, 3), of_scores

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.conv(images).mean((2, 3))
        if self.of_scores:
            return scores * (1.01 if torch.compiler.is_exporting() else 1)
        return scores if torch.compiler.is_exporting() else 2 * scores - scores.detach()


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
@pytest.mark.parametrize(("of_scores", "said"), [(True, "scores differ"), (False, "gradient")])
def test_a_surrogate_that_differs_is_told(tmp_path, ending, of_scores, said):
    model = TrainedModel("odd", Odd(of_scores).eval(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ExportError, match=f"the surrogate's {said}"):
        write_surrogate(model, tmp_path / f"odd.{ending}", {})


def test_what_onnx_has_no_gradient_of_is_told(tmp_path):
    class Rounds(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.floor(images).mean((2, 3))

    model = TrainedModel("rounds", Rounds(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ExportError, match=r"the exported network has no exact gradient: .*Floor"):
        write_surrogate(model, tmp_path / "rounds.onnx", {})
