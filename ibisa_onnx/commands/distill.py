"""`ibisa-onnx distill`: a differentiable surrogate, fitted to a deployed model's own answers."""

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
from ibisa_onnx.commands.model_options import FiniteRange, ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, check_folder, check_out, expand
from ibisa_onnx.errors import GradientError

if TYPE_CHECKING:
    from ibisa_exporters.distillation import Distilled

# Said here again, so that `--help` need not load torch; a test holds them equal.
STUDENTS = ("auto", "own", "small")
_ARCHIVE = ".pt2"


@click.command("distill", short_help="Fit a differentiable surrogate to a model's answers.")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help="The file to write, ONNX; torch.export's if it ends in .pt2. Default: "
    "MODEL.surrogate.onnx beside MODEL.",
)
@click.option(
    "--student",
    type=click.Choice(STUDENTS),
    default="auto",
    show_default=True,
    help="own: the graph in MODEL, in torch; small: a small network that knows nothing yet; auto: "
    "own where it can be had.",
)
@click.option(
    "--masks",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Of each picture that the student is fitted to.",
)
@click.option(
    "--held-out",
    type=FiniteRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Of the pictures, to judge by. 0: for these very pictures alone.",
)
@click.option(
    "--epochs",
    type=click.IntRange(0),
    help="Times over all answers. Default: 12 for small; 0 for own, which is then judged unfitted.",
)
@click.option(
    "--minutes", type=FiniteRange(0, min_open=True), help="End the fit by then, annealed."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--force", is_flag=True, help="Write a surrogate that is not certified, too.")
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
    """Fit a differentiable surrogate to what MODEL answers on each IMAGE under masks.

    For a model without a gradient of its own. An IMAGE is a file or a folder of pictures; give such
    as will be explained. Writes an ONNX file for `run --surrogate FILE`, if it agrees well enough
    with MODEL on masks and on pictures that it was not fitted to.
    """
    from ibisa_onnx.imports import import_extra
    from ibisa_onnx.io.atomic import check_not_given

    if STDIO in images:
        raise click.UsageError("pictures are read from files; name some, or a folder")
    check_out(out)
    import_extra("torch", "export")
    path = _destination(choice.model, out)
    if path.suffix != _ARCHIVE:  # is written by it; better told now than after the fit
        import_extra("onnxscript", "export")
    pictures = [Path(each) for each in expand(images)]
    model = None if choice.model == STDIO else choice.model
    check_not_given(path, [model, choice.labels, choice.preprocess, *pictures])
    if path.suffix == ".ort":
        raise click.UsageError(f"-o {out}: an ONNX file is written; name it .onnx")
    check_folder(path.parent)
    from ibisa_exporters.distillation import Settings, distil

    wanted = Settings(**settings)
    if choice.threads:
        import torch

        torch.set_num_threads(choice.threads)
    begin = time.perf_counter()
    explainer = choice.explainer()
    with _Bars(console) as bars:
        distilled = distil(explainer, pictures, wanted, progress=bars)
    warnings = list(explainer.warnings)
    console.warn(warnings)  # before a refusal too
    if distilled.reason:
        console.note([f"a small network, because: {distilled.reason}"])
    if not force:
        try:
            distilled.check()
        except GradientError as error:
            raise GradientError(f"{error}; --force writes it anyway") from error
    elif not distilled.certified:
        warnings.append(f"not certified: {distilled.figures}")
    console.warn(warnings)
    distilled.save(path)
    seconds = time.perf_counter() - begin
    data = {"file": str(path), "seconds": seconds, **distilled.facts}
    data |= {"reason": distilled.reason, "warnings": warnings}
    console.result(_text(path, distilled, seconds), data, bare=[str(path)])


def _destination(model: str, out: str | None) -> Path:
    """Return the file to write."""
    from ibisa_exporters.surrogate import surrogate_path

    if out is None and model == STDIO:
        raise click.UsageError("give -o FILE, for MODEL has no name")
    path = surrogate_path(Path(model)) if out is None else Path(out)
    if out == STDIO or path.is_dir():
        raise click.UsageError(f"-o {out}: name a file")
    return path


@dataclass
class _Bars:
    """A bar for each piece of work, one after the other, with the time that is left."""

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
    """Return what people read: how well it agrees, and what that took."""
    kind = {"own": "the model's own graph", "small": "a small network"}[distilled.kind]
    # A program may hold code, which `run` refuses unless told that it may be run.
    trust = " --trust" if path.suffix == _ARCHIVE else ""
    pairs = [
        ("student", kind),
        ("seen", f"{distilled.seen}"),
        ("unseen", f"{distilled.unseen or 'no pictures were held out'}"),
        ("queries", f"{distilled.queries}, {distilled.steps} steps, {duration(seconds)}"),
        ("use it", f"ibisa-onnx run MODEL IMAGE --gradient surrogate --surrogate {path}{trust}"),
    ]
    return [heading(f"wrote {path}"), *rows(pairs)]
