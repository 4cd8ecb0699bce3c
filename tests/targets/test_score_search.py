"""Classifiers as they come: which tensor is read, as what, and by which name others are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.errors import OutputError, TargetError

SIDE = 32
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
Outputs = list[tuple[str, int, Any]]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def make_model(
    nodes: list[onnx.NodeProto],
    outputs: Outputs | list[onnx.ValueInfoProto],
    *,
    batch: Any = "N",
    metadata: dict[str, str] | None = None,
    **constants: Any,
) -> bytes:
    """`f` [N, 3]: how much red, green and blue the picture has at most; `nodes` go on from it."""
    mix = 12 * np.eye(3) - 4  # of each colour what it has more than the others
    given = {"mix": mix.reshape(3, 3, 1, 1).astype(np.float32), "rows": [0, 3], **constants}
    body = [
        node("Conv", "image mix", "c"),
        node("Relu", "c", "r"),
        node("AveragePool", "r", "a", kernel_shape=[4, 4], strides=[4, 4]),
        node("GlobalMaxPool", "a", "m"),
        node("Reshape", "m rows", "f"),
    ]
    graph = helper.make_graph(
        [*body, *nodes],
        "small",
        [helper.make_tensor_value_info("image", FLOAT, [batch, 3, SIDE, SIDE])],
        [
            each if isinstance(each, onnx.ValueInfoProto) else helper.make_tensor_value_info(*each)
            for each in outputs
        ],
        [
            numpy_helper.from_array(value if isinstance(value, np.ndarray) else np.array(value), k)
            for k, value in given.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model.SerializeToString()


def picture(green: bool = True) -> np.ndarray:
    """Dark grey, a red square at the top left, and a green one at the bottom right."""
    made = np.full((SIDE, SIDE, 3), 40, np.uint8)
    made[4:12, 4:12] = (250, 0, 0)
    if green:
        made[20:28, 20:28] = (0, 250, 0)
    return made


def explainer(model: bytes, **options: Any) -> ibisa.Explainer:
    options = {"preprocessing": "unit", "threads": 1} | options
    return ibisa.Explainer(model, **options)


LINEAR = {"w": np.array([[0], [-1], [0]], np.float32), "b": np.array([3], np.float32)}


def single(name: str = "y", last: str = "", shape: Any = ("N", 1), **options: Any) -> bytes:
    """One number: high where the picture has no green."""
    nodes = [node("Gemm", "f w b", "l" if last else name)]
    nodes += [node(last, "l", name)] if last else []
    return make_model(nodes, [(name, FLOAT, shape)], **LINEAR, **options)


# -- one score is two classes


@pytest.mark.parametrize("last", ["", "Sigmoid"])
def test_one_score_is_two_classes(last: str) -> None:
    found = explainer(single(last=last))
    negative, positive = found.predict(picture())
    assert (negative.index, negative.label, positive.index) == (0, "negative", 1)
    assert positive.probability < 0.05
    assert negative.probability == pytest.approx(1 - positive.probability, abs=1e-6)
    assert found.predict(picture(green=False))[0].index == 1
    assert [each.target.index for each in found.explain_batch([picture(), picture(False)])] == [
        0,
        1,
    ]


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
@pytest.mark.parametrize("last", ["", "Sigmoid"])
def test_the_negatives_map_is_where_its_cue_is(last: str, gradient: str) -> None:
    found = explainer(single(last=last), gradient=gradient).explain(picture())
    assert (found.target.index, found.target.caption) == (0, "negative (0)")
    assert found.certificate.gradient == gradient
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    assert 18 <= row < 30
    assert 18 <= column < 30
    assert found.map[20:28, 20:28].mean() > 3 * found.map[4:12, 4:12].mean()


@pytest.mark.parametrize("last", ["", "Sigmoid"])
def test_grad_cam_of_the_negative_is_where_its_cue_is(last: str) -> None:
    found = explainer(single(last=last))
    negative, positive = found.explain_all(picture(), [0, 1], method="gradcam")
    assert negative.map.argmax() // SIDE >= 16
    assert positive.map.max() == 0  # nothing in the picture speaks for it


def test_both_of_its_classes_have_one_gradient_and_opposite_scores() -> None:
    found = explainer(single())
    negative, positive = found.explain_all(picture(), ["negative", "positive"])
    assert negative.target.probability + positive.target.probability == pytest.approx(1)
    assert negative.target.activation == "sigmoid-logit"
    with pytest.raises(TargetError, match="classes are 0 to 1"):
        found.explain(picture(), 2)


@pytest.mark.parametrize(
    ("labels", "expected"), [(["cat", "dog"], ("cat", "dog")), (["dog"], ("not dog", "dog"))]
)
def test_two_labels_fit_one_score_or_the_positives_alone(
    labels: list[str], expected: tuple[str, ...]
) -> None:
    found = explainer(single(), labels=labels)
    assert found.predict(picture())[0].label == expected[0]
    assert found.labels == expected
    assert found.warnings == ()  # who names both says that there are two
    with pytest.raises(TargetError, match="3 labels for the model's 2 classes"):
        explainer(single(), labels=["a", "b", "c"]).predict(picture())


def test_how_one_number_is_read_is_said() -> None:
    def warning(**options: Any) -> str:
        found = explainer(single(), **options)
        found.predict(picture())
        return "".join(found.warnings)

    assert "logit of two classes" in warning()
    assert "such as an age" in warning()
    assert warning(activation="sigmoid-logit") == ""
    sure = explainer(single(last="Sigmoid"))
    sure.predict(picture())
    assert sure.warnings == ()


@pytest.mark.parametrize("name", ["age", "depth", "image_quality", "head/angle"])
def test_one_value_of_a_regression_is_no_class(name: str) -> None:
    with pytest.raises(OutputError, match=r"a regression .*activation=sigmoid-logit") as caught:
        explainer(single(name)).predict(picture())
    assert "\n" not in str(caught.value)
    trusted = explainer(single(name), activation="sigmoid-logit")
    assert len(trusted.predict(picture())) == 2
    assert "a regression" in trusted.warnings[0]
    assert len(explainer(single(name, "Sigmoid")).predict(picture())) == 2


@pytest.mark.parametrize("name", ["page", "stage", "score", "roller"])
def test_a_word_within_a_word_is_none(name: str) -> None:
    assert len(explainer(single(name)).predict(picture())) == 2


def test_one_score_is_no_log_probability() -> None:
    with pytest.raises(OutputError, match="activation=sigmoid-logit"):
        explainer(single(), activation="log-probability").predict(picture())


@pytest.mark.parametrize("shape", [("N", 1, 1, 1), None])
def test_axes_of_one_and_undeclared_ones_are_one_score_too(shape: Any) -> None:
    nodes = [node("Gemm", "f w b", "l"), node("Reshape", "l four", "y")]
    model = make_model(nodes, [("y", FLOAT, shape)], **LINEAR, four=[-1, 1, 1, 1])
    assert [each.index for each in explainer(model).predict(picture())] == [0, 1]


# -- scores inside the model

SOFTMAX = [node("Softmax", "f", "p", axis=1)]


def zip_map(**labels: Any) -> bytes:
    """As Azure Custom Vision and skl2onnx write it."""
    kind = STRING if "classlabels_strings" in labels else INT64
    value = helper.make_tensor_type_proto(FLOAT, [])
    table = helper.make_sequence_type_proto(helper.make_map_type_proto(kind, value))
    nodes = [
        *SOFTMAX,
        node("Cast", "p", "cast", to=FLOAT),
        node("ArgMax", "f", "label", axis=1, keepdims=0),
        helper.make_node("ZipMap", ["cast"], ["loss"], domain="ai.onnx.ml", **labels),
    ]
    return make_model(nodes, [("label", INT64, ["N"]), helper.make_value_info("loss", table)])


def test_a_zip_map_is_looked_through_and_its_labels_are_taken() -> None:
    model = zip_map(classlabels_strings=["red", "green", "blue"])
    found = explainer(model, gradient="exact").explain(picture(), "green")
    assert (found.target.output, found.target.index) == ("cast", 1)
    assert found.target.activation == "probability"
    assert found.warnings == ()
    assert found.map.argmax() // SIDE >= 16
    numbered = explainer(zip_map(classlabels_int64s=[90, 180, 270]))
    assert numbered.predict(picture(green=False))[0].label == "90"
    assert numbered.explain(picture(), 180).target.index == 1


def test_given_labels_go_before_those_of_a_zip_map() -> None:
    model = zip_map(classlabels_strings=["red", "green", "blue"])
    found = explainer(model, labels=["r", "g", "b"])
    found.predict(picture())
    assert found.labels == ("r", "g", "b")


@pytest.mark.parametrize("tensor", ["p", "cast"])
def test_an_output_may_be_a_tensor_inside_the_model(tensor: str) -> None:
    model = zip_map(classlabels_strings=["red", "green", "blue"])
    found = explainer(model, output=tensor)
    assert found.explain(picture(green=False)).target.output == tensor
    assert found.labels == ("red", "green", "blue")
    logits = explainer(model, output="f")
    assert logits.explain(picture(green=False)).target.activation == "softmax"
    assert logits.labels is None


def test_a_tensor_that_is_not_there_or_no_scores() -> None:
    model = make_model(SOFTMAX, [("p", FLOAT, ["N", 3])])
    with pytest.raises(
        OutputError, match="no output 'q'; choose from: p, or specify an inner tensor"
    ):
        explainer(model, output="q").predict(picture())
    with pytest.raises(
        OutputError, match=r"tensor r does not have shape \[N, K\] \(one score per class\)"
    ):
        explainer(model, output="r").predict(picture())


def top_k(source: str = "p", **more: Any) -> bytes:
    nodes = [*SOFTMAX, node("TopK", f"{source} k", "scores classes")]
    outputs = [("scores", FLOAT, None), ("classes", INT64, None)]
    return make_model(nodes, outputs, k=[2], **more)


@pytest.mark.parametrize("output", [None, "scores", "classes"])
def test_the_scores_before_a_top_k_are_explained(output: str | None) -> None:
    found = explainer(top_k(), output=output)
    explained = found.explain(picture(green=False))
    assert (explained.target.output, explained.target.index) == ("p", 0)
    (warning,) = found.warnings
    assert "sorted by TopK; explaining the scores before the TopK: p" in warning


def test_a_top_k_of_something_else_is_refused_by_its_name() -> None:
    with pytest.raises(OutputError, match=r"scores sorted by TopK.*before the TopK"):
        explainer(top_k("r")).predict(picture())


def test_scores_beside_their_own_top_k_are_read_without_a_word() -> None:
    nodes = [*SOFTMAX, node("TopK", "p k", "s i"), node("Identity", "p", "y")]
    outputs = [("s", FLOAT, None), ("i", INT64, None), ("y", FLOAT, ["N", 3])]
    found = explainer(make_model(nodes, outputs, k=[2]))
    assert found.explain(picture()).target.output == "y"
    assert found.warnings == ()


def test_a_class_index_hears_where_the_scores_are() -> None:
    nodes = [node("ArgMax", "f", "top", axis=1)]
    with pytest.raises(OutputError, match=r"\(class indices\).*\(perhaps f\).*output="):
        explainer(make_model(nodes, [("top", INT64, ["N", 1])])).predict(picture())


# -- what is no classifier

LINE = [
    node("AveragePool", "image", "rough", kernel_shape=[SIDE, 4], strides=[SIDE, 4]),
    node("Squeeze", "rough axis", "row"),
]


@pytest.mark.parametrize("last", ["Identity", "Softmax"])
@pytest.mark.parametrize(
    ("order", "shape"),
    [
        ([0, 2, 1], ["N", 8, 3]),
        ([0, 2, 1], ["a", "b", 3]),
        ([0, 2, 1], None),
        ([2, 0, 1], [8, "N", 3]),
        ([2, 0, 1], ["T", "N", 3]),
        ([2, 0, 1], ["a", "b", "c"]),
    ],
)
def test_a_text_recogniser_is_called_one(order: list[int], shape: Any, last: str) -> None:
    nodes = [*LINE, node("Transpose", "row", "t", perm=order), node(last, "t", "y")]
    model = make_model(nodes, [("y", FLOAT, shape)], axis=[2])
    with pytest.raises(OutputError, match="scores per step of a line") as caught:
        explainer(model).predict(picture())
    for advice in ("output=", "target=", "export", "row"):
        assert advice not in str(caught.value)


def test_a_time_major_answer_to_one_picture_a_call() -> None:
    nodes = [*LINE, node("Transpose", "row", "t", perm=[2, 0, 1]), node("Neg", "t", "y")]
    model = make_model(nodes, [("y", FLOAT, [8, 1, 3])], axis=[2], batch=1)
    with pytest.raises(OutputError, match="scores per step of a line"):
        explainer(model).predict(picture())


def test_the_characters_of_a_recogniser_are_its_labels() -> None:
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.targets.reader import OutputReader

    for character, expected in (("a\nb", ("blank", "a", "b")), ("a", ("blank", "a", " "))):
        nodes = [*LINE, node("Transpose", "row", "y", perm=[0, 2, 1])]
        metadata = {"character": character}
        model = make_model(nodes, [("y", FLOAT, ["N", 8, 3])], axis=[2], metadata=metadata)
        opened = DeployedModel.open(model, providers=["cpu"])
        found, warnings = OutputReader(opened, None, None, None).declared_labels()
        assert found is not None
        assert (found.labels, warnings) == (expected, [])


EMBED = {"e": np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)}
NORM = [node("MatMul", "f e", "v"), node("ReduceL2", "v", "n", axes=[1]), node("Div", "v n", "y")]


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        (NORM, "y"),
        ([node("MatMul", "f e", "face_embedding")], "face_embedding"),
        ([node("MatMul", "f e", "features")], "features"),
    ],
)
def test_an_embedding_is_called_one(nodes: list[onnx.NodeProto], name: str) -> None:
    model = make_model(nodes, [(name, FLOAT, ["N", 32])], **EMBED)
    with pytest.raises(OutputError, match=r"an embedding .*activation=softmax") as caught:
        explainer(model).predict(picture())
    assert "\n" not in str(caught.value)
    for trust in ({"activation": "softmax"}, {"output": name}):
        trusted = explainer(model, **trust)
        assert len(trusted.predict(picture(), top=40)) == 32
        assert "looks like an embedding" in trusted.warnings[0]


def test_an_embedding_of_a_function_is_found_by_its_length() -> None:
    def embed(images: np.ndarray) -> np.ndarray:
        vectors = images.reshape(len(images), -1)[:, :32] @ EMBED["e"].T @ EMBED["e"] - 0.1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    spec = ibisa.InputSpec((None, 3, SIDE, SIDE))
    with pytest.raises(OutputError, match="an embedding"):
        ibisa.Explainer(embed, spec, preprocessing="unit").predict(picture())


def test_scores_beside_an_embedding_are_read() -> None:
    nodes = [*NORM, node("Identity", "f", "logits")]
    model = make_model(nodes, [("y", FLOAT, ["N", 32]), ("logits", FLOAT, ["N", 3])], **EMBED)
    assert explainer(model).explain(picture()).target.output == "logits"


BOX = {"g": np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)}


def box_head(box: str, last: str = "Softmax") -> bytes:
    nodes = [node("MatMul", "f g", box), node(last, "f", "prob")]
    return make_model(nodes, [(box, FLOAT, ["N", 4]), ("prob", FLOAT, ["N", 3])], **BOX)


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
def test_of_two_outputs_that_of_probabilities_is_read_and_said(last: str) -> None:
    found = explainer(box_head("dense_2", last))
    assert found.explain(picture()).target.output == "prob"
    (warning,) = found.warnings
    assert "using prob" in warning
    assert "pass output= to use another: dense_2" in warning


def test_an_output_that_is_named_is_doubted_where_another_holds_probabilities() -> None:
    named = explainer(box_head("dense_2"), output="dense_2")
    assert named.explain(picture()).target.output == "dense_2"
    assert "raw values (unlike prob, it does not end in a softmax or sigmoid)" in named.warnings[0]
    sure = explainer(box_head("dense_2"), output="prob")
    sure.predict(picture())
    assert sure.warnings == ()


def test_coordinates_are_known_by_name() -> None:
    named = explainer(box_head("box"), output="box")
    named.predict(picture())
    assert "coordinates" in named.warnings[0]
    alone = make_model([node("MatMul", "f g", "bbox")], [("bbox", FLOAT, ["N", 4])], **BOX)
    with pytest.raises(OutputError, match="coordinates"):
        explainer(alone).predict(picture())


def test_logits_beside_their_own_softmax_are_no_box() -> None:
    nodes = [node("Identity", "f", "logits"), node("Softmax", "logits", "prob", axis=1)]
    model = make_model(nodes, [("logits", FLOAT, ["N", 3]), ("prob", FLOAT, ["N", 3])])
    found = explainer(model, output="logits")
    found.predict(picture())
    assert found.warnings == ()


def test_two_heads_of_probabilities_are_the_users_choice() -> None:
    nodes = [node("Softmax", "f", "colour"), node("Sigmoid", "f", "tags"), node("Neg", "f", "rest")]
    outputs = [(name, FLOAT, ["N", 3]) for name in ("colour", "tags", "rest")]
    with pytest.raises(OutputError, match="outputs colour, tags could all"):
        explainer(make_model(nodes, outputs)).predict(picture())


# -- ties


def test_a_tie_of_all_classes_is_said() -> None:
    nodes = [node("Mul", "f zero", "z"), node("Softmax", "z", "y", axis=1)]
    model = make_model(nodes, [("y", FLOAT, ["N", 3])], zero=np.zeros(3, np.float32))
    found = explainer(model)
    assert "all 3 classes are tied at 33.3%" in found.explain(picture()).warnings
    assert found.warnings == ()  # it is of the picture, not of the model
    plain = explainer(make_model(SOFTMAX, [("p", FLOAT, ["N", 3])])).explain(picture(green=False))
    assert not any("tie" in warning for warning in plain.warnings)


def test_who_gives_a_picture_is_told_in_short_what_can_be_asked() -> None:
    data = make_model([node("Identity", "r", "better")], [("better", FLOAT, ["N", 3, SIDE, SIDE])])
    explainer = ibisa.Explainer(data, preprocessing="unit", threads=1)
    with pytest.raises(OutputError, match=r"better float32.*looks like an image") as refused:
        explainer.predict(np.full((SIDE, SIDE, 3), 90, np.uint8))
    assert "kind=regression" in str(refused.value)
    assert len(str(refused.value)) < 200
