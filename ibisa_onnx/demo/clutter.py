"""Draws the background of scenes: textured ground with distractor shapes."""

from __future__ import annotations

import colorsys

import numpy as np

from ibisa_onnx.demo.painting import Canvas, Colour, Paint, Pose, paint
from ibisa_onnx.demo.shapes import DISTRACTORS, Field

_GRAIN_CELLS = 150  # fixed, so that a scene looks the same at every size


def colour(hue: float, saturation: float, value: float) -> Colour:
    """Convert a colour from HSV, each 0 to 1 (the hue wraps), to RGB."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def draw_clutter(rng: np.random.Generator, size: tuple[int, int], light: float) -> Canvas:
    """Draw a scene without objects: float32 [H, W, 3], RGB, 0 to 1."""
    canvas = _ground(rng, size)
    for _ in range(rng.integers(5, 13)):
        _strew(rng, canvas, light)
    grain = _noise(rng, size, _GRAIN_CELLS) * rng.uniform(0.01, 0.05)
    return np.clip(canvas + grain[..., None], 0, 1)


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Field:
    """Return smooth noise, about -1 to 1, with `cells` independent values per side."""
    import cv2

    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    """Return two muted colours, mixed by a gradient, stripes and clouds of noise."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x + 0.5) / min(size), (y + 0.5) / min(size)
    clouds = sum(_noise(rng, size, cells) * 2 / cells**0.6 for cells in (3, 6, 12, 24, 48))
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(4, 16)
    across = x * np.cos(angle) + y * np.sin(angle)
    stripes = np.sin(2 * np.pi * pitch * (across + rng.uniform(0, 0.12) * clouds))
    slope = (across - across.mean()) * rng.uniform(-1.5, 1.5)
    mix = 0.5 + 0.3 * clouds + 0.4 * slope + rng.uniform(0, 0.22) * stripes
    mix = np.clip(mix, 0, 1)[..., None].astype(np.float32)
    hue, value = rng.random(), rng.uniform(0.35, 0.75)
    one = colour(hue, rng.uniform(0.05, 0.4), value)
    two = colour(hue + rng.uniform(-0.2, 0.2), rng.uniform(0.05, 0.4), value * rng.uniform(0.6, 1))
    return np.asarray(one * mix + two * (1 - mix), np.float32)


def _strew(rng: np.random.Generator, canvas: Canvas, light: float) -> None:
    """Paint one distractor at a random position, as vivid as an object or as dull as the ground."""
    height, width = canvas.shape[:2]
    kind = DISTRACTORS[rng.integers(len(DISTRACTORS))]
    radius = rng.uniform(0.04, 0.12) * min(height, width)
    pose = Pose(rng.random() * width, rng.random() * height, radius, rng.uniform(0, 2 * np.pi))
    saturation = rng.uniform(0.4, 0.9) if rng.random() < 0.5 else rng.uniform(0.05, 0.35)
    flat = colour(rng.random(), saturation, rng.uniform(0.35, 0.95))
    paint(canvas, kind, pose, Paint(flat, flat, rng.uniform(0.2, 0.5)), light)
