"""`ibisa-onnx export`: from a trained network to an ONNX file that explains itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, Line, console_options, rows
from ibisa_onnx.commands.explaining import TRUST
from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.commands.model_options import PREPROCESS, RESIZE, SIZE, FiniteRange
from ibisa_onnx.commands.outputs import STDIO, check_folder, check_out, expand

if TYPE_CHECKING:
    from ibisa_exporters.export import Exported
    from ibisa_exporters.onnx_export import Form

    from ibisa_onnx.io.images import Picture

_SMALL = 1e5  # bytes


@click.command("export", short_help="Write a trained network as an ONNX file that explains itself.")
@click.argument("source")
@click.option(
    "-o", "--out", metavar="FILE", help="The file to write. Default: named after the source."
)
@click.option(
    "--weights",
    default="default",
    show_default=True,
    metavar="default|none|FILE",
    help="Those the source has or publishes, random ones, or a state dict.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random.")
@click.option("--classes", type=click.IntRange(1), help="How many; for weights of your own.")
@click.option("--size", type=SIZE, help="Of the input: 224, or 240x320 (height).")
@click.option("--opset", type=click.IntRange(7), default=18, show_default=True)
@click.option("--half", is_flag=True, help="float16 weights, input and output.")
@click.option(
    "--fixed-batch",
    type=click.IntRange(1),
    metavar="N",
    help="Just N images a call. Default: any number.",
)
@click.option("--surrogate", is_flag=True, help="Also write FILE.surrogate.onnx, for `run`.")
@TRUST
@PREPROCESS
@RESIZE
@click.option("--labels", metavar="FILE", help="Names of the classes, one a line.")
@click.option(
    "--images",
    multiple=True,
    metavar="PICTURE",
    help="Pictures or folders to check the file on. Repeatable. Default: scenes of the demo.",
)
@click.option(
    "--tolerance",
    type=FiniteRange(0, min_open=True),
    help="Largest relative difference from the source. Default: 0.001, with --half 0.03.",
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
    """Write SOURCE as an ONNX file that `run` understands with no flag.

    Preprocessing and labels travel in the file. It is run beside its source, on random input and on
    pictures, and is not kept where they differ.

    \b
      torchvision:resnet50                torchvision:resnet50.IMAGENET1K_V1
      timm:convnext_tiny                  timm:convnext_tiny.in12k_ft_in1k
      hf:google/vit-base-patch16-224      hf:FOLDER
      path/module.py:factory              a function that returns an nn.Module
      model.pt2                           a program of torch.export, with --trust
      model.keras                         a model of Keras 3
    """
    check_out(out)
    if out == STDIO:
        raise click.UsageError("-o -: the file is tried before it is kept; name a file")
    from ibisa_exporters.export import ExportOptions, export
    from ibisa_exporters.onnx_export import Form
    from ibisa_exporters.source import check_source, default_file, source_file
    from ibisa_exporters.surrogate import surrogate_path
    from ibisa_exporters.trained import Request

    from ibisa_onnx.errors import ExportError
    from ibisa_onnx.io.atomic import check_not_given
    from ibisa_onnx.targets.labels import read_labels

    request = Request(weights, seed, classes, size, trust)
    try:
        check_source(source, request)
    except ExportError as error:
        raise click.UsageError(str(error)) from error
    path = default_file(source) if out is None else Path(out)
    for file in (path, surrogate_path(path)):
        check_not_given(file, [source_file(source), weights, preprocess, labels, *expand(images)])
    if path.suffix == ".pt2":
        raise click.UsageError(f"-o {out}: an ONNX file is written; name it .onnx")
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
    """Read the pictures to try the file on."""
    from ibisa_onnx.io.images import read_picture

    return [read_picture(each) for each in expand(images)] if images else _scenes()


def _scenes() -> list[Picture]:
    """Return the demo's picture, and others like it: of one alone it is not seen what varies."""
    import numpy as np

    from ibisa_onnx.demo import scene_path
    from ibisa_onnx.demo.scenes import draw_scene
    from ibisa_onnx.io.images import read_picture

    drawn = [draw_scene(np.random.default_rng(seed)).image for seed in range(3)]
    return [read_picture(str(scene_path())), *map(read_picture, drawn)]


def _text(exported: Exported, form: Form) -> list[Line]:
    """Say what was written, and how near it is to its source."""
    batch = "any batch" if form.batch is None else f"batch {form.batch}"
    spec = exported.preprocessing
    how = "nothing on preprocessing" if spec is None else "preprocessing"
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
            f"differs from the source by {each.absolute:.1e} (relative {each.relative:.1e}), "
            f"top five agree {each.top5:.0%}",
        )
        for each in exported.agreements
    ]
    return [*rows(written, indent=0), *rows(agreed)]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= _SMALL else f"{count / 1e3:.1f} kB"


def _data(source: str, exported: Exported, form: Form) -> dict[str, Any]:
    """Return the same as plain data."""
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
