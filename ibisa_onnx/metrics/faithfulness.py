"""Faithfulness metrics: how well a map agrees with what the model does when pixels come and go.

Each is called on a subject and a map and gives one number. The functions make one with parameters
of your own; the constants are those with the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.errors import MetricError
from ibisa_onnx.metrics.degradation import degradation
from ibisa_onnx.metrics.insertion_deletion import RISE, Protocol, deletion, insertion
from ibisa_onnx.metrics.maps import Map, Saliency, checked_map, stretched
from ibisa_onnx.metrics.metric import Metric, named
from ibisa_onnx.metrics.sensitivity import sensitivity_n
from ibisa_onnx.metrics.subject import Subject, remembering

Measure = Callable[[Subject, Map, np.random.Generator], float]

# None that somebody draws a random map from, whose pixels would then go with the sets drawn here.
_SEED = (1711, 6104)


@dataclass(frozen=True)
class FaithfulnessMetric(Metric):
    """A metric of a map beside the model.

    Attributes
    ----------
    measure
        Computes it from a subject, a checked map float64 [H, W] and a random generator.
    """

    measure: Measure

    def __call__(
        self, subject: Subject, saliency: Saliency, rng: np.random.Generator | None = None
    ) -> float:
        """Return the metric of one map.

        Parameters
        ----------
        subject
            The picture, and the answer of the model that is explained.
        saliency
            [H, W] at the size of the picture, any real type; the higher, the more important.
        rng
            For metrics that sample; a generator with a fixed seed unless given.

        Raises
        ------
        MetricError
            The map does not fit the picture, is not finite, or the metric is not defined here.
        OutputError
            The model's scores are not finite, or not one for each image.
        """
        values = checked_map(saliency, subject.size)
        return self.measure(subject, values, np.random.default_rng(_SEED) if rng is None else rng)


def insertion_metric(protocol: Protocol = RISE) -> FaithfulnessMetric:
    """Area under the score as the most important pixels come first into a blurred picture.

    Petsiuk et al. (RISE), arXiv 1806.07421, section 4.3.
    """
    return FaithfulnessMetric(
        "insertion",
        True,
        (0.0, 1.0),
        "mean score as the most important pixels come first into a blurred picture",
        lambda subject, values, rng: _inserted(subject, values, protocol),
    )


def deletion_metric(protocol: Protocol = RISE) -> FaithfulnessMetric:
    """Area under the score as the most important pixels go first, to the subject's blank.

    Petsiuk et al. (RISE), arXiv 1806.07421, section 4.3.
    """
    return FaithfulnessMetric(
        "deletion",
        False,
        (0.0, 1.0),
        "mean score as the most important pixels are taken away first",
        lambda subject, values, rng: _deleted(subject, values, protocol),
    )


def difference_metric(protocol: Protocol = RISE) -> FaithfulnessMetric:
    """Insertion less deletion, which no map wins by suiting one starting picture alone."""
    return FaithfulnessMetric(
        "insertion - deletion",
        True,
        (-1.0, 1.0),
        "the one less the other",
        lambda subject, values, rng: (
            _inserted(subject, values, protocol) - _deleted(subject, values, protocol)
        ),
    )


def degradation_metric(
    tile: int | None = None, steps: int = 28, *, normalized: bool = False
) -> FaithfulnessMetric:
    """Area between the curves of LeRF and MoRF (`degradation`).

    Schulz et al. (IBA), arXiv 2001.00396, after Samek et al., arXiv 1509.06321.

    Parameters
    ----------
    tile, steps
        As in `degradation`.
    normalized
        As a share of what the picture scores above the blank one, image by image. A picture of
        which the model is unsure then weighs as much as any, and none is defined where the blank
        one scores as high; so it is off.
    """

    def measure(subject: Subject, values: Map, rng: np.random.Generator) -> float:
        curves = degradation(subject, values, tile=tile, steps=steps)
        return curves.normalized if normalized else curves.area

    return FaithfulnessMetric(
        "degradation",
        True,
        (-1.0, 1.0),
        "score with the least relevant tiles gone first, less that with the most relevant gone",
        measure,
    )


def sensitivity_metric(
    sizes: Sequence[int] | None = None, subsets: int = 20, tile: int | None = None
) -> FaithfulnessMetric:
    """Correlation of the map's sum over random tiles with what the model loses without them.

    Ancona et al., arXiv 1711.06104; the parameters are those of `sensitivity_n`.
    """
    return FaithfulnessMetric(
        "sensitivity-n",
        True,
        (-1.0, 1.0),
        "correlation of the map's sum over random tiles with the loss of score without them",
        lambda subject, values, rng: (
            sensitivity_n(subject, values, rng, sizes=sizes, subsets=subsets, tile=tile).mean
        ),
    )


def _inserted(subject: Subject, values: Map, protocol: Protocol) -> float:
    return insertion(
        subject.score, subject.image, values, batch=subject.batch, protocol=protocol
    ).auc


def _deleted(subject: Subject, values: Map, protocol: Protocol) -> float:
    blank = np.broadcast_to(subject.blank, subject.image.shape)
    return deletion(
        subject.score, subject.image, values, end=blank, batch=subject.batch, protocol=protocol
    ).auc


def _whole_and_shown(subject: Subject, values: Map) -> tuple[float, float]:
    """The scores of the whole picture, and of the picture weighted by the map."""
    whole, shown = subject.scores([subject.image, subject.masked(stretched(values))])
    return float(whole), float(shown)


def _drop(subject: Subject, values: Map, rng: np.random.Generator) -> float:
    whole, shown = _whole_and_shown(subject, values)
    if not whole > 0:
        raise MetricError(f"the whole picture scores {whole:.3g}: a drop is a share of more than 0")
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
    "share of the score that is lost when the picture is weighted by the map",
    _drop,
)
"""Chattopadhyay et al. (Grad-CAM++), arXiv 1710.11063: max(0, Y - O) / Y, not in percent. Y is the
score of the picture, O that of map times picture, the map stretched to [0, 1]. Where the blank is
not zero the picture fades to it."""
AVERAGE_INCREASE = FaithfulnessMetric(
    "average increase",
    True,
    (0.0, 1.0),
    "1 where the score rises when the picture is weighted by the map, else 0",
    _increase,
)
"""Chattopadhyay et al. (Grad-CAM++), arXiv 1710.11063: 1 where Y < O, their % increase in
confidence; Y and O as in the average drop."""

FAITHFULNESS: tuple[FaithfulnessMetric, ...] = (
    INSERTION,
    DELETION,
    INSERTION_MINUS_DELETION,
    DEGRADATION,
    SENSITIVITY_N,
    AVERAGE_DROP,
    AVERAGE_INCREASE,
)


def metric_named(name: str) -> FaithfulnessMetric:
    """Return the faithfulness metric of a name; case, spaces and dashes do not matter.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    return named(name, FAITHFULNESS)


def faithfulness(
    subject: Subject,
    saliency: Saliency,
    metrics: Sequence[FaithfulnessMetric] = FAITHFULNESS,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Return several metrics of one map by name, asking the model about each picture once.

    "insertion - deletion" beside insertion and deletion then costs nothing. Parameters and errors
    are those of a single metric.
    """
    asked = remembering(subject)
    return {metric.name: metric(asked, saliency, rng) for metric in metrics}
