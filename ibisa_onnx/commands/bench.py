"""`ibisa-onnx bench`: compare IBISA with other methods on a user's own model and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import (
    INTERRUPTED,
    Bar,
    Console,
    Line,
    console_options,
    counted,
    duration,
    report_error,
)
from ibisa_onnx.commands.explaining import (
    MethodChoice,
    TooFewPicturesError,
    explaining_options,
    method_names,
    method_options,
)
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, check_folder, expand
from ibisa_onnx.commands.target_options import AskedTargets, target_options
from ibisa_onnx.commands.usage import usage_errors
from ibisa_onnx.ending import ExitMessage
from ibisa_onnx.errors import MetricError, OptionError

if TYPE_CHECKING:
    from ibisa_onnx import Explainer
    from ibisa_onnx.benchmark.row import ScoreRow
    from ibisa_onnx.benchmark.runner import Benchmark, Entry
    from ibisa_onnx.benchmark.table import Table
    from ibisa_onnx.metrics import Interval

_OURS = "ibisa"
_METRICS = ("insertion", "deletion", "insertion - deletion")


@click.command("bench", short_help="Compare IBISA with other methods on your images.")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@target_options
@click.option(
    "--against",
    default="rise,gradcam,iba,occlusion",
    show_default=True,
    metavar="METHODS",
    help="Methods to compare with, separated by commas: rise, centred-rise, drise, gradcam, iba, "
    "occlusion, random.",
)
@click.option(
    "-o",
    "--out",
    metavar="FOLDER",
    help="Folder for the results. Default: MODEL.bench beside MODEL.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    default=_METRICS,
    show_default=True,
    help="Metric to compute. Repeatable; differences are those of the last one. Metrics that hide "
    "pixels accept an imputation: 'LeRF - MoRF (mean)'. For boxes: 'insertion (D-RISE)', 'energy'. "
    "'stability' explains each image four more times.",
)
@click.option(
    "--every", type=click.IntRange(1), default=1, metavar="N", help="Use every Nth image."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use at most N images.")
@click.option("--keep-maps", is_flag=True, help="Save all maps (.npy) in FOLDER/maps.")
@method_options
@model_options
@explaining_options
@console_options
def command(
    console: Console,
    images: tuple[str, ...],
    asked: AskedTargets,
    against: str,
    out: str | None,
    metrics: tuple[str, ...],
    every: int,
    limit: int | None,
    keep_maps: bool,
    choice: ModelChoice,
    methods: MethodChoice,
    seed: int,
    **options: Any,
) -> None:
    """Compare IBISA with other methods on MODEL and each IMAGE, a file or a folder of images.

    All methods explain the same target (by default the top prediction), and all maps are measured
    the same way. Writes table.md, table.csv, plot.png and scores.csv, which has one row per image
    and method; an interrupted run resumes from it.
    """
    from ibisa_onnx.benchmark.evaluation import OF_METHODS
    from ibisa_onnx.benchmark.extra import check_extra
    from ibisa_onnx.benchmark.maps import MapFolder
    from ibisa_onnx.benchmark.runner import Benchmark
    from ibisa_onnx.benchmark.store import Store
    from ibisa_onnx.benchmark.table import Table
    from ibisa_onnx.metrics import named
    from ibisa_onnx.models.onnx_file import beside

    if STDIO in (choice.model, *images):
        raise click.UsageError(
            "bench does not support -, since it reads its inputs more than once; pass files"
        )
    target = asked.single("bench", choice.output)
    names = method_names(against)
    methods.check(names)
    check_extra()
    with usage_errors(OptionError, MetricError):
        wanted = list(dict.fromkeys(named(name, OF_METHODS) for name in metrics))
    pictures = [Path(each) for each in expand(images)]
    folder = Path(out) if out else beside(choice.model, ".bench")
    store = Store(folder / "scores.csv", [metric.name for metric in wanted])
    with console.progress("bench") as bar:
        listener = _Listener(console, bar)
        explainer = choice.for_values(asked.reads_output).explainer(**options)
        check_folder(folder)
        entries = _entries(names, methods, explainer, pictures, listener)
        benchmark = Benchmark(
            explainer=explainer,
            entries=entries,
            images=pictures[::every][:limit],
            metrics=wanted,
            store=store,
            seed=seed,
            target=target,
            maps=MapFolder(folder / "maps") if keep_maps else None,
            listener=listener,
        )
        known = len(store.rows)
        rows = _measure(benchmark, listener)
    console.warn(explainer.warnings)
    table = Table(rows, [entry.name for entry in entries], wanted)
    paths = [*_write(table, folder, Path(choice.model).stem), store.path]
    old = len(rows) - (len(store.rows) - known)
    bare = table.markdown().splitlines()
    console.result(_text(table, paths, old), _record(table, paths, listener), bare=bare)
    if listener.left_out:
        console.warn(
            [f"skipped {len(listener.left_out)} of {counted(len(benchmark.images), 'image')}"]
        )
        raise click.exceptions.Exit(1)


@dataclass
class _Listener:
    """Reports single images above the progress bar."""

    console: Console
    bar: Bar
    left_out: list[Path] = field(default_factory=list)

    def failed(self, image: Path, error: Exception) -> None:
        """Report an image that is skipped."""
        self.left_out.append(image)
        self.bar.wipe()
        report_error(str(error) if str(image) in str(error) else f"{image}: {error}")

    def warned(self, image: Path, text: str) -> None:
        """Report a warning about an image."""
        self.bar.wipe()
        self.console.warn([f"{image}: {text}"])

    def measured(self, row: ScoreRow) -> None:
        """Report the scores of a map if verbose."""
        if self.console.verbose:
            self.bar.wipe()
        scores = ", ".join(f"{name} {value:.3f}" for name, value in row.scores.items())
        cost = f"{row.forward} + {row.backward} passes, {duration(row.seconds)}"
        self.console.note([f"{row.image}, {row.method}: {scores}; {cost}"])


def _entries(
    names: Sequence[str],
    methods: MethodChoice,
    explainer: Explainer,
    pictures: Sequence[Path],
    listener: _Listener,
) -> list[Entry]:
    """Return IBISA and the methods it is compared with.

    With a single image and other methods left, IBA is skipped with a warning.
    """
    from ibisa_onnx.benchmark.runner import Entry

    entries = []
    for name in dict.fromkeys((_OURS, *names)):
        try:
            method, files = methods.named(name, explainer, pictures, listener.warned)
        except TooFewPicturesError:
            if len(pictures) != 1 or methods.iba_images or not set(names) - {_OURS, name}:
                raise
            listener.console.warn(
                [f"{name} skipped: it requires at least 2 images; pass --iba-images"]
            )
            continue
        entries.append(Entry(name, method, files))
    return entries


def _measure(benchmark: Benchmark, listener: _Listener) -> list[ScoreRow]:
    """Measure what is missing; on interruption, explain how to resume."""
    rows: list[ScoreRow] = []

    def message() -> str:
        return (
            f"interrupted after {counted(len(rows), 'map')}; rerun the same command to resume from "
            f"{benchmark.store.path}"
        )

    try:
        with ExitMessage(message):
            for row in benchmark.run(listener.bar):
                rows.append(row)
                listener.measured(row)
    except KeyboardInterrupt:
        listener.bar.wipe()
        report_error(message())
        raise click.exceptions.Exit(INTERRUPTED) from None
    return rows


def _write(table: Table, folder: Path, title: str) -> list[Path]:
    """Write the table and the plot, and return their paths."""
    from ibisa_onnx.benchmark.plot import draw
    from ibisa_onnx.io.atomic import write_files

    files = {
        folder / "table.md": f"{table.markdown()}\n".encode(),
        folder / "table.csv": table.csv().encode(),
        folder / "plot.png": draw(table, title),
    }
    write_files(files)
    return list(files)


def _text(table: Table, paths: Sequence[Path], old: int) -> list[Line]:
    """Return the table, the number of images and the files written."""
    if table.pictures == 1:
        how = "1 image, so no confidence intervals"
    else:
        how = f"{table.pictures} images; mean ± half width of the 95% confidence interval"
    before = f"{counted(old, 'map')} from an earlier run. " if old else ""
    where = ", ".join(path.name for path in paths)
    last = f"{how}. {before}Written to {paths[0].parent}: {where}"
    return [*table.markdown().splitlines(), "", last]


def _record(table: Table, paths: Sequence[Path], listener: _Listener) -> dict[str, Any]:
    """Return the result as plain data; unknown values are null."""
    return {
        "pictures": table.pictures,
        "left_out": [str(path) for path in listener.left_out],
        "methods": [
            {
                "method": line.method,
                "scores": {name: _plain(each) for name, each in line.scores.items()},
                "lead": None if line.lead is None else _plain(line.lead),
                "forward": line.forward,
                "backward": line.backward,
                "seconds": line.seconds,
                "peak_mib": line.mebibytes,
            }
            for line in table.lines
        ],
        "files": [str(path) for path in paths],
    }


def _plain(interval: Interval) -> dict[str, float | None]:
    return {"mean": interval.mean, "half": None if math.isnan(interval.half) else interval.half}
