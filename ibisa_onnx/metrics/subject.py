"""What a map is checked on: one picture, one answer of one model, and how it is asked."""

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
"""Images float32 [N, C, H, W] in model space to scores [N]."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One image and one answer of one model.

    Attributes
    ----------
    score
        Takes float32 [N, C, H, W] in model space, gives the answer's score [N].
    image
        float32 [C, H, W] in model space.
    blank
        What pixels become that are taken away, float32 [C, H, W] or anything that broadcasts to
        it; zeros in model space unless given, as in RISE's deletion.
    batch
        Images in one call of `score`.

    Raises
    ------
    MetricError
        The image or the blank is not finite, or not of such a shape.
    """

    score: Score
    image: FloatArray
    blank: FloatArray | float = 0.0
    batch: int = 8

    def __post_init__(self) -> None:
        image = np.asarray(self.image, np.float32)
        if image.ndim != 3 or not image.size:
            raise MetricError(f"the image is {image.shape}; give one picture, [C, H, W]")
        try:
            blank = np.broadcast_to(np.asarray(self.blank, np.float32), image.shape)
        except ValueError as error:
            shape = np.shape(self.blank)
            raise MetricError(f"the blank is {shape}, the image is {image.shape}") from error
        if not (np.isfinite(image).all() and np.isfinite(blank).all()):
            raise MetricError("the image or the blank has values that are not finite")
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "blank", blank)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        _, height, width = self.image.shape
        return height, width

    def scores(self, images: Iterable[FloatArray]) -> npt.NDArray[np.float64]:
        """Return the scores [n] of images [C, H, W], a batch at a time."""
        return score_all(self.score, images, self.batch)

    def masked(self, mask: npt.NDArray[Any]) -> FloatArray:
        """Return the image where `mask` [H, W] is 1, blank where it is 0, a mixture between."""
        mixed = mask * self.image + (1 - mask) * self.blank
        return np.asarray(mixed, np.float32)


def score_all(
    score: Score, images: Iterable[FloatArray], batch: int = 8
) -> npt.NDArray[np.float64]:
    """Return the scores float64 [n] of images [C, H, W], of which `batch` are held at a time.

    Raises
    ------
    OptionError
        The batch is not positive.
    OutputError
        The scores are not finite, or not one for each image.
    """
    if batch < 1:
        raise OptionError(f"batch is {batch}; give 1 image or more")
    left, scores = iter(images), [np.empty(0)]
    while block := list(islice(left, batch)):
        given = np.asarray(score(np.stack(block)), np.float64)
        if given.shape != (len(block),):
            raise OutputError(
                f"the model gave scores {given.shape} for {len(block)} images; one each is needed"
            )
        if not np.isfinite(given).all():
            raise OutputError(f"the model's score is {given[~np.isfinite(given)][0]}")
        scores.append(given)
    return np.concatenate(scores)


def remembering(subject: Subject) -> Subject:
    """Return the same subject, whose model is asked about each picture once.

    Several metrics look at the same pictures: all at the whole one, "insertion - deletion" at
    those of both. Only digests and scores are kept.
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
