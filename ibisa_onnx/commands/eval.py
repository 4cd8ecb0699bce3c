"""`ibisa-onnx eval`: how true one map is to the model."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, console_options, rows
from ibisa_onnx.commands.explaining import (
    MethodChoice,
    explaining_options,
    method_names,
    method_options,
    parse_target,
)
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.report import details_text, target_text

if TYPE_CHECKING:
    import numpy.typing as npt

    from ibisa_onnx import Explainer
    from ibisa_onnx.benchmark.evaluation import MetricSelection
    from ibisa_onnx.explanation import Passes
    from ibisa_onnx.methods.base import Method
    from ibisa_onnx.methods.problem import Problem

_THIS, _RANDOM, _OURS = "this map", "random", "ibisa"


class _Threshold(click.ParamType[tuple[str, float]]):
    """A metric and the value that it must reach."""

    name = "threshold"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        name, separator, number = value.rpartition("=")
        try:
            if not (separator and name and math.isfinite(float(number))):
                raise ValueError("no name, or no number")
            return name, float(number)
        except ValueError:
            self.fail(f"{value!r} is not METRIC=NUMBER: insertion=0.6")


class _Box(click.ParamType[tuple[int, int, int, int]]):
    """A box in pixels of the picture."""

    name = "box"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int, int, int]:
        try:
            left, top, right, bottom = (int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a box in pixels: LEFT,TOP,RIGHT,BOTTOM")
        return left, top, right, bottom


@click.command("eval", short_help="Check how true a map is to the model.")
@click.argument("model")
@click.argument("image")
@click.argument("map_file", metavar="[MAP.npy]", required=False)
@click.option(
    "-t", "--target", metavar="CLASS", help="What is explained: 207 or a label. Default: predicted."
)
@click.option(
    "--against",
    default="",
    metavar="METHODS",
    help="Score these too, beside a random map: rise,centred-rise,gradcam,occlusion.",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only these. Repeatable.")
@click.option(
    "--box",
    type=_Box(),
    metavar="L,T,R,B",
    help="Where the object is, in pixels of the picture: measures localisation too.",
)
@click.option(
    "--fail-under",
    "thresholds",
    type=_Threshold(),
    multiple=True,
    metavar="METRIC=VALUE",
    help="Exit with 1 where the map is worse (where lower is better: above it). Repeatable.",
)
@method_options
@model_options
@explaining_options
@console_options
def command(
    console: Console,
    image: str,
    map_file: str | None,
    target: str | None,
    against: str,
    metrics: tuple[str, ...],
    box: tuple[int, int, int, int] | None,
    thresholds: tuple[tuple[str, float], ...],
    choice: ModelChoice,
    methods: MethodChoice,
    seed: int,
    **options: Any,
) -> None:
    """Check how true a map of IMAGE is to what MODEL does when pixels come and go.

    MAP.npy is a map of the picture's or of the model's input's size; without one the picture is
    explained first. A random map is scored beside it, for what the figures are worth.
    """
    from ibisa_onnx.benchmark.evaluation import MapEvaluator, MetricSelection

    if [choice.model, image, map_file].count(STDIO) > 1:
        raise click.UsageError("only one of MODEL, IMAGE and MAP can be -, stdin is read once")
    from ibisa_onnx.targets.classification import count

    if target is not None and count(target) > 1:
        raise click.UsageError(f"--target {target} is several classes; eval takes one")
    selection = MetricSelection(metrics, thresholds, box)
    names = _names(against)
    methods.check(names)
    given = _read(map_file)
    explainer = choice.explainer(**options)
    picture = sys.stdin.buffer.read() if image == STDIO else image
    problem = explainer.problem(picture, None if target is None else parse_target(target))
    evaluator = MapEvaluator(problem, selection)
    if given is not None:
        evaluator.check(given)
    work = _Maps(console, explainer, picture, problem, seed)
    warn = lambda path, text: console.warn([f"{path}: {text}"])  # noqa: E731
    makers = {
        _THIS if name == _OURS else name: methods.named(name, explainer, [], warn)[0]
        for name in (*([_OURS] if given is None else []), *names)
    }
    maps = ({} if given is None else {_THIS: given}) | work.explain(makers)
    console.warn(explainer.warnings)
    before = problem.passes.forward
    with console.progress("checking") as bar:
        scores = {}
        for done, (name, each) in enumerate(maps.items()):
            bar(done, len(maps))
            scores[name] = evaluator(each)
    spent = problem.passes.forward - before
    misses = selection.misses(scores[_THIS])
    console.result(
        _text(image, problem, selection, scores, work.costs, spent),
        _record(image, map_file, problem, scores, work.costs, spent, misses),
        bare="\n".join(f"{name} {value:.4f}" for name, value in scores[_THIS].items()),
    )
    if misses:
        raise click.ClickException("; ".join(misses))


def _names(against: str) -> list[str]:
    """Return the methods that IBISA's map is compared with."""
    names = method_names(against)
    if "iba" in names:
        raise click.UsageError("iba estimates from many pictures; compare it by ibisa-onnx bench")
    return list(dict.fromkeys((_RANDOM, *names)))


def _read(map_file: str | None) -> npt.NDArray[Any] | None:
    """Read the map that was given, if one was."""
    from ibisa_onnx.benchmark.maps import read_map

    if map_file is None:
        return None
    return read_map(sys.stdin.buffer.read() if map_file == STDIO else Path(map_file))


@dataclass
class _Maps:
    """The maps that are made here, and what they cost."""

    console: Console
    explainer: Explainer
    picture: str | bytes
    problem: Problem
    seed: int

    def __post_init__(self) -> None:
        self.costs: dict[str, Passes] = {}

    def explain(self, makers: Mapping[str, Method]) -> dict[str, npt.NDArray[Any]]:
        """Make the maps; what cannot be made is said before any of them is."""
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
        return found.map


def _record(
    image: str,
    map_file: str | None,
    problem: Problem,
    scores: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, Passes],
    spent: int,
    misses: Sequence[str],
) -> dict[str, Any]:
    """Return the result as plain data."""
    from ibisa_onnx.pipeline import explained_target

    target = explained_target(problem.row)
    return {
        "image": image,
        "map": map_file,
        "target": {
            "index": target.index,
            "label": target.label,
            "probability": target.probability,
        },
        "scores": scores,
        "passes": {name: [each.forward, each.backward] for name, each in costs.items()},
        "checking_passes": spent,
        "failed": misses,
    }


def _text(
    image: str,
    problem: Problem,
    selection: MetricSelection,
    scores: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, Passes],
    spent: int,
) -> str:
    """Return the table that people read."""
    from ibisa_onnx.pipeline import explained_target

    passes = {name: f"{each.forward} + {each.backward}" for name, each in costs.items()}
    width = max(len(text) for text in (*scores, *passes.values()))
    pairs = [("", _line(scores, width))]
    for metric in selection.metrics:
        values = [f"{each[metric.name]:.3f}" for each in scores.values()]
        pairs.append((f"{metric.name} {metric.arrow}", _line(values, width)))
    pairs.append(("passes", _line([passes.get(name, "") for name in scores], width)))
    pairs.append(("checked by", f"{spent} forward passes"))
    head = f"{image}: {target_text(explained_target(problem.row))}"
    return "\n".join([click.style(head, bold=True), *rows(pairs)])


def _line(cells: Sequence[str] | Mapping[str, object], width: int) -> str:
    return "  ".join(f"{cell:>{width}}" for cell in cells)
