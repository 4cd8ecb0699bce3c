"""The region test: the model's score without a part of the image, and with that part alone.

Use it to test a suspected shortcut: a date stamp, a watermark, a background. It queries the model
and requires no map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.metrics.imputation import BLUR, BORDER, MEAN, NOISE, NOISY_LINEAR, Imputation
from ibisa_onnx.metrics.maps import Region, checked_region
from ibisa_onnx.metrics.metric import Metric
from ibisa_onnx.metrics.subject import Subject

HIDING: tuple[Imputation, ...] = (BLUR, MEAN, NOISE, BORDER, NOISY_LINEAR)
"""Imputations that hide a region, in turn. Zeros are excluded: they are evidence to some models."""

WITHOUT = Metric("without", True, (0.0, 1.0), "score with the region hidden")
ONLY = Metric("only", True, (0.0, 1.0), "score with everything but the region hidden")
SHARE = Metric("share", True, (0.0, 1.0), "fraction of the map's positive sum inside the region")
REGION: tuple[Metric, ...] = (WITHOUT, ONLY, SHARE)
"""Metrics of a region. Whether higher is better depends on the question, not on the metric."""


@dataclass(frozen=True)
class RegionTest:
    """Scores of a model with and without a region.

    Attributes
    ----------
    whole
        Score of the unmodified image.
    without
        Scores with the region hidden, by name of the imputation.
    only
        Scores with everything but the region hidden, by name of the imputation.
    """

    whole: float
    without: dict[str, float]
    only: dict[str, float]

    def median(self, name: str) -> float:
        """Compute the median over imputations.

        Parameters
        ----------
        name
            "without" or "only".

        Returns
        -------
        float
            The median score.
        """
        return float(np.median(list(getattr(self, name).values())))


def region_test(
    subject: Subject, region: Region, imputations: Sequence[Imputation] = HIDING
) -> RegionTest:
    """Score an image without a region, and the region alone, under several imputations.

    Costs one forward pass plus two per imputation.

    Parameters
    ----------
    subject
        Image and score function.
    region
        bool [H, W] at the size of the image.
    imputations
        What replaces hidden pixels.

    Returns
    -------
    RegionTest
        The scores.

    Raises
    ------
    MetricError
        The region is empty, covers the whole image, or differs in shape from it.
    OutputError
        The model does not return one finite score per image.
    """
    inside = checked_region(region, subject.size)
    prepared = {each.name: each.of(subject.image) for each in imputations}
    images = [impute(hidden) for hidden in (inside, ~inside) for impute in prepared.values()]
    whole, *scores = subject.scores([subject.image, *images]).tolist()
    without, only = np.reshape(scores, (2, len(prepared))).tolist()
    return RegionTest(
        whole,
        dict(zip(prepared, without, strict=True)),
        dict(zip(prepared, only, strict=True)),
    )
