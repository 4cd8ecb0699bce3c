"""Search for a tensor that holds class scores for each position of the image.

Image-to-image models, depth maps, backbone features and keypoint heat maps have similar shapes.
They are told apart by the end of the graph, names, labels, metadata, and values of a run on noise.
If the graph selects a class by ArgMax, or ends in a softmax or sigmoid, the scores before it are
returned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.onnx_graph import TRANSPARENT, origin
from ibisa_onnx.models.signature import Layout
from ibisa_onnx.targets.class_scores import Activation
from ibisa_onnx.targets.endings import RESIZES
from ibisa_onnx.targets.labels import known_labels
from ibisa_onnx.targets.score_maps import ScoreMaps

if TYPE_CHECKING:
    from ibisa_onnx.targets.facts import ModelFacts

_OTHER_TASKS = frozenset({"depth", "pose", "detect", "obb", "segment", "classify"})
"""Tasks of Ultralytics files without per-pixel classes; "segment" means instances."""
_TASKS = re.compile(r"semantic|segmentation|matting|salien")
_NAMES = re.compile(r"seg|mask|matte|alpha|pha\b|salien|importan|foreground|logits|scores|prob")
_DEPTHS = re.compile(r"depth|disp")
_KEYPOINTS = re.compile(r"heat_?map|keypoint|pose|joint|landmark")
_FEATURES = re.compile(r"feat|embed|hidden|backbone|fpn|latent|proto")
_IMAGES = re.compile(r"image|recon|restor|denois|rgb|upscal|super")

_SAME_LAYOUT = frozenset({"Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"})
_CHOICES: Mapping[str, int] = {"ArgMax": 0, "TopK": -1}
"""Operators that choose a class, with their default axis."""

_SIGMOID, _SOFTMAX = "it ends in a sigmoid", "it ends in a softmax"
_SUMS = "its values sum to 1 over the classes"
_LOGS = "the exponentials of its values sum to 1 over the classes"
_SHARES = "its values lie in 0..1"
_LOGITS, _ABOVE = "its values are logits", "its values are logits, all above 0"

_STRIDE, _GUESSED_STRIDE = 16.5, 8.5  # maximum pixels of the input per cell
_MOST_CLASSES = 300  # if they have no names
_SUM_TOLERANCE = 0.02  # sums of half-precision probabilities are inexact


@dataclass(frozen=True)
class FoundMaps:
    """Score maps that were found.

    Attributes
    ----------
    maps
        Tensor that holds them, and how it is read.
    grid
        Rows and columns.
    reason
        How they were recognised.
    sure
        Whether more than shape and values supports it.
    guess
        Warning if they are assumed; otherwise empty.
    """

    maps: ScoreMaps
    grid: tuple[int, int]
    reason: str
    sure: bool = True
    guess: str = ""


def find_maps(facts: ModelFacts, *, said: bool = False) -> tuple[FoundMaps, tuple[str, ...]] | None:
    """Find the score maps of a model, with warnings; None if there is no sign of any.

    Parameters
    ----------
    facts
        What is known about the model.
    said
        Whether the caller specified that the model has score maps; a matching shape then suffices.
    """
    if _task(facts) in _OTHER_TASKS and not said:
        return None
    found = {each.name: _read_output(facts, each.name, said) for each in facts.outputs}
    maps = [each for each in found.values() if each is not None]
    rest = [name for name, each in found.items() if each is None]
    counts = {each.maps.classes for each in maps}
    if not said:
        if any(_may_be_boxes(facts.shape(name)) for name in rest):
            return None
        if rest or len(counts) > 1:  # then nothing is assumed
            maps = [each for each in maps if not each.guess]
            counts = {each.maps.classes for each in maps}
        if len(counts) != 1:
            return None
    if not maps:
        return None
    best = max(maps, key=lambda each: (each.sure, math.prod(each.grid)))
    others = {each.maps.name for each in maps} - {best.maps.name}
    warnings = [best.guess] if best.guess else []
    if others:
        warnings.append(
            f"several outputs are score maps; using {best.maps.name}, "
            f"not {', '.join(sorted(others))}"
        )
    return best, tuple(warnings)


@dataclass(frozen=True)
class _Candidate:
    """Tensor in the shape of score maps.

    Attributes
    ----------
    output
        The output itself, or the output that is selected from the tensor.
    tensor
        Name of the tensor.
    operator
        Operator that selects the output from it; empty if there is none.
    shape, classes, last, grid
        As in `ScoreMaps`.
    values
        Values of a run on noise; None if it was not run.
    """

    output: str
    tensor: str
    operator: str
    shape: tuple[int, ...]
    classes: int
    last: bool
    grid: tuple[int, int]
    values: npt.NDArray[Any] | None

    def read(self, activation: Activation) -> ScoreMaps:
        """Return the score maps for an activation."""
        return ScoreMaps(self.tensor, self.classes, self.last, activation)


def _read_output(facts: ModelFacts, output: str, said: bool) -> FoundMaps | None:
    """Read an output, or the tensor it is selected from, as score maps; None if it is not."""
    candidate = _candidate(facts, output)
    if candidate is None:
        return None
    activation, how = _activation(facts, candidate)
    evidence = _evidence(facts, candidate, how)
    if evidence is None and not said:
        return None
    many, shape = candidate.classes, list(candidate.shape)
    what = f"a score for each of {many} classes" if many > 1 else "one score"
    reason = f"{candidate.tensor} {shape} contains {what} at each position: {evidence or how}"
    if evidence and evidence != how:
        reason += f"; {how}"
    guess = ""
    if not evidence and not said:
        guess = (
            f"{output} {shape} is assumed to hold {what} at each position; "
            "pass kind= if it holds something else"
        )
    maps = _before_activation(facts, candidate.read(activation))
    return FoundMaps(maps, candidate.grid, reason, bool(evidence), guess)


def _candidate(facts: ModelFacts, output: str) -> _Candidate | None:
    """Return an output, or the tensor it is selected from, if that has the shape of score maps."""
    tensor, axis, operator = _chosen_from(facts, output) or (_floats_of(facts, output), None, "")
    shape = facts.shape(tensor) if tensor else None
    placed = _layout(facts, shape, axis) if shape else None
    if not tensor or not shape or placed is None:
        return None
    values = facts.values([tensor]).get(tensor)
    if values is not None and (values.dtype.kind != "f" or values.shape[1:] != shape[1:]):
        return None
    return _Candidate(output, tensor, operator, shape, *placed, values)


def _chosen_from(facts: ModelFacts, output: str) -> tuple[str, int, str] | None:
    """Return the tensor, axis and operator of an output's ArgMax or TopK."""
    node = facts.makers.get(origin(output, facts.makers, TRANSPARENT | RESIZES))
    if node is None or node.op_type not in _CHOICES:
        return None
    from onnx import helper

    said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    axis = int(said.get("axis", _CHOICES[node.op_type]))
    return origin(node.input[0], facts.makers, _SAME_LAYOUT), axis, str(node.op_type)


def _floats_of(facts: ModelFacts, output: str) -> str:
    """Return a float output, or the floats that an integer output is rounded from, or ""."""
    info = next(each for each in facts.outputs if each.name == output)
    if "float" in info.dtype:
        return output
    before = origin(output, facts.makers, _SAME_LAYOUT)
    return "" if before == output else before


def _layout(
    facts: ModelFacts, shape: tuple[int, ...], axis: int | None
) -> tuple[int, bool, tuple[int, int]] | None:
    """Return the number of classes, whether they are the last axis, and the grid, of score maps.

    `axis` is the axis of the classes, if known.
    """
    if facts.size is None or len(shape) not in (3, 4):
        return None
    if len(shape) == 3:
        grid = (shape[1], shape[2])
        return (1, False, grid) if axis is None and _fits(grid, facts.size) else None
    grids = {False: (shape[2], shape[3]), True: (shape[1], shape[2])}
    if axis is not None:
        last = axis % 4 == 3
        grids = {last: grids[last]} if axis % 4 in (1, 3) else {}
    fit = [last for last, grid in grids.items() if _fits(grid, facts.size)]
    if not fit:
        return None
    own = facts.model.image.layout is Layout.NHWC
    last = own if own in fit else fit[0]
    return shape[3] if last else shape[1], last, grids[last]


def _fits(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether a grid has the input's aspect ratio and is fine enough."""
    (rows, columns), (height, width) = grid, size
    if min(grid) < 2 or not 0.99 <= height / rows <= _STRIDE:
        return False
    return abs(columns - rows * width / height) <= 1 + 0.02 * columns


def _activation(facts: ModelFacts, candidate: _Candidate) -> tuple[Activation, str]:
    """Determine how scores become probabilities, and the reason."""
    node = facts.makers.get(origin(candidate.tensor, facts.makers, TRANSPARENT | RESIZES))
    operator = "" if node is None else str(node.op_type)
    several = candidate.classes > 1
    logits = Activation.SOFTMAX if several else Activation.SIGMOID_LOGIT
    if candidate.values is None:
        told = {
            "Softmax": (Activation.PROBABILITY, _SOFTMAX),
            "LogSoftmax": (Activation.LOG, _LOGS),
            "Sigmoid": (Activation.SIGMOID, _SIGMOID),
        }
        return told.get(operator, (logits, _LOGITS))
    scores = candidate.read(logits).scores(candidate.values)
    low, high = float(scores.min()), float(scores.max())
    if low >= -1e-6 and high <= 1 + _SUM_TOLERANCE:
        if several and "Sigmoid" not in operator and _sum_to_one(scores):
            return Activation.PROBABILITY, _SOFTMAX if operator.endswith("Softmax") else _SUMS
        return Activation.SIGMOID, _SIGMOID if "Sigmoid" in operator else _SHARES
    if several and high <= 1e-6 and _sum_to_one(np.exp(scores)):
        return Activation.LOG, _LOGS
    return logits, _LOGITS if low < 0 else _ABOVE


def _sum_to_one(scores: npt.NDArray[np.float32]) -> bool:
    return bool(np.abs(scores.sum(1) - 1).max() < _SUM_TOLERANCE)


def _before_activation(facts: ModelFacts, maps: ScoreMaps) -> ScoreMaps:
    """Return the logits before the softmax or sigmoid, if there are any.

    Probabilities that round to 0 have no gradient; their logits do.
    """
    node = facts.makers.get(origin(maps.name, facts.makers, _SAME_LAYOUT))
    known = {"Softmax": Activation.SOFTMAX, "Sigmoid": Activation.SIGMOID_LOGIT}
    if node is None or node.op_type not in known:
        return maps
    before = ScoreMaps(node.input[0], maps.classes, maps.last, known[node.op_type])
    values = facts.values([maps.name, before.name])
    whole, logits = (values.get(each.name) for each in (maps, before))
    if whole is None or logits is None or whole.shape != logits.shape or logits.dtype.kind != "f":
        return maps
    made = before.probabilities(before.scores(logits))  # a softmax may be along another axis
    return before if np.abs(made - maps.scores(whole)).max() < _SUM_TOLERANCE else maps


def _evidence(facts: ModelFacts, candidate: _Candidate, how: str) -> str | None:
    """Return the evidence for score maps; "" if there is none, None if they are ruled out."""
    word, classes = candidate.output.lower(), candidate.classes
    if candidate.operator:
        return f"output {candidate.output} is its {candidate.operator}"
    if (_KEYPOINTS if classes > 1 else _DEPTHS).search(word) or _FEATURES.search(word):
        return None
    if _TASKS.search(_task(facts)):
        return f"its task, according to the metadata, is {_task(facts)}"
    labels = known_labels(facts.metadata, facts.model.folder)
    if classes > 1 and any(len(each.labels) == classes for each in labels):
        return f"the model has labels for {classes} classes"
    if _NAMES.search(word):
        return f"it is named {candidate.output}"
    if how in (_SOFTMAX, _SUMS, _LOGS):
        return how
    if how == _ABOVE:  # distances, features after a ReLU, bytes
        return None
    image_like = classes == 3 or 1 < classes == facts.model.image.channels
    if image_like or _IMAGES.search(word):
        return None
    if how == _SIGMOID:
        return how
    if classes > 1 and candidate.grid == facts.size and _is_resized(facts, candidate.tensor):
        return "its scores are resized to the input size"
    assert facts.size is not None  # otherwise it has no layout
    near = facts.size[0] / candidate.grid[0] <= _GUESSED_STRIDE
    return "" if near and classes <= _MOST_CLASSES else None


def _is_resized(facts: ModelFacts, tensor: str) -> bool:
    node = facts.makers.get(origin(tensor, facts.makers, _SAME_LAYOUT))
    return node is not None and node.op_type in RESIZES


def _task(facts: ModelFacts) -> str:
    """Return the task in the file's metadata, in lower case."""
    return facts.metadata.get("task", facts.metadata.get("model_info model_type", "")).lower()


def _may_be_boxes(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) in (2, 3) and shape[-1] == 4
