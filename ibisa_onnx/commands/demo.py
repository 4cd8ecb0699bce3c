"""`ibisa-onnx demo`: explain the embedded model on the embedded scene."""

from __future__ import annotations

from pathlib import Path

import click

from ibisa_onnx.commands.console import Console, console_options
from ibisa_onnx.commands.explaining import SEED
from ibisa_onnx.commands.outputs import Destinations
from ibisa_onnx.commands.work import Work

_OBJECTS_IN_THE_SCENE = 2


@click.command("demo", short_help="Explain the embedded model on the embedded scene.")
@click.option(
    "-o",
    "--out",
    metavar="FOLDER",
    default="ibisa-demo/",
    show_default=True,
    help="Folder for the two overlays.",
)
@SEED
@console_options
def command(console: Console, out: str, seed: int) -> None:
    """Explain both objects of an embedded scene with an embedded small classifier.

    The objects belong to different classes, and each map highlights its own object.
    """
    if Path(out).suffix and not Path(out).is_dir():
        raise click.UsageError(f"-o {out}: the demo writes two images; specify a folder")
    from ibisa_onnx import Explainer
    from ibisa_onnx.demo import model_path, scene_path

    scene = str(scene_path())
    where = Destinations([scene], f"{out}/", several_targets=True)
    where.check()
    explainer = Explainer(model_path())
    work = Work(console, explainer, where, [f"top:{_OBJECTS_IN_THE_SCENE}"], seed, name_of=_name)
    work.explain(scene, alone=True)


def _name(path: str) -> str:
    return Path(path).name
