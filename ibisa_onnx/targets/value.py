"""Values as targets: a number that a model gives, one of many, or the mean of a part of an output.

Any output or inner tensor of any model has one. Models that give nothing else are in `regression`
and `depth`; which numbers are meant is in `window`, and what is kept of them in `value_objective`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

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

_SQUARE = 0.8  # cells of a map are about as high as wide
_USUAL = "mean"  # of REDUCTIONS


@runtime_checkable
class GivesValues(Protocol):
    """A kind of model whose outputs are values."""

    def outputs(self) -> tuple[str, ...]:
        """Name the outputs that hold them."""

    def called(self, output: str) -> str:
        """Return what the numbers of an output are called."""


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
        How several become one: "mean", "max" or "sum". None: the mean of those that are chosen by
        `index`; all the numbers of an output are a value only where the model's kind says so.
    at
        A point, x and y in the picture's pixels: the place there of an output that is a map, whose
        height and width are its last two axes, or its first two after the batch. The index is then
        over the others.
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
    reduce: str | None = None
    at: Point | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        reduce = _USUAL if self.reduce is None else self.reduce
        for name, value, known in (
            ("direction", self.direction, tuple(Direction)),
            ("reduce", reduce, tuple(REDUCTIONS)),
        ):
            if value not in known:
                raise TargetError(f"{name} is {value!r}; choose from: {', '.join(known)}")

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the output or inner tensor.

        Raises
        ------
        TargetError
            None is named, and there are several.
        OutputError
            It is a list, or a tensor of strings.
        """
        output = self._output(reader)
        for each in reader.facts.outputs:
            if each.name == output and not is_tensor(each):
                raise OutputError(f"output {output} is {each.dtype}, and holds no numbers")
        return (output,)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective of one picture.

        Raises
        ------
        TargetError
            The output has no such numbers, or too many of them.
        OutputError
            They are NaN, infinite, or class indices.
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
                f"the model has several outputs: {', '.join(names)}; name one with output="
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
            f"output {output} is {shape_text(sides)}, which is no map of the picture, and a point "
            "has no place in it; choose numbers with index= instead"
        )

    def _check_values(self, output: str, dtype: npt.DTypeLike, reader: Reader) -> None:
        """Raise `OutputError` where an output holds truths or class indices."""
        if np.dtype(dtype).kind not in "fiu":
            raise OutputError(f"output {output} is {dtype}, and holds no numbers")
        made = indices_of(output, dtype, reader.facts.makers)
        if made is not None:
            raise OutputError(
                f"output {output} holds class indices ({made.operator}), which are not values; to "
                f"explain a class leave direction={str(self.direction)!r} out, or name the scores "
                f"that it is chosen by, output={made.scores}, and its index="
            )

    def _check_chosen(self, window: Window, reader: Reader) -> tuple[str, ...]:
        """Return a warning where nobody chose among several numbers that are values.

        Raises
        ------
        TargetError
            They are not known to be values: their mean may mean nothing.
        """
        if window.count == 1 or self.index is not None or self.reduce is not None:
            return ()
        output = f"output {window.output} {shape_text(window.sides)}"
        where = "" if self.at is None else f" at {self.at[0]:g},{self.at[1]:g}"
        if _holds_values(window.output, reader):
            return (
                f"the mean of the {window.count} numbers of {output}{where} is explained; choose "
                "one with index=",
            )
        raise TargetError(
            f"{output} has {window.count} numbers{where}; choose some with index=, or give "
            "reduce=mean for the mean of all"
        )

    def _name(self, window: Window, reader: Reader) -> str:
        name = self.label or _known_as(window.output, reader)
        if self.index is not None and self.label is None:
            name = f"{name}[{index_text(self.index)}]"
        if window.count > 1:
            name = f"{window.reduce} of {window.count} numbers of {name}"
        return name if self.at is None else f"{name} at {self.at[0]:g},{self.at[1]:g}"


def _holds_values(output: str, reader: Reader) -> bool:
    """Tell whether an output is one that the model's kind knows as values."""
    if output not in (each.name for each in reader.facts.outputs):
        return False
    kind = reader.kind
    return isinstance(kind, GivesValues) and output in kind.outputs()


def _known_as(output: str, reader: Reader) -> str:
    """Return what an output is called: by the model's kind, or by the last part of its name."""
    kind = reader.kind if _holds_values(output, reader) else None
    return kind.called(output) if isinstance(kind, GivesValues) else last_part(output)


def last_part(output: str) -> str:
    """Return the last part of a tensor's name."""
    return output.rsplit("/", 1)[-1]
