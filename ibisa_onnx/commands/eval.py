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
from ibisa_onnx.commands.explaining import explaining_options, method_names, parse_target
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.report import details_text, target_text

if TYPE_CHECKING:
    import numpy.typing as npt

    from ibisa_onnx import Explainer
    from ibisa_onnx.benchmark.evaluation import Checklist
    from ibisa_onnx.explanation import Passes
    from ibisa_onnx.methods.base import Method
    from ibisa_onnx.pipeline import Question

_THIS, _RANDOM = "this map", "random"


class _Floor(click.ParamType[tuple[str, float]]):
    """A metric and the value that it must reach."""

    name = "floor"

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
@click.option("--masks", type=click.IntRange(1), default=4000, show_default=True, help="Of RISE.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only these. Repeatable.")
@click.option(
    "--box",
    type=_Box(),
    metavar="L,T,R,B",
    help="Where the object is, in pixels of the picture: measures localisation too.",
)
@click.option(
    "--fail-under",
    "floors",
    type=_Floor(),
    multiple=True,
    metavar="METRIC=VALUE",
    help="Exit with 1 where the map is worse (where lower is better: above it). Repeatable.",
)
@model_options
@explaining_options
@console_options
def command(
    console: Console,
    image: str,
    map_file: str | None,
    target: str | None,
    against: str,
    masks: int,
    metrics: tuple[str, ...],
    box: tuple[int, int, int, int] | None,
    floors: tuple[tuple[str, float], ...],
    choice: ModelChoice,
    seed: int,
    **options: Any,
) -> None:
    """Check how true a map of IMAGE is to what MODEL does when pixels come and go.

    MAP.npy is a map of the picture's or of the model's input's size; without one the picture is
    explained first. A random map is scored beside it, for what the figures are worth.
    """
    from ibisa_onnx.benchmark.evaluation import Checklist, Examiner

    if [choice.model, image, map_file].count(STDIO) > 1:
        raise click.UsageError("only one of MODEL, IMAGE and MAP can be -, stdin is read once")
    checklist = Checklist(metrics, floors, box)
    makers = _makers(against, masks, ours=map_file is None)
    given = _read(map_file)
    explainer = choice.explainer(**options)
    picture = sys.stdin.buffer.read() if image == STDIO else image
    question = explainer.question(picture, None if target is None else parse_target(target))
    examiner = Examiner(question, checklist)
    if given is not None:
        examiner.check(given)
    work = _Work(console, explainer, picture, question, seed)
    maps = ({} if given is None else {_THIS: given}) | work.explain(makers)
    console.warn(explainer.warnings)
    before = explainer.model.passes.snapshot()
    with console.progress("checking") as bar:
        scores = {}
        for done, (name, each) in enumerate(maps.items()):
            bar(done, len(maps))
            scores[name] = examiner(each)
    spent = explainer.model.passes.since(before).forward
    misses = checklist.misses(scores[_THIS])
    console.result(
        _text(image, question, checklist, scores, work.costs, spent),
        _record(image, map_file, question, scores, work.costs, spent, misses),
        bare="\n".join(f"{name} {value:.4f}" for name, value in scores[_THIS].items()),
    )
    if misses:
        raise click.ClickException("; ".join(misses))


def _makers(against: str, masks: int, *, ours: bool) -> dict[str, Method | None]:
    """Return what makes the maps that nobody gave, by name; None: IBISA."""
    from ibisa_onnx.methods.registry import Settings, method_named

    names = method_names(against)
    if "iba" in names:
        raise click.UsageError("iba estimates from many pictures; compare it by ibisa-onnx bench")
    rivals = {name: method_named(name, Settings(masks=masks)) for name in (_RANDOM, *names)}
    return {_THIS: None, **rivals} if ours else {**rivals}


def _read(map_file: str | None) -> npt.NDArray[Any] | None:
    """Read the map that was given, if one was."""
    from ibisa_onnx.benchmark.maps import read_map

    if map_file is None:
        return None
    return read_map(sys.stdin.buffer.read() if map_file == STDIO else Path(map_file))


@dataclass
class _Work:
    """The maps that are made here, and what they cost."""

    console: Console
    explainer: Explainer
    picture: str | bytes
    question: Question
    seed: int

    def __post_init__(self) -> None:
        self.costs: dict[str, Passes] = {}

    def explain(self, makers: Mapping[str, Method | None]) -> dict[str, npt.NDArray[Any]]:
        """Make the maps; what cannot be made is said before any of them is."""
        for method in makers.values():
            self.explainer.open(self.question, method)
        return {name: self._map(name, method) for name, method in makers.items()}

    def _map(self, name: str, method: Method | None) -> npt.NDArray[Any]:
        with self.console.progress(name) as bar:
            found = self.explainer.explain(
                self.picture,
                self.question.case.index,
                seed=self.seed,
                progress=bar,
                method=method,
            )
        if method is None:
            self.console.note(details_text(found))
        prefix = "" if method is None else f"{name}: "
        known = self.explainer.warnings
        self.console.warn([f"{prefix}{text}" for text in found.warnings if text not in known])
        self.costs[name] = found.passes
        return found.map


def _record(
    image: str,
    map_file: str | None,
    question: Question,
    scores: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, Passes],
    spent: int,
    misses: Sequence[str],
) -> dict[str, Any]:
    """Return the result as plain data."""
    target = question.target
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
    question: Question,
    checklist: Checklist,
    scores: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, Passes],
    spent: int,
) -> str:
    """Return the table that people read."""
    passes = {name: f"{each.forward} + {each.backward}" for name, each in costs.items()}
    width = max(len(text) for text in (*scores, *passes.values()))
    pairs = [("", _line(scores, width))]
    for metric in checklist.metrics:
        values = [f"{each[metric.name]:.3f}" for each in scores.values()]
        pairs.append((f"{metric.name} {metric.arrow}", _line(values, width)))
    pairs.append(("passes", _line([passes.get(name, "") for name in scores], width)))
    pairs.append(("checked by", f"{spent} forward passes"))
    head = f"{image}: {target_text(question.target)}"
    return "\n".join([click.style(head, bold=True), *rows(pairs)])


def _line(cells: Sequence[str] | Mapping[str, object], width: int) -> str:
    return "  ".join(f"{cell:>{width}}" for cell in cells)
