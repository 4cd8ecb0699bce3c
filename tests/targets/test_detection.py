"""Detectors' boxes: the best anchor of a planted one, what bad requests get, and real faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx import BestAnchor
from ibisa_onnx.targets.arguments import PointTarget
from ibisa_onnx.targets.boxes import BoxObjective, MatchedObjective
from ibisa_onnx.targets.detection import BoxTarget, as_shares

FACES = ibisa.Preprocessing(
    (240, 320), resize="stretch", mean=(127.0,) * 3, std=(128.0,) * 3, interpolation="bilinear"
)
SIDE = 32
SQUARES = ((4, 4), (20, 18))  # of 8 pixels a side: anchor 0 and anchor 1


def detector() -> onnx.ModelProto:
    """`scores` [n, 2, 2]: the sigmoid of how bright an anchor's square is, for class 1."""
    kernel = np.full((1, 3, 8, 8), 1 / 192, np.float32)
    places = np.array([[0, 0, y, x] for y, x in SQUARES], np.int64)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["means"]),  # [n, 1, 25, 25]
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gather", ["flat", "places"], ["bright"], axis=1),
        helper.make_node("Mul", ["bright", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["object"]),
        helper.make_node("Sub", ["one", "object"], ["nothing"]),
        helper.make_node("Unsqueeze", ["object"], ["o"], axes=[2]),
        helper.make_node("Unsqueeze", ["nothing"], ["b"], axes=[2]),
        helper.make_node("Concat", ["b", "o"], ["scores"], axis=2),
    ]
    constants = {
        "kernel": kernel,
        "places": np.array([y * 25 + x for _, _, y, x in places], np.int64),
        "gain": np.float32(10),
        "bias": np.float32(-4),
        "one": np.float32(1),
    }
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2, 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


@pytest.fixture
def explainer() -> ibisa.Explainer:
    options = ibisa.Options(baseline="mean")  # a blur leaves a square as bright as it was
    data = detector().SerializeToString()
    return ibisa.Explainer(data, preprocessing="unit", threads=1, options=options)


def picture(*levels: int) -> np.ndarray:
    """A black picture with squares of those levels."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for (y, x), level in zip(SQUARES, levels, strict=True):
        pixels[y : y + 8, x : x + 8] = level
    return pixels


@pytest.mark.parametrize("best", [0, 1])
def test_the_map_of_the_best_anchor_falls_on_its_square(explainer: ibisa.Explainer, best: int):
    levels = [200, 160] if best == 0 else [160, 200]
    found = explainer.explain(picture(*levels), BestAnchor("scores", 1))
    assert found.target.caption == f"class 1, anchor {best}"
    assert found.target.kind == "box"
    assert found.certificate.gradient == "exact"
    assert found.target.probability == pytest.approx(1 / (1 + np.exp(4 - 2000 / 255)), abs=1e-5)
    y, x = SQUARES[best]
    on_it = found.map[y : y + 8, x : x + 8].sum()
    assert on_it > 0.5 * found.map.sum()
    peak = np.unravel_index(found.map.argmax(), found.map.shape)
    assert y <= peak[0] < y + 8
    assert x <= peak[1] < x + 8


def test_its_derivative_is_that_of_the_logarithm():
    objective = BoxObjective("s", (1,), 0)
    raw = np.array([[[0.2], [0.4]], [[0.2], [0.0]]], "f4")
    np.testing.assert_allclose(objective.probability({"s": raw}), [0.4, 0], rtol=1e-6)
    np.testing.assert_allclose(objective.vjp({"s": raw})["s"][..., 0], [[0, 2.5], [0, 0]])
    assert np.isfinite(objective.score({"s": raw})).all()


def test_the_best_of_the_anchors_counts():
    objective = BoxObjective("s", (0, 2), 0)
    raw = np.array([[[0.2], [0.9], [0.4]], [[0.5], [0.9], [0.1]]], "f4")
    np.testing.assert_allclose(objective.probability({"s": raw}), [0.4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(objective.vjp({"s": raw})["s"][..., 0], [[0, 0, 2.5], [2, 0, 0]])


def test_its_nodes_say_the_same():
    objective = BoxObjective("scores", (0, 2), 1)
    raw = np.random.default_rng(0).random((2, 3, 2)).astype(np.float32)
    graph = helper.make_graph(
        [],
        "scores",
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3, 2])],
        [],
    )
    name = objective.to_onnx(graph)
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]))
    opsets = [helper.make_opsetid("", 7)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (given,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"scores": raw})
    np.testing.assert_allclose(given[:, 0], objective.score({"scores": raw}), rtol=1e-5)


def test_a_boxs_extent_is_that_of_its_part_of_the_input():
    assert BoxObjective("s", (0,), 0).extent is None
    within = as_shares((-10, 20, 40, 60), (80, 160))
    assert within == pytest.approx((0, 0.25, 0.25, 0.75))
    objective = BoxObjective("s", (0,), 0, within=within)
    assert objective.location == within
    assert objective.extent == pytest.approx(0.125)


def test_a_row_counts_where_it_overlaps_the_box_by_more_than_a_half():
    objective = MatchedObjective("b", "s", (0, 0, 10, 10), 0)
    boxes = np.array([[[0, 0, 10, 9], [0, 0, 4, 10], [0, 0, 0, 0]]], "f4")
    scores = np.array([[[0.6], [0.9], [0.99]]], "f4")
    raw = {"b": boxes, "s": scores}
    assert objective.probability(raw) == pytest.approx(0.6)
    gradients = objective.vjp(raw)
    np.testing.assert_allclose(gradients["s"][0, :, 0], [1 / 0.6, 0, 0], rtol=1e-6)
    assert not gradients["b"].any()
    lost = {"b": boxes[:, 1:], "s": scores[:, 1:]}
    assert objective.probability(lost) == 0
    assert np.isfinite(objective.score(lost)).all()
    assert not any(each.any() for each in objective.vjp(lost).values())


def test_the_record_comes_back_from_disk(explainer: ibisa.Explainer, tmp_path: Path):
    found = explainer.explain(picture(200, 100), BestAnchor("scores", 1))
    found.save(tmp_path)
    assert ibisa.Explanation.load(tmp_path).target == found.target


@pytest.mark.parametrize(("output", "column"), [("scores", 2), ("scores", -1)])
def test_what_has_no_such_anchors_is_refused(explainer: ibisa.Explainer, output: str, column: int):
    with pytest.raises(
        ibisa.TargetError, match=r"output scores is \[1, 2, 2\]; BestAnchor of class"
    ):
        explainer.explain(picture(9, 9), BestAnchor(output, column))


def test_every_method_explains_it(explainer: ibisa.Explainer):
    for method in ("rise", "occlusion", "random"):
        found = explainer.explain(picture(200, 100), BestAnchor("scores", 1), method=method)
        assert (found.method, found.target.kind) == (method, "box")


@pytest.mark.real
def test_the_best_face_keeps_its_score_by_a_twentieth_of_the_picture(assets: Path):
    explainer = ibisa.Explainer(assets / "models" / "face_rfb320.onnx", preprocessing=FACES)
    found = explainer.explain(assets / "detection" / "11.jpg", BestAnchor("scores", 1))
    assert found.certificate.gradient == "exact"
    assert found.target.probability > 0.99
    assert found.sufficiency is not None
    hidden, least, *_ = found.sufficiency.probabilities
    assert hidden < 0.2
    assert least > 0.9


@pytest.fixture(scope="module")
def faces(assets: Path) -> ibisa.Explainer:
    return ibisa.Explainer(assets / "models" / "face_rfb320.onnx", preprocessing=FACES)


@pytest.mark.real
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (BoxTarget(26), r"there is no box 26; detected: 1 object 100%, .* and 19 more"),
        (BoxTarget(at=(2, 2)), "nothing was detected at 2,2; detected:"),
        (BoxTarget(label="dog"), "there is no label 'dog'"),
        (BoxTarget(label=5), "class 5 is out of range: the only class is 0"),
        (
            BoxTarget(confidence=0.9999),
            "99.99% or more: the highest score is 99.9[0-9]*% \\(object\\); .* confidence=0.99",
        ),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    faces: ibisa.Explainer, assets: Path, target: BoxTarget, message: str
):
    with pytest.raises(ibisa.TargetError, match=message):
        faces.explain(assets / "detection" / "11.jpg", target)


@pytest.mark.real
def test_two_faces_beside_each_other_are_told_apart(faces: ibisa.Explainer, assets: Path):
    """Of each map four fifths lie on its own side of the middle between the two."""
    picture = assets / "detection" / "11.jpg"
    found = faces.explain_all(picture, BoxTarget(every=True))
    boxes = [each.target.box for each in found]
    assert len(found) == 25
    pairs = 0
    for one, own in zip(found, boxes, strict=True):
        for other in boxes:
            beside = abs(own[1] - other[1]) < (own[3] - own[1])
            near = 0 < abs(own[0] - other[0]) < 3 * (own[2] - own[0])
            if not (beside and near):
                continue
            middle = round((own[0] + own[2] + other[0] + other[2]) / 4)
            left, whole = one.map[:, :middle].sum(), one.map.sum()
            assert (left if own[0] < other[0] else whole - left) >= 0.8 * whole
            pairs += 1
    assert pairs >= 10


@pytest.mark.real
def test_a_point_means_the_box_around_it(faces: ibisa.Explainer, assets: Path):
    found = faces.explain(assets / "detection" / "11.jpg", PointTarget((404, 243)))
    left, top, right, bottom = found.target.box
    assert left < 404 < right
    assert top < 243 < bottom
    assert found.target.details["number"] == 3


@pytest.mark.real
def test_faces_together_are_the_faces_alone(assets: Path):
    """Each photograph has a best anchor of its own."""
    explainer = ibisa.Explainer(assets / "models" / "face_rfb320.onnx", preprocessing=FACES)
    pictures = [assets / "detection" / name for name in ("11.jpg", "15.jpg")]
    found = explainer.explain_batch(pictures, [BestAnchor("scores", 1)] * 2)
    for picture_, one in zip(pictures, found, strict=True):
        alone = explainer.explain(picture_, BestAnchor("scores", 1))
        assert one.target == alone.target
        np.testing.assert_allclose(one.map, alone.map, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"number": "1"}, "box is '1'; pass its number"),
        ({"number": True}, "box is True; pass its number"),
        ({"at": (1,)}, r"at is \(1,\); pass x and y"),
        ({"at": "1,2"}, "at is '1,2'; pass x and y"),
        ({"at": (1.0, float("nan"))}, "pass x and y"),
        ({"confidence": float("nan")}, "confidence is nan"),
        ({"confidence": -1}, "confidence is -1"),
        ({"number": 3, "at": (1, 2)}, "box 3 and at are mutually exclusive; pass one"),
        ({"confidence": "x"}, "confidence is 'x'"),
    ],
)
def test_what_points_at_no_box_is_one_line(values, message):
    with pytest.raises(ibisa.TargetError, match=message):
        BoxTarget(**values)
