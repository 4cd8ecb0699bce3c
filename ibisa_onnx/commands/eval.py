"""`ibisa-onnx eval`: measure how faithful one map is to the model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, Line, Styled, console_options, heading, rows
from ibisa_onnx.commands.deadlines import deadline_of_all
from ibisa_onnx.commands.explaining import (
    MethodChoice,
    explaining_options,
    method_names,
    method_options,
)
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, expand
from ibisa_onnx.commands.report import details_text, target_text
from ibisa_onnx.commands.stdin import piped, piped_picture
from ibisa_onnx.commands.target_options import AskedTargets, Region, target_options
from ibisa_onnx.commands.usage import MAP_FILE, usage_errors
from ibisa_onnx.errors import MetricError, OptionError

if TYPE_CHECKING:
    import numpy.typing as npt

    from ibisa_onnx import Explainer
    from ibisa_onnx.benchmark.evaluation import MapEvaluator, MetricSelection, RegionFigures
    from ibisa_onnx.benchmark.regions import PictureRegion
    from ibisa_onnx.methods.base import Method
    from ibisa_onnx.methods.problem import Problem
    from ibisa_onnx.metrics import Comparison, Verdict
    from ibisa_onnx.statements import Passes

_THIS, _RANDOM, _REGION, _OURS = "this map", "smooth random", "region", "ibisa"


class _Threshold(click.ParamType[tuple[str, float]]):
    """A metric and its threshold."""

    name = "threshold"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        name, separator, number = value.rpartition("=")
        try:
            if not (separator and name and math.isfinite(float(number))):
                raise ValueError("name or number missing")
            return name, float(number)
        except ValueError:
            self.fail(f"{value!r} is not METRIC=NUMBER, e.g. insertion=0.6")


@click.command("eval", short_help="Measure how faithful an attribution map is.")
@click.argument("model")
@click.argument("image")
@click.argument("map_file", metavar="[MAP.npy]", required=False, type=MAP_FILE)
@target_options
@click.option(
    "--against",
    default="",
    metavar="METHODS",
    help="Other methods to score, separated by commas: rise, centred-rise, drise, gradcam, "
    "occlusion, random.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Compute only this metric. Repeatable. Default: all that apply.",
)
@click.option(
    "--within",
    type=Region(),
    multiple=True,
    metavar="L,T,R,B|MASK",
    help="Region of the object, or of a suspected shortcut: a box in pixels of the image, a mask "
    "file (nonzero inside), or a folder of masks. Adds localisation metrics, and the prediction "
    "without the region and for the region alone. Repeatable. Default: the target's own region.",
)
@click.option(
    "--fail-under",
    "under",
    type=_Threshold(),
    multiple=True,
    metavar="METRIC=VALUE",
    help="Exit with code 1 if the map scores worse than VALUE (above it, if lower is better). "
    "Repeatable.",
)
@click.option(
    "--fail-over",
    "over",
    type=_Threshold(),
    multiple=True,
    metavar="METRIC=VALUE",
    help="Exit with code 1 if METRIC exceeds VALUE, e.g. without=0.5 of a region. Repeatable.",
)
@method_options
@model_options
@explaining_options
@deadline_of_all
@console_options
def command(
    console: Console,
    image: str,
    map_file: str | None,
    asked: AskedTargets,
    against: str,
    metrics: tuple[str, ...],
    within: tuple[tuple[float, ...] | str, ...],
    under: tuple[tuple[str, float], ...],
    over: tuple[tuple[str, float], ...],
    choice: ModelChoice,
    methods: MethodChoice,
    seed: int,
    **options: Any,
) -> None:
    """Measure how faithful a map of IMAGE is to MODEL under insertion, deletion and masking.

    MAP.npy has the size of IMAGE or of the model input; if omitted, IMAGE is explained first. The
    map is compared with equally smooth random maps under several imputations. The last line is a
    verdict on whether to trust the map; it requires all metrics, so --metric omits it.
    """
    from ibisa_onnx.benchmark.answers import calibrated
    from ibisa_onnx.benchmark.evaluation import MetricSelection

    if [choice.model, image, map_file].count(STDIO) > 1:
        raise click.UsageError("only one of MODEL, IMAGE and MAP can be -; stdin is read once")
    target = asked.single("eval", choice.output)
    select = functools.partial(MetricSelection, metrics, under, over, made=map_file is None)
    with usage_errors(OptionError, MetricError):
        select(located=True, boxed=True)  # rejects unknown metrics before any work
    names = _names(against)
    methods.check(names)
    given = _read(map_file)
    explainer = choice.for_values(asked.reads_output).explainer(**options)
    picture = piped_picture() if image == STDIO else image
    problem = calibrated(explainer.problem(picture, target))
    evaluator = _evaluator(problem, select, within)
    console.warn(evaluator.warnings)
    if given is not None:
        evaluator.check(given)
        console.warn(problem.row.objective.warnings(problem.row.answer))
    work = _Maps(console, explainer, picture, problem, seed)
    warn = lambda path, text: console.warn([f"{path}: {text}"])  # noqa: E731
    makers = {
        _THIS if name == _OURS else name: methods.named(name, explainer, [], warn)[0]
        for name in (*([_OURS] if given is None else []), *names)
    }
    maps = ({} if given is None else {_THIS: given}) | work.explain(makers)
    console.warn(explainer.warnings)
    found = _measure(work, evaluator, maps)
    console.result(
        _text(image, evaluator, found, work.costs),
        _record(image, map_file, problem, found, work.costs),
        bare=[f"{name} {value:.4f}" for name, value in found.scores[_THIS].items()],
    )
    if found.misses:
        raise click.ClickException("; ".join(found.misses))


def _names(against: str) -> list[str]:
    """Return the methods that the map is compared with."""
    names = method_names(against)
    if "iba" in names:
        raise click.UsageError(
            "eval does not support iba, which requires many images; use ibisa-onnx bench"
        )
    return names


def _read(map_file: str | None) -> npt.NDArray[Any] | None:
    """Read the map, if one was passed."""
    from ibisa_onnx.benchmark.maps import read_map

    if map_file is None:
        return None
    return read_map(piped("the map", MetricError) if map_file == STDIO else Path(map_file))


def _evaluator(
    problem: Problem,
    select: Callable[..., MetricSelection],
    within: Sequence[tuple[float, ...] | str],
) -> MapEvaluator:
    """Return an evaluator with all metrics that are defined for this target."""
    from ibisa_onnx.benchmark.evaluation import MapEvaluator
    from ibisa_onnx.targets.boxes import similarity_of

    regions = _regions(within, problem)
    boxed = similarity_of(problem.row.objective) is not None
    return MapEvaluator(problem, select(located=bool(regions), boxed=boxed), regions)


def _regions(
    within: Sequence[tuple[float, ...] | str], problem: Problem
) -> tuple[PictureRegion, ...]:
    """Return the regions that were passed; if none, the target's own."""
    from ibisa_onnx.benchmark.maps import read_region
    from ibisa_onnx.benchmark.regions import box_of_picture, own_region

    if not within:
        own = own_region(problem)
        return () if own is None else (own,)
    picture, found = problem.row.geometry.picture, []
    for each in within:
        if isinstance(each, str):
            found += [read_region(Path(file), picture) for file in expand([each])]
        else:
            left, top, right, bottom = each
            found.append(box_of_picture((left, top, right, bottom), picture))
    return tuple(found)


@dataclass
class _Maps:
    """Computes maps and records their cost."""

    console: Console
    explainer: Explainer
    picture: str | bytes
    problem: Problem
    seed: int

    def __post_init__(self) -> None:
        self.costs: dict[str, Passes] = {}
        self.fidelity: dict[str, bool] = {}
        self.flat: dict[str, bool] = {}

    def explain(self, makers: Mapping[str, Method]) -> dict[str, npt.NDArray[Any]]:
        """Compute the maps; unsupported methods raise before any work."""
        for method in makers.values():
            self.explainer.prepare(self.problem, method)
        return {name: self._map(name, method) for name, method in makers.items()}

    def _map(self, name: str, method: Method) -> npt.NDArray[Any]:
        with self.console.progress(name) as bar:
            found = self.explainer.explain(
                self.picture,
                self.problem.row.objective,
                seed=self.seed,
                progress=bar,
                method=method,
            )
        if name == _THIS:
            self.console.note(details_text(found))
        prefix = "" if name == _THIS else f"{name}: "
        known = self.explainer.warnings
        self.console.warn([f"{prefix}{text}" for text in found.warnings if text not in known])
        self.costs[name] = found.passes
        self.fidelity[name] = found.certificate.holds
        self.flat[name] = found.flat
        return found.map


@dataclass(frozen=True)
class _Findings:
    """All results.

    `verdict` is None if only some metrics were requested; `passes` counts forward passes.
    """

    scores: dict[str, dict[str, float]]
    comparisons: list[Comparison]
    regions: list[RegionFigures]
    verdict: Verdict | None
    misses: list[str]
    passes: int


def _measure(
    work: _Maps, evaluator: MapEvaluator, maps: Mapping[str, npt.NDArray[Any]]
) -> _Findings:
    """Measure all maps, and reach a verdict on the first."""
    import numpy as np

    from ibisa_onnx.benchmark.evaluation import at_model_size, stability_of
    from ibisa_onnx.metrics import smooth_random

    problem, selection, map = work.problem, evaluator.selection, maps[_THIS]
    random = smooth_random(at_model_size(problem, map), np.random.default_rng(work.seed))
    columns = {_THIS: map, _RANDOM: random}
    if evaluator.region_map is not None:
        columns[_REGION] = evaluator.region_map
    columns |= {name: each for name, each in maps.items() if name != _THIS}
    with work.console.progress("metrics") as bar:
        scores = {}
        for done, (name, each) in enumerate(columns.items()):
            bar(done, len(columns))
            scores[name] = evaluator(each, located=name != _REGION)
    with work.console.progress("stability"):
        if selection.stability:
            scores[_THIS] |= stability_of(
                work.explainer, problem, selection.stability, seed=work.seed
            )
    regions = evaluator.region_figures(map)
    with work.console.progress("random maps"):
        comparisons = evaluator.compare(map, work.seed) if selection.everything else []
    figures = {each.name: each.scores for each in regions}
    return _Findings(
        scores,
        comparisons,
        regions,
        _judge(work, map, comparisons, scores[_THIS]) if comparisons else None,
        selection.misses(scores[_THIS], figures),
        problem.passes.forward,
    )


def _judge(
    work: _Maps,
    map: npt.NDArray[Any],
    comparisons: Sequence[Comparison],
    scores: Mapping[str, float],
) -> Verdict:
    from ibisa_onnx.metrics import STABILITY, judge

    return judge(
        comparisons,
        flat=work.flat.get(_THIS, bool(map.max() == map.min())),
        fidelity=work.fidelity.get(_THIS),
        stability=scores.get(STABILITY.name),
    )


def _record(
    image: str,
    map_file: str | None,
    problem: Problem,
    found: _Findings,
    costs: Mapping[str, Passes],
) -> dict[str, Any]:
    """Return the result as plain data."""
    from ibisa_onnx.io.formats import jsonable
    from ibisa_onnx.pipeline import explained_target

    target, verdict = explained_target(problem.row), found.verdict
    return {
        "image": image,
        "map": map_file,
        "target": {
            "caption": target.caption,
            "index": target.index,
            "label": target.label,
            "probability": target.probability,
            "details": jsonable(target.details),
        },
        "scores": found.scores,
        "comparisons": [
            {**asdict(each), "beaten": each.beaten, "decides": each.decides}
            for each in found.comparisons
        ],
        "regions": [
            {"region": each.name, **each.scores, "by_imputation": asdict(each.test)}
            for each in found.regions
        ],
        "verdict": None if verdict is None else asdict(verdict),
        "passes": {name: [each.forward, each.backward] for name, each in costs.items()},
        "checking_passes": found.passes,
        "failed": found.misses,
    }


def _text(
    image: str, evaluator: MapEvaluator, found: _Findings, costs: Mapping[str, Passes]
) -> list[Line]:
    """Return the result as a table of text."""
    from ibisa_onnx.pipeline import explained_target

    selection, scores = evaluator.selection, found.scores
    passes = {name: f"{each.forward} + {each.backward}" for name, each in costs.items()}
    width = max(len(text) for text in (*scores, *passes.values()))
    beaten = {f"LeRF - MoRF ({e.imputation})": _beaten(e) for e in found.comparisons}
    pairs: list[tuple[Line, str]] = [
        ("", _line([*scores, "random beaten"] if beaten else [*scores], width))
    ]
    groups = {
        "faithfulness": selection.faithfulness,
        "detection": selection.boxes,
        "stability": selection.stability,
        "localisation": selection.localisation,
    }
    for title, metrics in groups.items():
        pairs += [(heading(title), "")] if metrics else []
        for metric in metrics:
            cells = [_cell(each.get(metric.name)) for each in scores.values()]
            cells += [beaten[metric.name]] if metric.name in beaten else []
            pairs.append((f"  {metric.name} {metric.arrow}", _line(cells, width)))
    pairs += [(heading("regions"), "")] if found.regions else []
    pairs += [(f"  {each.name}", _region_text(each)) for each in found.regions]
    if passes:
        pairs.append(("passes", _line([passes.get(name, "") for name in scores], width)))
    pairs.append(("evaluation", f"{found.passes} forward passes"))
    head = f"{image}: {target_text(explained_target(evaluator.problem.row))}"
    verdict = [_verdict_text(found.verdict)] if found.verdict else []
    return [heading(head), *rows(pairs), *verdict]


def _beaten(comparison: Comparison) -> str:
    if not comparison.decides:
        return "no effect"
    return f"{comparison.beaten} of {len(comparison.random)}"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _region_text(figures: RegionFigures) -> str:
    """Return the predictions for a region: medians and ranges over the imputations."""
    test = figures.test
    without, only = (
        f"{100 * test.median(name):.0f}% ({100 * min(of.values()):.0f} to "
        f"{100 * max(of.values()):.0f})"
        for name, of in (("without", test.without), ("only", test.only))
    )
    return (
        f"without this region: {100 * test.whole:.0f}% → {without}; only this region: {only}; "
        f"fraction of the map: {100 * figures.share:.0f}%"
    )


def _verdict_text(verdict: Verdict) -> Styled:
    colour = {True: "green", False: "red", None: "yellow"}[verdict.trusted]
    return Styled(f"{verdict.text[0].upper()}{verdict.text[1:]}.", colour=colour)


def _line(cells: Sequence[str], width: int) -> str:
    return "  ".join(f"{cell:>{width}}" for cell in cells)
