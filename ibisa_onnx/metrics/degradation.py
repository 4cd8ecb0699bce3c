"""Degradation: hide tiles, most relevant first (MoRF) and least relevant first (LeRF).

MoRF and LeRF are due to Samek et al. (arXiv 1509.06321), who average MoRF alone, with regions
replaced by random values (AOPC). The area between the two curves is the metric of Schulz et al.
(IBA, arXiv 2001.00396): tiles of 8 or 14 pixels, ranked by the mean of the map, as in their code.
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
"""Number of steps, the same as RISE's at 224 x 224."""


@dataclass(frozen=True, eq=False)
class Degradation:
    """MoRF and LeRF curves: the model's score as tiles are hidden.

    Attributes
    ----------
    shares
        float64 [steps + 1], the fraction of tiles that are hidden, from 0 to 1.
    morf
        float64 [steps + 1], scores with the most relevant tiles hidden first.
    lerf
        float64 [steps + 1], scores with the least relevant tiles hidden first.
    """

    shares: npt.NDArray[np.float64]
    morf: npt.NDArray[np.float64]
    lerf: npt.NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area between the curves, LeRF - MoRF, in units of the score; higher is better."""
        between = self.lerf - self.morf
        return float(np.sum((between[1:] + between[:-1]) / 2 * np.diff(self.shares)))

    @property
    def span(self) -> float:
        """Score of the unmodified image minus the score with all tiles hidden."""
        return float(self.morf[0] - self.morf[-1])

    @property
    def normalized(self) -> float:
        """The area divided by the span, which makes it independent of the model's confidence.

        Raises
        ------
        MetricError
            The unmodified image scores no higher than the image with all tiles hidden.
        """
        if not self.span > 0:
            raise MetricError(
                f"the unmodified image scores {self.morf[0]:.3g}, the fully hidden one "
                f"{self.morf[-1]:.3g}: there is nothing to degrade"
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
    """Measure the model's score as tiles are hidden in both orders of relevance.

    Parameters
    ----------
    subject
        Image and score function.
    saliency
        Map [H, W], any real dtype. Tiles are ranked by its mean; ties are broken by position in
        both orders, so that a constant map has zero area.
    tile
        Side of a tile in pixels; 1 for single pixels. Default: 1/16 of the shorter side (14 at
        224).
    steps
        Points on each curve besides the unmodified image, at most the number of tiles. The IBA
        paper's code uses about 100.
    shares
        Fractions of tiles to hide at each point, strictly increasing from 0 to 1, instead of even
        steps.
    imputation
        What replaces hidden tiles. Default: the subject's blank.

    Returns
    -------
    Degradation
        Both curves.

    Raises
    ------
    MetricError
        The map differs in shape from the image, or is not finite.
    OptionError
        `tile`, `steps` or `shares` is out of range.
    OutputError
        The model does not return one finite score per image.
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
    """Return how many tiles are hidden at each point."""
    if shares is not None:
        if shares[0] != 0 or shares[-1] != 1 or (np.diff(shares) <= 0).any():
            raise OptionError(
                f"shares is {list(shares)}; pass numbers that strictly increase from 0 to 1"
            )
        return np.unique(np.round(np.multiply(shares, tiles))).astype(np.int64)
    if steps < 1:
        raise OptionError(f"steps is {steps}; pass 1 or more")
    return np.round(np.linspace(0, tiles, min(steps, tiles) + 1)).astype(np.int64)
