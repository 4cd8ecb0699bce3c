"""Outlines and patterns of everything that a scene can show.

Plain formulas on coordinates, and two tables that name them: `KINDS`, the classes of the demo
model, and `DISTRACTORS`, shapes without a class. Colour, light and pixels are in `painting`.

An implicit function is negative inside and positive outside. Only its zero line and its slope there
are used, so it need not be a true distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
"""float [h, w]: one number per pixel of a patch."""

Implicit = Callable[[Field, Field], Field]
"""Maps coordinates (u right, v down; the shape fills about -1..1) to an implicit function."""


def plain(u: Field, v: Field) -> Field:
    """Return a pattern of a single colour."""
    return np.full_like(u, -1.0)


@dataclass(frozen=True)
class Kind:
    """One kind of object: its outline and the boundary between its two colours.

    Attributes
    ----------
    outline
        Negative inside the object.
    pattern
        Negative where the first colour is, positive where the second is.
    bevel
        Width of the rounded edge that catches the light, in units of the object's radius.
    """

    outline: Implicit
    pattern: Implicit = plain
    bevel: float = 0.14


def _both(one: Field, other: Field) -> Field:
    return np.asarray(np.maximum(one, other))


def _either(one: Field, other: Field) -> Field:
    return np.asarray(np.minimum(one, other))


def _wave(phase: Field) -> Field:
    return np.asarray(np.sin(phase))


def _circle(u: Field, v: Field, radius: float) -> Field:
    return np.asarray(np.hypot(u, v) - radius)


def _box(u: Field, v: Field, half_width: float, half_height: float) -> Field:
    return _both(np.abs(u) - half_width, np.abs(v) - half_height)


def _fold(u: Field, v: Field, count: int) -> tuple[Field, Field]:
    """Return polar coordinates with the angle folded into one of `count` equal, mirrored wedges."""
    wedge = 2 * np.pi / count
    return np.hypot(u, v), np.abs((np.arctan2(v, u) + wedge / 2) % wedge - wedge / 2)


def _star(u: Field, v: Field) -> Field:
    # The straight edge from an outer corner, at radius 1, to an inner one, at radius 0.45.
    radius, angle = _fold(u, v, 5)
    edge_u, edge_v = 0.45 * np.cos(np.pi / 5) - 1.0, 0.45 * np.sin(np.pi / 5)
    return np.asarray(edge_v * (radius * np.cos(angle) - 1.0) - edge_u * radius * np.sin(angle))


def _ball(u: Field, v: Field) -> Field:
    return _circle(u, v, 0.92)


def _meridians(u: Field, v: Field) -> Field:
    # Stripes that bend like the meridians of a sphere seen from its side.
    chord = np.sqrt(np.maximum(0.92**2 - v**2, 0.04))
    return _wave(7.0 * np.arcsin(np.clip(u / chord, -1.0, 1.0)))


def _square(u: Field, v: Field) -> Field:
    return _box(u, v, 0.7, 0.7)


def _checks(u: Field, v: Field) -> Field:
    return _wave(np.pi * u / 0.35) * _wave(np.pi * v / 0.35)


def _crescent(u: Field, v: Field) -> Field:
    return _both(_circle(u, v, 0.95), -_circle(u - 0.48, v, 0.78))


def _ring(u: Field, v: Field) -> Field:
    return np.abs(_circle(u, v, 0.7)) - 0.25


def _segments(u: Field, v: Field) -> Field:
    return _wave(4 * np.arctan2(v, u))


def _arrow(u: Field, v: Field) -> Field:
    head = _both(-u - 0.02, u + 1.35 * np.abs(v) - 0.98)
    return _either(_box(u + 0.4, v, 0.58, 0.22), head)


def _petals(u: Field, v: Field) -> Field:
    radius, angle = _fold(u, v, 6)
    return radius - (0.42 + 0.55 * np.sqrt(np.cos(3 * angle) ** 2 + 0.01))


def _eye(u: Field, v: Field) -> Field:
    return -_circle(u, v, 0.3)


def _cross(u: Field, v: Field) -> Field:
    return _either(_box(u, v, 0.95, 0.27), _box(u, v, 0.27, 0.95))


def _pebble(u: Field, v: Field) -> Field:
    angle = np.arctan2(v, u)
    bumps = 0.1 * _wave(2 * angle + 1) + 0.06 * _wave(3 * angle)
    return np.asarray(np.hypot(u, 1.35 * v) - 0.82 - bumps)


def _triangle(u: Field, v: Field) -> Field:
    return _both(-u - 0.45, 0.5 * u + 0.87 * np.abs(v) - 0.45)


def _rod(u: Field, v: Field) -> Field:
    return _circle(np.maximum(np.abs(u) - 0.85, 0.0), v, 0.13)


def _squiggle(u: Field, v: Field) -> Field:
    return _both(np.abs(v - 0.22 * _wave(5 * u)) - 0.12, np.abs(u) - 0.95)


KINDS: dict[str, Kind] = {
    "star": Kind(_star),
    "striped ball": Kind(_ball, _meridians, bevel=0.6),
    "checkerboard": Kind(_square, _checks),
    "crescent": Kind(_crescent),
    "ring": Kind(_ring, _segments, bevel=0.2),
    "arrow": Kind(_arrow),
    "flower": Kind(_petals, _eye, bevel=0.18),
    "cross": Kind(_cross),
}
"""The classes by name, in the order of `LABELS`."""

DISTRACTORS: tuple[Kind, ...] = (
    Kind(_pebble, bevel=0.3),
    Kind(_triangle),
    Kind(_rod),
    Kind(_squiggle),
)
"""Shapes without a class."""
