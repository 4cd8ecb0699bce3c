"""`run --jobs`: the images of a run, explained in worker processes of this machine.

`ray_jobs` does the same on Ray. Workers write results as `run` does; which images are done is also
in the manifest of `serving.jobs`, beside the results.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from ibisa_onnx.commands.console import INTERRUPTED, counted
from ibisa_onnx.commands.interruption import Interruption
from ibisa_onnx.commands.job_run import Run, failed_before
from ibisa_onnx.commands.job_worker import print_noted
from ibisa_onnx.commands.outputs import Destinations, expand
from ibisa_onnx.commands.work import ended
from ibisa_onnx.errors import ResultError
from ibisa_onnx.serving.jobs import (
    PART_IMAGES,
    PART_SECONDS,
    Done,
    Entry,
    Item,
    Manifest,
    Outcome,
    group_of,
)
from ibisa_onnx.serving.process_pool import Lost, ProcessPool
from ibisa_onnx.serving.sources import FILES, kind_of
from ibisa_onnx.serving.storage import FolderStorage


@dataclass
class PoolRun(Run):
    """A run over images in worker processes of this machine."""

    _entries: list[Entry] = field(default_factory=list)
    _written: float = field(default_factory=time.monotonic)
    _number: int = 0
    _group: str = field(default_factory=lambda: group_of(secrets.token_hex(16)))

    def run(self) -> None:
        """Explain all images; see `run_job`."""
        pictures = expand(self.images)
        if many := next((each for each in pictures if kind_of(each) != FILES), None):
            raise click.UsageError(f"{many} holds many images, which requires --on ray")
        opening = self.opening
        where = Destinations(
            pictures,
            self.out,
            several_targets=opening.several,
            with_data=opening.with_data,
            model=opening.choice.model,
        )
        if where.is_one_file:
            raise click.UsageError("--jobs requires a folder; pass -o FOLDER/")
        where.check()
        facts = self.prepare(pictures, {})
        self.opening = replace(self.opening, inputs=tuple(where.inputs))
        self._home = where.folder or Path(pictures[0]).parent  # beside the first image
        self._manifest = Manifest(FolderStorage(self._home.absolute()), self.opening.request)
        self._resumes = not self.overwrite and (
            len(self.images) > 1 or Path(self.images[0]).is_dir()
        )
        before = self._before()
        self._manifest.start(facts)
        with Interruption(self.console) as interruption:
            code = self._explain(pictures, where, before, interruption)
        if code or self.failed:
            raise click.exceptions.Exit(code or 1)

    def _before(self) -> Done:
        """Return what earlier runs have done, without errors if they are to be tried again."""
        done = Done()
        for name, entries in self._manifest.entries():
            kept = [each for each in entries if not (each.failed and self.job.retry_errors)]
            if len(kept) < len(entries):
                self._manifest.replace(name, kept)
            for each in kept if self._resumes else ():
                done.add(each)
        return done

    def _explain(
        self,
        pictures: Sequence[str],
        where: Destinations,
        before: Done,
        interruption: Interruption,
    ) -> int:
        """Explain images and deliver results in the images' order; return the exit code."""
        skipped = known = 0
        workers = min(self.job.jobs or 1, len(pictures))
        pool: ProcessPool[Item, Outcome] = ProcessPool(self.opening, workers)
        try:
            with pool, self.console.progress("images") as bar:
                for item, outcome in self._in_order(pool, pictures, where, before, interruption):
                    bar.wipe()
                    if outcome is None:
                        known += 1
                    elif outcome.found:
                        self._tell_found(item, outcome)
                        skipped += 1
                    else:
                        self._deliver(item, outcome)
                    if outcome is not None:
                        self._note(item, outcome, before)
                    self.done += outcome is None or outcome.finished
                    bar(self.done, len(pictures))
        except ResultError as error:
            self._flush_if_possible()
            raise ended(error, self.done - self.failed, len(pictures)) from error
        except BaseException:
            self._flush_if_possible()
            raise
        self._flush()
        self._tell(skipped, known, len(pictures))
        self.failed += known
        return INTERRUPTED if interruption() else 0

    def _in_order(
        self,
        pool: ProcessPool[Item, Outcome],
        pictures: Sequence[str],
        where: Destinations,
        before: Done,
        stop: Callable[[], bool],
    ) -> Iterator[tuple[Item, Outcome | None]]:
        """Yield outcomes in the images' order; None for images that are known to fail."""
        waiting: dict[int, tuple[Item, Outcome | None]] = {}
        expected = 0

        def items() -> Iterator[Item]:
            for number, picture in enumerate(pictures):
                path = str(Path(picture).absolute())
                stem, stamp = str(where.stem(picture)), _stamp(picture)
                item = Item(number, picture, picture, stem, stamp=stamp, find=self._resumes)
                if before.has_failed(path, stamp):
                    waiting[number] = item, None
                else:
                    yield item

        for item, result in pool.run(items(), stop):
            waiting[item.number] = item, _lost(item, result) if isinstance(result, Lost) else result
            while expected in waiting:
                yield waiting.pop(expected)
                expected += 1
        for number in sorted(waiting):  # some are missing if the run was interrupted
            yield waiting.pop(number)

    def _deliver(self, item: Item, outcome: Outcome) -> None:
        """Print what a worker has noted on an image, or its error."""
        print_noted(self.console, outcome)
        if outcome.error is not None:
            self.failed += 1
            self.report(outcome.error)
        self.hope.see([outcome.error])

    def _tell_found(self, item: Item, outcome: Outcome) -> None:
        """Report the existing results of an image, as `run` does."""
        for files in outcome.found:
            data = {"image": item.source, "files": files, "skipped": True}
            self.console.result([], data, bare=files)
        written = ", ".join(path for files in outcome.found for path in files)
        self.console.note([f"{item.source}: already explained: {written}"])

    def _note(self, item: Item, outcome: Outcome, before: Done) -> None:
        """Note that an image is done, unless it is noted."""
        source = str(Path(item.source).absolute())
        if not outcome.finished or before.has(source, item.stamp):
            return
        files = [each for paths in outcome.found for each in paths] or outcome.files
        self._entries.append(
            Entry(
                source,
                item.stamp,
                failed=() if outcome.error is None else (0,),
                sha256=outcome.sha256,
                error=outcome.error,
                files=tuple(os.path.relpath(each, self._home) for each in files),
            )
        )
        late = time.monotonic() - self._written > PART_SECONDS
        if late or len(self._entries) >= PART_IMAGES:
            self._flush()

    def _flush_if_possible(self) -> None:
        """Write what is done after an error, which is the one to report."""
        with suppress(ResultError):
            self._flush()
            self._manifest.discard()

    def _flush(self) -> None:
        """Write what is done."""
        if self._entries:
            self._manifest.add(self._group, self._number, self._entries)
            self._number += 1
        self._entries, self._written = [], time.monotonic()

    def _tell(self, skipped: int, known: int, images: int) -> None:
        """Print what was skipped, and what is left."""
        if skipped:
            self.console.tell(
                f"skipped {skipped} of {counted(images, 'image')}: results already exist; "
                "use --overwrite to recompute them"
            )
        if known:
            self.console.tell(failed_before(known))
        if left := images - self.done:
            self.console.warn(
                [
                    f"{left} of {counted(images, 'image')} not explained; rerun the same command "
                    "to resume"
                ]
            )


def _lost(item: Item, lost: Lost) -> Outcome:
    """Return the outcome of an image that killed its workers."""
    return Outcome(f"{item.source}: {lost.message}")


def _stamp(path: str) -> str:
    """Return the size and modification time of a file; empty if it cannot be read."""
    try:
        state = Path(path).stat()
    except (OSError, ValueError):
        return ""
    return f"{state.st_size}-{state.st_mtime_ns}"
