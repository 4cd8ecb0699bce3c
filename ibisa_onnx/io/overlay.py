"""Draws the overlay: the image, and beside it the same image under its map.

Arrays in, arrays out: no files, no models.
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
"""Maximum of a panel's longer side in pixels; the map itself has full resolution."""

MIN_SIDE = 256
"""Minimum of a panel's longer side in pixels, so that thumbnails are legible."""

_TAGGED_SIDE = 800  # minimum for an image with legible labels
_PAPER, _INK = 255, 40
_GAP = 8
_TEXT_SCALE = 3
_SILENCE = 1e-6

# Brightness and saturation where the map is 0; opacity of its maximum, and the exponent below it.
_DIM, _SATURATION = 0.75, 0.2
_OPACITY, _ONSET = 0.68, 0.7
_FAINT = 0.35  # fraction of full opacity for a map that accounts for next to nothing


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
    """Draw an image and the image under its map, with a caption below.

    The panels are side by side, or stacked if the image is more than twice as wide as high. They
    are reduced to at most `MAX_SIDE` pixels and enlarged to at least `MIN_SIDE`.

    Parameters
    ----------
    image
        uint8 [H, W, 3], RGB.
    map
        float32 [H, W], 0 for no importance, any unit.
    others
        float32 [H, W] in 0..1, each in a panel of its own.
    against
        float32 [H, W] in the map's unit: negative evidence, drawn in blue in the same panel.
    strength
        Brightness of the map, 0 to 1; None: the map is not drawn.
    boxes
        Left, top, right, bottom in pixels of the image: outlined in the first two panels.
    points
        x and y in pixels of the image: a cross in the first two panels.
    left
        ASCII text at the left of the caption, if it fits.
    right
        ASCII text at the right; left out first. Without text there is no caption.

    Returns
    -------
    ndarray
        uint8 [H', W', 3], RGB.

    Raises
    ------
    ResultError
        Map and image differ in size, or the map is not finite.
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
    """Draw boxes on an image, each with a label.

    The image is reduced to at most `MAX_SIDE` pixels and enlarged to at least `_TAGGED_SIDE`.

    Parameters
    ----------
    image
        uint8 [H, W, 3], RGB.
    boxes
        ASCII text, and left, top, right, bottom in pixels of the image; most important first.

    Returns
    -------
    ndarray
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
    """Return an image with outlined boxes, light on dark, scaled by `share`."""
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
    """Return an image with outlined boxes and crosses at points."""
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
    """Blend a map over its image: the image in dim grey, under warm colours where the map is high.

    Opacity grows with the value, so that unimportant pixels are not coloured, and stays below one,
    so that important ones remain recognisable. Evidence `against` is drawn in blue in the same way;
    where both occur, their difference is drawn.

    Parameters and errors are those of `beside`.

    Returns
    -------
    ndarray
        uint8 [H, W, 3], RGB.
    """
    against = np.zeros_like(map) if against is None else against
    for each in (map, against):
        _check(image, each)
    return _blend(image, map, against, scale_of(map), strength)


def heat_map(map: Floats, size: tuple[int, int] | None = None) -> Pixels:
    """Draw a map alone, in the colours of `colormap`.

    Parameters
    ----------
    map
        float32 [H, W], 0 for no importance, any unit.
    size
        Width and height in pixels; None: the map's.

    Returns
    -------
    ndarray
        uint8 [height, width, 3], RGB.
    """
    import cv2

    scale = scale_of(map)
    if size is not None and size != (map.shape[1], map.shape[0]):
        shrinks = size[0] < map.shape[1] or size[1] < map.shape[0]
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        map = np.asarray(cv2.resize(map, size, interpolation=way), np.float32)
    ramp = colormap()
    levels = np.rint(np.clip(map / np.float32(scale), 0, 1) * (len(ramp) - 1))
    return np.asarray(ramp[levels.astype(np.intp)], np.uint8)


def scale_of(map: Floats) -> float:
    """Return the map value that gets the full colour: a robust maximum, never 0.

    The 99.5th percentile, so that a few extreme pixels do not darken all others; the maximum if
    fewer pixels than that are above 0. Negative values count as 0.
    """
    high = float(np.percentile(map, 99.5))
    if high <= _SILENCE:
        high = float(map.max())
    return high if high > _SILENCE else 1.0


def ascii_fold(text: str) -> str:
    """Return `text` without accents, or an empty string if letters would be lost.

    OpenCV's fonts have only ASCII; the class number is better than a caption with gaps.
    """
    folded = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return folded.strip() if folded.isascii() and folded.isprintable() else ""


def _check(image: Pixels, map: Floats) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ResultError(f"the image has shape {list(image.shape)}; pass [H, W, 3]")
    if map.shape != image.shape[:2]:
        raise ResultError(
            f"the map is {list(map.shape)}, but the image is {list(image.shape[:2])}; "
            "pass the image that the map explains"
        )
    if not np.isfinite(map).all():
        raise ResultError("the map contains NaN or infinite values and cannot be drawn")


def _blend(
    image: Pixels, map: Floats, against: Floats, scale: float, strength: float | None
) -> Pixels:
    """Blend maps at the image's size; `scale` is above 0."""
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
    """Resize image and maps to a panel whose longer side has `least` pixels or more."""
    import cv2

    height, width = image.shape[:2]
    longer = max(height, width)
    factor = min(max(longer, least), MAX_SIDE) / longer
    if factor == 1.0:
        return image, *maps
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # A thumbnail keeps its pixels; its map, coarse anyway, is smoothed.
    ways = (cv2.INTER_NEAREST, cv2.INTER_LINEAR) if factor > 1.0 else (cv2.INTER_AREA,) * 2
    picture = np.asarray(cv2.resize(image, size, interpolation=ways[0]), dtype=np.uint8)
    return picture, *(cv2.resize(map, size, interpolation=ways[1]) for map in maps)


def _strip(width: int, left: str, right: str) -> Pixels:
    """Return the caption [h, width, 3]; height 0 without text."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    # Drawn large and reduced, since OpenCV's line fonts are rough at caption size.
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
