"""A transformer as ONNX Runtime's own tools leave it: fused, and in half precision."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from ibisa_onnx.autodiff import differentiate

WIDTH, HEADS = 32, 4


class Block(nn.Module):
    """A layer of BERT, as transformers writes it."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def split(self, x):
        return x.view(x.size(0), x.size(1), HEADS, WIDTH // HEADS).permute(0, 2, 1, 3)

    def forward(self, x):
        q, k, v = (self.split(f(x)) for f in (self.query, self.key, self.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) / (WIDTH // HEADS) ** 0.5
        mixed = torch.matmul(torch.softmax(scores, -1), v).permute(0, 2, 1, 3).contiguous()
        x = self.first(self.out(mixed.view(x.size(0), x.size(1), WIDTH)) + x)
        return self.second(self.down(nn.functional.gelu(self.up(x))) + x)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.blocks(tokens).mean(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The file, an image and the gradient of its scores by PyTorch."""
    torch.manual_seed(0)
    network, path = Classifier().eval(), tmp_path_factory.mktemp("optimised") / "net.onnx"
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            x,
            path,
            dynamo=False,
            opset_version=16,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}},
        )
    y = network(x)
    (expected,) = torch.autograd.grad(y, x, torch.linspace(-1, 1, y.numel()).view_as(y))
    return path, x.detach().numpy(), expected.numpy()


def gradient(model, x):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # ONNX Runtime 1.32 crashes on some of these files in half precision at a higher level.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    derivative = differentiate(model, "x", "y")
    forward, backward = (
        ort.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
        for graph in (derivative.forward, derivative.backward)
    )
    y, *saved = forward.run(None, {"x": x})
    feeds = dict(zip(derivative.saved, saved, strict=True))
    feeds[derivative.cotangent] = np.linspace(-1, 1, y.size, dtype=y.dtype).reshape(y.shape)
    (dx,) = backward.run(None, feeds)
    return dx


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def optimised(path, *, half=False):
    """By the tool for transformers."""
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    model = optimizer.optimize_model(
        str(path), model_type="bert", num_heads=HEADS, hidden_size=WIDTH, opt_level=0
    )
    if half:
        model.convert_float_to_float16(keep_io_types=True)
    return model.model


def contrib(model):
    return {node.op_type for node in model.graph.node if node.domain == "com.microsoft"}


def test_as_exported(exported):
    path, x, expected = exported
    assert distance(gradient(onnx.load(path), x), expected) < 1e-5


def test_fused_by_the_tool_for_transformers(exported):
    path, x, expected = exported
    model = optimised(path)
    assert {"Attention", "SkipLayerNormalization", "BiasGelu"} <= contrib(model)
    assert distance(gradient(model, x), expected) < 1e-5


def test_fused_and_in_half_precision(exported):
    path, x, expected = exported
    model = optimised(path, half=True)
    assert {"Attention", "SkipLayerNormalization"} <= contrib(model)
    assert distance(gradient(model, x), expected) < 5e-3


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_saved_by_a_session(exported, tmp_path, level):
    path, x, expected = exported
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    assert distance(gradient(onnx.load(tmp_path / "saved.onnx"), x), expected) < 1e-5
