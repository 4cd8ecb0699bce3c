"""Objective of a value: how much of its height, its depth, or its position is retained.

A value is not a probability, so it is measured between the image and its baselines. "raise"
explains what makes it as high as it is, "lower" what makes it as low, and "keep" what holds it
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

_UNIT = 0.1  # minimum scale of a value before calibration with the baselines


class Direction(StrEnum):
    """What to explain about a value."""

    RAISE = "raise"
    """What makes it as high as it is."""
    LOWER = "lower"
    """What makes it as low as it is."""
    KEEP = "keep"
    """What holds it where it is."""


_NOTHING = {
    Direction.RAISE: "the whole image does not raise the value; the map shows which parts do; "
    "pass direction='lower' to explain what makes it so low",
    Direction.LOWER: "the whole image does not lower the value; the map shows which parts do; "
    "pass direction='raise' to explain what makes it so high",
}
_SAME = "nothing in the image changes it"


@dataclass(frozen=True)
class ValueObjective(Objective):
    """Retained fraction of a value.

    Attributes
    ----------
    window
        Where the value is read.
    name
        Name of the value.
    direction
        What is explained about it.
    own
        Value of the unmasked image.
    keeping
        Measure of the retained fraction.
    hidden
        Smallest and largest value among the baselines, if none clearly loses the value; otherwise
        None.
    details
        Additional fields of the record, as pairs.
    notes
        Warnings about how the value was selected.
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
        """Return the objective for an image, before calibration with its baselines.

        Until then the value is measured on its own scale: with "raise", a value of 40 is retained
        by half at 20, and not at all at 0.

        Raises
        ------
        OutputError
            The value is NaN or infinite.
        """
        own = float(window.of(raw)[0])
        if not np.isfinite(own):
            raise OutputError(
                f"{name} is {own} for this image; "
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
        """Empty: the model itself has the output."""
        return ()

    def score(self, raw: Raw) -> Doubles:
        """Return the log of the retained fraction, float64 [N]; 0 for the image's own value."""
        return self.keeping.score(self.window.of(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its gradient with respect to the output."""
        slopes = self.keeping.slope(self.window.of(raw))
        return {self.window.output: self.window.vjp(raw, slopes)}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Append nodes that compute the score."""
        head = Head(graph)
        return self.keeping.to_onnx(head, self.window.to_onnx(head))

    def calibrated(self, raw: Raw, hidden: Raw) -> ValueObjective:
        """Return the objective, calibrated with the values of the baselines.

        Of several baselines, the one that loses most of the value counts. There is a warning if
        none clearly loses any; see `Share.between`.
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
        """Return warnings about the selection, and if no baseline loses any of the value."""
        if self.hidden is None:
            return self.notes
        own, hidden = written((self.own, self.own), 4), written(self.hidden, 4)
        what = _SAME if own == hidden else _NOTHING.get(self.direction, _SAME)
        said = f"{self.name} is {own} for the image and {hidden} for the baselines: {what}"
        return *self.notes, said

    def describe(self) -> dict[str, Any]:
        """Return the value, where it is read, and the direction."""
        count = self.window.count
        several = {"reduce": self.window.reduce, "numbers": count} if count > 1 else {}
        return {
            "kind": "value",
            "caption": f"{self.name} ({self.direction})",
            "output": self.window.output,
            "value": self.own,
            "direction": str(self.direction),
            **several,
            **{key: list(it) if isinstance(it, tuple) else it for key, it in self.details},
        }


def _measure(direction: Direction, own: float, reference: float) -> Share | Nearness:
    """Return the measure of the retained fraction, which almost vanishes at the reference."""
    if direction is Direction.KEEP:
        return Nearness(own, abs(own - reference) / 2)
    return Share(reference, own)
