"""What is known of one picture, explained by one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SECONDS_DIGITS = 4
"""After the point, in a row as on disk, so that a table read back is the same."""

Key = tuple[str, str, str]
"""SHA-256 of the picture; the method; a digest of its settings and the model's."""


@dataclass(frozen=True)
class ScoreRow:
    """One picture, explained by one method.

    Attributes
    ----------
    settings
        A digest of all that the scores depend on beside picture and method.
    target
        What was explained: a class, a box ...
    forward, backward
        Image passes, all that the explanation took.
    seconds, peak_bytes
        How long, and the process's memory at its highest.
    scores
        By name of the metric.
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
        """What tells it from other rows."""
        return self.image_sha256, self.method, self.settings
