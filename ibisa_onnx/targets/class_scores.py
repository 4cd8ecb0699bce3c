"""Class scores: how an output with one score per class is recognised and read as probabilities.

The activation is determined by the operator that produced the output, if the graph is known, and
otherwise by the values: logits, probabilities that sum to one, or one sigmoid per class. How the
model is run is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.models.head import Head
from ibisa_onnx.models.onnx_graph import TRANSPARENT, producer_of

if TYPE_CHECKING:
    import onnx

_SUM_TOLERANCE = 0.02  # half precision and 8-bit probabilities do not sum to 1 exactly
_EQUAL = 1e-6  # relative: equal probabilities may differ by float32 rounding
SMALLEST = 1e-12
"""Lower bound that keeps log p finite."""


class Activation(StrEnum):
    """How raw scores become probabilities."""

    SOFTMAX = "softmax"
    """Logits of mutually exclusive classes."""
    LOG = "log-probability"
    """Log-probabilities."""
    PROBABILITY = "probability"
    """Probabilities that sum to one."""
    SIGMOID = "sigmoid"
    """Independent probabilities, one per class."""
    SIGMOID_LOGIT = "sigmoid-logit"
    """Logits of independent classes."""


_LAST_OPERATOR = {
    "Softmax": Activation.PROBABILITY,
    "LogSoftmax": Activation.LOG,
    "Sigmoid": Activation.SIGMOID,
    "HardSigmoid": Activation.SIGMOID,
    "Gemm": Activation.SOFTMAX,
    "MatMul": Activation.SOFTMAX,
    "Conv": Activation.SOFTMAX,
    "GlobalAveragePool": Activation.SOFTMAX,
}
_BIAS = frozenset({"Add", "Sub"})
"""After a matrix product these end logits; after a softmax, an average of models."""
_SCALE_AND_ZERO_POINT = {
    "QuantizeLinear": (1, 2),
    "QLinearMatMul": (6, 7),
    "QLinearConv": (6, 7),
    "QGemm": (7, 8),
    "QLinearAdd": (6, 7),
    "QLinearMul": (6, 7),
    "QLinearGlobalAveragePool": (3, 4),
    "QLinearSigmoid": (3, 4),
    "QLinearSoftmax": (3, 4),
}
"""Input positions of the output's scale and zero point, for operators that return integers."""


@dataclass(frozen=True)
class Quantisation:
    """Affine quantisation: `(value - zero_point) * scale`."""

    scale: float
    zero_point: int = 0


@dataclass(frozen=True)
class ClassScores:
    """Output that holds one score per class, and how to read it.

    Attributes
    ----------
    name
        Name of the output.
    classes
        Number of classes.
    activation
        How the scores become probabilities.
    quantisation
        Scale and zero point of an integer output; None for floats.
    guess
        Warning if the reading is assumed; otherwise empty.
    one_score
        Whether a single score stands for two classes: 0 negative, 1 positive.
    """

    name: str
    classes: int
    activation: Activation
    quantisation: Quantisation | None = None
    guess: str = ""
    one_score: bool = False

    @property
    def width(self) -> int:
        """Number of values per image."""
        return 1 if self.one_score else self.classes

    @property
    def exclusive(self) -> bool:
        """Whether the probabilities sum to one."""
        return self.one_score or self.activation not in (
            Activation.SIGMOID,
            Activation.SIGMOID_LOGIT,
        )

    def contradicts(self, raw: npt.NDArray[Any]) -> bool:
        """Return whether values contradict an assumed activation."""
        if not self.guess or self.activation is Activation.SIGMOID_LOGIT:
            return False
        reals = self.reals(raw)
        return not (reals.min() >= 0 and reals.max() <= 1 + _SUM_TOLERANCE)

    def reals(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return raw values [N, K, 1 ...] dequantised, as float64 [N, width]."""
        values = raw.reshape(len(raw), self.width).astype(np.float64)
        if self.quantisation is None or raw.dtype.kind == "f":  # a surrogate returns floats
            return values
        return (values - self.quantisation.zero_point) * self.quantisation.scale

    def scores(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return raw values [N, K, 1 ...] as one score per class, float64 [N, K]."""
        return np.asarray(self._of_classes(self.reals(raw)))

    def vjp(self, cotangent: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the gradient of the dequantised values, [N, width], from the scores', [N, K]."""
        return cotangent[:, 1:] - cotangent[:, :1] if self.one_score else cotangent

    def _of_classes(self, reals: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Return one value per class, [N, K]; a single score becomes -s and s, or 1 - p and p."""
        if not self.one_score:
            return reals
        opposite = -reals if self.activation is Activation.SIGMOID_LOGIT else 1 - reals
        return np.concatenate([opposite, reals], axis=1)

    def probabilities(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return raw values [N, K, 1 ...] as probabilities, float64 [N, K] in 0..1."""
        scores = self.scores(raw)
        if self.activation is Activation.SOFTMAX:
            powers = np.exp(scores - scores.max(1, keepdims=True))
            return np.asarray(powers / powers.sum(1, keepdims=True))
        if self.activation is Activation.LOG:
            return np.exp(scores)
        if self.activation is Activation.SIGMOID_LOGIT:
            with np.errstate(over="ignore"):  # far below 0: the probability is 0
                return 1 / (1 + np.exp(-scores))
        return np.clip(scores, 0, 1)

    def log_probabilities(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return raw values [N, K, 1 ...] as log-probabilities, float64 [N, K] in nats.

        At least log 1e-12 for outputs that are probabilities already.
        """
        scores = self.scores(raw)
        if self.activation is Activation.SOFTMAX:
            shifted = scores - scores.max(1, keepdims=True)
            return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
        if self.activation is Activation.LOG:
            return scores
        if self.activation is Activation.SIGMOID_LOGIT:
            return -np.logaddexp(0, -scores)
        return np.log(np.clip(scores, SMALLEST, 1))

    def log_probability_vjp(self, raw: npt.NDArray[Any], index: int) -> npt.NDArray[np.float32]:
        """Return d log p / d raw of one class, in nats, as float32 [N, K, 1 ...] like `raw`.

        Zero if the probability is below 1e-12 or above 1. A probability that an 8-bit output
        rounded to 0 counts as half a quantisation step.
        """
        scores = self._reals(raw)
        cotangent = np.zeros_like(scores)
        score = scores[:, index]
        if self.activation is Activation.SOFTMAX:  # d log softmax_i = e_i - softmax
            powers = np.exp(scores - scores.max(1, keepdims=True))
            cotangent -= powers / powers.sum(1, keepdims=True)
            cotangent[:, index] += 1
        elif self.activation is Activation.LOG:
            cotangent[:, index] = ~(score > 0)
        elif self.activation is Activation.SIGMOID_LOGIT:  # d log sigmoid(x) = sigmoid(-x)
            with np.errstate(over="ignore"):
                cotangent[:, index] = 1 / (1 + np.exp(score))
        else:
            least = SMALLEST if self.quantisation is None else self.quantisation.scale / 2
            possible = (score >= SMALLEST) & (score <= 1) | (self.quantisation is not None)
            cotangent[:, index] = possible / np.maximum(score, least)
        if self.quantisation is not None and raw.dtype.kind != "f":
            cotangent *= np.float32(self.quantisation.scale)
        return self.vjp(cotangent).reshape(raw.shape)

    def write_log_probability(self, graph: onnx.GraphProto, index: int) -> str:
        """Append nodes that compute log p of one class, float32 [N, 1]; return its name."""
        head = Head(graph)
        scores = head.rows(self.name)
        if self.quantisation is not None:
            zero = head.constant(self.quantisation.zero_point)
            scores = head.op("Sub", scores, zero)
            scores = head.op("Mul", scores, head.constant(self.quantisation.scale))
        if self.activation is Activation.SOFTMAX:
            return head.column(head.op("LogSoftmax", scores, axis=1), index)
        score = head.column(scores, 0 if self.one_score else index)
        if self.one_score and index == 0:
            logit = self.activation is Activation.SIGMOID_LOGIT
            score = head.op("Neg", score) if logit else head.op("Sub", head.constant(1), score)
        if self.activation is Activation.LOG:
            return score
        if self.activation is Activation.SIGMOID_LOGIT:
            return head.log_sigmoid(score)
        return head.log(score, SMALLEST)

    def _reals(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the scores as float32 [N, K], the precision of derivatives."""
        values = raw.reshape(len(raw), self.width).astype(np.float32)
        if self.quantisation is not None and raw.dtype.kind != "f":
            zero = np.float32(self.quantisation.zero_point)
            values = (values - zero) * np.float32(self.quantisation.scale)
        return np.asarray(self._of_classes(values), np.float32)


def read_output(
    name: str,
    raw: npt.NDArray[Any],
    *,
    graph: onnx.GraphProto | None = None,
    activation: str | None = None,
) -> ClassScores:
    """Determine how an output holds class scores.

    Parameters
    ----------
    name
        Name of the output.
    raw
        Its values for one image, [1, K], with any further axes of size 1.
    graph
        Graph of the model, if known.
    activation
        Activation specified by the caller; None to determine it.

    Raises
    ------
    OutputError
        The values are not class scores, or are NaN or infinite, or the activation is unknown.
    """
    width = check_scores(name, raw)
    maker = producer_of(name, graph) if graph is not None else None
    operator = "" if maker is None else str(maker.op_type)
    quantisation, guess = None, ""
    if operator == "TopK" and raw.dtype.kind == "f":
        raise OutputError(f"output {name} holds scores sorted by TopK; {_ANOTHER} TopK")
    if operator in ("ArgMax", "ArgMin", "TopK"):
        raise OutputError(_indices(name, raw.dtype))
    if raw.dtype.kind in "iu":
        quantisation = _quantisation(name, raw.dtype, graph)
        if quantisation is None:
            quantisation, guess = Quantisation(1 / 255), f"output {name} {_BYTES}"
    output = ClassScores(name, width, Activation.PROBABILITY, quantisation)
    if activation:
        kind = read_activation(activation)
    elif operator in _LAST_OPERATOR:
        kind = _LAST_OPERATOR[operator]
    else:
        kind = _by_values(output.scores(raw)[0])
        if kind is Activation.SIGMOID and operator in _BIAS:
            kind = Activation.SOFTMAX
        elif kind is Activation.SIGMOID:
            guess = guess or f"output {name} {_IN_0_1 if width > 1 else _ONE_IN_0_1}"
    if width > 1:
        return ClassScores(name, width, kind, quantisation, guess)
    if kind is Activation.SOFTMAX:  # the softmax of a single score is always 1
        kind = Activation.SIGMOID_LOGIT
        guess = guess or ("" if activation else f"output {name} {_ONE_LOGIT}")
    if kind is Activation.LOG:
        raise OutputError(
            f"output {name} is a single score, which cannot be a log-probability of two classes; "
            "pass activation=sigmoid or activation=sigmoid-logit"
        )
    return ClassScores(name, 2, kind, quantisation, guess, one_score=True)


_IN_0_1 = (
    "is read as one sigmoid per class (assumed): its values for this image lie in 0..1; "
    "if they are logits, pass activation=softmax"
)
_ONE_IN_0_1 = (
    "is read as the probability of the second of two classes (assumed): it is a single value, in "
    "0..1 for this image; if it is a logit, pass activation=sigmoid-logit"
)
_ONE_LOGIT = (
    "is read as the logit of two classes, 0 negative and 1 positive (assumed); if it is a "
    "probability, pass activation=sigmoid; if it is a value, such as an age, its map is meaningless"
)
_BYTES = "is uint8 of unknown scale, read as probabilities times 255 (assumed)"


_ANOTHER = (
    "select an output or inner tensor of scores with output=, or re-export the model without its"
)


def _indices(name: str, dtype: np.dtype[Any]) -> str:
    return f"output {name} holds class indices ({dtype}), not scores; {_ANOTHER} ArgMax"


def check_scores(name: str, raw: npt.NDArray[Any]) -> int:
    """Return the number of scores of an output [N, K, 1 ...], and check that all are finite.

    Raises
    ------
    OutputError
        The output does not hold one score per class, or has NaN or infinite values.
    """
    classes = int(np.prod(raw.shape[1:]))
    if raw.ndim < 2 or max(raw.shape[1:], default=0) != classes or classes == 0:
        raise OutputError(f"output {name} {list(raw.shape)} does not hold one score per class")
    if not np.isfinite(raw).all():
        raise OutputError(
            f"output {name} has NaN or infinite values on this input; "
            "check the preprocessing (ibisa-onnx inspect) or the model file"
        )
    return classes


def tie(probabilities: npt.NDArray[np.float64], which: str = "all") -> tuple[str, ...]:
    """Return a warning if these classes [K] are equally likely."""
    if len(probabilities) < 2 or float(np.ptp(probabilities)) > _EQUAL * probabilities.max():
        return ()
    return (f"{which} {len(probabilities)} classes are tied at {100 * probabilities[0]:.1f}%",)


def read_activation(word: str) -> Activation:
    """Parse the name of an activation; `OutputError` if it is unknown."""
    try:
        return Activation(word)
    except ValueError:
        known = ", ".join(Activation)
        raise OutputError(f"activation is {word!r}; choose from: {known}") from None


def _by_values(scores: npt.NDArray[np.float64]) -> Activation:
    """Infer from the scores [K] of one image what they are."""
    if scores.min() >= 0 and scores.max() <= 1 + _SUM_TOLERANCE:
        exclusive = len(scores) > 1 and abs(scores.sum() - 1) < _SUM_TOLERANCE
        return Activation.PROBABILITY if exclusive else Activation.SIGMOID
    return Activation.SOFTMAX


def _quantisation(
    name: str, dtype: np.dtype[Any], graph: onnx.GraphProto | None
) -> Quantisation | None:
    """Return the quantisation of an integer output; None if the graph does not contain it.

    Raises
    ------
    OutputError
        The dtype is one of class indices.
    """
    node = None if graph is None else producer_of(name, graph, TRANSPARENT - {"QuantizeLinear"})
    if graph is not None and node is not None and node.op_type in _SCALE_AND_ZERO_POINT:
        from onnx import numpy_helper

        constants = {each.name: each for each in graph.initializer}
        places = [place for place in _SCALE_AND_ZERO_POINT[node.op_type] if place < len(node.input)]
        known = [constants.get(node.input[place]) for place in places]
        if known and known[0] is not None:
            values = [numpy_helper.to_array(each).item() for each in known if each is not None]
            return Quantisation(float(values[0]), int(values[1]) if len(values) > 1 else 0)
    if dtype == np.uint8:
        return None
    raise OutputError(_indices(name, dtype))
