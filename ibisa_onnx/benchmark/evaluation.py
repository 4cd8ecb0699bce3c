"""A map of a picture, measured where the model sees it and on the object that is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.benchmark.answers import asking
from ibisa_onnx.benchmark.regions import PictureRegion, own_region, seen_of
from ibisa_onnx.errors import MetricError, OptionError
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics import (
    BOX_METRICS,
    DELETION,
    FAITHFULNESS,
    IMPUTED,
    INSERTION,
    INSERTION_MINUS_DELETION,
    LERF_MORF,
    LOCALISATION,
    STABILITIES,
    BoxMetric,
    Comparison,
    FaithfulnessMetric,
    LocalisationMetric,
    Metric,
    StabilityMetric,
    Subject,
    compare,
    faithfulness,
    named,
    region_test,
    stability,
)
from ibisa_onnx.metrics.localisation import ENERGY
from ibisa_onnx.metrics.maps import Region, checked_region
from ibisa_onnx.metrics.regions import ONLY, REGION, SHARE, WITHOUT, RegionTest
from ibisa_onnx.metrics.subject import remembering
from ibisa_onnx.metrics.verdict import JUDGES
from ibisa_onnx.pipeline import explained_target
from ibisa_onnx.preprocessing.resampling import resample
from ibisa_onnx.targets.base import Objective
from ibisa_onnx.targets.boxes import similarity_of

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Explainer
    from ibisa_onnx.methods.base import Method

_BATCH = 8
_SEEN = 0.99  # of a region; less is worth a warning
USUAL: tuple[FaithfulnessMetric, ...] = (
    *(INSERTION, DELETION, INSERTION_MINUS_DELETION),
    *(LERF_MORF[each.name] for each in JUDGES),
)
"""What is measured of a map unless told otherwise: RISE's, and LeRF - MoRF by imputation."""
MapMetric = FaithfulnessMetric | BoxMetric | LocalisationMetric
"""A metric of a map; localisation is on the place that the target itself has."""
OF_METHODS: tuple[MapMetric | StabilityMetric, ...] = (
    *FAITHFULNESS,
    *IMPUTED,
    *BOX_METRICS,
    *LOCALISATION,
    *STABILITIES,
)
"""What may be measured of a method on any picture, if its target is of that kind."""


def subject_of(problem: Problem) -> Subject:
    """Return what maps are measured on: the model's input, and the probability of the answer.

    The problem has one row.
    """
    problem.check_batch_independence()
    batch = problem.filled(_BATCH)
    return Subject(problem.score, problem.image[0], problem.blank, batch)


def at_model_size(problem: Problem, map: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a map as the model sees it, [h, w].

    Parameters
    ----------
    map
        [H, W] of the picture, or already [h, w] of the model's input.

    Raises
    ------
    MetricError
        It has another size.
    """
    geometry = problem.row.geometry
    if map.shape in (geometry.picture, geometry.shown):
        return geometry.project(map)
    if map.shape == geometry.model:
        return map
    raise MetricError(
        f"the map is {list(map.shape)}; give one of the picture's size {list(geometry.picture)}, "
        f"or of the model's input {list(geometry.model)}"
    )


def at_picture_size(problem: Problem, map: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a map as it lies on the picture, [H, W]; parameters as of `at_model_size`."""
    geometry = problem.row.geometry
    if map.shape == geometry.picture:
        return map
    if map.shape == geometry.shown:
        height, width = (side / geometry.reduction for side in geometry.picture)
        return resample(map, geometry.picture, box=(0, 0, height, width))
    return geometry.whole.restore(map)


def evaluate(
    subject: Subject,
    problem: Problem,
    map: npt.NDArray[Any],
    metrics: Sequence[MapMetric] = FAITHFULNESS,
) -> dict[str, float]:
    """Measure a map of a picture, [H, W] or [h, w], by name of the metric.

    Raises
    ------
    MetricError
        The map has another size, or is not finite; a metric is not defined of this answer.
    """
    if not np.isfinite(map).all():
        raise MetricError("the map has values that are not finite")
    seen = at_model_size(problem, map)
    general = [each for each in metrics if isinstance(each, FaithfulnessMetric)]
    of_boxes = [each for each in metrics if isinstance(each, BoxMetric)]
    located = [each for each in metrics if isinstance(each, LocalisationMetric)]
    scores = faithfulness(subject, seen, general)
    if of_boxes:
        scores |= BoxScores(problem)(seen, of_boxes)
    if located:
        region = own_region(problem)
        if region is None:
            raise MetricError(
                f"{located[0].name} needs to know the object, and the answer has no place that is "
                "a part of what the model sees"
            )
        whole = at_picture_size(problem, map)
        scores |= {each.name: each(whole, region.pixels) for each in located}
    return scores


class BoxScores:
    """Measures maps of a detection by what is left of it; the model sees each picture once.

    Parameters
    ----------
    problem
        Of a box.

    Raises
    ------
    MetricError
        It is of something else.
    """

    def __init__(self, problem: Problem) -> None:
        like = similarity_of(problem.row.objective)
        if like is None:
            said = problem.row.objective.describe()["kind"]
            raise MetricError(f"{BOX_METRICS[0].name} is of a detector's box, not of a {said}")
        self._problem, self._like = problem, like
        self._subjects: dict[Objective, Subject] = {}

    def __call__(self, map: npt.NDArray[Any], metrics: Sequence[BoxMetric]) -> dict[str, float]:
        """Measure a map, [h, w], by name of the metric."""
        place = self._like.place
        return {
            each.name: each(self._subject(each.objective(self._like)), map, place)
            for each in metrics
        }

    def _subject(self, objective: Objective) -> Subject:
        if objective not in self._subjects:
            subject = subject_of(asking(self._problem, objective))
            self._subjects[objective] = remembering(subject)
        return self._subjects[objective]


def check_measurable(problem: Problem, metrics: Sequence[Metric]) -> None:
    """Raise `OptionError` where a metric is not defined of such an answer as this."""
    row = problem.row
    kind = row.objective.describe()["kind"]
    for each in metrics:
        if isinstance(each, BoxMetric) and similarity_of(row.objective) is None:
            raise OptionError(f"{each.name} is of a detector's box, not of a {kind}")
        if isinstance(each, LocalisationMetric) and explained_target(row).box is None:
            raise OptionError(f"{each.name} needs to know the object, and a {kind} has no place")


def stability_of(
    explainer: Explainer,
    problem: Problem,
    metrics: Sequence[StabilityMetric] = STABILITIES,
    *,
    seed: int = 0,
    method: Method | str | None = None,
) -> dict[str, float]:
    """Measure how stable a method is on a picture, at the size of the model's input.

    The answer that is explained is the same in each variant of the picture; `seed` and `method` are
    those of `Explainer.explain`.
    """

    def explain(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return explainer.map_of(problem, image, seed=seed, method=method)

    return stability(explain, problem.image[0], explainer.preprocessing.spec, metrics)


@dataclass(frozen=True)
class Threshold:
    """The worst value of a metric that is good enough.

    `over` tells whether higher values fail; by default those on the worse side of it.
    """

    metric: Metric
    value: float
    over: bool = False

    def miss(self, scores: Mapping[str, float], of: str = "") -> str:
        """Say how scores, by name of the metric, fall short; empty where they do not.

        `of` names what they are of.
        """
        score = scores[self.metric.name]
        high = self.over or not self.metric.higher_is_better
        if score <= self.value if high else score >= self.value:
            return ""
        side = "over" if high else "under"
        return f"{of}{self.metric.name} is {score:.6g}, {side} {self.value:g}"


class MetricSelection:
    """What is measured of maps, and what must be reached; all of it checked before any work.

    Parameters
    ----------
    metrics
        Names; none: the usual ones, those of boxes where one is explained, localisation where
        regions are known, stability where the map is made here.
    under, over
        Names and values that must be reached, or not exceeded. What they name is measured too.
    located
        Whether regions of the picture are known.
    boxed
        Whether a detector's box is explained.
    made
        Whether the map is made here, so that it can be made of variants of the picture too.

    Raises
    ------
    OptionError
        There is no such metric, a value is not finite, or what it needs is not given.
    """

    def __init__(
        self,
        metrics: Sequence[str] = (),
        under: Sequence[tuple[str, float]] = (),
        over: Sequence[tuple[str, float]] = (),
        *,
        located: bool = False,
        boxed: bool = False,
        made: bool = True,
    ) -> None:
        known: tuple[Metric, ...] = (*OF_METHODS, *REGION)
        self.thresholds = (
            *(Threshold(named(name, known), value) for name, value in under),
            *(Threshold(named(name, known), value, over=True) for name, value in over),
        )
        self.everything = not metrics
        usual: tuple[Metric, ...] = (
            *USUAL,
            *(BOX_METRICS if boxed else ()),
            *(STABILITIES if made else ()),
            *(LOCALISATION if located else ()),
        )
        wanted = [named(name, OF_METHODS) for name in metrics] or usual
        names = {each.name for each in (*wanted, *(each.metric for each in self.thresholds))}
        self.faithfulness = tuple(e for e in (*FAITHFULNESS, *IMPUTED) if e.name in names)
        self.boxes = tuple(each for each in BOX_METRICS if each.name in names)
        self.stability = tuple(each for each in STABILITIES if each.name in names)
        self.localisation = tuple(each for each in LOCALISATION if each.name in names)
        self._check(names, located, boxed, made)

    def _check(self, names: set[str], located: bool, boxed: bool, made: bool) -> None:
        if self.boxes and not boxed:
            raise OptionError(f"{self.boxes[0].name} is of a detector's box, and none is explained")
        for each in (*LOCALISATION, *REGION):
            if each.name in names and not located:
                raise OptionError(
                    f"{each.name} needs to know the object: give a box or a mask that is a part of "
                    "the picture"
                )
        if self.stability and not made:
            raise OptionError(
                f"{self.stability[0].name} is of a method, which makes maps of other pictures too; "
                "leave the map out"
            )
        for threshold in self.thresholds:
            if not np.isfinite(threshold.value):
                name, value = threshold.metric.name, threshold.value
                raise OptionError(f"{name} cannot reach {value}; give a number")

    def misses(
        self,
        scores: Mapping[str, float],
        regions: Mapping[str, Mapping[str, float]] | None = None,
    ) -> list[str]:
        """Say which thresholds are not reached.

        Parameters
        ----------
        scores
            Of the map, by name of the metric.
        regions
            Figures of each region, by its name.
        """
        found = []
        for each in self.thresholds:
            if each.metric in REGION:
                found += [each.miss(own, f"{name}: ") for name, own in (regions or {}).items()]
            else:
                found.append(each.miss(scores))
        return list(filter(None, found))


@dataclass(frozen=True)
class RegionFigures:
    """A region, what the model says of it, and how much of the map lies there."""

    name: str
    test: RegionTest
    share: float

    @property
    def scores(self) -> dict[str, float]:
        """By name of the metric: medians over the imputations, and the share."""
        without, only = self.test.median("without"), self.test.median("only")
        return {WITHOUT.name: without, ONLY.name: only, SHARE.name: self.share}


@dataclass(frozen=True)
class MapEvaluator:
    """Measures maps of one picture by a selection of metrics.

    Attributes
    ----------
    problem
        The picture and the answer.
    selection
        What is measured; stability is not measured here, for it is no map's.
    regions
        Parts of the picture; localisation takes them together for the object.

    Raises
    ------
    MetricError
        The model sees nothing of a region, or nothing else.
    """

    problem: Problem
    selection: MetricSelection
    regions: tuple[PictureRegion, ...] = ()

    def __post_init__(self) -> None:
        _ = self._seen, self._object

    @property
    def warnings(self) -> list[str]:
        """What there is to know of the regions: how much of them the model does not see."""
        geometry = self.problem.row.geometry
        seen = geometry.whole.restore(np.ones(geometry.model, np.float32)) > 0
        shares = {each.name: float(seen[each.pixels].mean()) for each in self.regions}
        return [
            f"{name}: the preprocessing crops {1 - share:.0%} of it away"
            for name, share in shares.items()
            if share < _SEEN
        ]

    def check(self, map: npt.NDArray[Any]) -> None:
        """Raise `MetricError` where a map has another size than picture and model's input."""
        at_model_size(self.problem, map)

    def __call__(self, map: npt.NDArray[Any], *, located: bool = True) -> dict[str, float]:
        """Measure a map, [H, W] or [h, w], by name of the metric.

        `located` tells whether localisation is measured too.

        Raises
        ------
        MetricError
            The map has another size, or is not finite; a metric is not defined here.
        """
        scores = {}
        if self.selection.faithfulness:
            scores = evaluate(self._subject, self.problem, map, self.selection.faithfulness)
        if self.selection.boxes:
            scores |= self._boxes(at_model_size(self.problem, map), self.selection.boxes)
        if self._object is None or not located:
            return scores
        found = {
            each.name: each(self._whole(map), self._object) for each in self.selection.localisation
        }
        return scores | found

    def compare(self, map: npt.NDArray[Any], seed: int = 0) -> list[Comparison]:
        """Hold a map against random ones as smooth as it (`metrics.verdict.compare`)."""
        return compare(self._subject, at_model_size(self.problem, map), seed=seed)

    def region_figures(self, map: npt.NDArray[Any]) -> list[RegionFigures]:
        """Test each region, and measure the share of a map that lies there."""
        return [
            RegionFigures(
                region.name,
                region_test(self._subject, seen),
                ENERGY(self._whole(map), region.pixels),
            )
            for region, seen in zip(self.regions, self._seen, strict=True)
        ]

    @property
    def region_map(self) -> npt.NDArray[np.float32] | None:
        """A map that is 1 in the regions and 0 elsewhere, [h, w]; None where there are none."""
        if not self._seen:
            return None
        return np.asarray(np.logical_or.reduce(self._seen), np.float32)

    def _whole(self, map: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return at_picture_size(self.problem, map)

    @cached_property
    def _boxes(self) -> BoxScores:
        return BoxScores(self.problem)

    @cached_property
    def _subject(self) -> Subject:
        return remembering(subject_of(self.problem))

    @cached_property
    def _seen(self) -> tuple[Region, ...]:
        """The regions at the size of the model's input."""
        return tuple(self._projected(each) for each in self.regions)

    def _projected(self, region: PictureRegion) -> Region:
        geometry = self.problem.row.geometry
        checked_region(region.pixels, geometry.picture)
        seen = seen_of(region, self.problem)
        if not seen.any():
            raise MetricError(
                f"{region.name}: the model sees nothing of it; the preprocessing crops it away, or "
                "it is smaller than a pixel of the model's input"
            )
        if seen.all():
            raise MetricError(f"{region.name} is all that the model sees; give a part of it")
        return seen

    @cached_property
    def _object(self) -> Region | None:
        """The regions together, at the size of the picture."""
        if not self.regions:
            return None
        whole = np.logical_or.reduce([each.pixels for each in self.regions])
        return checked_region(whole, self.problem.row.geometry.picture)
