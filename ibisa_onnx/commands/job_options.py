"""Options for jobs over many images: worker processes, Ray, and its sources."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

RAY = "ray"
# Repeated here so that `--help` need not import the tables; a test keeps them equal.
MAP_TYPES = ("float32", "float16", "uint8", "none")
_ONLY_ON_RAY = {
    "ray_address": "--ray-address",
    "image_column": "--image-column",
    "target_column": "--target-column",
    "map_type": "--map-type",
    "no_overlays": "--no-overlays",
}
_OPTIONS = (
    click.option(
        "--jobs",
        type=click.IntRange(1, 4096),
        metavar="N",
        help="Explain N images at a time, each in its own process with one thread; with --on ray, "
        "in N actors.",
    ),
    click.option(
        "--on",
        "engine",
        type=click.Choice((RAY,)),
        help="Explain on a Ray cluster. IMAGE may then also be a Parquet file, a tar archive of "
        "samples, or a URL (s3://, gs://, https:// ...).",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="With --on ray: address of the cluster, or auto. Default: start Ray on this machine.",
    ),
    click.option(
        "--image-column",
        metavar="NAME",
        help="With --on ray: Parquet column of images (bytes or paths), or ending of the images in "
        "a tar archive. Default: image, bytes, path, jpg or png.",
    ),
    click.option(
        "--target-column",
        metavar="NAME",
        help="With --on ray: Parquet column, or ending of the members of a tar archive, with the "
        "class to explain in each image.",
    ),
    click.option(
        "--map-type",
        type=click.Choice(MAP_TYPES),
        default=MAP_TYPES[0],
        show_default=True,
        help="With --on ray: how maps are stored in Parquet files.",
    ),
    click.option(
        "--no-overlays", is_flag=True, help="With --on ray: write Parquet files only, no overlays."
    ),
    click.option(
        "--retry-errors",
        is_flag=True,
        help="With --jobs or --on: also explain the images that failed in earlier runs.",
    ),
)


@dataclass(frozen=True)
class JobChoice:
    """How a job is run: options from the command line."""

    jobs: int | None = None
    engine: str | None = None
    ray_address: str | None = None
    image_column: str | None = None
    target_column: str | None = None
    map_type: str = MAP_TYPES[0]
    no_overlays: bool = False
    retry_errors: bool = False

    @property
    def is_job(self) -> bool:
        """Whether images are explained in other processes."""
        return self.jobs is not None or self.engine is not None

    @property
    def on_ray(self) -> bool:
        """Whether these are Ray's."""
        return self.engine == RAY


def job_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options for jobs to a verb, passed on as `job`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> None:
        job = JobChoice(**{name: options.pop(name) for name in JobChoice.__dataclass_fields__})
        _check(job)
        function(*args, job=job, **options)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _check(job: JobChoice) -> None:
    """Raise `click.UsageError` for options that have no effect."""
    context = click.get_current_context()
    for name, flag in _ONLY_ON_RAY.items():
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and not job.on_ray:
            raise click.UsageError(f"{flag} requires --on ray")
    if job.retry_errors and not job.is_job:
        raise click.UsageError("--retry-errors requires --jobs or --on ray")
