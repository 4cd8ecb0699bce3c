"""Raw outputs of every kind are told apart, and read as the probabilities that they stand for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.errors import OutputError, TargetError
from ibisa_onnx.targets.class_scores import (
    Activation,
    ClassScores,
    Quantisation,
    read_output,
    tie,
)
from ibisa_onnx.targets.classification import choose

LOGITS = np.array([[2.0, -1.0, 0.5, 0.1]])
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum()
GraphMaker = Callable[..., onnx.GraphProto]


@pytest.fixture
def graph() -> GraphMaker:
    """A chain of operators, named from the image to the output `y`; each reads only the last."""

    def make(*operators: str, scale: float = 0.5, zero_point: int = 3) -> onnx.GraphProto:
        constants = [
            numpy_helper.from_array(np.array(scale, np.float32), "scale"),
            numpy_helper.from_array(np.array(zero_point, np.uint8), "zero"),
        ]
        nodes, last = [], "x"
        for place, operator in enumerate(operators):
            name = "y" if place == len(operators) - 1 else f"t{place}"
            more = ["scale", "zero"] if "quantize" in operator.lower() else []
            nodes.append(helper.make_node(operator, [last, *more], [name]))
            last = name
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
        return helper.make_graph(nodes, "chain", [image], [output], constants)

    return make


def read(raw: np.ndarray, **options: object) -> ClassScores:
    return read_output("y", raw, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (LOGITS, Activation.SOFTMAX),
        (SOFTMAX, Activation.PROBABILITY),
        (SOFTMAX.astype(np.float16), Activation.PROBABILITY),
        (np.array([[0.9, 0.8, 0.1]]), Activation.SIGMOID),
        (np.array([[0.0, 0.0, 0.2]]), Activation.SIGMOID),
        (np.log(SOFTMAX), Activation.SOFTMAX),  # the softmax of log-probabilities is the same
        (np.array([[3.0]]), Activation.SIGMOID_LOGIT),
        (np.array([[-0.2]]), Activation.SIGMOID_LOGIT),
        (np.array([[0.7]]), Activation.SIGMOID),
        (np.array([[1.0]]), Activation.SIGMOID),
    ],
)
def test_values_tell_what_they_are(raw: np.ndarray, kind: Activation) -> None:
    assert read(raw).activation is kind


@pytest.mark.parametrize(
    ("operators", "kind"),
    [
        (["Gemm"], Activation.SOFTMAX),
        (["MatMul"], Activation.SOFTMAX),
        (["Gemm", "Softmax"], Activation.PROBABILITY),
        (["Gemm", "LogSoftmax"], Activation.LOG),
        (["Gemm", "Sigmoid"], Activation.SIGMOID),
        (["Softmax", "Reshape", "Squeeze", "Cast", "Identity"], Activation.PROBABILITY),
        (["Conv", "GlobalAveragePool", "Flatten"], Activation.SOFTMAX),
        (["Sigmoid", "Gemm"], Activation.SOFTMAX),
        (["Softmax", "QuantizeLinear", "DequantizeLinear"], Activation.PROBABILITY),
    ],
)
def test_the_operator_goes_before_the_values(
    graph: GraphMaker, operators: list[str], kind: Activation
) -> None:
    # Half a one: by its values alone this would be read as sigmoids.
    assert read(np.array([[0.1, 0.2, 0.1, 0.1]]), graph=graph(*operators)).activation is kind


def test_an_operator_that_tells_nothing_leaves_it_to_the_values(graph: GraphMaker) -> None:
    assert read(SOFTMAX, graph=graph("Mul")).activation is Activation.PROBABILITY
    assert read(LOGITS, graph=graph("Mul")).activation is Activation.SOFTMAX


def test_the_softmax_of_one_logit_is_a_sigmoid(graph: GraphMaker) -> None:
    output = read(np.array([[0.4]]), graph=graph("Gemm"))
    assert output.activation is Activation.SIGMOID_LOGIT
    np.testing.assert_allclose(output.probabilities(np.array([[0.0]])), [[0.5, 0.5]])


ONE_SCORE = {
    Activation.SIGMOID_LOGIT: np.array([[2.0], [-0.4], [0.0]]),
    Activation.SIGMOID: np.array([[0.9], [0.3], [0.5]]),
}


@pytest.mark.parametrize("kind", ONE_SCORE)
def test_one_score_stands_for_two_classes(kind: Activation) -> None:
    raw = ONE_SCORE[kind]
    output = read(raw[:1], activation=str(kind))
    assert (output.classes, output.width, output.exclusive) == (2, 1, True)
    positive = 1 / (1 + np.exp(-raw)) if kind is Activation.SIGMOID_LOGIT else raw
    expected = np.concatenate([1 - positive, positive], axis=1)
    np.testing.assert_allclose(output.probabilities(raw), expected, rtol=1e-12)
    np.testing.assert_allclose(output.log_probabilities(raw), np.log(expected), rtol=1e-12)
    for index in (0, 1):
        up, down = (output.log_probabilities(raw + step)[:, index] for step in (1e-6, -1e-6))
        slope = output.log_probability_vjp(raw, index)
        assert (slope.shape, slope.dtype) == (raw.shape, np.float32)
        np.testing.assert_allclose(slope[:, 0], (up - down) / 2e-6, rtol=1e-4)


@pytest.mark.parametrize("score", [-1e4, -1.0, 0.0, 1e-13, 1.0, 1.001, 1e4])
@pytest.mark.parametrize("kind", ONE_SCORE)
def test_the_slopes_of_one_score_are_finite_and_opposite(kind: Activation, score: float) -> None:
    raw = np.array([[score]], np.float32)
    output = ClassScores("y", 2, kind, one_score=True)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        negative, positive = (output.log_probability_vjp(raw, index) for index in (0, 1))
    assert np.isfinite([negative, positive]).all()
    assert negative <= 0 <= positive


def test_one_score_of_bytes() -> None:
    output = ClassScores("y", 2, Activation.SIGMOID, Quantisation(1 / 256), one_score=True)
    raw = np.array([[64], [0]], np.uint8)
    np.testing.assert_allclose(output.probabilities(raw), [[0.75, 0.25], [1, 0]])
    np.testing.assert_allclose(output.log_probability_vjp(raw[:1], 0), [[-1 / 0.75 / 256]])


@pytest.mark.parametrize(
    ("operators", "value", "says"),
    [
        (["Gemm"], 0.4, "the logit of two classes"),
        (["Mul"], 0.4, "it is a single value, in 0..1 for this image"),
        (["Mul"], 3.0, "the logit of two classes"),
        (["Gemm", "Sigmoid"], 0.4, ""),
    ],
)
def test_how_one_score_is_read_is_said(
    graph: GraphMaker, operators: list[str], value: float, says: str
) -> None:
    found = read(np.array([[value]]), graph=graph(*operators))
    assert says in found.guess
    assert bool(found.guess) is bool(says)
    probability = found.activation is Activation.SIGMOID
    assert found.contradicts(np.array([[-5.0]])) is (probability and bool(says))


def test_the_users_word_goes_first(graph: GraphMaker) -> None:
    output = read(LOGITS, graph=graph("Gemm"), activation="sigmoid-logit")
    np.testing.assert_allclose(output.probabilities(LOGITS), 1 / (1 + np.exp(-LOGITS)))


def test_an_activation_that_is_none() -> None:
    with pytest.raises(OutputError, match=r"relu.*softmax, log-probability"):
        read(LOGITS, activation="relu")


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 1, 1), (2, 1, 1, 4), (2, 1, 4)])
def test_axes_of_one_do_not_matter(shape: tuple[int, ...]) -> None:
    raw = np.concatenate([SOFTMAX, SOFTMAX[:, ::-1]]).reshape(shape).astype(np.float32)
    output = read(raw[:1])
    assert (output.classes, output.activation) == (4, Activation.PROBABILITY)
    expected = np.concatenate([SOFTMAX, SOFTMAX[:, ::-1]])
    np.testing.assert_allclose(output.probabilities(raw), expected, atol=1e-6)
    slope = output.log_probability_vjp(raw, 2)
    assert (slope.shape, slope.dtype) == (shape, np.float32)
    np.testing.assert_allclose(slope.reshape(2, 4)[:, 2], 1 / expected[:, 2], rtol=1e-5)


REFERENCES: dict[Activation, tuple[np.ndarray, np.ndarray]] = {
    Activation.SOFTMAX: (LOGITS, SOFTMAX),
    Activation.LOG: (np.log(SOFTMAX), SOFTMAX),
    Activation.PROBABILITY: (SOFTMAX, SOFTMAX),
    Activation.SIGMOID: (np.array([[0.9, 0.3]]), np.array([[0.9, 0.3]])),
    Activation.SIGMOID_LOGIT: (LOGITS, 1 / (1 + np.exp(-LOGITS))),
}


@pytest.mark.parametrize("kind", list(Activation))
def test_probabilities(kind: Activation) -> None:
    raw, expected = REFERENCES[kind]
    output = ClassScores("y", raw.shape[1], kind)
    np.testing.assert_allclose(output.probabilities(raw), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", list(Activation))
def test_the_slope_is_the_gradient_of_the_log_probability(kind: Activation) -> None:
    raw = np.concatenate([REFERENCES[kind][0], REFERENCES[kind][0][:, ::-1]])
    output = ClassScores("y", raw.shape[1], kind)
    for index in range(output.classes):
        numeric = np.zeros_like(raw)
        for place in range(output.classes):
            step = np.zeros(output.classes)
            step[place] = 1e-6
            up, down = (np.log(output.probabilities(raw + s)[:, index]) for s in (step, -step))
            numeric[:, place] = (up - down) / 2e-6
        np.testing.assert_allclose(
            output.log_probability_vjp(raw, index), numeric, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("kind", list(Activation))
@pytest.mark.parametrize("extreme", [-1e4, -200.0, 0.0, 1e-13, 1.0, 1.001, 200.0, 1e4])
def test_the_slope_is_finite_whatever_the_scores(kind: Activation, extreme: float) -> None:
    raw = np.array([[extreme, 0.3, 0.2], [0.3, extreme, extreme]], np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        slope = ClassScores("y", 3, kind).log_probability_vjp(raw, 0)
    assert np.isfinite(slope).all()
    assert (slope[:, 0] >= 0).all()  # more of a score is never less of its probability


@pytest.mark.parametrize(
    ("kind", "score", "slope"),
    [
        (Activation.LOG, -30.0, 1),
        (Activation.LOG, 0.0, 1),
        (Activation.LOG, 0.001, 0),
        (Activation.PROBABILITY, 0.25, 4),
        (Activation.PROBABILITY, 1.0, 1),
        (Activation.PROBABILITY, 1.001, 0),
        (Activation.PROBABILITY, 1e-13, 0),
        (Activation.PROBABILITY, 0.0, 0),
        (Activation.PROBABILITY, -0.25, 0),
        (Activation.SIGMOID, 1.0, 1),
        (Activation.SIGMOID, 1.001, 0),
        (Activation.SIGMOID, -0.25, 0),
        (Activation.SIGMOID_LOGIT, -1e4, 1),
        (Activation.SIGMOID_LOGIT, 0.0, 0.5),
        (Activation.SIGMOID_LOGIT, 1e4, 0),
    ],
)
def test_there_is_a_slope_only_where_a_probability_is_possible(
    kind: Activation, score: float, slope: float
) -> None:
    raw = np.array([[0.3, score, 0.2]], np.float32)
    np.testing.assert_allclose(
        ClassScores("y", 3, kind).log_probability_vjp(raw, 1), [[0, slope, 0]]
    )


@pytest.mark.parametrize("logits", [[0.0, 1e4, -1e4], [1e4, 1e4, 0.0], [-3.0, 2.0, 0.1]])
def test_the_slope_of_a_softmax_takes_from_others_what_it_gives(logits: list[float]) -> None:
    output = ClassScores("y", 3, Activation.SOFTMAX)
    for index in range(3):
        slope = output.log_probability_vjp(np.array([logits], np.float32), index)
        assert slope.sum() == pytest.approx(0, abs=1e-6)
        assert (np.delete(slope, index) <= 0).all()


def test_the_slope_of_half_precision_is_taken_in_single() -> None:
    raw = LOGITS.astype(np.float16)
    output = ClassScores("y", 4, Activation.SOFTMAX)
    assert output.log_probability_vjp(raw, 0).dtype == np.float32
    np.testing.assert_allclose(
        output.log_probability_vjp(raw, 0), output.log_probability_vjp(LOGITS, 0), atol=1e-3
    )


def test_large_logits_do_not_overflow() -> None:
    output = ClassScores("y", 3, Activation.SOFTMAX)
    np.testing.assert_allclose(output.probabilities(np.array([[1e5, 0, 1e5]])), [[0.5, 0, 0.5]])


def test_a_quantised_softmax_is_read_by_its_scale_and_zero_point(graph: GraphMaker) -> None:
    scale, zero_point = 1 / 200, 5
    raw = np.round(SOFTMAX / scale + zero_point).astype(np.uint8)
    quantised = graph("Gemm", "Softmax", "QuantizeLinear", scale=scale, zero_point=zero_point)
    output = read(raw, graph=quantised)
    assert output.activation is Activation.PROBABILITY
    assert output.quantisation == Quantisation(pytest.approx(scale), zero_point)
    np.testing.assert_allclose(output.probabilities(raw), SOFTMAX, atol=scale / 2 + 1e-9)


def test_a_probability_that_rounds_to_zero_still_has_a_slope() -> None:
    output = ClassScores("y", 2, Activation.PROBABILITY, Quantisation(1 / 256))
    slope = output.log_probability_vjp(np.array([[0, 255 / 256], [1 / 256, 1]], np.float32), 0)
    np.testing.assert_allclose(slope, [[512, 0], [256, 0]])  # half a step stands for zero


def test_quantised_logits_are_no_probabilities(graph: GraphMaker) -> None:
    raw = np.round(LOGITS / 0.02 + 100).astype(np.uint8)
    output = read(raw, graph=graph("Gemm", "QuantizeLinear", scale=0.02, zero_point=100))
    assert output.activation is Activation.SOFTMAX
    np.testing.assert_allclose(output.probabilities(raw), SOFTMAX, atol=0.01)


def test_bytes_without_a_graph_are_shares_of_255() -> None:
    raw = np.array([[204, 51, 0]], np.uint8)
    np.testing.assert_allclose(read(raw).probabilities(raw), [[0.8, 0.2, 0]])


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (np.array([[207]], np.int64), r"class indices \(.*\), not scores.*output="),
        (np.array([[1, 2, 3]], np.int32), "class indices"),
        (np.zeros((1, 4420, 2), np.float32), "does not hold one score per class"),
        (np.zeros((1, 21, 8, 8), np.float32), "does not hold one score per class"),
        (np.zeros(5, np.float32), "does not hold one score per class"),
        (np.zeros((1, 0), np.float32), "does not hold one score per class"),
        (np.array([[0.1, np.nan]]), "NaN or infinite.*preprocessing"),
        (np.array([[0.1, -np.inf]]), "NaN or infinite"),
    ],
)
def test_what_is_no_class_score_is_refused_in_one_line(raw: np.ndarray, says: str) -> None:
    with pytest.raises(OutputError, match=says) as caught:
        read(raw)
    assert "\n" not in str(caught.value)


def test_indices_of_an_argmax_are_refused_by_their_graph_too(graph: GraphMaker) -> None:
    with pytest.raises(OutputError, match="ArgMax"):
        read(np.array([[3]], np.int64), graph=graph("Gemm", "ArgMax"))


SHARES = np.array([0.1, 0.4, 0.2, 0.3])
LABELS = ("goat", "Afghan hound", "Ibizan hound", "crane")


@pytest.mark.parametrize(
    ("target", "indices"),
    [
        (None, [1]),
        (0, [0]),
        (np.int64(2), [2]),
        ("3", [3]),
        (" 3 ", [3]),
        ("crane", [3]),
        ("AFGHAN_hound", [1]),
        ("ibizan", [2]),
        ("top:1", [1]),
        ("top:3", [1, 3, 2]),
        ("top:4", [1, 3, 2, 0]),
    ],
)
def test_every_way_to_name_a_class(target: str | int | None, indices: list[int]) -> None:
    assert choose(target, SHARES, LABELS) == indices


def test_a_number_that_is_no_index_may_be_a_label() -> None:
    degrees = ("0", "90", "180", "270")
    assert choose(90, SHARES, degrees) == [1]
    assert choose("270", SHARES, degrees) == [3]
    assert choose(0, SHARES, degrees) == [0]
    with pytest.raises(TargetError, match="out of range"):
        choose(45, SHARES, degrees)


def test_scores_sorted_by_a_top_k_are_no_indices(graph: GraphMaker) -> None:
    with pytest.raises(OutputError, match="scores sorted by TopK"):
        read(SOFTMAX, graph=graph("Softmax", "TopK"))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.25] * 4, ("all 4 classes are tied at 25.0%",)),
        ([0.5, 0.5], ("all 2 classes are tied at 50.0%",)),
        ([0.25, 0.25, 0.25 + 1e-9, 0.25], ("all 4 classes are tied at 25.0%",)),
        ([0.25, 0.25, 0.24, 0.26], ()),
        ([1.0], ()),
    ],
)
def test_a_tie(shares: list[float], said: tuple[str, ...]) -> None:
    assert tie(np.array(shares)) == said


def test_equal_shares_go_by_index() -> None:
    equal = np.full(4, 0.25)
    assert choose(None, equal, None) == [0]
    assert choose("top:3", equal, None) == [0, 1, 2]


@pytest.mark.parametrize(
    ("target", "labels", "says"),
    [
        (4, LABELS, "out of range: classes are 0 to 3"),
        (-1, LABELS, "out of range"),
        ("1000", None, "out of range"),
        ("top:0", LABELS, "has 4 classes"),
        ("top:5", LABELS, "has 4 classes"),
        ("crane", None, "labels=FILE"),
        ("crain", LABELS, "similar labels: .*crane"),
        ("hound", LABELS, "several"),
        ("", LABELS, "no label"),
        ("top:x", LABELS, "must be like top:3"),
        ("top:-1", LABELS, "must be like top:3"),
        (1.5, LABELS, "float.*class index, a label"),
        ("1.5", LABELS, "no label"),
    ],
)
def test_a_class_that_is_not_there(
    target: str | int, labels: tuple[str, ...] | None, says: str
) -> None:
    with pytest.raises(TargetError, match=says) as caught:
        choose(target, SHARES, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul"])
def test_what_sums_to_one_is_no_logit_whatever_made_it(graph: GraphMaker, operator: str) -> None:
    """A weighted average of softmaxes ends in such an operator, and so do many logits."""
    assert read(SOFTMAX, graph=graph("Softmax", operator)).activation is Activation.PROBABILITY
    assert read(LOGITS, graph=graph("MatMul", operator)).activation is Activation.SOFTMAX


def test_a_guess_is_said_and_taken_back(graph: GraphMaker) -> None:
    dark = np.array([[0.1, 0.3, 0.2, 0.0]])
    found = read(dark, graph=graph("MatMul", "Mul"))
    assert found.activation is Activation.SIGMOID
    assert "assumed" in found.guess
    assert not found.contradicts(dark)
    assert found.contradicts(LOGITS)
    bias = read(dark, graph=graph("MatMul", "Add"))
    assert (bias.activation, bias.guess) == (Activation.SOFTMAX, "")
    told = read(dark, graph=graph("MatMul", "Mul"), activation="sigmoid")
    assert not told.contradicts(LOGITS)


def test_the_scale_of_a_quantised_product_is_read() -> None:
    values = {"scale": np.float32(0.05), "zero": np.uint8(128)}
    node = helper.make_node("QLinearMatMul", ["a", "s", "z", "b", "s", "z", "scale", "zero"], ["y"])
    constants = [numpy_helper.from_array(np.array(v), k) for k, v in values.items()]
    graph = helper.make_graph([node], "product", [], [], constants)
    raw = np.array([[128, 148, 108]], np.uint8)
    found = read(raw, graph=graph)
    np.testing.assert_allclose(found.scores(raw), [[0, 1, -1]], atol=1e-6)
    assert found.activation is Activation.SOFTMAX


@pytest.mark.parametrize("chain", [["Softmax", "ArgMax"], ["ArgMax", "Cast", "Reshape"]])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_indices_are_no_scores_in_any_dtype(
    graph: GraphMaker, chain: list[str], dtype: type[np.generic]
) -> None:
    with pytest.raises(OutputError, match="class indices"):
        read(np.array([[3]], dtype), graph=graph(*chain))
