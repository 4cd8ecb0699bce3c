"""`ibisa-onnx bench`: IBISA and other methods on a user's own model and pictures, in one table."""

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
from ibisa_onnx.commands.outputs import STDIO, check_folder, check_out, expand
from ibisa_onnx.commands.target_options import AskedTargets, target_options
from ibisa_onnx.ending import LastWords

if TYPE_CHECKING:
    from ibisa_onnx import Explainer
    from ibisa_onnx.benchmark.row import ScoreRow
    from ibisa_onnx.benchmark.runner import Benchmark, Entry
    from ibisa_onnx.benchmark.table import Table
    from ibisa_onnx.metrics import Interval

_OURS = "ibisa"
_METRICS = ("insertion", "deletion", "insertion - deletion")


@click.command("bench", short_help="Compare IBISA with other methods on your pictures.")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@target_options
@click.option(
    "--against",
    default="rise,gradcam,iba,occlusion",
    show_default=True,
    metavar="METHODS",
    help="With commas, of: rise, centred-rise, drise, gradcam, iba, occlusion, random.",
)
@click.option(
    "-o", "--out", metavar="FOLDER", help="Where results go. Default: MODEL.bench beside the model."
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    default=_METRICS,
    show_default=True,
    help="Repeatable; the last one decides. Those that hide pixels also under an imputation: "
    "'LeRF - MoRF (mean)'; of boxes 'insertion (D-RISE)' and 'energy'; stability explains each "
    "picture four times more.",
)
@click.option("--every", type=click.IntRange(1), default=1, help="Only every so many pictures.")
@click.option("--limit", type=click.IntRange(1), help="Only so many pictures.")
@click.option("--keep-maps", is_flag=True, help="Keep all maps (.npy) in FOLDER/maps.")
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
    """Compare IBISA with other methods on MODEL and each IMAGE, a file or a folder of pictures.

    Each method explains the same answer, what the model says first unless told, and every map is
    measured in the same way. Writes table.md, table.csv, plot.png and scores.csv, a line for each
    picture and method, from which an interrupted run goes on.
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
        raise click.UsageError("- is read once, and a benchmark reads everything again; give files")
    target = asked.single("bench", choice.output)
    check_out(out)
    names = method_names(against)
    methods.check(names)
    check_extra()
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
        console.warn([f"left out: {len(listener.left_out)} of {len(benchmark.images)} pictures"])
        raise click.exceptions.Exit(1)


@dataclass
class _Listener:
    """Reports single pictures, past the bar."""

    console: Console
    bar: Bar
    left_out: list[Path] = field(default_factory=list)

    def failed(self, image: Path, error: Exception) -> None:
        """Report a picture that is left out."""
        self.left_out.append(image)
        self.bar.wipe()
        report_error(str(error) if str(image) in str(error) else f"{image}: {error}")

    def warned(self, image: Path, text: str) -> None:
        """Say what there is to know of a picture."""
        self.bar.wipe()
        self.console.warn([f"{image}: {text}"])

    def measured(self, row: ScoreRow) -> None:
        """Say the scores of a map, where details are wanted."""
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

    IBA is left out with a warning where there is but one picture, and other methods are left.
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
                [f"{name} is left out: it estimates from 2 pictures or more; give --iba-images"]
            )
            continue
        entries.append(Entry(name, method, files))
    return entries


def _measure(benchmark: Benchmark, listener: _Listener) -> list[ScoreRow]:
    """Measure all that is missing; when that is interrupted, say how to go on."""
    rows: list[ScoreRow] = []

    def words() -> str:
        return (
            f"interrupted after {len(rows)} maps; the same command goes on from there, by "
            f"{benchmark.store.path}"
        )

    try:
        with LastWords(words):
            for row in benchmark.run(listener.bar):
                rows.append(row)
                listener.measured(row)
    except KeyboardInterrupt:
        listener.bar.wipe()
        report_error(words())
        raise click.exceptions.Exit(INTERRUPTED) from None
    return rows


def _write(table: Table, folder: Path, title: str) -> list[Path]:
    """Write the table and the plot; return where they are."""
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
    """Return what people read: the table, on how many pictures, and where it is."""
    if table.pictures == 1:
        how = "1 picture, so no intervals"
    else:
        how = f"{table.pictures} pictures: means with 95% intervals, paired in the lead"
    before = f"{old} maps were measured before. " if old else ""
    where = ", ".join(path.name for path in paths)
    last = f"{how}. {before}Written to {paths[0].parent}: {where}"
    return [*table.markdown().splitlines(), "", last]


def _record(table: Table, paths: Sequence[Path], listener: _Listener) -> dict[str, Any]:
    """Return the same as plain data; what is not known is null."""
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
