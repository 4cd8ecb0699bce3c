"""Draws short labels beside the boxes they belong to.

Each has its own background, so that it is readable on any image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Place = tuple[int, int, int, int]
"""Left, top, right, bottom in integer pixels."""

_PAPER, _INK = 255, 20
_MARGIN = 0.25  # around a label, as a fraction of its height
_STEPS = 3  # positions tried along each side of a box
_HIDDEN = 0.1  # cost of covering a box's pixel; covering a label's costs 1


def draw_tags(picture: Pixels, tags: Sequence[tuple[str, Place]], size: float) -> None:
    """Draw a label at each box, in place, without overlaps if there is room.

    Parameters
    ----------
    picture
        uint8 [H, W, 3], RGB.
    tags
        ASCII text and its box in pixels of the image, most important first.
    size
        Font scale; 1 is about 22 pixels high. Labels wider than the image are reduced.
    """
    boxes = [box for text, box in tags]
    taken: list[Place] = []
    for text, box in tags:
        tag = _tag(text, size, picture.shape[1])
        place = _best_place(tag.shape[:2], box, picture.shape[:2], taken, boxes)
        taken.append(place)
        left, top, right, bottom = place
        picture[top:bottom, left:right] = tag[: bottom - top, : right - left]


def _tag(text: str, size: float, widest: int) -> Pixels:
    """Return a label, dark on light with a dark border, uint8 [h, w, 3]."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    stroke = max(1, round(1.8 * size))
    (width, height), below = cv2.getTextSize(text, font, size, stroke)
    margin = max(2, round(_MARGIN * height))
    if width + 2 * margin > widest and size > 0.2:
        return _tag(text, 0.8 * size, widest)
    high, wide = height + below // 2 + 2 * margin, width + 2 * margin
    tag = np.full((high, wide, 3), _PAPER, np.uint8)
    cv2.putText(tag, text, (margin, margin + height), font, size, (_INK,) * 3, stroke, cv2.LINE_AA)
    cv2.rectangle(tag, (0, 0), (wide - 1, high - 1), (_INK,) * 3, 1)
    return tag


def _best_place(
    shape: tuple[int, ...],
    box: Place,
    picture: tuple[int, ...],
    taken: Sequence[Place],
    boxes: Sequence[Place],
) -> Place:
    """Return the position where a label covers the least; the first of equal ones."""

    def cost(place: Place) -> float:
        hidden = sum(_shared(place, each) for each in boxes)
        return sum(_shared(place, each) for each in taken) + _HIDDEN * hidden

    return min(_places(shape, box, picture), key=cost)


def _places(shape: tuple[int, ...], box: Place, picture: tuple[int, ...]) -> Iterator[Place]:
    """Yield positions of a label at its box, inside the image: above, below, inside, and beside."""
    (high, wide), (height, width) = shape, picture
    left, top, right, bottom = box
    tops = (top - high, bottom, top, bottom - high)
    lefts = np.linspace(left, right - wide, _STEPS).round().astype(int).tolist()
    beside = product((left - wide, right), (top, bottom - high))
    for y, x in (*product(tops, lefts), *((y, x) for x, y in beside)):
        y, x = max(0, min(y, height - high)), max(0, min(x, width - wide))
        yield x, y, min(x + wide, width), min(y + high, height)


def _shared(a: Place, b: Place) -> int:
    """Return the overlap of two rectangles in pixels."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return max(0, wide) * max(0, high)
