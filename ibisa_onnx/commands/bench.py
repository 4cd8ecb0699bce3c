"""`ibisa-onnx bench`: IBISA and other methods on a user's own model and pictures, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, console_options, report_error
from ibisa_onnx.commands.explaining import explaining_options
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, expand

if TYPE_CHECKING:
    from ibisa_onnx.comparison import Entry, Table
    from ibisa_onnx.explanation import Explanation

_OURS = "ibisa"
_METRICS = ("insertion", "deletion", "insertion - deletion")


@click.command("bench", short_help="Compare IBISA with other methods on your pictures.")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--against",
    default="rise,gradcam,iba,occlusion",
    show_default=True,
    metavar="METHODS",
    help="Of: rise, centred-rise, gradcam, iba, occlusion, random.",
)
@click.option(
    "-o", "--out", metavar="FOLDER", help="Where results go. Default: MODEL.bench beside the model."
)
@click.option("--masks", type=click.IntRange(1), default=4000, show_default=True, help="Of RISE.")
@click.option("--gradcam-layer", metavar="TENSOR", help="Default: the last before pooling.")
@click.option(
    "--iba-layer", metavar="TENSOR", help="Default: the last with some 8 pixels a feature."
)
@click.option(
    "--iba-images",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False),
    help="Pictures from which IBA estimates its noise. Default: all IMAGEs.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    default=_METRICS,
    show_default=True,
    help="Repeatable; the last one decides.",
)
@click.option("--every", type=click.IntRange(1), default=1, help="Only every so many pictures.")
@click.option("--limit", type=click.IntRange(1), help="Only so many pictures.")
@click.option("--keep-maps", is_flag=True, help="Keep all maps (.npy) in FOLDER/maps.")
@model_options
@explaining_options
@console_options
def command(
    console: Console,
    images: tuple[str, ...],
    against: str,
    out: str | None,
    masks: int,
    gradcam_layer: str | None,
    iba_layer: str | None,
    iba_images: str | None,
    metrics: tuple[str, ...],
    every: int,
    limit: int | None,
    keep_maps: bool,
    choice: ModelChoice,
    seed: int,
    **options: Any,
) -> None:
    """Compare IBISA with other methods on MODEL and each IMAGE, a file or a folder of pictures.

    Each method explains the predicted class, and every map is measured in the same way. Writes
    table.md, table.csv, plot.png and scores.csv, a line for each picture and method, from which an
    interrupted run goes on.
    """
    from ibisa_onnx.baselines import Settings, method_named
    from ibisa_onnx.comparison import Contest, Entry, Store, Table, draw
    from ibisa_onnx.metrics import metric_named
    from ibisa_onnx.writing import write_files

    if STDIO in (choice.model, *images):
        raise click.UsageError("- is read once, and a benchmark reads everything again; give files")
    found = [Path(each) for each in expand(images)]
    pictures = found[::every][:limit]
    folder = Path(out) if out else Path(choice.model).with_suffix(".bench")
    settings = Settings(
        masks=masks,
        gradcam_layer=gradcam_layer,
        iba_layer=iba_layer,
        images=[Path(each) for each in expand([iba_images])] if iba_images else found,
    )
    rivals = [name.strip() for name in against.split(",") if name.strip()]
    entries = [Entry(_OURS), *(Entry(name, method_named(name, settings)) for name in rivals)]
    wanted = [metric_named(name) for name in metrics]
    store = Store(folder / "scores.csv", [metric.name for metric in wanted])
    failed: list[Path] = []

    def fail(image: Path, error: Exception) -> None:
        failed.append(image)
        text = str(error)
        report_error(text if str(image) in text else f"{image}: {text}")

    contest = Contest(
        explainer=choice.explainer(**options),
        entries=entries,
        images=pictures,
        metrics=wanted,
        store=store,
        seed=seed,
        keep=_keeper(folder) if keep_maps else lambda *_: None,
        failed=fail,
    )
    with console.progress("bench") as bar:
        rows = list(contest.run(bar))
    console.warn(contest.explainer.warnings)
    table = Table(rows, [entry.name for entry in entries], wanted)
    files = {
        folder / "table.md": f"{table.markdown()}\n".encode(),
        folder / "table.csv": table.csv().encode(),
        folder / "plot.png": draw(table, Path(choice.model).stem),
    }
    write_files(files)
    console.result(
        _text(table, [*files, store.path]),
        _record(table, [*files, store.path]),
        bare=table.markdown(),
    )
    if failed:
        console.warn([f"{len(failed)} of {len(pictures)} pictures are left out"])
        raise click.exceptions.Exit(1)


def _keeper(folder: Path) -> Any:
    """Return what writes each map to a file of its own."""
    from ibisa_onnx.explanation import encode_npy
    from ibisa_onnx.writing import write_files

    def keep(image: Path, entry: Entry, explanation: Explanation) -> None:
        path = folder / "maps" / entry.name / f"{image.stem}.npy"
        write_files({path: encode_npy(explanation.map)})

    return keep


def _text(table: Table, paths: Sequence[Path]) -> str:
    """Return what people read: the table, on how many pictures, and where it is."""
    pictures = f"{table.pictures} picture{'' if table.pictures == 1 else 's'}"
    how = "means with 95% intervals, differences paired picture by picture"
    where = ", ".join(path.name for path in paths)
    return f"{table.markdown()}\n\n{pictures}; {how}. Written to {paths[0].parent}: {where}"


def _record(table: Table, paths: Sequence[Path]) -> dict[str, Any]:
    """Return the same as plain data; what is not known is null."""
    return {
        "pictures": table.pictures,
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


def _plain(interval: Any) -> dict[str, float | None]:
    half = interval.half
    return {"mean": interval.mean, "half": None if half != half else half}
