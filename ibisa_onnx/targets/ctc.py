"""CTC scores of a text recogniser: the tensor that holds them, their form, and the blank.

Connectionist temporal classification (Graves et al., ICML 2006) has scores for each step along a
line of text, and one class in addition to the characters: the blank, for no character. `sequence`
decodes the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.models.onnx_graph import origin
from ibisa_onnx.models.signature import TensorInfo
from ibisa_onnx.targets.class_scores import SMALLEST
from ibisa_onnx.targets.endings import ends_in_softmax, reads_a_line
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.output_kinds import OutputKinds

if TYPE_CHECKING:
    import onnx

STEPS = "ibisa/steps"
"""Name of the appended tensor: log-probabilities per step, float32 [N, T, K]."""
BLANK = "blank"
"""Name of the blank in labels."""

_BLANKS = frozenset({BLANK, "<blank>", "[blank]", "<ctc>", "ctcblank"})
_SAME_VALUES = frozenset({"Identity", "Cast", "Dropout"})
_LAST = (-1, 2)  # of three axes
_SUM_TOLERANCE = 1e-2  # sums of half-precision probabilities are that inexact
_LEAST = -100.0  # lower bound of log-probabilities that a model returns; log 0 is infinite
_PADDLE = "p2o."  # prefix of Paddle2ONNX's tensor names
_PADDLE_HEIGHT, _OPEN_ASPECT = 48, 320 / 48  # of PP-OCR's input, which is at least that wide


@dataclass(frozen=True)
class Blank:
    """Class that stands for no character, and how it was determined."""

    index: int
    reason: str
    warning: str = ""


@dataclass(frozen=True, eq=False)
class StepScores:
    """A recogniser's scores, and the nodes that turn them into log-probabilities.

    Attributes
    ----------
    source
        Tensor of scores: an output, or the input of its softmax or ArgMax.
    form
        Form of the scores, a key of `FORMS`.
    time_major
        Whether the layout is [T, N, K], as in recurrent layers, rather than [N, T, K].
    classes
        K, including the blank.
    family, preprocessing
        As in `Kind`.
    misdeclared
        Whether the file declares a wrong shape for the source, which appended nodes must not rely
        on.
    """

    source: str
    form: str
    time_major: bool
    classes: int
    family: str = "text recognition"
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    misdeclared: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor that the nodes make."""
        return (STEPS,)

    def to_onnx(self, graph: onnx.GraphProto) -> None:
        """Append the nodes to a graph, in place."""
        head = Head(graph)
        source = _made_again(head, graph, self.source) if self.misdeclared else self.source
        values = head.op("Cast", source, to=1)
        if self.time_major:
            values = head.op("Transpose", values, perm=[1, 0, 2])
        head.alias(FORMS[self.form](head, values), STEPS)


def _made_again(head: Head, graph: onnx.GraphProto, name: str) -> str:
    """Recompute a tensor under a name for which no shape is declared."""
    from onnx import helper

    node = next(each for each in graph.node if name in each.output)
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return head.op(node.op_type, *node.input, **attributes)


def _of_logits(head: Head, values: str) -> str:
    return head.op("LogSoftmax", values, axis=2)


def _of_probabilities(head: Head, values: str) -> str:
    return head.log(values, SMALLEST)


def _of_logarithms(head: Head, values: str) -> str:
    """Return the values bounded below, so that they are finite."""
    least = head.constant(_LEAST)
    return head.op("Add", head.op("Relu", head.op("Sub", values, least)), least)


FORMS: dict[str, Callable[[Head, str], str]] = {
    "logits": _of_logits,
    "probabilities": _of_probabilities,
    "log-probabilities": _of_logarithms,
}
"""Nodes from scores [N, T, K] to log-probabilities, by the form of the scores."""


def find_scores(facts: ModelFacts, *, said: bool = False) -> tuple[StepScores, Blank] | None:
    """Find the per-step scores of a text recogniser and its blank; None if the model is not one.

    The model is run once on noise, if shape, values or blank require it. Python functions have no
    graph; unless the caller `said` that the model is a recogniser, their output must hold
    probabilities.
    """
    tables = _tables(facts) if facts.is_deployed else _returned(facts, said)
    table = next(tables, None) if facts.makers or not facts.is_deployed else None
    if table is None or not isinstance(table.shape[2], int):
        return None
    values = facts.values([table.name]).get(table.name)
    shape = table.shape if values is None else values.shape
    batch = facts.batch if values is None else _batch(facts)
    paddle = any(name.startswith(_PADDLE) for name in facts.makers)
    source, form = _form(table.name, values, facts)
    scores = StepScores(
        source,
        form,
        _is_time_major(shape, batch),
        table.shape[2],
        "PP-OCR" if paddle else "text recognition",
        _usual(facts, paddle=paddle),
        any(each.name == source and len(each.shape) not in (0, 3) for each in facts.outputs),
    )
    return scores, _blank(values, table.shape[2], "noise" if facts.is_deployed else "an image")


def fit_charset(
    labels: Sequence[str], classes: int, blank: int
) -> tuple[tuple[str, ...], int] | None:
    """Return names for all classes, and the blank's index; None if the numbers do not match.

    Parameters
    ----------
    labels
        Names of the characters. They rarely include the blank, or the space, which then comes last.
        An empty name is the blank's at either end, and a stripped space elsewhere.
    classes
        Number of classes.
    blank
        Index of the blank unless a label names it.
    """
    names, missing = [label or " " for label in labels], classes - len(labels)
    if missing == 0:
        said = [place for place, name in enumerate(labels) if name.strip().lower() in _BLANKS]
        said += [place for place in (0, classes - 1) if not labels[place]]
        return tuple(names), said[0] if said else blank
    if missing not in (1, 2):
        return None
    names += [" "] * (missing - 1)
    names.insert(blank if blank == 0 else classes - 1, BLANK)
    return tuple(names), blank


def _tables(facts: ModelFacts) -> Iterator[TensorInfo]:
    """Yield the tensors of scores: outputs, or the input of an ArgMax over the classes."""
    kinds = OutputKinds(facts.outputs, facts.batch, facts.makers)
    for output in kinds.sequences:
        known = isinstance(output.shape[2], int)
        yield output if known else _measured(output.name, facts) or output
    for output in facts.outputs:
        maker = facts.makers.get(origin(output.name, facts.makers))
        if maker is not None and maker.op_type == "ArgMax":
            name = str(maker.input[0]) if _axis(maker, 0) in _LAST else ""
        else:  # the output itself, whose declared shape may be wrong
            line = len(output.shape) != 3 and reads_a_line(output.name, facts.makers)
            name = output.name if line else ""
        found = _measured(name, facts) if name else None
        if found and OutputKinds((found,), _batch(facts), facts.makers).is_sequence(found):
            yield found


def _returned(facts: ModelFacts, said: bool) -> Iterator[TensorInfo]:
    """Yield a function's only three-dimensional output, if it holds probabilities."""
    found = [each for each in facts.outputs if len(each.shape) == 3]
    if len(found) == 1:
        values = facts.values([found[0].name]).get(found[0].name)
        if said or (values is not None and _form_of(values) != "logits"):
            yield _measured(found[0].name, facts) or found[0]


def _axis(node: onnx.NodeProto, default: int | None) -> int | None:
    """Return a node's `axis`; its default depends on the opset."""
    return next((each.i for each in node.attribute if each.name == "axis"), default)


def _measured(name: str, facts: ModelFacts) -> TensorInfo | None:
    """Return a tensor with its measured shape; None if it does not have three axes."""
    values = facts.values([name]).get(name)
    if values is None or values.ndim != 3:
        return None
    return TensorInfo(name, values.dtype.name, values.shape)


def _batch(facts: ModelFacts) -> int:
    """Return the batch size of the run on noise."""
    return facts.model.image.batch or 1


def _is_time_major(shape: Sequence[int | str | None], batch: int | str | None) -> bool:
    """Return whether the second of three axes is the batch."""
    return shape[0] != batch and shape[1] in (batch, 1)


def _form(name: str, values: npt.NDArray[Any] | None, facts: ModelFacts) -> tuple[str, str]:
    """Return the tensor to read, and the form of its values.

    For a softmax it is the softmax's input, whose log-softmax is exact for tiny probabilities too.
    """
    maker = facts.makers.get(origin(name, facts.makers, _SAME_VALUES))
    if maker is not None and maker.op_type == "Softmax" and _axis(maker, None) in _LAST:
        return str(maker.input[0]), "logits"
    if values is None:
        return name, "probabilities" if ends_in_softmax(name, facts.makers) else "logits"
    return name, _form_of(values)


def _form_of(values: npt.NDArray[Any]) -> str:
    """Infer the form of scores [..., K] from their values."""
    if _sums_to_one(values):
        return "probabilities"
    below = float(values.min()) < 0
    logarithms = below and _sums_to_one(np.exp(np.minimum(values, 1).astype(np.float64)))
    return "log-probabilities" if logarithms else "logits"


def _blank(values: npt.NDArray[Any] | None, classes: int, shown: str) -> Blank:
    """Determine the blank: the first or the last class, whichever is likelier for noise."""
    if values is None:
        return _taken(0)
    rows = np.asarray(values, np.float64).reshape(-1, classes)
    if not _sums_to_one(rows):
        rows = np.exp(rows - rows.max(1, keepdims=True))
        rows /= rows.sum(1, keepdims=True)
    means = rows.mean(0)
    index = classes - 1 if means[-1] > means[0] else 0
    if means.argmax() != index:
        return _taken(index)
    return Blank(index, f"{shown} mostly predicts class {index}, which is therefore the blank")


def _taken(index: int) -> Blank:
    why = f"class {index} is assumed to be the blank"
    return Blank(index, why, f"{why}; if it is not, pass labels= with a line {BLANK!r}")


def _sums_to_one(values: npt.NDArray[Any]) -> bool:
    """Return whether values [..., K] are probabilities."""
    sums = np.asarray(values, np.float64).sum(-1)
    return bool(values.min() >= 0) and bool(np.abs(sums - 1).max() < _SUM_TOLERANCE)


def _usual(facts: ModelFacts, *, paddle: bool) -> dict[str, Any]:
    """Return the usual preprocessing: the whole line, undistorted if the width is dynamic."""
    image, usual = facts.model.image, dict[str, Any](resize="stretch")
    height = image.height or (_PADDLE_HEIGHT if paddle else None)
    if height and not image.width:
        usual = {"size": (height, round(_OPEN_ASPECT * height)), "resize": "letterbox-corner"}
    return usual | ({"preset": "tf", "channel_order": "BGR", "pad_value": 128} if paddle else {})
