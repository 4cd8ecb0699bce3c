"""The picture that is written by default: the photograph, and beside it the same under its map.

Arrays in, arrays out: no file is read or written here, and nothing is known of models.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.colormap import colormap

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Box = Sequence[float]

MAX_SIDE = 1600
"""A panel's longer side in pixels, at most: full resolution is in the map, not in its picture."""

MIN_SIDE = 256
"""A panel's longer side in pixels, at least, so that a thumbnail can be looked at."""

_TAGGED_SIDE = 800  # the least of a picture on which texts must be readable
_PAPER, _INK = 255, 40
_GAP = 8
_TEXT_SCALE = 3
_SILENCE = 1e-6

# How dim and how grey silence is; how opaque full heat is, and how early it sets in.
_DIM, _SATURATION = 0.75, 0.2
_OPACITY, _ONSET = 0.68, 0.7
_FAINT = 0.35  # of full opacity, where a map accounts for next to nothing


def beside(
    image: Pixels,
    map: Floats,
    *others: Floats,
    against: Floats | None = None,
    strength: float | None = 1.0,
    boxes: Sequence[Box] = (),
    points: Sequence[Sequence[float]] = (),
    left: str = "",
    right: str = "",
) -> Pixels:
    """Draw the picture and the picture with its map, with a strip of text below.

    The panels stand side by side, or one above the other where the picture is more than twice as
    wide as high. They are reduced to at most `MAX_SIDE` pixels and enlarged to at least `MIN_SIDE`.

    Parameters
    ----------
    image
        uint8 [H, W, 3], RGB.
    map
        float32 [H, W], 0 for silence, any unit.
    others
        float32 [H, W] in 0..1, each a panel of its own.
    against
        float32 [H, W] in the map's unit: what is drawn in the same panel in blue.
    strength
        How bright the map is, 0 to 1; None draws none of it.
    boxes
        Left, top, right, bottom in pixels of the picture: outlined in the first two panels.
    points
        x and y in pixels of the picture: a cross in the same panels.
    left, right
        ASCII text. What does not fit is left out, the right one first; without text, no strip.

    Returns
    -------
    uint8 [H', W', 3], RGB.

    Raises
    ------
    ResultError
        The map and the picture differ in size, or the map is not finite.
    """
    drawn_against = np.zeros_like(map) if against is None else against
    for each in (map, drawn_against, *others):
        _check(image, each)
    stacked = image.shape[1] > 2 * image.shape[0]
    plain, below, *resized = _panels(image, drawn_against, map, *others)
    gap = np.full_like(plain[:_GAP] if stacked else plain[:, :_GAP], _PAPER)
    first, *rest = resized
    blended = _blend(plain, first, below, scale_of(map), strength)
    share = plain.shape[1] / image.shape[1]
    parts = [_marked(plain, boxes, points, share), gap, _marked(blended, boxes, points, share)]
    for each in rest:
        parts += [gap, _blend(plain, each, np.zeros_like(each), 1.0, 1.0)]
    drawn = np.concatenate(parts, axis=0 if stacked else 1)
    return np.concatenate([drawn, _strip(drawn.shape[1], left, right)], axis=0)


def tagged(image: Pixels, boxes: Sequence[tuple[str, Box]]) -> Pixels:
    """Draw boxes on a picture with a text at each: a number, or a name.

    The picture is reduced to at most `MAX_SIDE` pixels and enlarged to at least `_TAGGED_SIDE`.

    Parameters
    ----------
    image
        uint8 [H, W, 3], RGB.
    boxes
        ASCII text, and left, top, right, bottom in pixels of the picture; the most important first.

    Returns
    -------
    uint8 [H', W', 3], RGB.
    """
    from ibisa_onnx.io.tags import draw_tags

    (drawn,) = _panels(image, least=_TAGGED_SIDE)
    share = drawn.shape[1] / image.shape[1]
    drawn = np.array(_outlined(drawn, [box for text, box in boxes], share))
    places = [(text, _scaled(box, share)) for text, box in boxes]
    draw_tags(drawn, places, max(drawn.shape[:2]) / 2400 + 0.3)
    return drawn


def _outlined(picture: Pixels, boxes: Sequence[Box], share: float) -> Pixels:
    """Return a picture with boxes outlined, light on dark; `share` is its pixels for one of
    theirs.
    """
    import cv2

    if not boxes:
        return picture
    drawn = np.ascontiguousarray(picture).copy()
    thin = max(1, round(max(drawn.shape[:2]) / 640))
    for colour, width in ((_INK, 3 * thin), (_PAPER, thin)):
        for box in boxes:
            left, top, right, bottom = _scaled(box, share)
            cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), (colour,) * 3, width)
    return drawn


def _marked(
    picture: Pixels, boxes: Sequence[Box], points: Sequence[Sequence[float]], share: float
) -> Pixels:
    """Return a picture with boxes outlined and points crossed, as `_outlined` draws."""
    import cv2

    drawn = _outlined(picture, boxes, share)
    if not points:
        return drawn
    drawn = np.array(drawn)
    thin = max(1, round(max(drawn.shape[:2]) / 640))
    for x, y in points:
        across, down = round(x * share), round(y * share)
        for colour, width, arm in ((_INK, 3 * thin, 7 * thin), (_PAPER, thin, 6 * thin)):
            for dx, dy in ((arm, 0), (0, arm)):
                ends = (across - dx, down - dy), (across + dx, down + dy)
                cv2.line(drawn, *ends, (colour,) * 3, width)
    return drawn


def _scaled(box: Box, share: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(side * share) for side in box)
    return left, top, right, bottom


def blend(
    image: Pixels,
    map: Floats,
    strength: float | None = 1.0,
    against: Floats | None = None,
) -> Pixels:
    """Lay a map over its picture: silence shows the picture in dim grey, need covers it with heat.

    Opacity grows with the value, so that nothing is coloured that was not needed, and never
    reaches one, so that what was needed can be recognised. What speaks `against` is covered with
    blue in the same way; of a pixel that has both the larger is seen, by as much as it is larger.

    Parameters and errors are those of `beside`.

    Returns
    -------
    uint8 [H, W, 3], RGB.
    """
    against = np.zeros_like(map) if against is None else against
    for each in (map, against):
        _check(image, each)
    return _blend(image, map, against, scale_of(map), strength)


def scale_of(map: Floats) -> float:
    """Return the map value that gets the full colour: robustly the largest, and never 0.

    The 99.5th percentile, so that a few hot pixels do not darken all others; the maximum where
    the map is silent but for fewer pixels than that. Values below zero count as silence.
    """
    high = float(np.percentile(map, 99.5))
    if high <= _SILENCE:
        high = float(map.max())
    return high if high > _SILENCE else 1.0


def ascii_fold(text: str) -> str:
    """Return `text` with accents dropped, or nothing where letters would be lost.

    OpenCV's fonts draw ASCII alone; a caption with holes would be worse than the class number.
    """
    folded = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return folded.strip() if folded.isascii() and folded.isprintable() else ""


def _check(image: Pixels, map: Floats) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ResultError(f"a picture to draw on is [H, W, 3], not {list(image.shape)}")
    if map.shape != image.shape[:2]:
        raise ResultError(
            f"the map is {list(map.shape)} but the picture is {list(image.shape[:2])}: "
            "draw a map over the picture that it explains"
        )
    if not np.isfinite(map).all():
        raise ResultError("the map holds NaN or infinite values and cannot be drawn")


def _blend(
    image: Pixels, map: Floats, against: Floats, scale: float, strength: float | None
) -> Pixels:
    """Return the blend at the picture's size; maps have that size, and `scale` is above 0."""
    above, below = (
        np.clip(each / np.float32(scale), 0.0, 1.0).astype(np.float32) for each in (map, against)
    )
    value = np.abs(above - below)
    bright = 0.0 if strength is None else _FAINT + (1 - _FAINT) * strength
    opacity = np.float32(_OPACITY * bright) * (value**_ONSET)[..., None]
    picture = image.astype(np.float32)
    grey = picture @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    base = _DIM * (_SATURATION * picture + (1.0 - _SATURATION) * grey)
    ramps = np.stack([colormap(), colormap(against=True)])
    level = np.rint(value * (ramps.shape[1] - 1)).astype(np.intp)
    colour = ramps[(below > above).astype(np.intp), level].astype(np.float32)
    return np.asarray(np.rint(base + opacity * (colour - base)), dtype=np.uint8)


def _panels(image: Pixels, *maps: Floats, least: int = MIN_SIDE) -> tuple[Any, ...]:
    """Return picture and maps at the size of a panel, its longer side `least` pixels or more."""
    import cv2

    height, width = image.shape[:2]
    longer = max(height, width)
    factor = min(max(longer, least), MAX_SIDE) / longer
    if factor == 1.0:
        return image, *maps
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # A thumbnail's pixels stay pixels; its map, drawn on a coarse grid anyway, is smoothed.
    ways = (cv2.INTER_NEAREST, cv2.INTER_LINEAR) if factor > 1.0 else (cv2.INTER_AREA,) * 2
    picture = np.asarray(cv2.resize(image, size, interpolation=ways[0]), dtype=np.uint8)
    return picture, *(cv2.resize(map, size, interpolation=ways[1]) for map in maps)


def _strip(width: int, left: str, right: str) -> Pixels:
    """Return the caption strip [h, width, 3]; of height 0 where there is nothing to write."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    # Drawn large and reduced: OpenCV's line fonts are rough at the size of a caption.
    size = _TEXT_SCALE * min(max(width / 900.0, 0.75), 2.0)
    height, margin, thickness = round(22 * size), round(6 * size), max(1, round(size))
    sides = [text for text in (left, right) if text]
    spans = [cv2.getTextSize(text, font, size / 2, thickness)[0][0] for text in sides]
    while sides and sum(spans) + (len(sides) + 1) * margin > width * _TEXT_SCALE:
        sides.pop(), spans.pop()
    if not sides:
        return np.empty((0, width, 3), np.uint8)
    canvas = np.full((height, width * _TEXT_SCALE, 3), _PAPER, np.uint8)
    for text, x in zip(sides, (margin, canvas.shape[1] - margin - spans[-1]), strict=False):
        at = (x, round(15 * size))
        cv2.putText(canvas, text, at, font, size / 2, (_INK,) * 3, thickness, cv2.LINE_AA)
    size_drawn = (width, height // _TEXT_SCALE)
    return np.asarray(cv2.resize(canvas, size_drawn, interpolation=cv2.INTER_AREA), dtype=np.uint8)
