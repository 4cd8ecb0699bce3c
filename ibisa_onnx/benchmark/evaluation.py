"""Evaluation of one map: faithfulness at the model's input size, localisation on the image."""

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
    from ibisa_onnx.methods.registry import MethodName

_BATCH = 8
_SEEN = 0.99  # fraction of a region inside the crop; below it there is a warning
USUAL: tuple[FaithfulnessMetric, ...] = (
    *(INSERTION, DELETION, INSERTION_MINUS_DELETION),
    *(LERF_MORF[each.name] for each in JUDGES),
)
"""Default metrics of a map: RISE's, and LeRF - MoRF by imputation."""
MapMetric = FaithfulnessMetric | BoxMetric | LocalisationMetric
"""A metric of one map; localisation uses the target's own box or region."""
OF_METHODS: tuple[MapMetric | StabilityMetric, ...] = (
    *FAITHFULNESS,
    *IMPUTED,
    *BOX_METRICS,
    *LOCALISATION,
    *STABILITIES,
)
"""All metrics of a method on an image; box and localisation metrics require a matching target."""


def subject_of(problem: Problem) -> Subject:
    """Return the subject of a one-row problem: the model's input, and the target's probability."""
    problem.check_batch_independence()
    batch = problem.filled(_BATCH)
    return Subject(problem.score, problem.image[0], problem.blank, batch)


def at_model_size(problem: Problem, map: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a map at the size of the model's input, [h, w].

    Parameters
    ----------
    problem
        A problem of one row.
    map
        Map at the size of the image, [H, W], or of the model's input, [h, w].

    Raises
    ------
    MetricError
        The map has another size.
    """
    geometry = problem.row.geometry
    if map.shape in (geometry.picture, geometry.shown):
        return geometry.project(map)
    if map.shape == geometry.model:
        return map
    raise MetricError(
        f"the map has shape {list(map.shape)}; pass one of the image's size "
        f"{list(geometry.picture)} or of the model's input {list(geometry.model)}"
    )


def at_picture_size(problem: Problem, map: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a map at the size of the image, [H, W]; parameters as for `at_model_size`."""
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
    """Compute metrics of a map, [H, W] or [h, w], by name of the metric.

    Raises
    ------
    MetricError
        The map has another size or is not finite, or a metric is undefined for this target.
    """
    if not np.isfinite(map).all():
        raise MetricError("the map contains NaN or infinite values; pass finite ones")
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
                f"{located[0].name} requires the object's location, and this target has none "
                "within the model's input"
            )
        whole = at_picture_size(problem, map)
        scores |= {each.name: each(whole, region.pixels) for each in located}
    return scores


class BoxScores:
    """Computes box metrics of maps of a detection, running the model once per image.

    Parameters
    ----------
    problem
        A problem whose target is a box.

    Raises
    ------
    MetricError
        The target is not a box.
    """

    def __init__(self, problem: Problem) -> None:
        like = similarity_of(problem.row.objective)
        if like is None:
            said = problem.row.objective.describe()["kind"]
            raise MetricError(f"{BOX_METRICS[0].name} requires a detector's box, not a {said}")
        self._problem, self._like = problem, like
        self._subjects: dict[Objective, Subject] = {}

    def __call__(self, map: npt.NDArray[Any], metrics: Sequence[BoxMetric]) -> dict[str, float]:
        """Compute metrics of a map, [h, w], by name of the metric."""
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
    """Raise `OptionError` if a metric is undefined for the problem's kind of target."""
    row = problem.row
    kind = row.objective.describe()["kind"]
    for each in metrics:
        if isinstance(each, BoxMetric) and similarity_of(row.objective) is None:
            raise OptionError(f"{each.name} requires a detector's box, not a {kind}")
        if isinstance(each, LocalisationMetric) and explained_target(row).box is None:
            raise OptionError(f"{each.name} requires the object's location; a {kind} has none")


def stability_of(
    explainer: Explainer,
    problem: Problem,
    metrics: Sequence[StabilityMetric] = STABILITIES,
    *,
    seed: int = 0,
    method: Method | MethodName | None = None,
) -> dict[str, float]:
    """Compute the stability of a method on an image, at the size of the model's input.

    The target is the same for each variant of the image; `seed` and `method` are as in
    `Explainer.explain`.
    """

    def explain(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return explainer.map_of(problem, image, seed=seed, method=method)

    return stability(explain, problem.image[0], explainer.preprocessing.spec, metrics)


@dataclass(frozen=True)
class Threshold:
    """The worst acceptable value of a metric.

    Attributes
    ----------
    metric
        The metric.
    value
        The threshold; the value itself passes.
    over
        Whether values above the threshold fail. By default values on its worse side fail.
    """

    metric: Metric
    value: float
    over: bool = False

    def miss(self, scores: Mapping[str, float], of: str = "") -> str:
        """Describe how scores, by name of the metric, miss the threshold; empty if they do not.

        `of` is a prefix that names what was scored.
        """
        score = scores[self.metric.name]
        high = self.over or not self.metric.higher_is_better
        if score <= self.value if high else score >= self.value:
            return ""
        side = "over" if high else "under"
        return f"{of}{self.metric.name} is {score:.6g}, {side} {self.value:g}"


class MetricSelection:
    """Metrics to compute and thresholds to check, validated before any work.

    Parameters
    ----------
    metrics
        Names of metrics. Default: the usual ones, plus box metrics for a box, localisation if
        regions are known, and stability if the map is computed here.
    under, over
        Names of metrics with the lowest (`under`) or highest (`over`) value that passes. These
        metrics are computed too.
    located
        Whether regions of the image are known.
    boxed
        Whether the target is a detector's box.
    made
        Whether the map is computed here, and so can be computed for variants of the image too.

    Raises
    ------
    OptionError
        A metric is unknown or its requirements are not met, or a threshold is not finite.
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
            raise OptionError(f"{self.boxes[0].name} requires a detector's box as target")
        for each in (*LOCALISATION, *REGION):
            if each.name in names and not located:
                raise OptionError(
                    f"{each.name} requires the object's location: pass a box or a mask that covers "
                    "part of the image"
                )
        if self.stability and not made:
            raise OptionError(
                f"{self.stability[0].name} is a metric of a method, which must explain variants of "
                "the image; omit the map"
            )
        for threshold in self.thresholds:
            if not np.isfinite(threshold.value):
                name, value = threshold.metric.name, threshold.value
                raise OptionError(f"the threshold of {name} is {value}; pass a finite number")

    def misses(
        self,
        scores: Mapping[str, float],
        regions: Mapping[str, Mapping[str, float]] | None = None,
    ) -> list[str]:
        """Describe each missed threshold.

        Parameters
        ----------
        scores
            Scores of the map, by name of the metric.
        regions
            Scores of each region, by name of the region.
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
    """The region test of a region, and the fraction of the map inside it."""

    name: str
    test: RegionTest
    share: float

    @property
    def scores(self) -> dict[str, float]:
        """Medians over the imputations and the map's fraction, by name of the metric."""
        without, only = self.test.median("without"), self.test.median("only")
        return {WITHOUT.name: without, ONLY.name: only, SHARE.name: self.share}


@dataclass(frozen=True)
class MapEvaluator:
    """Evaluates maps of one image by a selection of metrics.

    Attributes
    ----------
    problem
        The image and the target.
    selection
        The metrics. Stability is not computed here: it is a metric of a method, not of a map.
    regions
        Regions of the image; localisation uses their union as the object.

    Raises
    ------
    MetricError
        A region lies outside the model's input, or covers all of it.
    """

    problem: Problem
    selection: MetricSelection
    regions: tuple[PictureRegion, ...] = ()

    def __post_init__(self) -> None:
        _ = self._seen, self._object

    @property
    def warnings(self) -> list[str]:
        """Warnings about regions that the preprocessing crops."""
        geometry = self.problem.row.geometry
        seen = geometry.whole.restore(np.ones(geometry.model, np.float32)) > 0
        shares = {each.name: float(seen[each.pixels].mean()) for each in self.regions}
        return [
            f"{name}: preprocessing crops away {1 - share:.0%} of it"
            for name, share in shares.items()
            if share < _SEEN
        ]

    def check(self, map: npt.NDArray[Any]) -> None:
        """Raise `MetricError` if a map has neither the image's size nor the model input's."""
        at_model_size(self.problem, map)

    def __call__(self, map: npt.NDArray[Any], *, located: bool = True) -> dict[str, float]:
        """Compute the selected metrics of a map, [H, W] or [h, w], by name of the metric.

        `located` includes localisation.

        Raises
        ------
        MetricError
            The map has another size or is not finite, or a metric is undefined for this target.
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
        """Compare a map with equally smooth random maps (`metrics.verdict.compare`)."""
        return compare(self._subject, at_model_size(self.problem, map), seed=seed)

    def region_figures(self, map: npt.NDArray[Any]) -> list[RegionFigures]:
        """Run the region test on each region, and measure the fraction of a map inside it."""
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
        """A map that is 1 in the regions and 0 elsewhere, [h, w]; None if there are no regions."""
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
                f"{region.name} is not visible to the model: preprocessing crops it away, or it is "
                "smaller than a pixel of the model's input; choose another region"
            )
        if seen.all():
            raise MetricError(
                f"{region.name} covers the model's whole input; choose a smaller region"
            )
        return seen

    @cached_property
    def _object(self) -> Region | None:
        """The union of the regions, at the size of the image."""
        if not self.regions:
            return None
        whole = np.logical_or.reduce([each.pixels for each in self.regions])
        return checked_region(whole, self.problem.row.geometry.picture)
