"""Scores and cost of one method on one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SECONDS_DIGITS = 4
"""Decimals of seconds, in memory as on disk, so that a table read back is identical."""

Key = tuple[str, str, str]
"""SHA-256 of the image, name of the method, and digest of its settings and the model's."""


@dataclass(frozen=True)
class ScoreRow:
    """Scores and cost of one method on one image.

    Attributes
    ----------
    image
        Name of the image file.
    image_sha256
        SHA-256 of its content.
    method
        Name of the method.
    settings
        Digest of everything else that the scores depend on.
    target
        Caption of the target, such as a class or a box.
    forward, backward
        Passes of single images that the explanation took.
    seconds
        Duration of the explanation.
    peak_bytes
        Peak memory of the process during the explanation.
    scores
        Scores by name of the metric.
    """

    image: str
    image_sha256: str
    method: str
    settings: str
    target: str
    forward: int
    backward: int
    seconds: float
    peak_bytes: int
    scores: Mapping[str, float]

    @property
    def key(self) -> Key:
        """The row's identity within a store."""
        return self.image_sha256, self.method, self.settings
