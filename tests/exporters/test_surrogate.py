"""A surrogate written beside the model explains as the model's own gradient does."""

from __future__ import annotations

import zipfile
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
from torch.export.passes import move_to_device_pass

from ibisa_onnx import Explainer, Options
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics.agreement import spearman
from ibisa_onnx.models.signature import Layout
from ibisa_onnx.preprocessing.spec import Preprocessing

pytest.importorskip("onnxscript", reason="torch writes ONNX by onnxscript")

# The demo's network as its file has it: batch normalization folded into the convolutions.
_DEMO = """
from torch import nn
from ibisa_exporters.demo_model import MEAN, PREPROCESSING, STD, DemoNet
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
    """The demo's trained network, exported with its surrogate: demo.onnx, demo.surrogate.pt2."""
    (tmp_path / "demo.py").write_text(_DEMO)
    weights = {
        each.name: torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in onnx.load(model_path()).graph.initializer
    }
    torch.save(weights, tmp_path / "weights.pt")
    result = cli("export", "demo.py:demo", "--weights", "weights.pt", "--surrogate", "-q")
    assert result.out.split() == ["demo.onnx", "demo.surrogate.pt2"], result.err
    (tmp_path / "demo.py").unlink()
    return tmp_path


def test_the_maps_are_the_same(demo):
    alike = Options(activation=0)  # of a surrogate the features are not known
    exact = Explainer(demo / "demo.onnx", options=alike)
    surrogate = Explainer(
        demo / "demo.onnx",
        gradient="surrogate",
        surrogate=demo / "demo.surrogate.pt2",
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
    words = ("--gradient", "surrogate", "--surrogate", "demo.surrogate.pt2", "-o", "map.png")
    assert "made for another model" not in cli("run", "demo.onnx", scene_path(), *words).err
    assert cli("annotate", "demo.onnx", "--preprocess", "tf", "-o", "said.onnx").code == 0
    assert "made for another model" not in cli("run", "said.onnx", scene_path(), *words).err
    other = cli("run", model_path(), scene_path(), *words)
    assert "was made for another model, demo.onnx" in other.err


def test_it_runs_on_any_device(demo):
    program = torch.export.load(demo / "demo.surrogate.pt2")
    moved = move_to_device_pass(program, "meta").module()
    assert moved(torch.zeros(3, 3, 128, 128, device="meta")).shape == (3, 8)


def test_it_holds_no_code(demo):
    with zipfile.ZipFile(demo / "demo.surrogate.pt2") as archive:
        texts = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
    assert texts
    assert not any(b"demo.py" in text or b"functional.adaptive" in text for text in texts)


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
    path, surrogate = tmp_path / "last.onnx", tmp_path / "last.pt2"
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
    write_surrogate(TrainedModel("crossed", net, torch.zeros(1, 3, 8, 8)), tmp_path / "net.pt2", {})
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


def test_a_surrogate_that_differs_is_not_written(cli, module):
    module.write_text(
        module.read_text()
        + "\n\nclass Odd(Net):\n    def forward(self, x):\n"
        + "        y = super().forward(x)\n"
        + "        return y.detach() if torch.compiler.is_exporting() else y\n"
        + "\n\ndef odd():\n    return Odd()\n"
    )
    result = cli("export", f"{module}:odd", "--size", "32", "-o", "odd.onnx", "--surrogate")
    assert result.code == 1
    assert "surrogate" in result.err
    assert not list(module.parent.parent.glob("odd*"))
