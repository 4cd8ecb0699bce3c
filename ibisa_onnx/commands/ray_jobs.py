"""`run --on ray`: the images of a run, explained on a Ray cluster.

Sources are images, folders, Parquet files, tar archives and URLs; results are Parquet files, and
overlays as `run` writes them, in the folder or at the URL of `-o`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from ibisa_onnx.commands.console import Bar, counted
from ibisa_onnx.commands.job_run import Run, failed_before
from ibisa_onnx.commands.outputs import check_folder, distinct_stems
from ibisa_onnx.ending import ExitMessage
from ibisa_onnx.errors import IbisaError, ResultError
from ibisa_onnx.io.atomic import remove_abandoned
from ibisa_onnx.limits import Limits
from ibisa_onnx.serving.jobs import RESULTS, Done, Manifest, group_of
from ibisa_onnx.serving.sources import FILES, Columns, Found, Unit, found_in, units
from ibisa_onnx.serving.storage import local_path, sole_writer, storage_at

_UNIT = 1024  # images per unit, at most
_UNITS = 4  # per actor, at least, so that all end at about the same time
_ACTORS = 64  # a guess for a cluster that is not connected yet
_TOLD = 100  # errors that are printed; all are in the results
_OURS = ".ibisa."


@dataclass
class RayRun(Run):
    """A run over images on Ray."""

    problems: int = 0
    skipped: int = 0
    failed_before: int = 0

    def run(self) -> None:
        """Explain all images; see `run_job`."""
        from ibisa_onnx.imports import import_extra
        from ibisa_onnx.serving.ray import connected, remove_unlisted

        import_extra("ray", "ray")  # reported before anything else
        place = self._place()
        found = found_in(self.images, self._columns)
        self._check_inputs(found, place)
        facts = self.prepare([], {"columns": vars(self._columns), "map_type": self.job.map_type})
        self.console.warn(self.warnings)  # those on single maps are in their records
        request = group_of(self.opening.request, facts["results"], not self.job.no_overlays)
        manifest = Manifest(storage_at(place), request)
        if not self.overwrite:
            _check_others(manifest, facts, place)
        with _without_traces(place, manifest), sole_writer(place):
            done = self._done(manifest, place)
            changes = self.overwrite or (self.job.retry_errors and done.failed > 0)
            if changes or any(self._units(found, done)):
                with (
                    ExitMessage(self._interrupted),
                    connected(self.job.ray_address, self.job.jobs),
                ):
                    done = self._begin(manifest, facts, place)
                    try:
                        self._explain(list(self._units(found, done)), place, request, done.parts)
                    except IbisaError as error:
                        raise self._stopped(error) from error
            remove_unlisted(place, done.parts)
        self._tell(place)
        if self.failed or self.failed_before or self.problems:
            raise click.exceptions.Exit(1)

    def _begin(self, manifest: Manifest, facts: dict[str, Any], place: str) -> Done:
        """Prepare the place of the results; return what is done."""
        from ibisa_onnx.serving.ray import forget_failed, remove_unlisted

        if self.overwrite:
            remove_unlisted(place)
            manifest.clear()
        manifest.start(facts)
        if self.job.retry_errors:
            forget_failed(place, manifest)
        manifest.release_all()
        done = self._done(manifest, place)
        remove_unlisted(place, done.parts)
        return done

    def _done(self, manifest: Manifest, place: str) -> Done:
        """Return what earlier runs have done."""
        from ibisa_onnx.serving.ray import done_at

        done = done_at(place, manifest)
        self.skipped, self.failed_before = done.images - done.failed, done.failed
        return done

    def _place(self) -> str:
        """Return the folder or URL of the results."""
        if self.out is None:
            raise click.UsageError("--on ray requires -o FOLDER or -o URL")
        if self.job.no_overlays and self.opening.with_data:
            raise click.UsageError("--no-overlays and --with-data cannot be combined")
        path = local_path(self.out)
        if path is None:
            return self.out
        if Path(path).suffix.lower() in (".png", ".npy", ".json", ".parquet"):
            raise click.UsageError(f"-o {self.out} is a file name; --on ray requires a folder")
        folder = Path(path).absolute()
        check_folder(folder)
        remove_abandoned(folder)
        return str(folder)

    @property
    def _columns(self) -> Columns:
        return Columns(self.job.image_column, self.job.target_column)

    def _check_inputs(self, found: Sequence[Found], place: str) -> None:
        """Raise `ResultError` if an overlay could overwrite an image."""
        home = Path(place).resolve()
        for each in found:
            path = Path(each.source)
            if _OURS in path.name and path.parent.resolve() == home:
                raise ResultError(f"{each.source} is an input and is not overwritten; change -o")

    def _units(self, found: Sequence[Found], done: Done) -> Iterator[Unit]:
        """Yield what is left to do."""
        stems = distinct_stems([each.source for each in found], Path())
        known = sum(1 if each.kind == FILES else each.rows or 0 for each in found)
        workers = self.job.jobs or (_ACTORS if self.job.ray_address else os.cpu_count() or 1)
        return units(
            found,
            [done.own_stem(each.source, stems[each.source].as_posix()) for each in found],
            self._columns,
            done,
            images=max(1, min(_UNIT, known // (_UNITS * workers))),
            workers=workers,
        )

    def _explain(self, left: Sequence[Unit], place: str, request: str, parts: set[str]) -> None:
        """Explain units; add the names of the files of results to `parts`."""
        from ibisa_onnx.serving.ray import RayJob, run_units

        limits = Limits.from_environment()
        job = RayJob(self._opening(place, limits), place, request, self._columns, limits)
        images = sum(_images_of(each) for each in left)
        begun = time.monotonic()
        receipts = run_units(
            job,
            left,
            address=self.job.ray_address,
            actors=self.job.jobs,
            gpus=self._uses_gpus,
            quiet=not self.console.verbose,
        )
        with closing(receipts), self.console.progress("images") as bar:
            for receipt in receipts:
                bar.wipe()
                self._take(receipt)
                if receipt.part is not None:
                    parts.add(receipt.part)
                self._draw(bar, images, time.monotonic() - begun)
        if (missing := images - self.done) > 0:
            self.problems += 1
            self.report(f"{counted(missing, 'image')} not explained; rerun the same command")

    def _opening(self, place: str, limits: Limits) -> Any:
        """Return what an actor opens."""
        opening = self.opening
        return replace(
            opening,
            explainer={**opening.explainer, "limits": limits},
            place=place,
            map_type=self.job.map_type,
            overlays=not self.job.no_overlays,
        )

    @property
    def _uses_gpus(self) -> bool:
        names = {each.lower().removesuffix("executionprovider") for each in self.providers}
        return bool(names & {"cuda", "tensorrt", "nvtensorrtrtx", "rocm", "migraphx"})

    def _take(self, receipt: Any) -> None:
        """Count and report what an actor has done."""
        self.done += receipt.images
        for message in filter(None, receipt.errors):
            self.failed += 1
            if self.failed <= _TOLD:
                self.report(message)
        if receipt.problem is not None:
            self.problems += 1
            self.report(f"{receipt.problem}; rerun the same command to try again")
        if receipt.errors:
            self.hope.see(receipt.errors)

    def _draw(self, bar: Bar, images: int, seconds: float) -> None:
        left = (images - self.done) * seconds / self.done if self.done else None
        bar(self.done, max(images, self.done), left)

    def _interrupted(self) -> str:
        return f"interrupted after {counted(self.done, 'image')}; rerun the same command to resume"

    def _stopped(self, error: IbisaError) -> IbisaError:
        """Return an error that counts what is done, if anything is."""
        if not self.done:
            return error
        text = f"stopped after {counted(self.done, 'image')}; {error.problem}"
        return type(error)(
            text, f"{error.advice or 'mend it'}, then rerun the same command to resume"
        )

    def _tell(self, place: str) -> None:
        """Print what was done."""
        from ibisa_onnx.models.endpoint import without_credentials

        results = f"{without_credentials(self.out or place).rstrip('/')}/{RESULTS}"
        explained = self.done - self.failed
        if self.skipped:
            self.console.tell(
                f"skipped {counted(self.skipped, 'image')}: results already exist; use --overwrite "
                "to recompute them"
            )
        if self.failed_before:
            self.console.tell(failed_before(self.failed_before))
        if self.failed > _TOLD:
            self.console.tell(f"{self.failed - _TOLD} more errors are in {results}")
        data = {
            "results": results,
            "explained": explained,
            "failed": self.failed + self.failed_before,
            "skipped": self.skipped,
        }
        lines = [f"explained {counted(explained, 'image')}", f"  written  {results}"]
        if self.failed:
            lines.insert(1, f"  failed   {counted(self.failed, 'image')}")
        self.console.result(lines, data, bare=[results])


@contextmanager
def _without_traces(place: str, manifest: Manifest) -> Iterator[None]:
    """After an error before anything is done, remove what was written for it."""
    folder = local_path(place)
    is_new = folder is not None and not Path(folder).exists()
    try:
        yield
    except BaseException:
        manifest.discard()
        if is_new and folder is not None:
            with suppress(OSError):  # it holds results
                Path(folder).rmdir()
        raise


def _check_others(manifest: Manifest, facts: dict[str, Any], place: str) -> None:
    """Raise `ResultError` if the results of a job with other settings are there."""
    from ibisa_onnx.io.formats import jsonable

    mine = jsonable(facts)
    for other in manifest.others():
        names = [name for name, value in mine.items() if other.get(name) != value]
        raise ResultError(
            f"{place} holds what a job with other settings has done "
            f"({', '.join(map(_shown, names)) or 'request'}); pass another -o, or --overwrite to "
            "remove its tables"
        )


def _shown(name: str) -> str:
    return {"results": "kind of results", "versions": "versions of packages"}.get(name, name)


def _images_of(unit: Unit) -> int:
    """Return the number of images of a unit, as far as it is known."""
    if unit.kind == FILES:
        return len(unit.sources)
    return sum(stop - start for start, stop in unit.ranges if stop is not None)
