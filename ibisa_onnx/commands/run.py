"""`ibisa-onnx run`: explain a model's predictions for images and write the results."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.ahead import tasks
from ibisa_onnx.commands.console import (
    INTERRUPTED,
    Console,
    console_options,
    counted,
    is_terminal,
)
from ibisa_onnx.commands.deadlines import deadline_of_maps
from ibisa_onnx.commands.explaining import (
    IBISA,
    METHOD_NAMES,
    SIGNED_METHODS,
    MethodChoice,
    explaining_options,
    method_options,
)
from ibisa_onnx.commands.interruption import Interruption
from ibisa_onnx.commands.job_options import JobChoice, job_options
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, Destinations, expand
from ibisa_onnx.commands.resuming import FinishedPictures
from ibisa_onnx.commands.stdin import piped_picture
from ibisa_onnx.commands.target_options import AskedTargets, target_options
from ibisa_onnx.commands.work import Work, ended, request_of
from ibisa_onnx.errors import (
    ResultError,
)

if TYPE_CHECKING:
    from ibisa_onnx.serving.scheduler import Scheduler


@click.command("run", short_help="Explain predictions: write attribution maps of images.")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@target_options
@click.option(
    "-o",
    "--out",
    metavar="PATH",
    help="Output: a .png, .npy or .json file, a folder, or - for stdout. Default: beside IMAGE.",
)
@click.option(
    "--with-data", is_flag=True, help="Also write the maps (.npy) and the record (.json)."
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="With a folder or several images: recompute existing results.",
)
@click.option(
    "--method",
    "method_name",
    type=click.Choice(METHOD_NAMES),
    default=IBISA,
    show_default=True,
    help="Attribution method.",
)
@method_options
@model_options
@explaining_options
@deadline_of_maps
@job_options
@click.option(
    "--uncertainty", is_flag=True, help="Also draw the map's uncertainty (--gradient forward-only)."
)
@click.option(
    "--signed",
    is_flag=True,
    help="Also draw evidence against the prediction, in blue. A .npy map is then in -1..1.",
)
@console_options
def command(
    console: Console,
    images: tuple[str, ...],
    asked: AskedTargets,
    out: str | None,
    with_data: bool,
    overwrite: bool,
    choice: ModelChoice,
    method_name: str,
    methods: MethodChoice,
    deadline: float | None,
    job: JobChoice,
    uncertainty: bool,
    signed: bool,
    seed: int,
    **options: Any,
) -> None:
    """Find the pixels that MODEL's prediction for each IMAGE depends on.

    IMAGE is a file, a folder of images, or - for stdin. Writes NAME.ibisa.png beside each image:
    the image, and the image overlaid with its map. Ctrl-C stops with the best map so far. With a
    folder or several images, those that already have results from the same model and options are
    skipped.
    """
    from ibisa_onnx.models.running import deadline_limit

    if (choice.model, *images).count(STDIO) > 1:
        raise click.UsageError("only one of MODEL and IMAGE can be -; stdin is read once")
    if uncertainty and method_name != IBISA:
        raise click.UsageError(f"--method {method_name} does not support --uncertainty")
    if signed and method_name not in SIGNED_METHODS:
        raise click.UsageError(
            f"--method {method_name} does not support --signed; use "
            f"{' or '.join(SIGNED_METHODS)}, or omit --signed"
        )
    if uncertainty and options["gradient"] not in ("auto", "forward-only"):
        raise click.UsageError(
            f"--gradient {options['gradient']} does not support --uncertainty; use forward-only"
        )
    methods.check([method_name])
    if job.is_job:
        from ibisa_onnx.commands.job_worker import Opening
        from ibisa_onnx.commands.jobs import run_job

        opening = Opening(
            choice.for_values(asked.reads_output),
            options,
            asked.targets(choice.output),
            asked.several,
            method_name,
            seed,
            deadline,
            uncertainty,
            signed,
            with_data,
            console,
        )
        run_job(console, images, out, job, methods, opening, overwrite=overwrite)
        return
    pictures = expand(images)
    where = Destinations(
        pictures, out, several_targets=asked.several, with_data=with_data, model=choice.model
    )
    console = _free_stdout(console) if where.to_stdout else console
    where.check()
    workers = _workers(choice, len(pictures), method_name)
    if workers > 1:
        choice = replace(choice, threads=1)
    with deadline_limit(deadline):
        explainer = choice.for_values(asked.reads_output).explainer(**options)
    method, files = methods.named(
        method_name,
        explainer,
        [Path(each) for each in pictures if each != STDIO],
        lambda path, text: console.warn([f"{path}: {text}"]),
    )
    meant = asked.targets(choice.output)
    request = None
    if not where.to_stdout:
        drawn = {"uncertainty": uncertainty, "signed": signed, "data": with_data}
        request = request_of(explainer, method, meant, seed, files, deadline, drawn)
    piped = piped_picture() if STDIO in pictures else b""  # before Ctrl-C is caught
    with Interruption(console) as interruption:
        work = Work(
            console,
            explainer,
            where,
            meant,
            seed,
            deadline,
            uncertainty,
            piped,
            signed=signed,
            method=method,
            stop=interruption,
            request=request,
        )
        # An image that is passed by name alone is always explained.
        resumes = not overwrite and (len(images) > 1 or Path(images[0]).is_dir())
        before = FinishedPictures(request, where) if request and resumes else None
        with _scheduler(work, workers) as scheduler:
            _explain_all(work, pictures, before, scheduler, workers)


def _workers(choice: ModelChoice, pictures: int, method: str) -> int:
    """Return how many images are explained at a time: one per core of an ONNX file on the CPU."""
    from ibisa_onnx.models.onnx_session import cores

    on_cpu = {each.lower() for each in choice.providers} <= {"cpu", "cpuexecutionprovider"}
    if method != IBISA or choice.threads or choice.is_remote or not on_cpu:
        return 1
    return min(pictures, cores())


@contextmanager
def _scheduler(work: Work, workers: int) -> Iterator[Scheduler | None]:
    """Yield a scheduler for several images at a time; None for one after the other."""
    from ibisa_onnx.serving.scheduler import Scheduler, default_workers

    if workers == 1 or default_workers(work.explainer) == 1:  # for instance, CUDA was found
        yield None
        return
    scheduler = Scheduler(work.explainer, max_batch=1, workers=workers, stop=work.stop)
    try:
        yield scheduler
    finally:
        scheduler.close(drain=False)


def _explain_all(
    work: Work,
    pictures: Sequence[str],
    before: FinishedPictures | None,
    scheduler: Scheduler | None,
    ahead: int,
) -> None:
    """Explain all images except those with finished results.

    Raises
    ------
    click.exceptions.Exit
        Some images could not be explained, or the run was interrupted.
    ResultError
        A result cannot be written; with several images, the message counts those done.
    """
    alone, failed, skipped, code = len(pictures) == 1, 0, 0, 0
    coming = tasks(
        pictures,
        before.find if before else lambda _: [],
        lambda picture: work.submit(picture, scheduler),
        ahead,
    )
    for number, task in enumerate(coming, 1):
        if task.found:
            work.tell_finished(task.picture, task.found)
            skipped += 1
        else:
            try:
                failed += not work.explain(task.picture, task.explanations, alone=alone)
            except ResultError as error:
                if alone:
                    raise
                raise ended(error, number - 1 - failed, len(pictures)) from error
        if work.stop():
            work.console.warn(_left_out(len(pictures) - number, len(pictures)))
            code = INTERRUPTED
            break
    if skipped:
        work.console.tell(
            f"skipped {skipped} of {counted(len(pictures), 'image')}: results already exist; "
            "use --overwrite to recompute them"
        )
    if code or failed:
        raise click.exceptions.Exit(code or 1)


def _free_stdout(console: Console) -> Console:
    """Return a console that leaves stdout to the image."""
    if is_terminal(sys.stdout):
        raise click.UsageError(
            "cannot write an image to the terminal; pass -o FILE or redirect stdout"
        )
    return console.on_stderr()


def _left_out(left: int, pictures: int) -> list[str]:
    """Return a warning that counts the images an interruption leaves out, if any."""
    text = f"{left} of {counted(pictures, 'image')} not explained; rerun the same command to resume"
    return [text] if left else []
