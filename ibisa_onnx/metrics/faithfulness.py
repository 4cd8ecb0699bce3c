"""Faithfulness metrics: how well a map predicts the model's response to hidden pixels.

Each metric is called with a subject and a map and returns one number. The functions build a metric
with custom parameters; the constants are the metrics with default parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ibisa_onnx.errors import MetricError
from ibisa_onnx.metrics.degradation import STEPS, degradation
from ibisa_onnx.metrics.imputation import IMPUTATIONS, Imputation
from ibisa_onnx.metrics.insertion_deletion import RISE, Protocol, deletion, insertion
from ibisa_onnx.metrics.maps import Map, Saliency, checked_map, stretched
from ibisa_onnx.metrics.metric import Metric, named
from ibisa_onnx.metrics.sensitivity import sensitivity_n
from ibisa_onnx.metrics.subject import Subject, remembering

Measure = Callable[[Subject, Map, np.random.Generator], float]

# Unlikely to be a user's seed: a random map drawn from it would correlate with the sets drawn here.
_SEED = (1711, 6104)


@dataclass(frozen=True)
class FaithfulnessMetric(Metric):
    """A metric of how faithful a map is to the model.

    Attributes
    ----------
    measure
        Computes the metric from a subject, a validated map float64 [H, W] and a random generator.
    """

    measure: Measure

    def __call__(
        self, subject: Subject, saliency: Saliency, rng: np.random.Generator | None = None
    ) -> float:
        """Compute the metric.

        Parameters
        ----------
        subject
            Image and score function.
        saliency
            Map [H, W] at the size of the image, any real dtype; higher is more important.
        rng
            Used by metrics that sample. Default: a generator with a fixed seed.

        Returns
        -------
        float
            The value, within `limits` if the score is a probability.

        Raises
        ------
        MetricError
            The map differs in shape from the image or is not finite, or the metric is undefined for
            this score.
        OutputError
            The model does not return one finite score per image.
        """
        values = checked_map(saliency, subject.size)
        return self.measure(subject, values, np.random.default_rng(_SEED) if rng is None else rng)


def insertion_metric(
    protocol: Protocol = RISE, imputation: Imputation | None = None
) -> FaithfulnessMetric:
    """Build the insertion metric: mean score as pixels are inserted, most important first.

    Petsiuk et al. (RISE), arXiv 1806.07421, section 4.3.

    Parameters
    ----------
    protocol
        Blur of the starting image, and the number of steps.
    imputation
        What replaces pixels that are not inserted yet. Default: the protocol's blur.

    Returns
    -------
    FaithfulnessMetric
        Higher is better. Named "insertion", or "insertion (NAME)" with an imputation.
    """
    start = imputation.description if imputation else "the blurred image"
    return FaithfulnessMetric(
        _name("insertion", imputation),
        True,
        (0.0, 1.0),
        f"mean score as pixels are inserted, most important first; the rest is {start}",
        lambda subject, values, rng: _inserted(subject, values, protocol, imputation),
    )


def deletion_metric(
    protocol: Protocol = RISE, imputation: Imputation | None = None
) -> FaithfulnessMetric:
    """Build the deletion metric: mean score as pixels are deleted, most important first.

    Petsiuk et al. (RISE), arXiv 1806.07421, section 4.3.

    Parameters
    ----------
    protocol
        The number of steps.
    imputation
        What replaces deleted pixels. Default: the subject's blank.

    Returns
    -------
    FaithfulnessMetric
        Lower is better. Named "deletion", or "deletion (NAME)" with an imputation.
    """
    end = f"replaced by {imputation.description}" if imputation else "deleted"
    return FaithfulnessMetric(
        _name("deletion", imputation),
        False,
        (0.0, 1.0),
        f"mean score as pixels are {end}, most important first",
        lambda subject, values, rng: _deleted(subject, values, protocol, imputation),
    )


def difference_metric(
    protocol: Protocol = RISE, imputation: Imputation | None = None
) -> FaithfulnessMetric:
    """Build the metric insertion - deletion, which combines both curves.

    A map cannot score high by fitting only one of the two starting images.

    Parameters
    ----------
    protocol
        Blur of insertion's starting image, and the number of steps of both.
    imputation
        What replaces hidden pixels in both. Default: the protocol's blur for insertion, the
        subject's blank for deletion.

    Returns
    -------
    FaithfulnessMetric
        Higher is better.
    """
    return FaithfulnessMetric(
        _name("insertion - deletion", imputation),
        True,
        (-1.0, 1.0),
        "insertion minus deletion",
        lambda subject, values, rng: (
            _inserted(subject, values, protocol, imputation)
            - _deleted(subject, values, protocol, imputation)
        ),
    )


def degradation_metric(
    tile: int | None = None,
    steps: int = STEPS,
    *,
    normalized: bool = False,
    imputation: Imputation | None = None,
) -> FaithfulnessMetric:
    """Build the degradation metric: area between the LeRF and MoRF curves (see `degradation`).

    Schulz et al. (IBA), arXiv 2001.00396, after Samek et al., arXiv 1509.06321.

    Parameters
    ----------
    tile, steps, imputation
        As in `degradation`.
    normalized
        Divide the area by the difference between the scores of the unmodified and the fully hidden
        image, per image. Low-confidence images then weigh as much as any other, and the metric is
        undefined for images whose hidden version scores as high.

    Returns
    -------
    FaithfulnessMetric
        Higher is better.
    """

    def measure(subject: Subject, values: Map, rng: np.random.Generator) -> float:
        curves = degradation(subject, values, tile=tile, steps=steps, imputation=imputation)
        return curves.normalized if normalized else curves.area

    return FaithfulnessMetric(
        _name("degradation", imputation),
        True,
        (-1.0, 1.0),
        "mean score with tiles hidden least relevant first, minus that with most relevant first",
        measure,
    )


def lerf_morf_metric(imputation: Imputation, steps: int = STEPS) -> FaithfulnessMetric:
    """Build the metric LeRF - MoRF: `degradation` with tiles of a single pixel.

    Parameters
    ----------
    imputation
        What replaces hidden pixels.
    steps
        Points on each curve besides the unmodified image.

    Returns
    -------
    FaithfulnessMetric
        Higher is better. Named "LeRF - MoRF (NAME)".
    """
    return replace(
        degradation_metric(1, steps, imputation=imputation),
        name=_name("LeRF - MoRF", imputation),
        description="mean score with pixels hidden least important first, minus that with most "
        f"important first; hidden pixels become {imputation.description}",
    )


def _name(name: str, imputation: Imputation | None) -> str:
    return f"{name} ({imputation.name})" if imputation else name


def sensitivity_metric(
    sizes: Sequence[int] | None = None, subsets: int = 20, tile: int | None = None
) -> FaithfulnessMetric:
    """Build the sensitivity-n metric: correlation of map sums over random tiles with score drops.

    Ancona et al., arXiv 1711.06104.

    Parameters
    ----------
    sizes, subsets, tile
        As in `sensitivity_n`.

    Returns
    -------
    FaithfulnessMetric
        Higher is better.
    """
    return FaithfulnessMetric(
        "sensitivity-n",
        True,
        (-1.0, 1.0),
        "correlation of the map's sum over random tiles with the score drop when they are hidden",
        lambda subject, values, rng: (
            sensitivity_n(subject, values, rng, sizes=sizes, subsets=subsets, tile=tile).mean
        ),
    )


def _inserted(
    subject: Subject, values: Map, protocol: Protocol, imputation: Imputation | None
) -> float:
    return insertion(
        subject.score,
        subject.image,
        values,
        batch=subject.batch,
        protocol=protocol,
        imputation=imputation,
    ).auc


def _deleted(
    subject: Subject, values: Map, protocol: Protocol, imputation: Imputation | None
) -> float:
    blank = np.broadcast_to(np.asarray(subject.blank, np.float32), subject.image.shape)
    return deletion(
        subject.score,
        subject.image,
        values,
        end=None if imputation else blank,
        batch=subject.batch,
        protocol=protocol,
        imputation=imputation,
    ).auc


def _whole_and_shown(subject: Subject, values: Map) -> tuple[float, float]:
    """Return the scores of the unmodified image, and of the image weighted by the map."""
    whole, shown = subject.scores([subject.image, subject.masked(stretched(values))])
    return float(whole), float(shown)


def _drop(subject: Subject, values: Map, rng: np.random.Generator) -> float:
    whole, shown = _whole_and_shown(subject, values)
    if not whole > 0:
        raise MetricError(
            f"the unmodified image scores {whole:.3g}: average drop requires a score above 0"
        )
    return max(0.0, whole - shown) / whole


def _increase(subject: Subject, values: Map, rng: np.random.Generator) -> float:
    whole, shown = _whole_and_shown(subject, values)
    return float(shown > whole)


INSERTION = insertion_metric()
DELETION = deletion_metric()
INSERTION_MINUS_DELETION = difference_metric()
DEGRADATION = degradation_metric()
SENSITIVITY_N = sensitivity_metric()
AVERAGE_DROP = FaithfulnessMetric(
    "average drop",
    False,
    (0.0, 1.0),
    "fraction of the score lost when the image is weighted by the map",
    _drop,
)
"""Chattopadhyay et al. (Grad-CAM++), arXiv 1710.11063: max(0, Y - O) / Y, as a fraction. Y is the
score of the image, O that of the image multiplied by the map scaled to [0, 1]. If the subject's
blank is not zero, the image is blended with the blank instead."""
AVERAGE_INCREASE = FaithfulnessMetric(
    "average increase",
    True,
    (0.0, 1.0),
    "1 if the score increases when the image is weighted by the map, else 0",
    _increase,
)
"""Chattopadhyay et al. (Grad-CAM++), arXiv 1710.11063: 1 if Y < O, their "% increase in
confidence"; Y and O as in `AVERAGE_DROP`."""

FAITHFULNESS: tuple[FaithfulnessMetric, ...] = (
    INSERTION,
    DELETION,
    INSERTION_MINUS_DELETION,
    DEGRADATION,
    SENSITIVITY_N,
    AVERAGE_DROP,
    AVERAGE_INCREASE,
)
"""Faithfulness metrics with their papers' own ways to hide pixels."""

LERF_MORF = {each.name: lerf_morf_metric(each) for each in IMPUTATIONS}
"""LeRF - MoRF by name of the imputation."""

IMPUTED: tuple[FaithfulnessMetric, ...] = (
    *LERF_MORF.values(),
    *(
        metric(imputation=imputation)
        for metric in (insertion_metric, deletion_metric, difference_metric, degradation_metric)
        for imputation in IMPUTATIONS
    ),
)
"""Metrics that hide pixels, under each imputation, such as "insertion (noise)"."""


def metric_named(name: str) -> FaithfulnessMetric:
    """Look up a faithfulness metric by name.

    Parameters
    ----------
    name
        Such as "insertion" or "LeRF - MoRF (mean)"; case, spaces and punctuation are ignored.

    Returns
    -------
    FaithfulnessMetric
        The metric from `FAITHFULNESS` or `IMPUTED`.

    Raises
    ------
    OptionError
        No metric has this name.
    """
    return named(name, (*FAITHFULNESS, *IMPUTED))


def faithfulness(
    subject: Subject,
    saliency: Saliency,
    metrics: Sequence[FaithfulnessMetric] = FAITHFULNESS,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Compute several metrics of one map, running the model once per distinct image.

    Metrics that use the same perturbed images share their forward passes; "insertion - deletion"
    is free beside insertion and deletion.

    Parameters
    ----------
    subject
        Image and score function.
    saliency
        Map [H, W] at the size of the image, any real dtype; higher is more important.
    metrics
        The metrics to compute.
    rng
        Used by metrics that sample. Default: a generator with a fixed seed.

    Returns
    -------
    dict
        Values by name of the metric.

    Raises
    ------
    MetricError
        The map differs in shape from the image or is not finite, or a metric is undefined for this
        score.
    OutputError
        The model does not return one finite score per image.
    """
    asked = remembering(subject)
    return {metric.name: metric(asked, saliency, rng) for metric in metrics}
