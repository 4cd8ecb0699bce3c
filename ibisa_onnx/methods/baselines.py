"""Baselines: what replaces the image's masked pixels.

A baseline must lose the prediction, otherwise masking shows nothing: a blurred digit is still a
digit. Which baseline does so depends on model and image, so it is chosen by the model's scores for
each (`choices`). Baselines are arrays in model space; nothing here runs a model.
"""

from __future__ import annotations

import math
import os
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
"""Baselines for `auto`, and the fraction of the prediction's probability that each may retain.

A blur or inpainting leaves a soft object, which displaces the peak of the map. The objective
determines the candidates and their order (`Objective.baselines`).
"""

_CERTAIN = 0.99  # a probability: closer to 1, a softmax has almost no gradient
_BORDER = 1 / 16  # of the shorter side
_TILES = 8  # on the longer side
_RADIUS = 3.0  # of inpainting, in pixels
_COLOURS = {"black": "#000000", "grey": "#808080", "gray": "#808080", "white": "#ffffff"}


@dataclass(frozen=True)
class Baseline:
    """What replaces masked pixels.

    Attributes
    ----------
    of
        Maps an image, float32 [1, C, H, W] in model space, to its baseline of the same shape.
    sha256
        Hash of the baseline's image file; None for all other baselines.
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
    """Return noise with the image's spectrum and colour range; deterministic.

    Each frequency keeps its amplitude and gets a random phase, shared by all channels (Galerne et
    al., Random phase textures, IEEE TIP 20(1), 2011).
    """
    size = image.shape[2:]
    random = np.fft.rfft2(np.random.default_rng(0).standard_normal(size))
    phase = random / np.maximum(np.abs(random), 1e-12)
    phase[0, 0] = 1  # keep the mean
    mixed = np.fft.irfft2(np.fft.rfft2(image) * phase, size)
    low, high = (each((2, 3), keepdims=True) for each in (image.min, image.max))
    return np.clip(mixed, low, high).astype(np.float32)


def _inpainted(image: Floats) -> Floats:
    """Inpaint each tile from the tiles around it, by Telea's method.

    Tiles form a chessboard: black ones are filled from white ones, and vice versa.
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
"""Baselines by name, as functions of an image [1, C, H, W]; the blur needs a width and is apart."""


def baseline_named(name: str, blur: float, preprocessing: Preprocessing) -> Baseline:
    """Return a baseline by name, colour or image file.

    Parameters
    ----------
    name
        "blur", or a key of `BASELINES`; "auto" for the first of `CANDIDATES`; a colour, "#rrggbb",
        "black", "grey" or "white"; or the path of an image, which is preprocessed like the
        explained image.
    blur
        Standard deviation of the blur, as a fraction of the image's longer side.
    preprocessing
        Preprocessing of colours and images.

    Raises
    ------
    OptionError
        There is no such baseline, or the image cannot be read.
    """
    check_name(name)
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
        picture = read_for(Path(known), preprocessing)
        return _fixed(picture, preprocessing, picture.sha256)
    except (ImageError, OSError) as error:
        raise OptionError(f"option baseline is {name!r}: {error}") from error


def check_name(name: str) -> None:
    """Raise `OptionError` if a baseline has no such name, and is no colour or existing path."""
    named = name in (AUTO, BLUR, *BASELINES) or _colour(name) is not None
    if not named and not os.path.exists(name):  # noqa: PTH110 - it never raises
        raise OptionError(
            f"option baseline is {name!r}; use {', '.join((AUTO, BLUR, *BASELINES))}, a colour "
            "(#808080, black, white) or the path of an image"
        )


def _fixed(
    pixels: npt.NDArray[np.uint8] | Picture, preprocessing: Preprocessing, sha256: str | None = None
) -> Baseline:
    """Return a baseline that is the same for all images of its size."""
    picture = prepare(pixels, preprocessing).tensor
    return Baseline(lambda image: picture.copy(), sha256)


def _colour(name: str) -> tuple[int, ...] | None:
    """Return red, green and blue, 0..255, of "#rrggbb" or a key of `_COLOURS`; otherwise None."""
    digits = _COLOURS.get(name, name)
    return tuple(bytes.fromhex(digits[1:])) if re.fullmatch("#[0-9a-fA-F]{6}", digits) else None


def choices(names: Sequence[str], scores: npt.NDArray[np.float64], answer: float) -> list[int]:
    """Return the indices of the baselines to use: those that lose the prediction, or the best one.

    If all of them raise the probability (masking a competing class may raise what masking the
    evidence lowers), it is the one that raises it most while leaving the model uncertain: where it
    is certain, showing parts of the image changes nothing and has no gradient.

    Parameters
    ----------
    names
        Names from `CANDIDATES`, in order of preference; others have no limit.
    scores
        Probability for each baseline, [K]; infinite if it is not a number.
    answer
        Probability for the unmasked image.
    """
    limits = np.array([CANDIDATES.get(name, 1.0) for name in names])
    lost: list[int] = np.flatnonzero(scores < limits * answer).tolist()
    if lost or scores.min() < answer:
        return lost or [int(np.argmin(scores))]
    doubtful = np.flatnonzero(scores < _CERTAIN)
    return [int(doubtful[np.argmax(scores[doubtful])] if len(doubtful) else np.argmin(scores))]
