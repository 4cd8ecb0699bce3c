"""Scenes with known ground truth: a few objects of different kinds on textured clutter.

The demo model is trained on them, `ibisa-onnx demo` shows one, and tests take planted truth from
the masks. The generator consists of this module and three helpers (`shapes`, `painting`,
`clutter`); the model and its training are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibisa_onnx.demo import LABELS
from ibisa_onnx.demo.clutter import colour, draw_clutter
from ibisa_onnx.demo.painting import Paint, Pose, paint
from ibisa_onnx.demo.shapes import KINDS
from ibisa_onnx.errors import ImageError, TargetError

_RADII = (0.15, 0.22)  # of the shorter side
_TRIES = 60


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes
    ----------
    label
        Its class, one of `LABELS`.
    index
        The class's index in `LABELS` and in the model's output.
    mask
        bool [H, W]: the pixels where the object is visible.
    """

    label: str
    index: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth.

    Attributes
    ----------
    image
        uint8 [H, W, 3], RGB.
    background
        uint8 [H, W, 3], RGB: the scene before objects and their shadows were painted.
    objects
        The objects, in the order of painting.
    """

    image: NDArray[np.uint8]
    background: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


def draw_scene(
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (128, 128),
    count: int | None = None,
    kinds: Sequence[str] | None = None,
) -> Scene:
    """Draw a scene; the same state of `rng` draws the same scene at every size.

    Parameters
    ----------
    rng
        Source of all randomness.
    size
        Height and width in pixels, at least 16 each.
    count
        Number of objects, 0 to 3, all of different kinds; None: 1, 2 or 3 at random.
    kinds
        The objects' labels, at most 3; None: random.

    Returns
    -------
    Scene
        The scene.

    Raises
    ------
    ImageError
        The size is too small, or the number of objects is out of range or differs from `kinds`.
    TargetError
        One of `kinds` is not in `LABELS`.
    """
    if min(size) < 16:
        raise ImageError(f"scene size {size[0]} x {size[1]} is too small; pass 16 x 16 or more")
    for label in kinds or ():
        if label not in KINDS:
            raise TargetError(f"unknown kind of object {label!r}; choose from: {', '.join(LABELS)}")
    if kinds is not None:
        if count not in (None, len(kinds)):
            raise ImageError(f"count is {count}, but kinds has {len(kinds)}; pass only one of them")
        count = len(kinds)
    if count is not None and not 0 <= count <= 3:
        raise ImageError(f"count is {count}; pass 0 to 3")
    return _draw(rng, size, count, kinds)


def _draw(
    rng: np.random.Generator,
    size: tuple[int, int],
    count: int | None,
    kinds: Sequence[str] | None,
) -> Scene:
    if count is None:
        count = int(rng.integers(1, 4))
    if kinds is None:
        kinds = [LABELS[index] for index in rng.permutation(len(LABELS))[:count]]
    light = rng.uniform(1.05, 1.45) * np.pi  # from above, mostly from the left
    poses = _poses(rng, size, count)
    canvas = draw_clutter(rng, size, light)
    background = _to_bytes(canvas)
    covers = [
        paint(canvas, KINDS[label], pose, _colours(rng), light)[..., 0] > 0.5
        for label, pose in zip(kinds, poses, strict=True)
    ]
    objects = []
    for place, label in enumerate(kinds):
        hidden = np.any([np.zeros(size, bool), *covers[place + 1 :]], axis=0)
        objects.append(SceneObject(label, LABELS.index(label), covers[place] & ~hidden))
    return Scene(_to_bytes(canvas), background, tuple(objects))


def _poses(rng: np.random.Generator, size: tuple[int, int], count: int) -> list[Pose]:
    """Find positions inside the image where objects do not overlap."""
    height, width = size
    poses: list[Pose] = []
    shrink = 1.0
    while len(poses) < count:
        for _ in range(_TRIES):
            radius = rng.uniform(*_RADII) * shrink * min(size)
            x = rng.uniform(1.05 * radius, width - 1.05 * radius)
            y = rng.uniform(1.05 * radius, height - 1.05 * radius)
            near = (np.hypot(x - other.x, y - other.y) / (radius + other.radius) for other in poses)
            if min(near, default=1.0) >= 1.0:
                poses.append(Pose(x, y, radius, rng.uniform(0, 2 * np.pi)))
                break
        else:
            shrink *= 0.9
    return poses


def _colours(rng: np.random.Generator) -> Paint:
    """Return two vivid colours of different lightness, either one first."""
    hue = rng.random()
    light = colour(hue + rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.45), rng.uniform(0.9, 1))
    deep = colour(hue, rng.uniform(0.65, 0.95), rng.uniform(0.55, 0.9))
    first, second = (deep, light) if rng.random() < 0.7 else (light, deep)
    return Paint(first, second)


def _to_bytes(canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.round(canvas * 255), np.uint8)
