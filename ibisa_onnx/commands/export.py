"""`ibisa-onnx export`: export a trained network to ONNX with preprocessing and labels embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, Line, console_options, rows
from ibisa_onnx.commands.explaining import SEED, TRUST
from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.commands.model_options import PREPROCESS, RESIZE, SIZE, FiniteRange
from ibisa_onnx.commands.outputs import STDIO, check_folder, expand
from ibisa_onnx.commands.usage import FILE, check_output, usage_errors

if TYPE_CHECKING:
    from ibisa_exporters.export import Exported
    from ibisa_exporters.onnx_export import Form

    from ibisa_onnx.io.images import Picture

_SMALL = 1e5  # bytes


@click.command(
    "export", short_help="Export a network to ONNX with preprocessing and labels embedded."
)
@click.argument("source")
@click.option("-o", "--out", metavar="FILE", help="Output file. Default: named after SOURCE.")
@click.option(
    "--weights",
    default="default",
    show_default=True,
    metavar="default|none|FILE",
    help="Weights: the source's own or published ones, random ones, or a state dict.",
)
@SEED
@click.option(
    "--classes",
    type=click.IntRange(1),
    metavar="N",
    help="Number of classes, for weights of your own.",
)
@click.option("--size", type=SIZE, help="Input size: one number for square, or HEIGHTxWIDTH.")
@click.option(
    "--opset",
    type=click.IntRange(7),
    metavar="N",
    default=18,
    show_default=True,
    help="ONNX opset version.",
)
@click.option("--half", is_flag=True, help="Use float16 weights, input and output.")
@click.option(
    "--fixed-batch",
    type=click.IntRange(1),
    metavar="N",
    help="Fixed batch size. Default: dynamic.",
)
@click.option(
    "--surrogate", is_flag=True, help="Also write FILE.surrogate.onnx, for run --surrogate."
)
@TRUST
@PREPROCESS
@RESIZE
@click.option("--labels", type=FILE, metavar="FILE", help="Text file of class names, one per line.")
@click.option(
    "--images",
    type=click.Path(exists=True),
    multiple=True,
    metavar="IMAGE",
    help="Image or folder to verify the file with. Repeatable. Default: scenes of the demo.",
)
@click.option(
    "--tolerance",
    type=FiniteRange(0, min_open=True),
    metavar="NUMBER",
    help="Maximum relative difference from the source. Default: 0.001, with --half 0.03.",
)
@console_options
def command(
    console: Console,
    source: str,
    out: str | None,
    weights: str,
    seed: int,
    classes: int | None,
    size: tuple[int, int] | None,
    opset: int,
    half: bool,
    fixed_batch: int | None,
    surrogate: bool,
    trust: bool,
    preprocess: str | None,
    resize: str | None,
    labels: str | None,
    images: tuple[str, ...],
    tolerance: float | None,
) -> None:
    """Export SOURCE to an ONNX file that `run` accepts without flags.

    Preprocessing and labels are embedded. The file is verified against SOURCE on random input and
    on images, and is not written if the outputs differ.

    \b
      torchvision:resnet50                torchvision:resnet50.IMAGENET1K_V1
      timm:convnext_tiny                  timm:convnext_tiny.in12k_ft_in1k
      hf:google/vit-base-patch16-224      hf:FOLDER
      path/module.py:factory              function that returns an nn.Module
      model.pt2                           torch.export program, with --trust
      model.keras                         Keras 3 model
    """
    if out == STDIO:
        raise click.UsageError("-o -: export cannot write to stdout; specify a file")
    from ibisa_exporters.export import ExportOptions, export
    from ibisa_exporters.onnx_export import Form
    from ibisa_exporters.source import check_source, default_file, source_file
    from ibisa_exporters.surrogate import surrogate_path
    from ibisa_exporters.trained import Request

    from ibisa_onnx.errors import ExportError
    from ibisa_onnx.targets.labels import read_labels

    request = Request(weights, seed, classes, size, trust)
    with usage_errors(ExportError):
        check_source(source, request)
    if weights not in ("default", "none") and not Path(weights).is_file():
        raise click.UsageError(f"--weights {weights} is not 'default', 'none' or a file")
    path = default_file(source) if out is None else Path(out)
    for file in (path, surrogate_path(path)):
        check_output(file, [source_file(source), weights, preprocess, labels, *expand(images)])
    if path.suffix == ".pt2":
        raise click.UsageError(f"-o {out}: the output is an ONNX file; use the suffix .onnx")
    check_folder(path.parent)
    form = Form(opset, half, fixed_batch)
    names = read_labels(labels) if labels else None
    options = ExportOptions(form, tolerance, preprocess, resize, names, surrogate)
    pictures = _pictures(images)
    exported = export(source, path, request, options, pictures)
    console.warn(exported.warnings)
    files = [*map(str, exported.files)]
    console.result(_text(exported, form), _data(source, exported, form), bare=files)


def _pictures(images: Sequence[str]) -> list[Picture]:
    """Read the images to verify the file with."""
    from ibisa_onnx.io.images import read_picture

    return [read_picture(each) for each in expand(images)] if images else _scenes()


def _scenes() -> list[Picture]:
    """Return the demo's scene and three others, since a single image shows no variation."""
    import numpy as np

    from ibisa_onnx.demo import scene_path
    from ibisa_onnx.demo.scenes import draw_scene
    from ibisa_onnx.io.images import read_picture

    drawn = [draw_scene(np.random.default_rng(seed)).image for seed in range(3)]
    return [read_picture(str(scene_path())), *map(read_picture, drawn)]


def _text(exported: Exported, form: Form) -> list[Line]:
    """Return the files written and how closely they match the source."""
    batch = "dynamic batch" if form.batch is None else f"batch {form.batch}"
    spec = exported.preprocessing
    how = "no preprocessing" if spec is None else "preprocessing"
    carried = f"{how}, {exported.labels or 'no'} labels"
    sizes = [_size(path.stat().st_size) for path in exported.files]
    written = [(str(path), size) for path, size in zip(exported.files, sizes, strict=True)]
    written[0] = (
        written[0][0],
        f"{sizes[0]}, opset {form.opset}, {form.dtype}, {batch}; {carried}",
    )
    agreed = [
        (
            f"{each.input} input, batch {each.batch}",
            f"difference from the source {each.absolute:.1e} (relative {each.relative:.1e}), "
            f"top-5 agreement {each.top5:.0%}",
        )
        for each in exported.agreements
    ]
    return [*rows(written, indent=0), *rows(agreed)]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= _SMALL else f"{count / 1e3:.1f} kB"


def _data(source: str, exported: Exported, form: Form) -> dict[str, Any]:
    """Return the result as plain data."""
    spec = exported.preprocessing
    return {
        "source": source,
        "files": [str(path) for path in exported.files],
        **asdict(form),
        "preprocessing": None if spec is None else spec.to_dict(),
        "labels": exported.labels,
        "verification": [asdict(each) for each in exported.agreements],
        "warnings": [with_flags(each) for each in exported.warnings],
    }
