"""Baselines: what is seen where an image is masked.

A baseline has to lose the answer, or hiding pixels behind it shows nothing: a blurred digit is a
digit. Which one does that depends on the model and the picture, so it is chosen by what the model
says of each (`choices`). They are arrays in model space; nothing is known of models here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError, OptionError
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.io.images import Picture
from ibisa_onnx.methods.masking import smooth
from ibisa_onnx.preprocessing.reading import read_for
from ibisa_onnx.preprocessing.spec import Preprocessing, prepare
from ibisa_onnx.targets.retention import LOST

AUTO = "auto"
BLUR = "blur"
CANDIDATES = {BLUR: 0.05, "mean": LOST, "noise": LOST, "inpaint": 0.05}
"""What `auto` chooses from, and what share of the answer's probability each may leave. A blur, or
what is filled in from around, leaves a soft object, by which the peak falls beside what it should
fall on. The objective says which, and in which order (`Objective.baselines`)."""

_CERTAIN = 0.99  # a probability: nearer to 1 a softmax has next to no gradient
_BORDER = 1 / 16  # of the shorter side
_TILES = 8  # on the longer side
_RADIUS = 3.0  # of inpainting, in pixels
_COLOURS = {"black": "#000000", "grey": "#808080", "gray": "#808080", "white": "#ffffff"}


@dataclass(frozen=True)
class Baseline:
    """What is seen where an image is masked.

    Attributes
    ----------
    of
        From an image, float32 [1, C, H, W] in model space, to what is seen, of the same shape.
    sha256
        Of the file of the picture that it is; None of all others.
    """

    of: Callable[[Floats], Floats]
    sha256: str | None = None


def blurred(image: Floats, sigma: float) -> Floats:
    """Return the image [1, C, H, W] blurred with a Gaussian of `sigma` pixels."""
    return smooth(image, sigma)


def _mean(image: Floats) -> Floats:
    """Return the image's mean colour everywhere."""
    return _everywhere(image, image.mean((2, 3), keepdims=True))


def _border(image: Floats) -> Floats:
    """Return the mean colour of the image's border everywhere."""
    inside = np.zeros(image.shape[2:], bool)
    width = max(1, round(_BORDER * min(image.shape[2:])))
    inside[width:-width, width:-width] = True
    return _everywhere(image, image[:, :, ~inside].mean(2)[..., None, None])


def _noisy(image: Floats) -> Floats:
    """Return noise of the image's own spectrum and colours, the same each time.

    Each frequency keeps its amplitude and gets a random phase, one for all channels (Galerne et
    al., Random phase textures, IEEE TIP 20(1), 2011).
    """
    size = image.shape[2:]
    random = np.fft.rfft2(np.random.default_rng(0).standard_normal(size))
    phase = random / np.maximum(np.abs(random), 1e-12)
    phase[0, 0] = 1  # the mean stays
    mixed = np.fft.irfft2(np.fft.rfft2(image) * phase, size)
    low, high = (each((2, 3), keepdims=True) for each in (image.min, image.max))
    return np.clip(mixed, low, high).astype(np.float32)


def _inpainted(image: Floats) -> Floats:
    """Fill each tile from the tiles around it, by Telea's inpainting.

    Tiles are coloured like a chessboard: the black ones are filled from the white ones, and the
    white ones from the black ones.
    """
    height, width = image.shape[2:]
    tile = max(1, math.ceil(max(height, width) / _TILES))
    black = (np.add.outer(np.arange(height) // tile, np.arange(width) // tile) % 2).astype(np.uint8)
    low, high = (each((2, 3), keepdims=True) for each in (image.min, image.max))
    scale = np.where(high > low, (high - low) / 255, 1)
    planes = np.rint((image - low) / scale).astype(np.uint8)[0]
    filled = [
        np.where(black, _telea(plane, black), _telea(plane, 1 - black)).astype(np.float32)
        for plane in planes
    ]
    return np.asarray(np.stack(filled)[None] * scale + low, np.float32)


def _telea(plane: npt.NDArray[np.uint8], hidden: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.inpaint(plane, hidden, _RADIUS, cv2.INPAINT_TELEA), np.uint8)


def _everywhere(image: Floats, colour: Floats) -> Floats:
    return np.broadcast_to(colour, image.shape).astype(np.float32)


BASELINES: dict[str, Callable[[Floats], Floats]] = {
    "mean": _mean,
    "border": _border,
    "noise": _noisy,
    "inpaint": _inpainted,
}
"""From an image [1, C, H, W] to what is seen, by name; the blur, which needs a width, is apart."""


def baseline_named(name: str, blur: float, preprocessing: Preprocessing) -> Baseline:
    """Return a baseline by its name, a colour's, or a picture's.

    Parameters
    ----------
    name
        "blur", or one of `BASELINES`; "auto": the first of `CANDIDATES`; a colour, "#rrggbb",
        "black", "grey" or "white"; or the path of a picture, which is brought to the model as the
        image is.
    blur
        Standard deviation of the blur, as a fraction of the image's longer side.
    preprocessing
        How pixels become the model's input.

    Raises
    ------
    OptionError
        It is none of these.
    """
    known = next(iter(CANDIDATES)) if name == AUTO else name
    if known == BLUR:
        return Baseline(lambda image: blurred(image, blur * max(image.shape[2:])))
    if known in BASELINES:
        return Baseline(BASELINES[known])
    try:
        colour = _colour(known)
        if colour is not None:
            pixels = np.broadcast_to(np.array(colour, np.uint8), (*preprocessing.size, 3))
            return _fixed(np.ascontiguousarray(pixels), preprocessing)
        if Path(known).exists():
            picture = read_for(Path(known), preprocessing)
            return _fixed(picture, preprocessing, picture.sha256)
    except (ImageError, OSError) as error:
        raise OptionError(f"option baseline is {name!r}: {error}") from error
    raise OptionError(
        f"option baseline is {name!r}; give {', '.join((AUTO, BLUR, *BASELINES))}, a colour "
        "(#808080, black, white) or a picture's file"
    )


def _fixed(
    pixels: npt.NDArray[np.uint8] | Picture, preprocessing: Preprocessing, sha256: str | None = None
) -> Baseline:
    """Return the baseline that is one picture for all images of its size."""
    picture = prepare(pixels, preprocessing).tensor
    return Baseline(lambda image: picture.copy(), sha256)


def _colour(name: str) -> tuple[int, ...] | None:
    """Return red, green and blue, 0..255, of "#rrggbb" or of one of `_COLOURS`; None otherwise."""
    digits = _COLOURS.get(name, name)
    return tuple(bytes.fromhex(digits[1:])) if re.fullmatch("#[0-9a-fA-F]{6}", digits) else None


def choices(names: Sequence[str], scores: npt.NDArray[np.float64], answer: float) -> list[int]:
    """Return which baselines to take: those that lose the answer, or else the one that most does.

    Where all raise it (hiding a rival may raise what hiding the cue itself lowers) the one that
    raises it most and leaves the model in some doubt: where it is certain, what is shown of the
    picture changes nothing and has no gradient.

    Parameters
    ----------
    names
        Of `CANDIDATES`, in order of preference; any other is taken as it is.
    scores
        What the model says of each, [K]; infinite where that is no number.
    answer
        What it says of the picture.
    """
    limits = np.array([CANDIDATES.get(name, 1.0) for name in names])
    lost: list[int] = np.flatnonzero(scores < limits * answer).tolist()
    if lost or scores.min() < answer:
        return lost or [int(np.argmin(scores))]
    doubtful = np.flatnonzero(scores < _CERTAIN)
    return [int(doubtful[np.argmax(scores[doubtful])] if len(doubtful) else np.argmin(scores))]
