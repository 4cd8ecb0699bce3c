from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

TRANSFORMATIONS = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
OPEN = ["N", 2, "H", "W"]


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("given", ["scales", "sizes"])
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(check, spread, mode, transformation, given, is_open):
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation}
    inputs = ["x", "", "scales"] if given == "scales" else ["x", "", "", "sizes"]
    node = helper.make_node("Resize", inputs, ["y"], **attributes)
    constants = {"sizes": np.array([1, 2, 7, 3], np.int64)}
    # The node wants float32 scales whatever x is: made by a Cast of the test's constant.
    nodes = [helper.make_node("Cast", ["s"], ["scales"], to=1), node]
    constants["s"] = np.array([1, 1, 1.8, 0.75])
    check(nodes, spread(1, 2, 4, 4), constants, dims=OPEN if is_open else None, step=0.5)


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest_rounds_as_it_is_told(check, spread, rounding):
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], nearest_mode=rounding)
    check(node, spread(1, 1, 4, 5), {"s": np.array([1, 1, 6, 15])}, step=0.5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(check, spread, mode):
    node = helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=[1.0, 1.0, 2.0, 3.0])
    check(node, spread(1, 2, 3, 3), opset=7, step=0.5)


def test_antialias_and_named_axes(check, spread):
    node = helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], mode="linear", antialias=1, axes=[2, 3]
    )
    check(node, spread(1, 2, 6, 6), {"s": np.array([3, 2])}, opset=18, step=0.5)


def test_resize_of_a_volume(check, spread):
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear")
    check(node, spread(1, 1, 2, 3, 2), {"s": np.array([1, 1, 4, 5, 3])}, step=0.5)
