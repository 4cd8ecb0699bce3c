"""Degradation: tiles are taken away, the most relevant first (MoRF), or the least (LeRF).

MoRF and LeRF are of Samek et al. (arXiv 1509.06321), who sum up MoRF alone, over regions of random
values (AOPC). The area between both curves is the measure of Schulz et al. (IBA, arXiv
2001.00396): tiles of 8 or 14 pixels, ranked by the mean of the map, as in their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError, OptionError
from ibisa_onnx.metrics.imputation import Imputation, replacing
from ibisa_onnx.metrics.maps import Saliency, checked_map, falling_order, ranks
from ibisa_onnx.metrics.subject import Subject
from ibisa_onnx.metrics.tiles import cut

STEPS = 28
"""As many as RISE takes at 224 x 224."""


@dataclass(frozen=True, eq=False)
class Degradation:
    """The scores as tiles are taken away.

    Attributes
    ----------
    shares
        float64 [steps + 1], the share of the tiles that is gone, from 0 to 1.
    morf, lerf
        float64 [steps + 1], the scores with the most, and the least, relevant tiles gone first.
    """

    shares: npt.NDArray[np.float64]
    morf: npt.NDArray[np.float64]
    lerf: npt.NDArray[np.float64]

    @property
    def area(self) -> float:
        """The area between the curves, LeRF over MoRF, in units of the score."""
        between = self.lerf - self.morf
        return float(np.sum((between[1:] + between[:-1]) / 2 * np.diff(self.shares)))

    @property
    def span(self) -> float:
        """How much the score falls from the whole picture to the blank one."""
        return float(self.morf[0] - self.morf[-1])

    @property
    def normalized(self) -> float:
        """The area as a share of the span, so that it does not depend on how sure a model is.

        Raises
        ------
        MetricError
            The whole picture scores no more than the blank one.
        """
        if not self.span > 0:
            raise MetricError(
                f"the whole picture scores {self.morf[0]:.3g}, the blank one {self.morf[-1]:.3g}: "
                "there is nothing to degrade"
            )
        return self.area / self.span


def degradation(
    subject: Subject,
    saliency: Saliency,
    *,
    tile: int | None = None,
    steps: int = STEPS,
    shares: Sequence[float] | None = None,
    imputation: Imputation | None = None,
) -> Degradation:
    """Take away tiles from both ends of their ranking.

    Parameters
    ----------
    subject
        What the map is of.
    saliency
        [H, W], any real type. Tiles are ranked by its mean; ties go by position in both
        directions, so that a constant map has no area.
    tile
        Pixels a side; a sixteenth of the shorter side unless given (14 at 224); 1 for pixels.
    steps
        Scores on each curve, beside the whole picture's; at most the number of tiles. The IBA
        paper's code has about 100.
    shares
        Of the tiles that are hidden at each score, rising from 0 to 1, in place of even steps.
    imputation
        What hidden tiles become; the subject's blank unless given.
    """
    tiles = cut(subject.size, tile)
    counts = _counts(tiles.count, steps, shares)
    means = tiles.means(checked_map(saliency, subject.size))
    if imputation is None:
        impute = replacing(subject.image, np.asarray(subject.blank, np.float32))
    else:
        impute = imputation.of(subject.image)

    def scores(order: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        rank = ranks(order)[tiles.labels]
        return subject.scores(impute(rank < count) for count in counts)

    morf, lerf = scores(falling_order(means)), scores(falling_order(-means))
    return Degradation(counts / tiles.count, morf, lerf)


def _counts(tiles: int, steps: int, shares: Sequence[float] | None) -> npt.NDArray[np.int64]:
    """Return how many tiles are hidden at each score."""
    if shares is not None:
        if shares[0] != 0 or shares[-1] != 1 or (np.diff(shares) <= 0).any():
            raise OptionError(f"shares are {list(shares)}; give numbers that rise from 0 to 1")
        return np.unique(np.round(np.multiply(shares, tiles))).astype(np.int64)
    if steps < 1:
        raise OptionError(f"there are {steps} steps; give 1 or more")
    return np.round(np.linspace(0, tiles, min(steps, tiles) + 1)).astype(np.int64)
