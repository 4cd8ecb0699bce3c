from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import UnsupportedOperatorError

OPEN = ["N", 4, "H", "W"]
PADDINGS = ["zeros", "border", "reflection"]


def _off_centre(*shape, low=-3, high=7):
    """Positions in pixels, well away from centres and from borders of pixels, where slopes jump."""
    rng = np.random.default_rng(0)
    whole = rng.integers(low, high, shape)
    return whole + rng.choice([0.2, 0.3, 0.7, 0.8], shape)


def _normalized(pixels, sides, aligned):
    """From pixels to -1 .. 1; the last axis of the grid goes from the innermost axis outward."""
    sides = np.array(sides[::-1])
    return pixels * 2 / (sides - 1) - 1 if aligned else (pixels * 2 + 1) / sides - 1


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("opset", "mode"),
    [(16, "bilinear"), (16, "nearest"), (16, "bicubic"), (20, "linear"), (20, "cubic")],
)
def test_grid_sample(check, spread, opset, mode, padding, aligned, is_open):
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], **attributes)
    grid = _normalized(_off_centre(2, 3, 4, 2), (5, 3), aligned)
    dims = OPEN if is_open else None
    check(node, spread(2, 4, 5, 3), {"grid": grid}, opset=opset, dims=dims, step=0.5)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_grid_sample_with_respect_to_the_grid(check, spread, mode, padding, aligned):
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    node = helper.make_node("GridSample", ["image", "x"], ["y"], **attributes)
    grid = _normalized(_off_centre(2, 3, 4, 2), (5, 3), aligned)
    check(node, grid, {"image": spread(2, 4, 5, 3)}, opset=16, step=1e-3)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_of_a_volume(check, spread, mode, padding):
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding)
    grid = _normalized(_off_centre(1, 2, 3, 2, 3), (3, 4, 2), 0)
    check(node, spread(1, 2, 3, 4, 2), {"grid": grid}, opset=20, step=0.5)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("size", [[2, 3, 4, 5], [2, 3, 4, 1], [2, 3, 3, 4, 5]])
def test_affine_grid(check, spread, size, aligned):
    node = helper.make_node("AffineGrid", ["x", "size"], ["y"], align_corners=aligned)
    n = len(size) - 2
    check(node, spread(2, n, n + 1), {"size": np.array(size)}, opset=20)


def test_spatial_transformer(check, spread):
    """An image that is turned by what it shows."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "shape"], ["theta"]),
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("AffineGrid", ["theta", "size"], ["grid"]),
        helper.make_node("GridSample", ["x", "grid"], ["y"]),
    ]
    shape = np.array([1, 2, 3])
    x = spread(1, 6, 5, 5) + np.array([0.71, 0.13, 0.04, -0.21, 0.64, 0.09]).reshape(1, 6, 1, 1)
    check(nodes, x, {"shape": shape}, opset=20, step=1e-3)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize(
    ("opset", "extra"),
    [
        (10, {}),
        (16, {}),
        (16, {"coordinate_transformation_mode": "output_half_pixel"}),
    ],
)
def test_roi_align(check, spread, opset, extra, ratio, is_open):
    attributes = {"output_height": 2, "output_width": 3, "spatial_scale": 0.9, **extra}
    node = helper.make_node(
        "RoiAlign", ["x", "rois", "batch"], ["y"], sampling_ratio=ratio, **attributes
    )
    rois = [[0.3, 0.7, 4.2, 5.1], [1.2, 1.1, 6.6, 8.3], [-3, -2, 2, 3], [2, 2, 2.2, 2.3]]
    constants = {"rois": np.array(rois), "batch": np.array([0, 1, 1, 0])}
    dims = OPEN if is_open else None
    check(node, spread(2, 4, 5, 6), constants, opset=opset, dims=dims, step=0.5)


def test_roi_align_without_regions(check, spread):
    """As on a level of a pyramid where no region falls, beside one where some do."""
    attributes = {"output_height": 2, "output_width": 3, "sampling_ratio": 2}
    nodes = [
        helper.make_node("RoiAlign", ["x", "none", "of_none"], ["empty"], **attributes),
        helper.make_node("RoiAlign", ["x", "some", "of_some"], ["full"], **attributes),
        helper.make_node("Concat", ["empty", "full"], ["y"], axis=0),
    ]
    constants = {
        "none": np.zeros((0, 4)),
        "of_none": np.zeros(0, np.int64),
        "some": np.array([[0.3, 0.7, 4.2, 5.1]]),
        "of_some": np.array([1]),
    }
    check(nodes, spread(2, 3, 5, 6), constants, opset=16, step=0.5)


def test_roi_align_with_respect_to_the_regions(check, spread):
    node = helper.make_node(
        "RoiAlign", ["image", "x", "batch"], ["y"], output_height=2, output_width=2
    )
    node.attribute.append(helper.make_attribute("sampling_ratio", 2))
    rois = np.array([[0.33, 0.71, 4.24, 5.16], [1.27, 1.13, 3.68, 4.39]])
    constants = {"image": spread(1, 3, 6, 6), "batch": np.array([0, 0])}
    check(node, rois, constants, opset=16, step=1e-3)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [({"mode": "max", "sampling_ratio": 2}, "mode max"), ({}, "sampling_ratio 0")],
)
def test_refusals(build, spread, attributes, words):
    node = helper.make_node("RoiAlign", ["x", "rois", "batch"], ["y"], **attributes)
    constants = {"rois": np.array([[0.0, 0, 2, 2]]), "batch": np.array([0])}
    model = build([node], spread(1, 2, 4, 4), constants, 16, None)
    with pytest.raises(UnsupportedOperatorError, match=words):
        differentiate(model, "x", "y")


DEFORMED = [
    {},
    {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"dilations": [2, 1], "pads": [1, 0, 1, 1]},
]


def _deformed(group, offset_group, attributes):
    """Shapes of image, kernel, offsets, bias and mask."""
    pads = attributes.get("pads", [0] * 4)
    strides, dilations = (attributes.get(key, [1, 1]) for key in ("strides", "dilations"))
    height = (5 + pads[0] + pads[2] - dilations[0] * 2 - 1) // strides[0] + 1
    width = (6 + pads[1] + pads[3] - dilations[1] - 1) // strides[1] + 1
    image, kernel, taps = (2, 4, 5, 6), (4, 4 // group, 3, 2), offset_group * 6
    return image, kernel, (2, taps * 2, height, width), (4,), (2, taps, height, width)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(("group", "offset_group"), [(1, 1), (2, 1), (1, 2), (4, 2)])
@pytest.mark.parametrize("attributes", DEFORMED)
@pytest.mark.parametrize("masked", [False, True])
def test_deform_conv(check, spread, attributes, group, offset_group, masked, is_open):
    inputs = ["x", "w", "offset", "b", "mask"] if masked else ["x", "w", "offset"]
    node = helper.make_node(
        "DeformConv", inputs, ["y"], group=group, offset_group=offset_group, **attributes
    )
    image, *shapes = _deformed(group, offset_group, attributes)
    pairs = zip(inputs[1:], shapes, strict=False)
    constants = {name: spread(*shape) for name, shape in pairs}
    constants["offset"] = _off_centre(*shapes[1], low=-2, high=2)
    dims = OPEN if is_open else None
    check(node, spread(*image), constants, opset=19, dims=dims, step=0.5)


@pytest.mark.parametrize("wanted", ["w", "offset", "b", "mask"])
def test_deform_conv_with_respect_to_all_else(check, spread, wanted):
    names = ["image", "w", "offset", "b", "mask"]
    shapes = dict(zip(names, _deformed(2, 2, DEFORMED[1]), strict=True))
    values = {name: spread(*shape) for name, shape in shapes.items()}
    values["offset"] = _off_centre(*shapes["offset"], low=-2, high=2)
    inputs = ["x" if name == wanted else name for name in names]
    node = helper.make_node("DeformConv", inputs, ["y"], group=2, offset_group=2, **DEFORMED[1])
    x = values.pop(wanted)
    check(node, x, values, opset=19, step=1e-2)
