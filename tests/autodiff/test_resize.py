from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import UnsupportedOperatorError

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


def test_nearest_pixels_do_not_depend_on_scales(check, spread):
    node = helper.make_node("Upsample", ["image", "x"], ["y"], mode="nearest")
    check(
        node, np.array([1.2, 1.2, 2.3, 1.6]), {"image": spread(1, 2, 3, 3)}, opset=9, double=False
    )


def test_antialias_and_named_axes(check, spread):
    node = helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], mode="linear", antialias=1, axes=[2, 3]
    )
    check(node, spread(1, 2, 6, 6), {"s": np.array([3, 2])}, opset=18, step=0.5)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("given", ["scales", "sizes"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop_and_resize(check, spread, mode, given, is_open):
    inputs = ["x", "roi", "s"] if given == "scales" else ["x", "roi", "", "sizes"]
    transformation = "tf_crop_and_resize"
    node = helper.make_node(
        "Resize",
        inputs,
        ["y"],
        mode=mode,
        coordinate_transformation_mode=transformation,
        extrapolation_value=3.0,
    )
    constants = {
        "roi": np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 1.3]),
        "s": np.array([1, 1, 1.8, 0.75]),
        "sizes": np.array([1, 2, 4, 3]),
    }
    dims = OPEN if is_open else None
    check(node, spread(1, 2, 4, 5), constants, opset=13, dims=dims, step=0.5, double=False)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_symmetric_half_pixels(check, spread, mode):
    transformation = "half_pixel_symmetric"
    node = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode=mode, coordinate_transformation_mode=transformation
    )
    constants = {"s": np.array([1, 1, 1.8, 0.75])}
    check(node, spread(1, 2, 4, 5), constants, opset=19, step=0.5, double=False)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_cubic_without_what_lies_outside(check, spread, mode):
    extra = {"exclude_outside": 1, "mode": "cubic"}
    extra |= {"antialias": 1} if mode == "linear" else {"cubic_coeff_a": -0.5}
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], **extra)
    check(node, spread(1, 2, 5, 5), {"s": np.array([1, 2, 3, 7])}, opset=18, step=0.5)


@pytest.mark.parametrize("scale", [1.2, 1.0])
def test_a_scale_that_keeps_the_side_may_still_move_pixels(check, spread, scale):
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear")
    constants = {"s": np.array([1, 1, scale, 1])}
    check(node, spread(1, 2, 4, 4), constants, step=0.5, double=False)


@pytest.mark.parametrize("scales", [[1, 1, 2.0, 3], [1, 1, 1.7, 2.4], [1, 1, 0.6, 0.5]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_opset_10(check, spread, mode, scales):
    """Whose nearest mode rounds up where it shrinks and down where it enlarges."""
    node = helper.make_node("Resize", ["x", "s"], ["y"], mode=mode)
    constants = {"s": np.array(scales)}
    check(node, spread(1, 2, 5, 4), constants, opset=10, step=0.5, double=False)


@pytest.mark.parametrize("opset", [10, 13])
def test_scales_computed_at_run_time(check, spread, opset):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["have"], to=1),
        helper.make_node("Cast", ["sizes"], ["want"], to=1),
        helper.make_node("Div", ["want", "have"], ["scales"]),
    ]
    inputs = ["x", "scales"] if opset == 10 else ["x", "", "scales"]
    nodes.append(helper.make_node("Resize", inputs, ["y"], mode="linear"))
    constants = {"sizes": np.array([1, 2, 10, 6])}
    check(nodes, spread(1, 2, 5, 4), constants, opset=opset, dims=OPEN, step=0.5)


@pytest.mark.parametrize("axes", [[2, 3], [3, 2]])
@pytest.mark.parametrize(("policy", "sizes"), [("not_larger", [3, 3]), ("not_smaller", [7, 9])])
def test_the_aspect_is_kept(check, spread, policy, sizes, axes):
    node = helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], mode="linear", keep_aspect_ratio_policy=policy
    )
    node.attribute.append(helper.make_attribute("axes", axes))
    check(node, spread(1, 2, 5, 4), {"s": np.array(sizes)}, opset=18, step=0.5)


@pytest.mark.parametrize(
    ("dims", "words"), [(OPEN, "dynamic image size"), (None, "rounds a size up")]
)
def test_refusals(build, spread, dims, words):
    policy = "not_larger"
    node = helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], axes=[2, 3], keep_aspect_ratio_policy=policy
    )
    model = build([node], spread(1, 2, 5, 4), {"s": np.array([7, 9])}, 18, dims)
    with pytest.raises(UnsupportedOperatorError, match=words):
        differentiate(model, "x", "y")


def test_scales_that_depend_on_pixels_are_refused(build, spread):
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "base"], ["scales"]),
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear"),
    ]
    x = spread(1, 2, 4, 4).astype(np.float32)
    model = build(nodes, x, {"base": np.array([1.0, 1, 2, 2])}, 17, None)
    with pytest.raises(UnsupportedOperatorError, match="input 2"):
        differentiate(model, "x", "y")


def test_resize_of_a_volume(check, spread):
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear")
    check(node, spread(1, 1, 2, 3, 2), {"s": np.array([1, 1, 4, 5, 3])}, step=0.5)
