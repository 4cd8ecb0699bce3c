"""Values as targets: planted squares, a siamese pair, inner tensors, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.targets.value import ValueTarget


def test_what_raises_a_value_and_what_keeps_it_are_found(squares: Any):
    """The first square raises it, the second lowers it less: both hold it where it is."""
    explainer = squares.opened(squares.regression((40, -25)))
    shown = squares.picture(230, 230)
    raised = explainer.explain(shown, ValueTarget("raise"))
    assert raised.target.kind == "value"
    assert raised.target.caption == "age (raise)"
    value = 20 + 15 * 230 / 255
    assert raised.target.details == {
        "value": pytest.approx(value, rel=1e-5),
        "direction": "raise",
    }
    assert raised.certificate.gradient == "exact"
    assert squares.share(raised, 0) > 0.8
    assert squares.share(raised, 1) < 0.05
    kept = explainer.explain(shown)
    assert kept.target.caption == "age (keep)"
    assert squares.share(kept, 0) + squares.share(kept, 1) > 0.7
    assert squares.share(kept, 1) > 0.1
    assert raised.sufficiency is not None
    hidden, *shown_ = raised.sufficiency.probabilities
    assert hidden < 0.1
    assert max(shown_) > 0.9


def test_what_lowers_a_value_is_found_though_the_picture_as_a_whole_raises_it(squares: Any):
    found = squares.opened(squares.regression((40, -25))).explain(
        squares.picture(230, 230), ValueTarget("lower")
    )
    assert squares.share(found, 1) > 0.5
    assert squares.share(found, 0) < 0.05


def test_where_nothing_lowers_a_value_the_map_is_flat(squares: Any):
    found = squares.opened(squares.regression((40, 0))).explain(
        squares.picture(230, 230), ValueTarget("lower")
    )
    assert found.map.max() < 0.05
    assert any("flat" in each for each in found.warnings)


def siamese(squares: Any) -> bytes:
    """Minus the mean squared difference of the first square of two pictures, [n, 1]."""
    y, x = squares.PLACES[0]
    mask = np.zeros((1, 3, squares.SIDE, squares.SIDE), np.float32)
    mask[:, :, y : y + 8, x : x + 8] = 16  # so many of such squares are a picture
    nodes = [
        helper.make_node("Sub", ["image", "other"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squared"]),
        helper.make_node("Mul", ["squared", "mask"], ["masked"]),
        helper.make_node("ReduceMean", ["masked"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["column_of"]),
        helper.make_node("Neg", ["column_of"], ["similarity"]),
    ]
    constants = {"mask": mask, "column": np.array([-1, 1], np.int64)}
    outputs = {"similarity": ["n", 1]}
    return bytes(squares.model(nodes, outputs, constants, ("image", "other")))


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
def test_a_siamese_model_is_explained_with_the_other_picture_as_an_extra_input(
    squares: Any, gradient: str
):
    """Both show the first square alike; the second is in one of them alone and is not compared."""
    other = squares.picture(230, 60).transpose(2, 0, 1)[None].astype(np.float32) / 255
    explainer = squares.opened(
        siamese(squares),
        input="image",
        extra_inputs={"other": other},
        gradient=gradient,
        budget=200,
    )
    found = explainer.explain(squares.picture(225, 240), ValueTarget("raise", "similarity"))
    assert found.target.caption == "similarity (raise)"
    assert found.target.details["value"] == pytest.approx(-((5 / 255) ** 2), rel=1e-3)
    assert found.certificate.gradient == gradient
    assert squares.share(found, 0) > (0.9 if gradient == "exact" else 0.4)
    assert squares.share(found, 1) < 0.1
    assert found.sufficiency is not None
    assert found.sufficiency.probabilities[0] < 0.1
    assert max(found.sufficiency.probabilities) > 0.9


def test_any_tensor_of_any_model_has_a_value():
    explainer = ibisa.Explainer(model_path(), threads=1, cache=False)
    inner = ValueTarget("raise", "/Flatten_output_0", index="3")
    found = explainer.explain(scene_path(), inner)
    assert found.target.caption == "Flatten_output_0[3] (raise)"
    assert found.certificate.gradient == "exact"
    logit = explainer.explain(scene_path(), ValueTarget("raise", "logits", index=0))
    usual = explainer.explain(scene_path(), "star")
    assert np.corrcoef(logit.map.ravel(), usual.map.ravel())[0, 1] > 0.5


def test_the_record_comes_back_from_disk(squares: Any, tmp_path: Path):
    found = squares.opened(squares.depth()).explain(
        squares.picture(200, 90), ValueTarget(at=(8, 8), index=0)
    )
    found.save(tmp_path)
    assert ibisa.Explanation.load(tmp_path).target == found.target


def test_values_and_classes_are_explained_in_one_call():
    explainer = ibisa.Explainer(model_path(), threads=1, cache=False)
    found = explainer.explain_all(scene_path(), ["star", ValueTarget("raise", index=0)])
    assert [each.target.kind for each in found] == ["class", "value"]


@pytest.mark.real
def test_a_logit_that_is_raised_shows_the_dog_it_stands_for(assets: Path):
    explainer = ibisa.Explainer(
        assets / "models" / "mobilenetv2.onnx",
        preprocessing="tf",
        overrides={"resize": "stretch"},
    )
    shares = []
    for index in (172, 196):  # Italian greyhound, on the left; Boston bull, on the right
        found = explainer.explain(
            assets / "detection" / "pets.jpg", ValueTarget("raise", index=index)
        )
        assert found.certificate.gradient == "exact"
        shares.append(found.map[:, : found.map.shape[1] // 2].sum() / found.map.sum())
    assert shares[0] > 0.75
    assert shares[1] < 0.25


# -- which numbers


def test_all_numbers_of_an_output_are_no_value_unless_somebody_says_so(squares: Any):
    """The mean of class scores, of boxes or of features means nothing by itself."""
    explainer = squares.opened(squares.regression((1, 0), (0, 1), (1, 1), name="logits"))
    shown = squares.picture(200, 90)
    said = r"output logits \[N, 3\] has 3 values; select some with index=, or pass reduce=mean"
    with pytest.raises(ibisa.TargetError, match=said):
        explainer.explain(shown, ValueTarget("raise"))
    part = explainer.explain(shown, ValueTarget("raise", index="1:"))
    assert part.target.caption == "mean of 2 values of logits[1:] (raise)"
    total = explainer.explain(shown, ValueTarget("raise", reduce="sum"))
    assert total.target.caption == "sum of 3 values of logits (raise)"
    assert total.target.details["numbers"] == 3
    assert total.target.details["reduce"] == "sum"
    assert not any("numbers" in each for each in (*part.warnings, *total.warnings))


def test_where_all_numbers_are_values_their_mean_is_said(squares: Any):
    metadata = {"task": "regression"}
    explainer = squares.opened(squares.regression((40, 0), (0, 40), name="angles", **metadata))
    found = explainer.explain(squares.picture(200, 200))
    assert found.target.caption == "mean of 2 values of angles (keep)"
    said = "explaining the mean of the 2 values of output angles [N, 2]; select one with index="
    assert said in found.warnings
    one = explainer.explain(squares.picture(200, 200), ValueTarget(index=0))
    assert not any("numbers" in each for each in one.warnings)


def indices(squares: Any, *, channels_last: bool = False) -> bytes:
    """`classes` int64 [n, 8, 8]: which of three linear `scores` of 4 x 4 pixels is the largest."""
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[0], kernel[1] = -1 / 48, 1 / 48
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["scores"], strides=[4, 4])]
    scores, axis = "scores", 1
    if channels_last:
        nodes.append(helper.make_node("Transpose", ["scores"], ["last"], perm=[0, 2, 3, 1]))
        scores, axis = "last", 3
    nodes.append(helper.make_node("ArgMax", [scores], ["classes"], axis=axis, keepdims=0))
    elems = {"classes": TensorProto.INT64}
    return bytes(squares.model(nodes, {"classes": ["n", 8, 8]}, {"kernel": kernel}, elems=elems))


@pytest.mark.parametrize("channels_last", [False, True])
def test_class_indices_are_no_values_but_the_scores_before_them_are(
    squares: Any, channels_last: bool
):
    explainer = squares.opened(indices(squares, channels_last=channels_last))
    scores = "last" if channels_last else "scores"
    said = f"output classes holds class indices .ArgMax., not values; .*output={scores},"
    for at in ((8, 8), None):
        with pytest.raises(ibisa.OutputError, match=said):
            explainer.explain(squares.picture(200, 90), ValueTarget("raise", at=at))
    with pytest.raises(ibisa.TargetError, match="has 3 values at 8,8; select some with index="):
        explainer.explain(squares.picture(200, 90), ValueTarget("raise", scores, at=(8, 8)))
    found = explainer.explain(
        squares.picture(200, 90), ValueTarget("raise", scores, index=1, at=(8, 8))
    )
    assert found.target.details["value"] == pytest.approx(200 / 255, rel=1e-4)
    assert found.map[6:14, 6:14].sum() > 0.8 * found.map.sum()


# -- errors


def test_what_is_no_direction_and_no_reduction_is_refused():
    with pytest.raises(ibisa.TargetError, match="direction is 'up'; choose from: raise, lower"):
        ValueTarget("up")
    with pytest.raises(ibisa.TargetError, match="reduce is 'min'; choose from: mean, max, sum"):
        ValueTarget(reduce="min")


def test_a_point_must_be_seen(squares: Any):
    spec = ibisa.Preprocessing((squares.SIDE, squares.SIDE), resize="shortest", scale=1 / 255)
    explainer = ibisa.Explainer(squares.depth(), preprocessing=spec, threads=1)
    wide = np.zeros((squares.SIDE, 3 * squares.SIDE, 3), np.uint8)
    assert explainer.problem(wide, ValueTarget(at=(48, 5))).row.answer
    with pytest.raises(
        ibisa.TargetError, match="does not see 3,5: its preprocessing crops it away"
    ):
        explainer.explain(wide, ValueTarget(at=(3, 5)))
    with pytest.raises(ibisa.TargetError, match="97,5 is outside the image, which is 96 x 32"):
        explainer.explain(wide, ValueTarget(at=(97, 5)))
    with pytest.raises(ibisa.TargetError, match=r"at is \(1, 2, 3\); pass x and y"):
        explainer.explain(wide, ValueTarget(at=(1, 2, 3)))  # type: ignore[arg-type]
    with pytest.raises(ibisa.TargetError, match=r"output age is \[N, 1\], which is not a map"):
        squares.opened(squares.regression((1, 0))).explain(
            squares.picture(9, 9), ValueTarget(at=(1, 1))
        )


def test_of_several_outputs_one_must_be_named(squares: Any):
    nodes = [helper.make_node("Relu", ["image"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    shape = ["n", 3, squares.SIDE, squares.SIDE]
    explainer = squares.opened(squares.model(nodes, {"a": shape, "b": shape}, {}))
    with pytest.raises(ibisa.TargetError, match="several outputs: a, b; specify one with output="):
        explainer.explain(squares.picture(9, 9), ValueTarget())
    assert (
        explainer.problem(
            squares.picture(9, 9), ValueTarget(output="b", reduce="mean")
        ).row.probability
        == 1
    )


def test_a_value_that_is_no_number_is_refused(squares: Any):
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["sum"], transB=1),
        helper.make_node("Log", ["sum"], ["age"]),
    ]
    constants = {"w": squares.weights((0, 0)), "b": np.array([-1], np.float32)}
    explainer = squares.opened(squares.model(nodes, {"age": ["n", 1]}, constants))
    with pytest.raises(ibisa.OutputError, match="age is nan for this image"):
        explainer.explain(squares.picture(9, 9), ValueTarget())
