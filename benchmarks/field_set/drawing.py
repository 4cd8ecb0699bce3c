"""Pictures of the field set: lines of text, tiles and columns of a figure, how they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of a picture."""

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
INK = (20, 20, 20)
MARGIN, ABOVE = 6, 24  # of a tile: beside its picture, and for its title


def write(path: Path, image: Pixels) -> Path:
    """Write a picture, uint8 [H, W] or [H, W, 3] (RGB), and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = image[..., ::-1] if image.ndim == 3 else image
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), shown, quality):
        raise OSError(f"{path} cannot be written")
    return path


def resized(image: Pixels, size: tuple[int, int], way: int = cv2.INTER_AREA) -> Pixels:
    """Return a picture at a height and width."""
    return np.asarray(cv2.resize(image, size[::-1], interpolation=way), np.uint8)


# -- text


@lru_cache(maxsize=64)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return one of `FONTS`, which matplotlib carries."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def fitted(text: str, name: str, size: int, room: float, step: int = 1) -> ImageFont.FreeTypeFont:
    """Return a font at the first size, from one downwards, at which a text is not too wide."""
    while font(name, size).getlength(text) > room:
        size -= step
    return font(name, size)


@dataclass(frozen=True)
class Line:
    """A drawn line of text, and where its characters stand, as left and right in pixels."""

    image: Pixels
    text: str
    places: tuple[tuple[float, float], ...]

    @property
    def width(self) -> float:
        """The mean width of a character."""
        return float(np.mean([right - left for left, right in self.places]))

    @property
    def box(self) -> Box:
        """What the text takes up."""
        rows, columns = np.nonzero((self.image < 128).any(2))
        return float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0


def draw_line(text: str, size: tuple[int, int], number: int = 0) -> Line:
    """Draw a line of dark text on white, of a height and width; the number chooses the font."""
    height, width = size
    name = FONTS[number % len(FONTS)]
    chosen = fitted(text, name, int(0.66 * height), 0.92 * width)
    left = (width - chosen.getlength(text)) / 2
    page = Image.new("RGB", (width, height), (250, 250, 250))
    ImageDraw.Draw(page).text((left, height / 2), text, INK, chosen, anchor="lm")
    ends = [left + chosen.getlength(text[:n]) for n in range(len(text) + 1)]
    return Line(np.asarray(page), text, tuple(pairwise(ends)))


# -- figures


def titled(title: str, picture: Pixels, shape: tuple[int, int]) -> Pixels:
    """Return a white tile of a height and width, with a picture below its title."""
    tile = np.full((*shape, 3), 255, np.uint8)
    high, wide = picture.shape[:2]
    tile[ABOVE : ABOVE + high, MARGIN : MARGIN + wide] = picture
    style = (cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40,) * 3, 1, cv2.LINE_AA)
    cv2.putText(tile, title, (MARGIN, ABOVE - 7), *style)
    return tile


def in_columns(columns: Sequence[Sequence[Pixels]]) -> Pixels:
    """Return columns of tiles beside each other, white where one is narrower or shorter."""
    stacked = []
    for tiles in filter(None, columns):
        wide = max(each.shape[1] for each in tiles)
        stacked.append(np.vstack([_padded(each, len(each), wide) for each in tiles]))
    high = max(map(len, stacked))
    return np.hstack([_padded(each, high, each.shape[1]) for each in stacked])


def _padded(tile: Pixels, high: int, wide: int) -> Pixels:
    room = ((0, high - len(tile)), (0, wide - tile.shape[1]), (0, 0))
    return np.pad(tile, room, constant_values=255)
