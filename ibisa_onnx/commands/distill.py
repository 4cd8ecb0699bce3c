"""`ibisa-onnx distill`: train a differentiable surrogate on a deployed model's predictions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import (
    Bar,
    Console,
    Line,
    console_options,
    duration,
    heading,
    rows,
)
from ibisa_onnx.commands.explaining import SEED
from ibisa_onnx.commands.model_options import FiniteRange, ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, check_folder, expand
from ibisa_onnx.commands.usage import check_output, usage_errors
from ibisa_onnx.errors import GradientError, OptionError

if TYPE_CHECKING:
    from ibisa_exporters.distillation import Distilled

# Repeated here so that `--help` need not import torch; a test keeps them equal.
STUDENTS = ("auto", "own", "small")
_ARCHIVE = ".pt2"


@click.command("distill", short_help="Train a differentiable surrogate of a model.")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help="Output file: ONNX, or a torch.export program if it ends in .pt2. Default: "
    "MODEL.surrogate.onnx beside MODEL.",
)
@click.option(
    "--student",
    type=click.Choice(STUDENTS),
    default="auto",
    show_default=True,
    help="Network of the surrogate. own: MODEL's own graph, converted to PyTorch; small: a small "
    "CNN trained from scratch; auto: own if possible.",
)
@click.option(
    "--masks",
    type=click.IntRange(1),
    metavar="N",
    default=128,
    show_default=True,
    help="Number of masks per training image.",
)
@click.option(
    "--held-out",
    type=FiniteRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    metavar="FRACTION",
    help="Fraction of the images held out for validation. 0: train for these images only.",
)
@click.option(
    "--epochs",
    type=click.IntRange(0),
    metavar="N",
    help="Training epochs. Default: 12 for small; 0 for own, which is validated untrained.",
)
@click.option(
    "--minutes",
    type=FiniteRange(0, min_open=True),
    metavar="M",
    help="Maximum training time in minutes.",
)
@SEED
@click.option("--force", is_flag=True, help="Write the surrogate even if it fails validation.")
@model_options
@console_options
def command(
    console: Console,
    images: tuple[str, ...],
    out: str | None,
    force: bool,
    choice: ModelChoice,
    **settings: Any,
) -> None:
    """Train a differentiable surrogate on MODEL's predictions for each IMAGE under masks.

    Use it for a model without an exact gradient. IMAGE is a file or a folder of images like those
    to be explained. Writes an ONNX file for `run --surrogate FILE`, if it agrees well enough with
    MODEL on unseen masks and held-out images.
    """
    from ibisa_onnx.imports import import_extra

    if STDIO in images:
        raise click.UsageError("distill does not read images from stdin; pass files or a folder")
    import_extra("torch", "export")
    path = _destination(choice.model, out)
    if path.suffix != _ARCHIVE:  # writes the file; better to fail now than after training
        import_extra("onnxscript", "export")
    pictures = [Path(each) for each in expand(images)]
    model = None if choice.model == STDIO or choice.is_remote else choice.model
    check_output(path, [model, choice.labels, choice.preprocess, *pictures])
    if path.suffix == ".ort":
        raise click.UsageError(f"-o {out}: the output is an ONNX file; use the suffix .onnx")
    check_folder(path.parent)
    from ibisa_exporters.distillation import Settings, distil

    with usage_errors(OptionError):
        wanted = Settings(**settings)
    if choice.threads:
        import torch

        torch.set_num_threads(choice.threads)
    begin = time.perf_counter()
    explainer = choice.explainer()
    with _Bars(console) as bars:
        distilled = distil(explainer, pictures, wanted, progress=bars)
    warnings = list(explainer.warnings)
    console.warn(warnings)  # even if the surrogate is rejected
    if distilled.reason:
        console.note([f"small student: {distilled.reason}"])
    if not force:
        try:
            distilled.check()
        except GradientError as error:
            raise GradientError(f"{error}; use --force to write it anyway") from error
    elif not distilled.certified:
        warnings.append(f"surrogate fails validation: {distilled.figures}")
    console.warn(warnings)
    distilled.save(path)
    seconds = time.perf_counter() - begin
    data = {"file": str(path), "seconds": seconds, **distilled.facts}
    data |= {"reason": distilled.reason, "warnings": warnings}
    console.result(_text(path, distilled, seconds), data, bare=[str(path)])


def _destination(model: str, out: str | None) -> Path:
    """Return the path of the output file."""
    from ibisa_exporters.surrogate import surrogate_path

    from ibisa_onnx.models.onnx_file import beside

    if out is None and model == STDIO:
        raise click.UsageError("pass -o FILE, since MODEL is read from stdin")
    path = surrogate_path(beside(model, ".onnx")) if out is None else Path(out)
    if out == STDIO or path.is_dir():
        raise click.UsageError(f"-o {out}: specify a file")
    return path


@dataclass
class _Bars:
    """A progress bar for each stage in turn, with the time left."""

    console: Console
    what: str = ""
    bar: Bar | None = None
    begin: float = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if what != self.what or self.bar is None:
            self.__exit__()
            self.what, self.begin, self.bar = what, now, self.console.progress(what)
            return
        self.bar(done, total, (now - self.begin) / max(1, done - 1) * (total - done))

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.wipe()


def _text(path: Path, distilled: Distilled, seconds: float) -> list[Line]:
    """Return how well the surrogate agrees with the model, and its cost."""
    kind = {"own": "the model's own graph", "small": "a small CNN"}[distilled.kind]
    # A program may contain code, which `run` rejects without --trust.
    trust = " --trust" if path.suffix == _ARCHIVE else ""
    pairs = [
        ("student", kind),
        ("training images", f"{distilled.seen}"),
        ("held-out images", f"{distilled.unseen or 'none'}"),
        ("cost", f"{distilled.queries} queries, {distilled.steps} steps, {duration(seconds)}"),
        ("usage", f"ibisa-onnx run MODEL IMAGE --gradient surrogate --surrogate {path}{trust}"),
    ]
    return [heading(f"wrote {path}"), *rows(pairs)]
