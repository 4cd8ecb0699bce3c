"""`run` in other processes: on this machine, or on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from ibisa_onnx.commands.console import Console
from ibisa_onnx.commands.explaining import MethodChoice
from ibisa_onnx.commands.job_options import JobChoice
from ibisa_onnx.commands.job_worker import Opening
from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.pool_jobs import PoolRun


def run_job(
    console: Console,
    images: Sequence[str],
    out: str | None,
    job: JobChoice,
    methods: MethodChoice,
    opening: Opening,
    *,
    overwrite: bool,
) -> None:
    """Explain the images of a run in other processes.

    Raises
    ------
    click.exceptions.Exit
        Some images could not be explained, or the run was interrupted.
    click.UsageError
        Options cannot be combined.
    IbisaError
        The job cannot be done, or not go on.
    """
    if STDIO in (opening.choice.model, *images) or out == STDIO:
        flag = "--on ray" if job.on_ray else "--jobs"
        raise click.UsageError(f"{flag} reads and writes files; MODEL, IMAGE and -o cannot be -")
    if opening.choice.threads is None and not opening.choice.is_remote:
        opening = replace(opening, choice=replace(opening.choice, threads=1))
    if job.on_ray:
        from ibisa_onnx.commands.ray_jobs import RayRun

        RayRun(console, images, out, job, methods, opening, overwrite).run()
    else:
        PoolRun(console, images, out, job, methods, opening, overwrite).run()
