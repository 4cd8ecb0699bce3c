"""Depth models: a map with a distance for each position of the image."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.errors import TargetError
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    Objective,
    Raw,
    Reader,
    TargetSpec,
    check_numbers,
)
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.regression import DIRECTIONS, ValueKind
from ibisa_onnx.targets.value import ValueTarget, last_part
from ibisa_onnx.targets.value_objective import Direction
from ibisa_onnx.targets.window import Point, cells_seen, point_of

_DEPTH = re.compile(r"(?<![a-z])(depths?|disparity|disparities)(?![a-z])", re.IGNORECASE)


class DepthKind(ValueKind):
    """Model that returns a depth map, [N, 1, h, w] or [N, h, w]."""

    name = "depth"
    family = "depth maps"
    asks = ("PointTarget((120, 80))", *DIRECTIONS)

    def called(self, output: str) -> str:
        """Return "depth"."""
        return "depth"

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target of the depth at the image centre; `wanted` is a direction."""
        return _MiddleTarget(self._direction(wanted), self._outputs[0])

    def at(self, point: Point, wanted: str | int | None = None) -> TargetSpec:
        """Return the target of the depth at a point; `wanted` is a direction."""
        return ValueTarget(self._direction(wanted), self._outputs[0], at=point)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return the smallest, median and largest depth, and where they are."""
        (output,) = self._outputs
        check_numbers(raw[output], output, finite=True)
        values = np.asarray(raw[output][0], np.float64)
        sides, (height, width) = (values.shape[-2], values.shape[-1]), context.geometry.picture
        flat = values.ravel()
        shown = np.flatnonzero(cells_seen(context.geometry, sides))
        order = shown[np.argsort(flat[shown], kind="stable")]
        found = []
        for word, place in (("least", 0), ("median", (len(order) - 1) // 2), ("greatest", -1)):
            row, column = divmod(int(order[place]), sides[1])
            at = np.clip(point_of(row, column, context.geometry, sides), 0, (width, height))
            value = float(flat[order[place]])
            found.append(
                Answer(f"{word} depth", value, details={"unit": "value", "at": at.tolist()})
            )
        return found

    @staticmethod
    def _direction(wanted: str | int | None) -> Direction:
        if wanted is None:
            return Direction.KEEP
        if wanted not in tuple(Direction):
            raise TargetError(
                f"target {wanted!r} is not supported by a depth model; choose from: "
                f"{', '.join(Direction)}, and pass a point with at="
            )
        return Direction(wanted)


@dataclass(frozen=True)
class _MiddleTarget:
    """Depth at the image centre."""

    direction: Direction
    output: str

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the name of the depth map."""
        return (self.output,)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective for one image."""
        height, width = context.geometry.picture
        middle = (width // 2, height // 2)
        target = ValueTarget(self.direction, self.output, at=middle)
        return target.bind(raw, context)


def find(facts: ModelFacts) -> DepthKind | None:
    """Recognise a single depth map by the output's name or the model's metadata."""
    task = facts.metadata.get("task", "").strip().lower()
    for output in facts.outputs:
        named = _DEPTH.search(last_part(output.name)) is not None
        if (named or task == "depth") and output.dtype.startswith("float"):
            shape = facts.shape(output.name) or ()
            if len(shape) in (3, 4) and min(shape[-2:]) > 1 and int(np.prod(shape[1:-2])) == 1:
                how = "according to its name" if named else "according to the model's metadata"
                return DepthKind(
                    (output.name,), f"{output.name} {list(shape)} is a depth map {how}"
                )
    return None
