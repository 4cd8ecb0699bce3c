"""Values as targets: a number that a model gives, one of many, or the mean of a part of an output.

A number is no probability. What is kept of it is measured between the picture and what hides it:
"raise" asks what makes it as high as it is, "lower" what makes it as low, and "keep" what holds it
where it is. Models that give nothing else are found here, too: regressions, and maps of depth. Heat
maps of keypoints are in `keypoints`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError, TargetError
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    Doubles,
    Kind,
    Nodes,
    Objective,
    Raw,
    Reader,
    TargetSpec,
)
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.labels import known_labels
from ibisa_onnx.targets.output_kinds import VALUE, OutputKinds, is_tensor
from ibisa_onnx.targets.retention import Nearness, Range, Share, value_range, written

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.models.signature import TensorInfo
    from ibisa_onnx.preprocessing.geometry import Geometry

Index = str | int | tuple[int | slice, ...]
"""Which numbers of an output: `"0,:,5"`, or whole numbers and slices over its axes after the batch.
What is left out is taken whole."""
Span = tuple[int, int]
"""The first place on an axis, and the one behind the last."""
Point = tuple[float, float]
"""x and y in the picture's pixels."""

_SQUARE = 0.8  # cells of a map are about as high as wide
_UNIT = 0.1  # the least scale of a value, before it is known what hiding the picture makes of it
_MOST = 16  # numbers that are told one by one
_NAMED = 8  # labels in an error
_DEPTH = re.compile(r"(?<![a-z])(depths?|disparity|disparities)(?![a-z])", re.IGNORECASE)
_REGRESSION = frozenset({"regression", "regress"})


class Direction(StrEnum):
    """What is asked of a value."""

    RAISE = "raise"
    """What makes it as high as it is."""
    LOWER = "lower"
    """What makes it as low as it is."""
    KEEP = "keep"
    """What holds it where it is."""


_CAPTIONS = {Direction.RAISE: "raised", Direction.LOWER: "lowered", Direction.KEEP: "kept"}
_NOTHING = {
    Direction.RAISE: "as a whole it does not raise it, and the map shows what in it does; "
    "direction='lower' asks what makes it so low",
    Direction.LOWER: "as a whole it does not lower it, and the map shows what in it does; "
    "direction='raise' asks what makes it so high",
    Direction.KEEP: "nothing in it holds it there",
}


@dataclass(frozen=True)
class _Reduction:
    """How several numbers become one.

    Attributes
    ----------
    of
        From numbers [N, K] to one for each row, [N].
    weights
        Its derivative by the numbers, [N, K].
    write
        Its nodes behind a tensor [N, K], whose K it is given; the name of a tensor [N, 1].
    """

    of: Callable[[Doubles], Doubles]
    weights: Callable[[Doubles], Doubles]
    write: Callable[[Head, str, int], str]


def _at_largest(rows: Doubles) -> Doubles:
    found = np.zeros_like(rows)
    found[np.arange(len(rows)), rows.argmax(1)] = 1
    return found


def _write_mean(head: Head, rows: str, count: int) -> str:
    row = head.op("Reshape", rows, head.constant([0, 1, -1], np.int64))
    mean = head.op("GlobalAveragePool", row)
    return head.op("Reshape", mean, head.constant([-1, 1], np.int64))


REDUCTIONS: Mapping[str, _Reduction] = MappingProxyType(
    {
        "mean": _Reduction(
            lambda rows: rows.mean(1),
            lambda rows: np.full_like(rows, 1 / rows.shape[1]),
            _write_mean,
        ),
        "max": _Reduction(
            lambda rows: rows.max(1), _at_largest, lambda head, rows, count: head.largest(rows)
        ),
        "sum": _Reduction(
            lambda rows: rows.sum(1),
            np.ones_like,
            lambda head, rows, count: head.op(
                "Mul", _write_mean(head, rows, count), head.constant(count)
            ),
        ),
    }
)
"""How what is left of an output becomes one number, by name."""


@dataclass(frozen=True)
class Window:
    """A part of an output, and how its numbers become one.

    Attributes
    ----------
    output
        Name of an output or an inner tensor, [N, ...].
    sides
        Its shape without the batch.
    spans
        What is taken of each of these axes.
    reduce
        One of `REDUCTIONS`.
    """

    output: str
    sides: tuple[int, ...]
    spans: tuple[Span, ...]
    reduce: str = "mean"

    @property
    def count(self) -> int:
        """How many numbers become one."""
        return int(np.prod([stop - start for start, stop in self.spans]))

    def of(self, raw: Raw) -> Doubles:
        """Return the number of each row, [N]."""
        return REDUCTIONS[self.reduce].of(self._rows(raw))

    def vjp(self, raw: Raw, slopes: Doubles) -> npt.NDArray[np.float32]:
        """Return the cotangent of the output from those of the numbers, [N]."""
        weights = REDUCTIONS[self.reduce].weights(self._rows(raw)) * slopes[:, None]
        cotangent = np.zeros(raw[self.output].shape, np.float32)
        part = cotangent[self._place]
        part[...] = weights.reshape(part.shape)
        return cotangent

    def to_onnx(self, head: Head) -> str:
        """Write the number behind the output, float32 [N, 1]."""
        part = self.output
        for axis, (span, side) in enumerate(zip(self.spans, self.sides, strict=True), 1):
            if span != (0, side):
                part = head.op("Gather", part, head.constant(range(*span), np.int64), axis=axis)
        return REDUCTIONS[self.reduce].write(head, head.rows(part), self.count)

    @property
    def _place(self) -> tuple[slice, ...]:
        return slice(None), *(slice(start, stop) for start, stop in self.spans)

    def _rows(self, raw: Raw) -> Doubles:
        values = raw[self.output]
        return np.asarray(values[self._place], np.float64).reshape(len(values), -1)


@dataclass(frozen=True)
class ValueObjective(Objective):
    """How much of a value is kept.

    Attributes
    ----------
    window
        Where the value is read.
    name
        What it is called.
    direction
        What is asked of it.
    own
        The picture's own value.
    keeping
        How it is measured what is kept of it.
    hidden
        The least and the greatest value of its baselines, where none clearly loses it; else None.
    details
        What else to record, as pairs.
    """

    window: Window
    name: str
    direction: Direction
    own: float
    keeping: Share | Nearness
    hidden: Range | None = None
    details: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        raw: Raw,
        window: Window,
        name: str,
        direction: Direction,
        details: tuple[tuple[str, Any], ...] = (),
    ) -> ValueObjective:
        """Return the objective of a picture, before it is known what hiding it gives.

        Until then a value has nothing to be held against but its own size: with "raise" what is
        kept of 40 is 1/2 at 20 and nothing at 0.

        Raises
        ------
        OutputError
            The value is NaN or infinite.
        """
        own = float(window.of(raw)[0])
        if not np.isfinite(own):
            raise OutputError(
                f"{name} is {own} for this picture; "
                "check the preprocessing (ibisa-onnx inspect) or the model file"
            )
        scale = max(abs(own), _UNIT)
        reference = own + scale if direction is Direction.LOWER else own - scale
        return cls(window, name, direction, own, _measure(direction, own, reference), None, details)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor that holds the value."""
        return (self.window.output,)

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """None: the model has it."""
        return ()

    def score(self, raw: Raw) -> Doubles:
        """Return the logarithm of what is kept, [N]: 0 for the picture's own value."""
        return self.keeping.score(self.window.of(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its derivative by the output."""
        slopes = self.keeping.slope(self.window.of(raw))
        return {self.window.output: self.window.vjp(raw, slopes)}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Write the score behind the output."""
        head = Head(graph)
        return self.keeping.to_onnx(head, self.window.to_onnx(head))

    def calibrated(self, raw: Raw, hidden: Raw) -> ValueObjective:
        """Return the objective that knows what the value is where the picture is hidden.

        Of several baselines the one counts that loses most of the value. Where none clearly loses
        any, there is a warning; see `Share.between`.
        """
        values = self.window.of(hidden)
        found: Share | Nearness | None
        if self.direction is Direction.KEEP:
            found = Nearness.around(self.own, values)
        else:
            rising = self.direction is Direction.RAISE
            found = Share.between(self.own, values, rising=rising)
        if found is None or found.own != self.own:
            return replace(self, keeping=found or self.keeping, hidden=value_range(values))
        return replace(self, keeping=found)

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Say where no baseline loses any of the value."""
        if self.hidden is None:
            return ()
        return (
            f"{self.name} is {self.own:.4g}, and {written(self.hidden, 4)} where the picture is "
            f"hidden: {_NOTHING[self.direction]}",
        )

    def describe(self) -> dict[str, Any]:
        """Return the value, where it is read, and what is asked of it."""
        several = {"reduce": self.window.reduce} if self.window.count > 1 else {}
        return {
            "kind": "value",
            "caption": f"{self.name} {_CAPTIONS[self.direction]}",
            "output": self.window.output,
            "value": self.own,
            "direction": str(self.direction),
            **several,
            **{key: list(it) if isinstance(it, tuple) else it for key, it in self.details},
        }


def _measure(direction: Direction, own: float, reference: float) -> Share | Nearness:
    """Return what measures how much of a value is kept, next to nothing at the reference."""
    if direction is Direction.KEEP:
        return Nearness(own, abs(own - reference) / 2)
    return Share(reference, own)


@dataclass(frozen=True)
class ValueTarget:
    """A value of any output, or any tensor inside the model.

    Attributes
    ----------
    direction
        "raise": what makes it as high as it is; "lower": what makes it as low; "keep": what holds
        it where it is.
    output
        Name of the output or inner tensor; None: the one of the model's kind, or its only one.
    index
        Which of its numbers, as `Index`; None: all.
    reduce
        How several become one: "mean", "max" or "sum".
    at
        A point, x and y in the picture's pixels: the place there of an output that is a map, whose
        last two axes are height and width. The index is then over those before.
    label
        What to call the value; None: as the output is called.

    Raises
    ------
    TargetError
        The direction or the reduction is none of these.
    """

    direction: Direction | str = Direction.KEEP
    output: str | None = None
    index: Index | None = None
    reduce: str = "mean"
    at: Point | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("direction", self.direction, tuple(Direction)),
            ("reduce", self.reduce, tuple(REDUCTIONS)),
        ):
            if value not in known:
                raise TargetError(f"{name} is {value!r}; choose from: {', '.join(known)}")

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the output or inner tensor.

        Raises
        ------
        TargetError
            None is named, and there are several.
        """
        return (self._output(reader),)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective of one picture.

        Raises
        ------
        TargetError
            The output has no such numbers.
        OutputError
            They are NaN or infinite.
        """
        output = self._output(context.reader)
        if raw[output].dtype.kind not in "fiu":
            raise OutputError(f"output {output} is {raw[output].dtype}, and holds no numbers")
        sides = raw[output].shape[1:]
        spans = self._spans(output, sides, context.geometry)
        window = Window(output, sides, spans, self.reduce)
        name = self._name(window, context.reader)
        details = {"index": None if self.index is None else _written(self.index), "at": self.at}
        kept = tuple((key, value) for key, value in details.items() if value is not None)
        return [ValueObjective.of(raw, window, name, Direction(self.direction), kept)]

    def _output(self, reader: Reader) -> str:
        names = [each.name for each in reader.facts.outputs]
        if self.output is not None:
            return self.output
        if len(names) > 1:
            kind = reader.kind
            if isinstance(kind, ValueKind) and len(kind.outputs()) == 1:
                return kind.outputs()[0]
            raise TargetError(
                f"the model has several outputs: {', '.join(names)}; say whose value is meant, "
                "with output="
            )
        return names[0]

    def _spans(self, output: str, sides: tuple[int, ...], geometry: Geometry) -> tuple[Span, ...]:
        if self.at is None:
            return spans_of(self.index, sides, output)
        if len(sides) < 2:
            raise TargetError(
                f"output {output} is {_shape(sides)}, and no map [N, ..., height, width] that has "
                "a place for a point"
            )
        *before, height, width = sides
        high, wide = (side / of for side, of in zip((height, width), geometry.model, strict=True))
        if not _SQUARE < high / wide < 1 / _SQUARE:
            raise TargetError(
                f"the last sides of output {output} {_shape(sides)} are no height and width of a "
                "picture's map; name the numbers that are meant, with index="
            )
        row, column = cell_at(self.at, geometry, (height, width))
        chosen = spans_of(self.index, tuple(before), output)
        return *chosen, (row, row + 1), (column, column + 1)

    def _name(self, window: Window, reader: Reader) -> str:
        name = self.label or _known_as(window.output, reader)
        if self.index is not None and self.label is None:
            name = f"{name}[{_written(self.index)}]"
        if self.at is not None:
            name = f"{name} at {self.at[0]:g},{self.at[1]:g}"
        return f"{self.reduce} of {name}" if window.count > 1 else name


def _known_as(output: str, reader: Reader) -> str:
    """Return what an output is called: by the model's kind, or by the last part of its name."""
    if output in (each.name for each in reader.facts.outputs):
        kind = reader.kind
        if isinstance(kind, ValueKind) and output in kind.outputs():
            return kind.called(output)
    return _last(output)


def _last(output: str) -> str:
    return output.rsplit("/", 1)[-1]


def spans_of(index: Index | None, sides: tuple[int, ...], output: str) -> tuple[Span, ...]:
    """Return what an index takes of each axis after the batch.

    Parameters
    ----------
    index
        None: all.
    sides
        The output's shape without the batch.
    output
        Its name, for an error.

    Raises
    ------
    TargetError
        The index is none, or the output has no such place.
    """
    parts = () if index is None else _parts(index, sides, output)
    said = f"output {output} is {_shape(sides)}"
    if len(parts) > len(sides):
        raise TargetError(
            f"index {_written(index)!r} has {len(parts)} places, and {said}: "
            f"{len(sides)} after the batch"
        )
    spans: list[Span] = []
    for axis, side in enumerate(sides):
        part = parts[axis] if axis < len(parts) else slice(None)
        if isinstance(part, slice):
            start, stop, _ = part.indices(side)
            fits = start < stop
        else:
            start = part + side if part < 0 else part
            stop, fits = start + 1, 0 <= start < side
        if not fits:
            raise TargetError(
                f"index {_written(index)!r} takes nothing: {said}, whose axis {axis + 1} goes from "
                f"0 to {side - 1}"
            )
        spans.append((start, stop))
    return tuple(spans)


def cell_at(point: Point, geometry: Geometry, sides: tuple[int, int]) -> tuple[int, int]:
    """Return row and column of a map's cell over a point of the picture.

    Parameters
    ----------
    point
        x and y in the picture's pixels.
    geometry
        Where the picture lies in the model's input.
    sides
        Height and width of the map, which covers that input.

    Raises
    ------
    TargetError
        The point is outside of the picture, or of what the model sees of it.
    """
    x, y = point
    height, width = geometry.picture
    if not (0 <= x < width and 0 <= y < height):
        raise TargetError(f"the point {x:g},{y:g} is outside of the picture, {width} x {height}")
    cells = []
    for place, axis in ((y, 0), (x, 1)):
        inside = geometry.offset[axis] + place * geometry.scale[axis]
        cells.append(int(np.floor(inside / geometry.model[axis] * sides[axis])))
    if not all(0 <= cell < side for cell, side in zip(cells, sides, strict=True)):
        raise TargetError(f"the model does not see the point {x:g},{y:g}: it is cropped away")
    return cells[0], cells[1]


def point_of(row: int, column: int, geometry: Geometry, sides: tuple[int, int]) -> Point:
    """Return the picture's point under the middle of a map's cell; see `cell_at`."""
    found = [
        ((place + 0.5) / sides[axis] * geometry.model[axis] - geometry.offset[axis])
        / geometry.scale[axis]
        for place, axis in ((column, 1), (row, 0))
    ]
    return round(found[0], 1), round(found[1], 1)


def _parts(index: Index, sides: tuple[int, ...], output: str) -> list[int | slice]:
    """Read an index, of which each part is a whole number or a slice without a step."""
    if isinstance(index, str):
        return [_part(word.strip(), index, sides, output) for word in index.split(",")]
    parts = list(index) if isinstance(index, tuple) else [index]
    for part in parts:
        whole = isinstance(part, int | np.integer) and not isinstance(part, bool)
        if not whole and not (isinstance(part, slice) and part.step in (None, 1)):
            raise TargetError(_unread(part, _written(index), sides, output))
    return [part if isinstance(part, slice) else int(part) for part in parts]


def _part(word: str, index: str, sides: tuple[int, ...], output: str) -> int | slice:
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if re.fullmatch(r"(-?\d+)?:(-?\d+)?", word):
        start, stop = (int(each) if each else None for each in word.split(":"))
        return slice(start, stop)
    raise TargetError(_unread(word, index, sides, output))


def _unread(part: object, index: str, sides: tuple[int, ...], output: str) -> str:
    return (
        f"index {index!r}: {part!r} is neither a whole number nor a range such as 2:5; "
        f"output {output} is {_shape(sides)}, and an index goes over its axes after the batch"
    )


def _written(index: Index | None) -> str:
    """Write an index as a user does."""
    if not isinstance(index, tuple):
        return str(index)

    def part(each: object) -> str:
        if not isinstance(each, slice):
            return str(each)
        ends = ("" if end is None else str(end) for end in (each.start, each.stop))
        return ":".join(ends)

    return ",".join(map(part, index))


def _shape(sides: Sequence[int]) -> str:
    return f"[{', '.join(map(str, ('N', *sides)))}]"


class ValueKind(Kind):
    """A model that gives numbers: a regression.

    Parameters
    ----------
    outputs
        Names of the outputs that hold them.
    reason
        How that is known.
    labels
        What the numbers are called, where somebody named as many; empty: nobody did.
    """

    name = "regression"
    family = "regressions"
    asks = ("--keep", "--raise", "--lower", "--index 2")

    def __init__(self, outputs: tuple[str, ...], reason: str, labels: tuple[str, ...] = ()) -> None:
        self._outputs, self.reason, self._labels = outputs, reason, labels

    def outputs(self) -> tuple[str, ...]:
        """Name the outputs that hold the numbers."""
        return self._outputs

    def called(self, output: str) -> str:
        """Return what the numbers of an output are called."""
        return _last(output)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the value that a word means.

        None, "keep": what holds it where it is, which has an answer whether the picture makes it
        higher or lower than it would be; "raise" and "lower"; an output, a label or an index.
        """
        first = self._outputs[0]
        if wanted is None or wanted in tuple(Direction):
            return ValueTarget(Direction(wanted or Direction.KEEP), first)
        word = str(wanted)
        if word in self._outputs:
            return ValueTarget(output=word)
        if word in self._labels:
            return ValueTarget(output=first, index=self._labels.index(word), label=word)
        if re.fullmatch(r"[\d:,\s-]+", word):
            return ValueTarget(output=first, index=word)
        raise TargetError(
            f"target {word!r} is no value of this model; give {', '.join(self._words())}"
        )

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return all numbers, or of many the least, the median and the greatest."""
        return [each for name in self._outputs for each in self._answers(name, raw[name][0])]

    def _answers(self, output: str, values: npt.NDArray[Any]) -> Iterator[Answer]:
        flat, name = np.asarray(values, np.float64).ravel(), self.called(output)
        if flat.size > _MOST:
            for word, of in (("least", np.min), ("median", np.median), ("greatest", np.max)):
                yield _answer(f"{word} {name}", float(of(flat)))
            return
        labels = self._labels if len(self._labels) == flat.size else ()
        for place, value in enumerate(flat.tolist()):
            if labels:
                yield _answer(labels[place], value, place, labels[place])
            else:
                yield _answer(name if flat.size == 1 else f"{name}[{place}]", value, place)

    def _words(self) -> list[str]:
        words = [*Direction]
        if len(self._outputs) > 1:
            words += self._outputs
        return [*words, *self._labels[:_NAMED], "an index such as 0"]


def _answer(
    caption: str, value: float, index: int | None = None, label: str | None = None
) -> Answer:
    """Return a number as an answer, which is no probability."""
    return Answer(caption, value, index, label, details={"unit": "value"})


class DepthKind(ValueKind):
    """A model that gives a map of depths, [N, 1, h, w] or [N, h, w]."""

    name = "depth"
    family = "maps of depth"
    asks = ("--at 120,80", "-t keep", "-t raise", "-t lower")

    def called(self, output: str) -> str:
        """Return "depth"."""
        return "depth"

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the depth at the middle of the picture: what holds it there, or a direction."""
        return _MiddleTarget(self._direction(wanted), self._outputs[0])

    def at(self, point: Point, wanted: str | int | None = None) -> TargetSpec:
        """Return the depth at a point: what holds it there, or a direction."""
        return ValueTarget(self._direction(wanted), self._outputs[0], at=point)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return the least depth, the median and the greatest, and where they are."""
        (output,) = self._outputs
        values = np.asarray(raw[output][0], np.float64)
        sides = values.shape[-2], values.shape[-1]
        flat = values.ravel()
        order = np.argsort(flat, kind="stable")
        found = []
        for word, place in (("least", 0), ("median", (len(order) - 1) // 2), ("greatest", -1)):
            row, column = divmod(int(order[place]), sides[1])
            at = point_of(row, column, context.geometry, sides)
            value = float(flat[order[place]])
            found.append(Answer(f"{word} depth", value, details={"unit": "value", "at": list(at)}))
        return found

    @staticmethod
    def _direction(wanted: str | int | None) -> Direction:
        if wanted is None:
            return Direction.KEEP
        if wanted not in tuple(Direction):
            raise TargetError(
                f"target {wanted!r} is no question about depth; give {', '.join(Direction)}, and a "
                "point of the picture"
            )
        return Direction(wanted)


@dataclass(frozen=True)
class _MiddleTarget:
    """The depth at the middle of the picture."""

    direction: Direction
    output: str

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the map."""
        return (self.output,)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective of one picture."""
        height, width = context.geometry.picture
        middle = (width // 2, height // 2)
        target = ValueTarget(self.direction, self.output, at=middle)
        return target.bind(raw, context)


def find(facts: ModelFacts) -> ValueKind | None:
    """Recognise a regression by its metadata, or by the names of outputs of one number.

    A model that gives class scores besides is none.
    """
    kinds = OutputKinds(facts.outputs, facts.batch, facts.makers)
    task = facts.metadata.get("task", "").strip().lower()
    if task in _REGRESSION:
        floats = tuple(each.name for each in facts.outputs if each.dtype.startswith("float"))
        if floats:
            return _regression(facts, floats, f"its metadata say that its task is {task}")
    scores = [each for each in facts.outputs if kinds.may_hold_scores(each)]
    values = [each for each in scores if _is_value(each, kinds, facts)]
    if not values or len(values) < len(scores):
        return None
    names = tuple(each.name for each in values)
    how = "is one number, and called as a value is" if len(names) == 1 else "are values by name"
    return _regression(facts, names, f"{', '.join(names)} {how}")


def find_told(facts: ModelFacts) -> ValueKind | None:
    """Return the regression that a user says a model is: all outputs of floats are values."""
    found = find(facts)
    names = tuple(each.name for each in facts.outputs if each.dtype.startswith("float"))
    return found or (_regression(facts, names, "so it was said") if names else None)


def find_depth(facts: ModelFacts) -> DepthKind | None:
    """Recognise one map of depths by the output's name, or by the file's own word."""
    task = facts.metadata.get("task", "").strip().lower()
    for output in facts.outputs:
        named = _DEPTH.search(_last(output.name)) is not None
        if (named or task == "depth") and output.dtype.startswith("float"):
            shape = facts.shape(output.name) or ()
            if len(shape) in (3, 4) and min(shape[-2:]) > 1 and int(np.prod(shape[1:-2])) == 1:
                how = "called so" if named else "its metadata say that its task is depth"
                return DepthKind((output.name,), f"{output.name} {list(shape)} is a map, {how}")
    return None


def _is_value(output: TensorInfo, kinds: OutputKinds, facts: ModelFacts) -> bool:
    """Tell whether an output is one number, and called as a value is."""
    if not is_tensor(output) or not output.dtype.startswith("float"):
        return False
    if not kinds.doubt_by_name(output.name, output.name, single=True).startswith(VALUE):
        return False
    shape = facts.shape(output.name)
    return shape is not None and int(np.prod(shape[1:])) == 1


def _regression(facts: ModelFacts, names: tuple[str, ...], reason: str) -> ValueKind:
    shape = facts.shape(names[0]) if len(names) == 1 else None
    count = int(np.prod(shape[1:])) if shape else 0
    known = known_labels(facts.metadata, facts.model.folder)
    labels = next((each.labels for each in known if len(each.labels) == count), ())
    return ValueKind(names, reason, labels if count > 1 else ())
