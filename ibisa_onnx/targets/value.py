"""Values as targets: a single value of an output, or the mean, maximum or sum of several.

Every output and inner tensor of any model has values. `regression` and `depth` recognise models
that return nothing else; `window` selects the values, `value_objective` defines the objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_type, shown
from ibisa_onnx.errors import OutputError, TargetError
from ibisa_onnx.targets.base import Context, Objective, Raw, Reader
from ibisa_onnx.targets.endings import indices_of
from ibisa_onnx.targets.output_kinds import is_tensor
from ibisa_onnx.targets.value_objective import Direction, ValueObjective
from ibisa_onnx.targets.window import (
    REDUCTIONS,
    Index,
    Point,
    Span,
    Window,
    cell_at,
    index_text,
    shape_text,
    spans_of,
)

_SQUARE = 0.8  # a map's cells are roughly square
_USUAL = "mean"  # of REDUCTIONS


@runtime_checkable
class GivesValues(Protocol):
    """Kind of model whose outputs are values."""

    def outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs that hold the values."""

    def called(self, output: str) -> str:
        """Return the name of an output's values."""


@dataclass(frozen=True)
class ValueTarget:
    """Target a value of any output or inner tensor, in any model.

    Attributes
    ----------
    direction
        "raise" to explain what makes the value as high as it is, "lower" what makes it as low, and
        "keep" what holds it where it is.
    output
        Name of the output or inner tensor; None for the one of the model's kind, or its only
        output.
    index
        Which values, over the axes after the batch: an integer, a string such as "0,:,5", or a
        tuple of integers and slices. None for all.
    reduce
        How several values become one: "mean", "max" or "sum". None for the mean of the values
        selected by `index`; without an index it must be specified, unless the model's kind says
        that the output holds values.
    at
        A point, x and y in pixels of the original image, for outputs that are maps: height and
        width are their last two axes, or the first two after the batch. `index` then covers the
        other axes.
    label
        Name of the value; None to use the output's name.

    Raises
    ------
    TargetError
        The direction or reduction is unknown; when bound: the output has no such values, or several
        that need `reduce`.
    OutputError
        When bound: the output is not numeric or holds class indices, or the value is not finite.

    Examples
    --------
    >>> ValueTarget("keep", "age").direction
    'keep'
    """

    direction: Direction | str = Direction.KEEP
    output: str | None = None
    index: Index | None = None
    reduce: str | None = None
    at: Point | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        for name, given in (("output", self.output), ("label", self.label)):
            check_type(name, given, (str, NoneType), "a name", TargetError)
        reduce = _USUAL if self.reduce is None else self.reduce
        for name, value, known in (
            ("direction", self.direction, tuple(Direction)),
            ("reduce", reduce, tuple(REDUCTIONS)),
        ):
            if not isinstance(value, str) or value not in known:
                raise TargetError(f"{name} is {shown(value)}; choose from: {', '.join(known)}")

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the name of the output or inner tensor.

        Raises
        ------
        TargetError
            No output is specified, and there are several.
        OutputError
            The output is a list, or a tensor of strings.
        """
        output = self._output(reader)
        for each in reader.facts.outputs:
            if each.name == output and not is_tensor(each):
                raise OutputError(f"output {output} is {each.dtype}, which is not numeric")
        return (output,)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective for one image, as a list of one.

        Raises
        ------
        TargetError
            The output has no such values, or several that need `reduce`.
        OutputError
            The values are NaN, infinite, or class indices.
        """
        reader, output = context.reader, self._output(context.reader)
        self._check_values(output, raw[output].dtype, reader)
        sides = raw[output].shape[1:]
        window = Window(output, sides, self._spans(output, sides, context), self.reduce or _USUAL)
        notes = self._check_chosen(window, reader)
        details = {"index": None if self.index is None else index_text(self.index), "at": self.at}
        kept = tuple((key, value) for key, value in details.items() if value is not None)
        name, direction = self._name(window, reader), Direction(self.direction)
        return [ValueObjective.of(raw, window, name, direction, kept, notes)]

    def _output(self, reader: Reader) -> str:
        names = [each.name for each in reader.facts.outputs]
        if self.output is not None:
            return self.output
        if len(names) > 1:
            kind = reader.kind
            if isinstance(kind, GivesValues) and len(kind.outputs()) == 1:
                return kind.outputs()[0]
            raise TargetError(
                f"the model has several outputs: {', '.join(names)}; specify one with output="
            )
        return names[0]

    def _spans(self, output: str, sides: tuple[int, ...], context: Context) -> tuple[Span, ...]:
        if self.at is None:
            return spans_of(self.index, sides, output)
        at, geometry = context.check_point(self.at), context.geometry
        for first in (len(sides) - 2, 0) if len(sides) > 1 else ():
            rows, columns = grid = sides[first], sides[first + 1]
            if _SQUARE < rows * geometry.model[1] / (columns * geometry.model[0]) < 1 / _SQUARE:
                row, column = cell_at(at, geometry, grid)
                left = spans_of(
                    self.index, (*sides[:first], *sides[first + 2 :]), f"{output} at a point"
                )
                place = (row, row + 1), (column, column + 1)
                return *left[:first], *place, *left[first:]
        raise TargetError(
            f"output {output} is {shape_text(sides)}, which is not a map of the image, so a point "
            "selects nothing in it; select values with index= instead"
        )

    def _check_values(self, output: str, dtype: npt.DTypeLike, reader: Reader) -> None:
        """Raise `OutputError` if an output is boolean or holds class indices."""
        if np.dtype(dtype).kind not in "fiu":
            raise OutputError(f"output {output} is {dtype}, which is not numeric")
        made = indices_of(output, dtype, reader.facts.makers)
        if made is not None:
            raise OutputError(
                f"output {output} holds class indices ({made.operator}), not values; to explain a "
                f"class, omit direction={str(self.direction)!r}, or specify the scores that the "
                f"class is selected by, output={made.scores}, with index="
            )

    def _check_chosen(self, window: Window, reader: Reader) -> tuple[str, ...]:
        """Return a warning if several values are averaged by default.

        Raises
        ------
        TargetError
            They are not known to be values, so their mean may be meaningless.
        """
        if window.count == 1 or self.index is not None or self.reduce is not None:
            return ()
        output = f"output {window.output} {shape_text(window.sides)}"
        where = "" if self.at is None else f" at {self.at[0]:g},{self.at[1]:g}"
        if _holds_values(window.output, reader):
            return (
                f"explaining the mean of the {window.count} values of {output}{where}; select "
                "one with index=",
            )
        raise TargetError(
            f"{output} has {window.count} values{where}; select some with index=, or pass "
            "reduce=mean for the mean of all"
        )

    def _name(self, window: Window, reader: Reader) -> str:
        name = self.label or _known_as(window.output, reader)
        if self.index is not None and self.label is None:
            name = f"{name}[{index_text(self.index)}]"
        if window.count > 1:
            name = f"{window.reduce} of {window.count} values of {name}"
        return name if self.at is None else f"{name} at {self.at[0]:g},{self.at[1]:g}"


def _holds_values(output: str, reader: Reader) -> bool:
    """Return whether the model's kind identifies an output as values."""
    if output not in (each.name for each in reader.facts.outputs):
        return False
    kind = reader.kind
    return isinstance(kind, GivesValues) and output in kind.outputs()


def _known_as(output: str, reader: Reader) -> str:
    """Return the name of an output's values: from the model's kind, or from the output's name."""
    kind = reader.kind if _holds_values(output, reader) else None
    return kind.called(output) if isinstance(kind, GivesValues) else last_part(output)


def last_part(output: str) -> str:
    """Return the last part of a tensor's name."""
    return output.rsplit("/", 1)[-1]
