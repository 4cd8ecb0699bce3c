"""Class activation that comes with a gradient, against PyTorch; and where it is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper, parser

from ibisa_onnx.gradients.class_activation import deep_features
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.onnx_backward import ExactGradient
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCounter

SIZE = (64, 64)
HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,64,64] image) => (float[n,k] scores)'
DOWN = "<strides = [2, 2], pads = [1, 1, 1, 1]>"


def opened(body: str, head: str = HEAD, **weights: np.ndarray) -> DeployedModel:
    """A model written in ONNX's own text; kernels whose name is not given are random."""
    model = parser.parse_model(f"{head} {{ {body} }}")
    rng, channels = np.random.default_rng(4), {"k0": (4, 3), "one": (4, 4)}
    for name in sorted({each for node in model.graph.node for each in node.input}):
        if name.startswith("k") or name == "one":
            side = 1 if name == "one" else 3
            shape = (*channels.get(name, (4, 4)), side, side)
            weights.setdefault(name, rng.normal(0, 0.4, shape).astype(np.float32))
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return DeployedModel.open(model.SerializeToString(), providers=["cpu"], threads=1)


def downwards(count: int) -> str:
    """Convolutions that halve the image each: `r0` has 32 pixels, `r1` 16, and so on."""
    names = ["image", *(f"r{number}" for number in range(count))]
    return " ".join(
        f"c{n} = Conv {DOWN} ({names[n]}, k{n}) r{n} = Relu (c{n})" for n in range(count)
    )


PLAIN = f"{downwards(5)} p = GlobalAveragePool (r4) scores = Flatten (p)"


def activation(model: DeployedModel, masked: MaskedImages, cotangent: np.ndarray) -> Any:
    function = ExactGradient(model, ("scores",), size=SIZE)(masked, PassCounter())
    _, saved = function.forward(np.ones((1, 1, 4, 4), np.float32))
    function.backward(saved, {"scores": cotangent})
    return function.class_activation(saved)


def test_it_is_what_each_place_contributes() -> None:
    model = opened(PLAIN)
    kernels = {each.name: numpy_helper.to_array(each) for each in model.proto().graph.initializer}
    image = np.random.default_rng(1).normal(size=(1, 3, *SIZE)).astype(np.float32)
    cotangent = np.array([[1.0, -0.5, 0.25, -2.0]], np.float32)

    features = torch.from_numpy(image)
    for number in range(5):
        kernel = torch.tensor(kernels[f"k{number}"])
        features = F.relu(F.conv2d(features, kernel, stride=2, padding=1))
        if number == 3:
            chosen = features = features.detach().requires_grad_()
    scores = features.mean((2, 3))
    (slope,) = torch.autograd.grad(scores, chosen, torch.from_numpy(cotangent))
    contributions = (slope * chosen)[0].detach().numpy()
    net, gross = contributions.sum(0), np.maximum(contributions, 0).sum(0)

    found = activation(model, MaskedImages(image, np.zeros_like(image)), cotangent)
    assert found.shape == (1, 2, 4, 4)
    assert net.min() < 0 < net.max()
    np.testing.assert_allclose(found[0], [net, gross], rtol=1e-4, atol=1e-7)


def test_it_is_taken_sixteen_pixels_deep() -> None:
    assert deep_features(opened(PLAIN), ("scores",), SIZE) == "r3"
    shallow = f"{downwards(2)} p = GlobalAveragePool (r1) scores = Flatten (p)"
    assert deep_features(opened(shallow), ("scores",), SIZE) == "r1"


def test_it_is_taken_where_all_paths_meet() -> None:
    body = (
        f"{downwards(4)} a = Conv (r3, one) b = Relu (a) s = Add (b, r3) t = Relu (s) "
        f"u = Conv (t, one) v = Relu (u) w = Conv {DOWN} (v, k4) x = Conv {DOWN} (t, k5) "
        "y = Add (w, x) p = GlobalAveragePool (y) scores = Flatten (p)"
    )
    assert deep_features(opened(body), ("scores",), SIZE) == "t"  # not v, on one path of two


def test_patches_of_a_transformer_are_not_deep() -> None:
    nodes = [f"m{n} = MatMul ({f'm{n - 1}' if n else 'tokens'}, square)" for n in range(4)]
    body = (
        f"{downwards(1)} patches = Conv {DOWN} (r0, k1) flat = Reshape (patches, shape) "
        f"tokens = Transpose <perm = [0, 2, 1]> (flat) {' '.join(nodes)} "
        "scores = ReduceMean <axes = [1], keepdims = 0> (m3)"
    )
    constants = {"square": np.eye(4, dtype=np.float32), "shape": np.array([0, 4, -1])}
    assert deep_features(opened(body, **constants), ("scores",), SIZE) == "patches"  # 2 of 6
    more = body.replace("(m3)", "(m5)").replace(
        "scores", "m4 = MatMul (m3, square) m5 = MatMul (m4, square) scores", 1
    )
    assert deep_features(opened(more, **constants), ("scores",), SIZE) == ""


def test_shapes_that_are_read_are_no_path() -> None:
    body = (
        f"{downwards(4)} whole = Shape (r3) n = Gather (whole, zero) rest = Concat <axis = 0> "
        "(n, minus) q = Relu (r3) flat = Reshape (q, rest) scores = MatMul (flat, matrix)"
    )
    constants = {"zero": np.array([0]), "minus": np.array([-1])}
    matrix = np.ones((4 * 16, 3), np.float32)
    assert deep_features(opened(body, matrix=matrix, **constants), ("scores",), SIZE) == "q"


@pytest.mark.parametrize(("count", "chosen"), [(2, ""), (3, "r2"), (4, "r3")])
def test_where_each_place_is_scored_it_must_be_deep(count: int, chosen: str) -> None:
    head = HEAD.replace("float[n,k] scores", "float[n,k,h,w] scores")
    body = (
        f'{downwards(count)} m = Resize <mode = "linear"> (r{count - 1}, , sides) '
        "scores = Conv (m, one)"
    )
    sides = np.array([1, 1, 2**count, 2**count], np.float32)
    assert deep_features(opened(body, head, sides=sides), ("scores",), SIZE) == chosen


def test_of_several_outputs_there_is_none() -> None:
    head = HEAD.replace("(float[n,k] scores)", "(float[n,k] scores, float[n,k,1,1] p)")
    assert deep_features(opened(PLAIN, head), ("scores", "p"), SIZE) == ""
