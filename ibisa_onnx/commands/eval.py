"""`ibisa-onnx eval`: how true one map is to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, console_options, rows
from ibisa_onnx.commands.explaining import explaining_options, parse_target
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.report import target_text

if TYPE_CHECKING:
    import numpy.typing as npt

    from ibisa_onnx.metrics import Metric

_THIS, _RANDOM = "this map", "random"
_BOX = "box"


class _Floor(click.ParamType[tuple[str, float]]):
    """A metric and the value that it must reach."""

    name = "floor"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        name, separator, number = value.rpartition("=")
        try:
            if not (separator and name):
                raise ValueError("no name")
            return name, float(number)
        except ValueError:
            self.fail(f"{value!r} is not METRIC=NUMBER: insertion=0.6")


class _Box(click.ParamType[tuple[int, int, int, int]]):
    """A box in pixels of the picture."""

    name = _BOX

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
    metavar="METHODS",
    help="Score these too, beside a random map: rise, centred-rise, gradcam, occlusion.",
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
    against: str | None,
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
    from ibisa_onnx.baselines import RandomMap, Settings, method_named
    from ibisa_onnx.comparison import subject_of
    from ibisa_onnx.metrics import FAITHFULNESS, metric_named

    given = None if map_file is None else _read_map(map_file)
    wanted = [metric_named(name) for name in metrics] or list(FAITHFULNESS)
    wanted += [each for name, _ in floors if (each := _known(name)) and each not in wanted]
    rivals = [name.strip() for name in (against or "").split(",") if name.strip()]
    settings = Settings(masks=masks)
    methods = {_RANDOM: RandomMap(), **{name: method_named(name, settings) for name in rivals}}
    explainer = choice.explainer(**options)
    question = explainer.question(image, None if target is None else parse_target(target))
    maps, costs = {_THIS: given}, {}
    index = question.case.index
    with console.progress(Path(image).name) as bar:
        if given is None:
            found = explainer.explain(image, index, seed=seed, progress=bar)
            console.warn(found.warnings)
            maps[_THIS], costs[_THIS] = found.map, found.passes
        for name, method in methods.items():
            found = explainer.explain(image, index, seed=seed, progress=bar, method=method)
            maps[name], costs[name] = found.map, found.passes
    before = explainer.model.passes.snapshot()
    subject, scores = subject_of(question), {}
    for name, each in maps.items():
        assert each is not None
        scores[name] = _scores(subject, question, each, wanted, box)
    spent = explainer.model.passes.since(before).forward
    measured = [*wanted, *(_localisation() if box else [])]
    failed = [text for name, value in floors if (text := _failure(scores[_THIS], name, value))]
    console.result(
        _text(image, target_text(question.target), measured, scores, spent),
        {
            "image": image,
            "map": map_file,
            "target": {"index": index, "label": question.target.label},
            "scores": scores,
            "passes": {name: [each.forward, each.backward] for name, each in costs.items()},
            "checking_passes": spent,
            "failed": failed,
        },
        bare="\n".join(f"{name} {value:.4f}" for name, value in scores[_THIS].items()),
    )
    if failed:
        raise click.ClickException("; ".join(failed))


def _read_map(file: str) -> npt.NDArray[Any]:
    """Read a map, or say in one line why that cannot be."""
    import numpy as np

    from ibisa_onnx.errors import MetricError

    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MetricError(f"{file} cannot be read as a map ({error}); give a .npy file") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiub":
        raise MetricError(f"{file} holds no map: give an array [H, W] of numbers")
    return values


def _scores(
    subject: Any,
    question: Any,
    map: npt.NDArray[Any],
    metrics: Sequence[Any],
    box: tuple[int, int, int, int] | None,
) -> dict[str, float]:
    """Measure one map."""
    from ibisa_onnx.comparison import evaluate
    from ibisa_onnx.metrics import box_region

    scores = evaluate(subject, question, map, metrics)
    if box is None:
        return scores
    whole = question.geometry
    full = map if map.shape == whole.picture else whole.restore(map)
    region = box_region(box, whole.picture)
    return scores | {metric.name: metric(full, region) for metric in _localisation()}


def _localisation() -> Sequence[Any]:
    from ibisa_onnx.metrics import LOCALISATION

    return LOCALISATION


def _all_metrics() -> Sequence[Metric]:
    from ibisa_onnx.metrics import FAITHFULNESS

    return [*FAITHFULNESS, *_localisation()]


def _known(name: str) -> Any:
    """Return the faithfulness metric that is meant; None where it is one of localisation."""
    from ibisa_onnx.metrics import metric_named

    if any(_same(name, each.name) for each in _localisation()):
        return None
    return metric_named(name)


def _same(one: str, other: str) -> bool:
    plain = [text.lower().replace("-", "").replace(" ", "") for text in (one, other)]
    return plain[0] == plain[1]


def _failure(scores: Mapping[str, float], name: str, value: float) -> str:
    """Say how a score misses what was asked for; empty where it does not."""
    metric = next(each for each in _all_metrics() if _same(each.name, name))
    if metric.name not in scores:
        raise click.UsageError(f"{metric.name} needs --box")
    score = scores[metric.name]
    worse = score < value if metric.higher_is_better else score > value
    relation = "under" if metric.higher_is_better else "over"
    return f"{metric.name} is {score:.3f}, {relation} {value:g}" if worse else ""


def _text(
    image: str,
    target: str,
    metrics: Sequence[Any],
    scores: Mapping[str, Mapping[str, float]],
    spent: int,
) -> str:
    """Return the table that people read."""
    heads = list(scores)
    width = max(len(head) for head in heads)
    pairs = [("", "  ".join(f"{head:>{width}}" for head in heads))]
    for metric in metrics:
        values = "  ".join(f"{scores[head][metric.name]:{width}.3f}" for head in heads)
        pairs.append((f"{metric.name} {metric.arrow}", values))
    pairs.append(("cost", f"{spent} forward passes to check"))
    return "\n".join([click.style(f"{image}: {target}", bold=True), *rows(pairs)])
