"""What is kept of a value: of how high it is, of how low, or of where it is.

A number is no probability. What is kept of it is measured between the picture and what hides it:
"raise" asks what makes it as high as it is, "lower" what makes it as low, and "keep" what holds it
where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Doubles, Nodes, Objective, Raw
from ibisa_onnx.targets.retention import Nearness, Range, Share, value_range, written
from ibisa_onnx.targets.window import Window

if TYPE_CHECKING:
    import onnx

_UNIT = 0.1  # the least scale of a value, before it is known what hiding the picture makes of it


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
    Direction.RAISE: "as a whole it does not raise it; the map shows which parts of it do; "
    "direction='lower' asks what makes it so low",
    Direction.LOWER: "as a whole it does not lower it; the map shows which parts of it do; "
    "direction='raise' asks what makes it so high",
}
_SAME = "nothing in the picture changes it"


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
    notes
        What a user must know of how the value was chosen.
    """

    window: Window
    name: str
    direction: Direction
    own: float
    keeping: Share | Nearness
    hidden: Range | None = None
    details: tuple[tuple[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        raw: Raw,
        window: Window,
        name: str,
        direction: Direction,
        details: tuple[tuple[str, Any], ...] = (),
        notes: tuple[str, ...] = (),
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
        keeping = _measure(direction, own, reference)
        return cls(window, name, direction, own, keeping, None, details, notes)

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
        """Say how the value was chosen, and where no baseline loses any of it."""
        if self.hidden is None:
            return self.notes
        own, hidden = written((self.own, self.own), 4), written(self.hidden, 4)
        what = _SAME if own == hidden else _NOTHING.get(self.direction, _SAME)
        said = f"{self.name} is {own}, and {hidden} where the picture is hidden: {what}"
        return *self.notes, said

    def describe(self) -> dict[str, Any]:
        """Return the value, where it is read, and what is asked of it."""
        count = self.window.count
        several = {"reduce": self.window.reduce, "numbers": count} if count > 1 else {}
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
