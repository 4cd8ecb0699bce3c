"""Faithfulness metrics: how well a map agrees with what the model does when pixels come and go.

Each is called on a subject and a map and gives one number. The functions make one with parameters
of your own; the constants are those with the usual ones.
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


def insertion_metric(
    protocol: Protocol = RISE, imputation: Imputation | None = None
) -> FaithfulnessMetric:
    """Area under the score as the most important pixels come first into a blurred picture.

    Petsiuk et al. (RISE), arXiv 1806.07421, section 4.3. Other imputations than its blur are an
    option.
    """
    start = imputation.description if imputation else "the blurred picture"
    return FaithfulnessMetric(
        _name("insertion", imputation),
        True,
        (0.0, 1.0),
        f"mean score as the most important pixels come first; the rest is {start}",
        lambda subject, values, rng: _inserted(subject, values, protocol, imputation),
    )


def deletion_metric(
    protocol: Protocol = RISE, imputation: Imputation | None = None
) -> FaithfulnessMetric:
    """Area under the score as the most important pixels go first, to the subject's blank.

    Petsiuk et al. (RISE), arXiv 1806.07421, section 4.3. Other imputations than the blank are an
    option.
    """
    end = f"become {imputation.description}" if imputation else "are taken away"
    return FaithfulnessMetric(
        _name("deletion", imputation),
        False,
        (0.0, 1.0),
        f"mean score as the most important pixels {end} first",
        lambda subject, values, rng: _deleted(subject, values, protocol, imputation),
    )


def difference_metric(
    protocol: Protocol = RISE, imputation: Imputation | None = None
) -> FaithfulnessMetric:
    """Insertion less deletion, which no map wins by suiting one starting picture alone."""
    return FaithfulnessMetric(
        _name("insertion - deletion", imputation),
        True,
        (-1.0, 1.0),
        "the one less the other",
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
    """Area between the curves of LeRF and MoRF (`degradation`).

    Schulz et al. (IBA), arXiv 2001.00396, after Samek et al., arXiv 1509.06321.

    Parameters
    ----------
    tile, steps, imputation
        As in `degradation`.
    normalized
        As a share of what the picture scores above the blank one, image by image. A picture of
        which the model is unsure then weighs as much as any, and none is defined where the blank
        one scores as high; so it is off.
    """

    def measure(subject: Subject, values: Map, rng: np.random.Generator) -> float:
        curves = degradation(subject, values, tile=tile, steps=steps, imputation=imputation)
        return curves.normalized if normalized else curves.area

    return FaithfulnessMetric(
        _name("degradation", imputation),
        True,
        (-1.0, 1.0),
        "score with the least relevant tiles gone first, less that with the most relevant gone",
        measure,
    )


def lerf_morf_metric(imputation: Imputation, steps: int = STEPS) -> FaithfulnessMetric:
    """Area between the curves of LeRF and MoRF pixel by pixel: `degradation` with tiles of one."""
    return replace(
        degradation_metric(1, steps, imputation=imputation),
        name=_name("LeRF - MoRF", imputation),
        description="score with the least important pixels hidden first, less that with the most "
        f"important hidden; they become {imputation.description}",
    )


def _name(name: str, imputation: Imputation | None) -> str:
    return f"{name} ({imputation.name})" if imputation else name


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


LERF_MORF = {each.name: lerf_morf_metric(each) for each in IMPUTATIONS}
"""By imputation."""

IMPUTED: tuple[FaithfulnessMetric, ...] = (
    *LERF_MORF.values(),
    *(
        metric(imputation=imputation)
        for metric in (insertion_metric, deletion_metric, difference_metric, degradation_metric)
        for imputation in IMPUTATIONS
    ),
)
"""Those that hide pixels, each under each imputation: "LeRF - MoRF (mean)", "insertion (noise)"."""


def metric_named(name: str) -> FaithfulnessMetric:
    """Return the faithfulness metric of a name; case, spaces and punctuation do not matter.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    return named(name, (*FAITHFULNESS, *IMPUTED))


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
