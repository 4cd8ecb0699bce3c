"""Class activation that comes with a gradient, against PyTorch; and where it is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper, parser

from ibisa_onnx.gradients.class_activation import deep_features
from ibisa_onnx.gradients.layer import feature_maps
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


def names(model: DeployedModel, outputs: tuple[str, ...], size: tuple[int, int]) -> list[str]:
    """The features that are chosen."""
    return [each.name for each in deep_features(model, outputs, size)]


def test_of_a_quantised_model_it_is_that_of_its_float_counterpart() -> None:
    rounded = PLAIN.replace(
        "c4 = Conv",
        "q = QuantizeLinear (r3, scale, zero) d = DequantizeLinear (q, scale, zero) c4 = Conv",
    ).replace("(r3, k4)", "(d, k4)")
    model = opened(rounded, scale=np.float32(0.05), zero=np.uint8(0))
    assert names(model, ("scores",), SIZE) == ["d"]
    image = np.random.default_rng(1).normal(size=(1, 3, *SIZE)).astype(np.float32)
    masked, cotangent = MaskedImages(image, np.zeros_like(image)), np.ones((1, 4), np.float32)
    found, wanted = (activation(each, masked, cotangent) for each in (model, opened(PLAIN)))
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_it_is_taken_sixteen_pixels_deep() -> None:
    assert names(opened(PLAIN), ("scores",), SIZE) == ["r3"]
    shallow = f"{downwards(2)} p = GlobalAveragePool (r1) scores = Flatten (p)"
    assert names(opened(shallow), ("scores",), SIZE) == ["r1"]


def test_it_is_taken_where_all_paths_meet() -> None:
    body = (
        f"{downwards(4)} a = Conv (r3, one) b = Relu (a) s = Add (b, r3) t = Relu (s) "
        f"u = Conv (t, one) v = Relu (u) w = Conv {DOWN} (v, k4) x = Conv {DOWN} (t, k5) "
        "y = Add (w, x) p = GlobalAveragePool (y) scores = Flatten (p)"
    )
    assert names(opened(body), ("scores",), SIZE) == ["t"]  # not v, on one path of two


def test_patches_of_a_transformer_are_not_deep() -> None:
    nodes = [f"m{n} = MatMul ({f'm{n - 1}' if n else 'tokens'}, square)" for n in range(4)]
    body = (
        f"{downwards(1)} patches = Conv {DOWN} (r0, k1) flat = Reshape (patches, shape) "
        f"tokens = Transpose <perm = [0, 2, 1]> (flat) {' '.join(nodes)} "
        "scores = ReduceMean <axes = [1], keepdims = 0> (m3)"
    )
    constants = {"square": np.eye(4, dtype=np.float32), "shape": np.array([0, 4, -1])}
    assert names(opened(body, **constants), ("scores",), SIZE) == ["patches"]  # 2 of 6
    more = body.replace("(m3)", "(m5)").replace(
        "scores", "m4 = MatMul (m3, square) m5 = MatMul (m4, square) scores", 1
    )
    assert names(opened(more, **constants), ("scores",), SIZE) == []


def test_shapes_that_are_read_are_no_path() -> None:
    body = (
        f"{downwards(4)} whole = Shape (r3) n = Gather (whole, zero) rest = Concat <axis = 0> "
        "(n, minus) q = Relu (r3) flat = Reshape (q, rest) scores = MatMul (flat, matrix)"
    )
    constants = {"zero": np.array([0]), "minus": np.array([-1])}
    matrix = np.ones((4 * 16, 3), np.float32)
    assert names(opened(body, matrix=matrix, **constants), ("scores",), SIZE) == ["q"]


@pytest.mark.parametrize(("count", "chosen"), [(2, []), (3, ["r2"]), (4, ["r3"])])
def test_where_each_place_is_scored_it_must_be_deep(count: int, chosen: list[str]) -> None:
    head = HEAD.replace("float[n,k] scores", "float[n,k,h,w] scores")
    body = (
        f'{downwards(count)} m = Resize <mode = "linear"> (r{count - 1}, , sides) '
        "scores = Conv (m, one)"
    )
    sides = np.array([1, 1, 2**count, 2**count], np.float32)
    assert names(opened(body, head, sides=sides), ("scores",), SIZE) == chosen


def test_of_several_outputs_there_is_none() -> None:
    head = HEAD.replace("(float[n,k] scores)", "(float[n,k] scores, float[n,k,1,1] p)")
    assert names(opened(PLAIN, head), ("scores", "p"), SIZE) == []


def pyramid(heads: str) -> str:
    """Levels of 16, 8 and 4 places a side, the coarser added to the finer ones, and heads."""
    return (
        f"{downwards(4)} u2 = Resize (r3, , double) m2 = Add (u2, r2) "
        f"u1 = Resize (m2, , double) m1 = Add (u1, r1) {heads}"
    )


HEADS = "".join(
    f"h{n} = Conv ({level}, one) t{n} = Transpose <perm = [0, 2, 3, 1]> (h{n}) "
    f"s{n} = Reshape (t{n}, rows) "
    for n, level in enumerate(("m1", "m2", "r3"))
)
PYRAMID = pyramid(f"{HEADS} scores = Concat <axis = 1> (s0, s1, s2)")
SHAPES = {"double": np.array([1, 1, 2, 2], np.float32), "rows": np.array([0, -1, 4])}
ANCHORS = HEAD.replace("float[n,k] scores", "float[n,a,k] scores")


def test_an_image_whose_sides_are_read_late_is_no_path() -> None:
    body = (
        f"{downwards(4)} q = Conv (r3, one) whole = Shape (image) n = Gather (whole, zero) "
        "rest = Concat <axis = 0> (n, minus) p = GlobalAveragePool (q) scores = Reshape (p, rest)"
    )
    constants = {"zero": np.array([0]), "minus": np.array([-1])}
    assert names(opened(body, **constants), ("scores",), SIZE) == ["q"]


def test_without_a_bottleneck_it_is_taken_of_a_pyramids_levels() -> None:
    assert names(opened(PYRAMID, ANCHORS, **SHAPES), ("scores",), SIZE) == ["m1", "m2", "r3"]


def test_a_pyramid_with_a_level_as_fine_as_the_image_is_none() -> None:
    body = f"{PYRAMID.replace('scores =', 'p =')} q = Conv {DOWN} (image, k0) g = Conv (q, one) "
    body += "t = Transpose <perm = [0, 2, 3, 1]> (g) s = Reshape (t, rows) "
    body += "scores = Concat <axis = 1> (p, s)"
    assert names(opened(body, ANCHORS, **SHAPES), ("scores",), SIZE) == []


def test_where_whole_numbers_lie_between_there_is_none() -> None:
    body = f"whole = Cast <to = 7> (image) pixels = Cast <to = 1> (whole) {PLAIN}"
    body = body.replace("(image, k0)", "(pixels, k0)")
    assert names(opened(body), ("scores",), SIZE) == []


def test_many_maps_at_once_are_not_kept() -> None:
    """Of n parallel branches there would be n * n / 2 names."""
    branches = " ".join(f"b{n} = Relu (r3)" for n in range(100))
    every = ", ".join(f"b{n}" for n in range(100))
    body = f"{downwards(4)} {branches} m = Sum ({every}) p = GlobalAveragePool (m) "
    maps = feature_maps(opened(f"{body} scores = Flatten (p)"), "scores", SIZE)
    assert sum(map(len, maps.cuts)) < 300
    assert {"r3", "m"} <= {each.name for each in maps.tensors if each.bottleneck}


def test_what_a_model_says_of_each_place_are_no_features() -> None:
    """Each level's scores are read off before the next one is made, as in some SSDs."""
    level = (
        "h{0} = Conv (r{0}, one) t{0} = Transpose <perm = [0, 2, 3, 1]> (h{0}) "
        "s{0} = Reshape (t{0}, rows)"
    )
    parts = downwards(4).split(" c")
    body = " ".join(
        f"{part if part.startswith('c') else 'c' + part} {level.format(n) if n > 1 else ''}"
        for n, part in enumerate(parts)
    )
    body += " scores = Concat <axis = 1> (s2, s3)"
    assert names(opened(body, ANCHORS, **SHAPES), ("scores",), SIZE) == ["r2"]


def test_of_a_pyramid_the_levels_maps_are_added() -> None:
    model = opened(PYRAMID, ANCHORS, **SHAPES)
    kernels = {each.name: numpy_helper.to_array(each) for each in model.proto().graph.initializer}
    rng = np.random.default_rng(1)
    image = rng.normal(size=(1, 3, *SIZE)).astype(np.float32)
    levels = [torch.from_numpy(image)]
    for number in range(4):
        kernel = torch.tensor(kernels[f"k{number}"])
        levels.append(F.relu(F.conv2d(levels[-1], kernel, stride=2, padding=1)))
        levels[-1].requires_grad_()
    coarse = levels[4]
    middle = levels[3] + F.interpolate(coarse, scale_factor=2)
    fine = levels[2] + F.interpolate(middle, scale_factor=2)
    one = torch.tensor(kernels["one"])
    heads = [F.conv2d(each, one) for each in (fine, middle, coarse)]
    scores = torch.cat([each.permute(0, 2, 3, 1).reshape(1, -1, 4) for each in heads], 1)
    cotangent = rng.normal(size=tuple(scores.shape)).astype(np.float32)
    slopes = torch.autograd.grad(scores, (fine, middle, coarse), torch.from_numpy(cotangent))

    found = activation(model, MaskedImages(image, np.zeros_like(image)), cotangent)
    assert found.shape == (1, 2, 16, 16)
    wanted = torch.zeros(1, 2, 16, 16)
    for slope, level in zip(slopes, (fine, middle, coarse), strict=True):
        each = (slope * level).detach()
        both = torch.stack([each.sum(1), each.clamp(min=0).sum(1)], 1)
        share = both.shape[-1] ** 2 / 16**2  # so that a level's total stays
        wanted += share * F.interpolate(both, (16, 16), mode="bilinear")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
