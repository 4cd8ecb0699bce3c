"""What a map is evaluated on: one image and the score of one target."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError, OptionError, OutputError

FloatArray = npt.NDArray[np.float32]
Score = Callable[[FloatArray], npt.NDArray[np.floating[Any]]]
"""Function from images float32 [N, C, H, W] in model space to scores [N]."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One image, and the model's score for one target.

    Attributes
    ----------
    score
        Function from images float32 [N, C, H, W] in model space to scores [N], usually the
        probability of the target, from 0 to 1.
    image
        float32 [C, H, W] in model space.
    blank
        What replaces hidden pixels unless an imputation is given, float32 [C, H, W] or anything
        that broadcasts to it. Default: zeros in model space, as in RISE's deletion.
    batch
        Images per call of `score`.

    Raises
    ------
    MetricError
        `image` or `blank` is not finite or has the wrong shape.
    """

    score: Score
    image: FloatArray
    blank: FloatArray | float = 0.0
    batch: int = 8

    def __post_init__(self) -> None:
        image = np.asarray(self.image, np.float32)
        if image.ndim != 3 or not image.size:
            raise MetricError(f"image has shape {image.shape}; pass one image, [C, H, W]")
        try:
            blank = np.broadcast_to(np.asarray(self.blank, np.float32), image.shape)
        except ValueError as error:
            shape = np.shape(self.blank)
            raise MetricError(
                f"blank has shape {shape}, which does not broadcast to the image's {image.shape}"
            ) from error
        if not (np.isfinite(image).all() and np.isfinite(blank).all()):
            raise MetricError("image or blank contains NaN or infinite values; pass finite ones")
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "blank", blank)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image, in pixels."""
        _, height, width = self.image.shape
        return height, width

    def scores(self, images: Iterable[FloatArray]) -> npt.NDArray[np.float64]:
        """Score images one batch at a time.

        Parameters
        ----------
        images
            Each float32 [C, H, W] in model space.

        Returns
        -------
        numpy.ndarray
            float64 [n].

        Raises
        ------
        OptionError
            `batch` is not positive.
        OutputError
            `score` does not return one finite number per image.
        """
        return score_all(self.score, images, self.batch)

    def masked(self, mask: npt.NDArray[Any]) -> FloatArray:
        """Blend the image with the blank.

        Parameters
        ----------
        mask
            [H, W]: 1 keeps the image, 0 replaces it by the blank, values between mix both.

        Returns
        -------
        numpy.ndarray
            float32 [C, H, W].
        """
        mixed = mask * self.image + (1 - mask) * self.blank
        return np.asarray(mixed, np.float32)


def score_all(
    score: Score, images: Iterable[FloatArray], batch: int = 8
) -> npt.NDArray[np.float64]:
    """Return the scores float64 [n] of images [C, H, W], holding `batch` of them at a time.

    Raises
    ------
    OptionError
        `batch` is not positive.
    OutputError
        `score` does not return one finite number per image.
    """
    if batch < 1:
        raise OptionError(f"batch is {batch}; pass 1 image or more")
    left, scores = iter(images), [np.empty(0)]
    while block := list(islice(left, batch)):
        given = np.asarray(score(np.stack(block)), np.float64)
        if given.shape != (len(block),):
            raise OutputError(
                f"the score function returned shape {given.shape} for {len(block)} images; "
                f"({len(block)},) is required"
            )
        if not np.isfinite(given).all():
            raise OutputError(f"the model's score is {given[~np.isfinite(given)][0]}, not finite")
        scores.append(given)
    return np.concatenate(scores)


def remembering(subject: Subject) -> Subject:
    """Return the subject with a cached score function, which runs the model once per image.

    Several metrics score the same images: all of them the unmodified one, "insertion - deletion"
    those of both curves. Only digests and scores are cached.
    """
    known: dict[bytes, float] = {}

    def score(images: FloatArray) -> npt.NDArray[np.float64]:
        digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
        new = {
            digest: image
            for digest, image in zip(digests, images, strict=True)
            if digest not in known
        }
        if new:
            fresh = score_all(subject.score, new.values(), subject.batch)
            known.update(zip(new, fresh.tolist(), strict=True))
        return np.array([known[digest] for digest in digests])

    return replace(subject, score=score)
