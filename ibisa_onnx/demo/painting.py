"""Paints one shape on a canvas: antialiased edges, two colours, lighting, a soft shadow.

Nothing here is random or knows about classes; `clutter` and `scenes` decide what to paint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibisa_onnx.demo.shapes import Field, Kind

Canvas = NDArray[np.float32]
"""float32 [H, W, 3]: an RGB image being painted, 0 to 1."""

Colour = NDArray[np.float32]
"""float32 [3]: RGB, 0 to 1."""

_REACH = 1.6  # half the side of the painted patch, in radii: the shape and its shadow


@dataclass(frozen=True)
class Pose:
    """Position of a shape: centre (x, y) and radius in pixels, angle in radians."""

    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Paint:
    """A shape's two colours, and the darkness of its shadow, 0 to 1."""

    first: Colour
    second: Colour
    shadow: float = 0.5


@dataclass(frozen=True)
class _Patch:
    """The part of the canvas a shape can affect, and its coordinates in radii."""

    rows: slice
    columns: slice
    x: Field
    y: Field

    @classmethod
    def around(cls, pose: Pose, canvas: Canvas) -> _Patch:
        height, width = canvas.shape[:2]
        reach = _REACH * pose.radius + 2
        top, bottom = (int(np.clip(pose.y + side * reach, 0, height)) for side in (-1, 1))
        left, right = (int(np.clip(pose.x + side * reach, 0, width)) for side in (-1, 1))
        # Pixel centres are at a half, so that a scene is the same at all sizes.
        x = (np.arange(left, right, dtype=np.float32) + 0.5 - pose.x) / pose.radius
        y = (np.arange(top, bottom, dtype=np.float32) + 0.5 - pose.y) / pose.radius
        grid_x, grid_y = np.meshgrid(x, y)
        return cls(slice(top, bottom), slice(left, right), grid_x, grid_y)


def paint(canvas: Canvas, kind: Kind, pose: Pose, colours: Paint, light: float) -> Canvas:
    """Paint one shape on the canvas, in place.

    Parameters
    ----------
    canvas
        float32 [H, W, 3], RGB, 0 to 1.
    kind
        The shape.
    pose
        Its position.
    colours
        Its colours and shadow.
    light
        Direction of the light source, in radians (0 is right, pi/2 is below).

    Returns
    -------
    ndarray
        float32 [H, W, 1]: the fraction of each pixel that the shape covers, 0 to 1.
    """
    covered = np.zeros((*canvas.shape[:2], 1), np.float32)
    patch = _Patch.around(pose, canvas)
    if min(patch.x.shape) < 2:
        return covered
    cosine, sine = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
    u, v = cosine * patch.x + sine * patch.y, cosine * patch.y - sine * patch.x
    depth, slope_x, slope_y = _depth(kind.outline(u, v), pose.radius)
    cover = _cover(depth)[..., None]
    first = _cover(_depth(kind.pattern(u, v), pose.radius)[0])[..., None]
    albedo = colours.first * first + colours.second * (1 - first)
    facing = slope_x * np.float32(np.cos(light)) + slope_y * np.float32(np.sin(light))
    bevel = np.exp(np.minimum(depth, 0) / (kind.bevel * pose.radius))
    lit = 1 + 0.45 * facing * bevel + 0.12 * (patch.x * np.cos(light) + patch.y * np.sin(light))
    ground = canvas[patch.rows, patch.columns]
    ground *= 1 - colours.shadow * _shadow(cover[..., 0], pose.radius, light)[..., None]
    ground += cover * (np.clip(albedo * lit[..., None], 0, 1) - ground)
    covered[patch.rows, patch.columns] = cover
    return covered


def _depth(implicit: Field, radius: float) -> tuple[Field, Field, Field]:
    """Convert an implicit function to distance from its zero line in pixels, and unit slopes."""
    slope_y, slope_x = np.gradient(implicit)
    steepness = np.maximum(np.hypot(slope_x, slope_y), 0.05 / radius)
    return implicit / steepness, slope_x / steepness, slope_y / steepness


def _cover(depth: Field) -> Field:
    """Return the fraction of each pixel inside the shape."""
    return np.asarray(np.clip(0.5 - depth, 0, 1), np.float32)


def _shadow(cover: Field, radius: float, light: float) -> Field:
    """Blur the shape and shift it away from the light."""
    import cv2

    shift = -0.16 * radius * np.array([np.cos(light), np.sin(light)])
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    moved = cv2.warpAffine(cover, move, (cover.shape[1], cover.shape[0]))
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), 0.13 * radius), np.float32)
