"""Keypoint models: heat maps [N, J, h, w], one per joint, whose maximum is the joint's position.

A joint is explained by the heat around its position in the unmasked image: what makes it as high
as it is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.checks import check_flag
from ibisa_onnx.errors import TargetError
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    Kind,
    Objective,
    Raw,
    Reader,
    TargetSpec,
    check_numbers,
    wrong_kind,
)
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.labels import find_label, spelt_index
from ibisa_onnx.targets.value_objective import Direction, ValueObjective
from ibisa_onnx.targets.window import Point, Window, point_of

_HEAT = re.compile(r"(?<![a-z])heat_?maps?(?![a-z])", re.IGNORECASE)
_AROUND = 1  # cells on each side of a peak by which it may shift


@dataclass(frozen=True)
class Peak:
    """Detected position of a joint.

    Attributes
    ----------
    joint, row, column
        Indices into the heat maps.
    heat
        Value of the heat map there.
    at
        x and y, in pixels of the original image.
    """

    joint: int
    row: int
    column: int
    heat: float
    at: Point


@dataclass(frozen=True)
class KeypointTarget:
    """Target one or several joints of a keypoint model.

    Without any argument, the joint with the highest heat is the target.

    Attributes
    ----------
    joint
        Joint, by index or label; None for any.
    at
        A point, x and y in pixels of the original image: the joint detected nearest to it.
    every
        Explain all matching joints, rather than the first.

    Raises
    ------
    TargetError
        When bound: there is no such joint, or the point lies outside the image.
    OutputError
        When bound: the heat maps are NaN or infinite.

    Examples
    --------
    >>> KeypointTarget("left knee")
    KeypointTarget(joint='left knee', at=None, every=False)
    """

    joint: str | int | None = None
    at: Point | None = None
    every: bool = False

    def __post_init__(self) -> None:
        check_flag("every", self.every, TargetError)

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the name of the output of heat maps."""
        return _kind_of(reader).outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return an objective for each chosen joint of one image.

        Raises
        ------
        TargetError
            There is no such joint.
        OutputError
            The heat maps are NaN or infinite.
        """
        kind = _kind_of(context.reader)
        peaks = kind.peaks(raw, context)
        if self.joint is not None:
            joint = kind.joint(self.joint, context)
            peaks = [each for each in peaks if each.joint == joint]
        if self.at is not None:
            x, y = context.check_point(self.at)
            peaks.sort(key=lambda each: (each.at[0] - x) ** 2 + (each.at[1] - y) ** 2)
        chosen = peaks if self.every else peaks[:1]
        return [kind.objective(each, raw, context) for each in chosen]


class KeypointKind(Kind):
    """Model that returns heat maps of joints.

    Parameters
    ----------
    output
        Name of the heat maps, [N, J, h, w].
    joints
        Number of joints, J.
    reason
        How the output was recognised.
    """

    name = "keypoints"
    family = "keypoint detectors"
    asks = ("target=JOINT", "target='all'", "PointTarget((120, 80))")

    def __init__(self, output: str, joints: int, reason: str) -> None:
        self._output, self.joints, self.reason = output, joints, reason

    def outputs(self) -> tuple[str, ...]:
        """Return the name of the heat maps."""
        return (self._output,)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target of a joint by index or label; None: the best one; "all": all."""
        if wanted == "all":
            return KeypointTarget(every=True)
        return KeypointTarget(wanted)

    def at(self, point: Point, wanted: str | int | None = None) -> TargetSpec:
        """Return the target of the joint detected nearest to a point, or of the named joint."""
        return KeypointTarget(wanted, point)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return all joints with their positions, highest heat first."""
        return [
            Answer(
                self.joint_name(each.joint, context),
                each.heat,
                each.joint,
                self._label(each.joint, context),
                details={"unit": "value", "at": list(each.at)},
            )
            for each in self.peaks(raw, context)
        ]

    def peaks(self, raw: Raw, context: Context) -> list[Peak]:
        """Return the maximum of each heat map, highest first."""
        check_numbers(raw[self._output], self._output, finite=True)
        maps = np.asarray(raw[self._output][0], np.float64)
        sides = maps.shape[1], maps.shape[2]
        found = []
        for joint, heat in enumerate(maps):
            row, column = divmod(int(heat.argmax()), sides[1])
            at = point_of(row, column, context.geometry, sides)
            found.append(Peak(joint, row, column, float(heat[row, column]), at))
        return sorted(found, key=lambda each: -each.heat)

    def objective(self, peak: Peak, raw: Raw, context: Context) -> ValueObjective:
        """Return the objective of a joint."""
        sides = raw[self._output].shape[1:]
        spans = [(peak.joint, peak.joint + 1)]
        for place, side in ((peak.row, sides[1]), (peak.column, sides[2])):
            spans.append((max(0, place - _AROUND), min(side, place + _AROUND + 1)))
        window = Window(self._output, sides, tuple(spans), "max")
        name = self.joint_name(peak.joint, context)
        details = (("joint", peak.joint), ("at", peak.at))
        return ValueObjective.of(raw, window, name, Direction.RAISE, details)

    def joint(self, wanted: str | int, context: Context) -> int:
        """Return the index of a joint, given by index or label.

        Raises
        ------
        TargetError
            There is no such joint.
        """
        labels = context.reader.labels_for(self.joints)
        index = spelt_index(str(wanted), labels)
        if index is not None:
            if not 0 <= index < self.joints:
                raise TargetError(
                    f"joint {index} is out of range: joints are 0 to {self.joints - 1}"
                )
            return index
        if labels is None:
            raise TargetError(
                f"target {wanted!r} is a name, but the joints' labels are unknown; "
                "pass labels=FILE, or a joint index"
            )
        return find_label(labels, str(wanted))

    def joint_name(self, joint: int, context: Context) -> str:
        """Return the name of a joint."""
        return self._label(joint, context) or f"keypoint {joint}"

    def _label(self, joint: int, context: Context) -> str | None:
        labels = context.reader.labels_for(self.joints)
        return labels[joint] if labels else None


def find(facts: ModelFacts) -> KeypointKind | None:
    """Recognise a model's only output as heat maps, by its name and shape."""
    if len(facts.outputs) != 1:
        return None
    (output,) = facts.outputs
    if not output.dtype.startswith("float") or not _HEAT.search(output.name.rsplit("/", 1)[-1]):
        return None
    shape = facts.shape(output.name)
    if shape is None or len(shape) != 4 or min(shape[1:]) < 2:
        return None
    reason = f"{output.name} {list(shape)} contains heat maps of {shape[1]} joints, by its name"
    return KeypointKind(output.name, shape[1], reason)


def _kind_of(reader: Reader) -> KeypointKind:
    kind = reader.kind
    if not isinstance(kind, KeypointKind):
        raise wrong_kind(kind, "keypoints")
    return kind
