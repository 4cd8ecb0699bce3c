"""The region test: what the model says without a part of the picture, and with that part alone.

For those who suspect something: a date stamp, a watermark, a background. It asks the model, and
needs no map; how much of a map lies there is told beside it.
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
"""What regions are hidden by, in turn. Zeros are not among them: they are evidence to some."""

WITHOUT = Metric("without", True, (0.0, 1.0), "score where the region is hidden")
ONLY = Metric("only", True, (0.0, 1.0), "score where all but the region is hidden")
SHARE = Metric("share", True, (0.0, 1.0), "share of the map's positive sum that is in the region")
REGION: tuple[Metric, ...] = (WITHOUT, ONLY, SHARE)
"""The figures of a region. None is better when higher: that is for the asker to say."""


@dataclass(frozen=True)
class RegionTest:
    """What a model says of a region.

    Attributes
    ----------
    whole
        The score of the whole picture.
    without, only
        Scores with the region hidden, and with all else hidden, by name of the imputation.
    """

    whole: float
    without: dict[str, float]
    only: dict[str, float]

    def median(self, name: str) -> float:
        """Return the median over the imputations of "without" or "only"."""
        return float(np.median(list(getattr(self, name).values())))


def region_test(
    subject: Subject, region: Region, imputations: Sequence[Imputation] = HIDING
) -> RegionTest:
    """Ask about a picture without a region, and about the region alone, for 2 passes each.

    Parameters
    ----------
    subject
        The picture and the answer.
    region
        bool [H, W] at the size of the picture.
    imputations
        What hidden pixels become, in turn.

    Raises
    ------
    MetricError
        The region is empty, the whole picture, or of another size.
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
