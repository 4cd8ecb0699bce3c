"""Runs a benchmark: each method explains each image, and all maps are scored alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from ibisa_onnx.benchmark.answers import calibrated
from ibisa_onnx.benchmark.evaluation import (
    MapMetric,
    check_measurable,
    evaluate,
    stability_of,
    subject_of,
)
from ibisa_onnx.benchmark.forecast import Forecast
from ibisa_onnx.benchmark.maps import MapFolder, read_map
from ibisa_onnx.benchmark.memory import PeakMemory
from ibisa_onnx.benchmark.row import SECONDS_DIGITS, Key, ScoreRow
from ibisa_onnx.benchmark.store import Store
from ibisa_onnx.benchmark.target_digest import request_digest
from ibisa_onnx.errors import GradientError, ImageError, MetricError, OutputError, TargetError
from ibisa_onnx.explainer import Explainer, Target
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.images import image_sha256
from ibisa_onnx.methods.base import Method
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics import StabilityMetric

Progress = Callable[[int, int, float | None], None]
"""Called with the number of maps done, the total, and the estimated seconds left, if known."""

_OF_A_PICTURE = (ImageError, OutputError, GradientError, MetricError, TargetError)


@dataclass(frozen=True)
class Entry:
    """A method to benchmark.

    Attributes
    ----------
    name
        Name of the method in the table.
    method
        The method.
    files
        Files that the method reads, such as a surrogate; their content is part of the settings
        digest.
    """

    name: str
    method: Method
    files: Sequence[Path] = ()


class Listener(Protocol):
    """Receives events about single images of a benchmark."""

    def failed(self, image: Path, error: Exception) -> None:
        """Handle an image that is skipped: unreadable, not explainable, or without the target.

        Parameters
        ----------
        image
            Path of the image.
        error
            Why it is skipped.
        """

    def warned(self, image: Path, text: str) -> None:
        """Handle a warning about an image or its map.

        Parameters
        ----------
        image
            Path of the image.
        text
            The warning, in one line.
        """


class SilentListener:
    """A listener that ignores all events."""

    def failed(self, image: Path, error: Exception) -> None:
        """Ignore a skipped image."""

    def warned(self, image: Path, text: str) -> None:
        """Ignore a warning."""


@dataclass
class Benchmark:
    """A comparison of methods on the same images, resumed from a store.

    Attributes
    ----------
    explainer
        Explainer of the model.
    entries
        The methods, in the order of the table.
    images
        Paths of the images; duplicates by content are used once.
    metrics
        Metrics of maps and of methods.
    store
        Where scores are saved; scores it already contains are not computed again.
    seed
        Seed of all methods.
    target
        The target on each image, which must be a single one; None: the model's top prediction.
    maps
        Where maps are saved; a missing map is computed again, but not scored again. None: maps are
        not saved.
    listener
        Receives skipped images and warnings.
    clock
        Returns the current time in seconds.
    """

    explainer: Explainer
    entries: Sequence[Entry]
    images: Sequence[Path]
    metrics: Sequence[MapMetric | StabilityMetric]
    store: Store
    seed: int = 0
    target: Target | None = None
    maps: MapFolder | None = None
    listener: Listener = field(default_factory=SilentListener)
    clock: Callable[[], float] = time.perf_counter

    def run(self, progress: Progress = lambda *_: None) -> Iterator[ScoreRow]:
        """Compute missing scores image by image, and yield every row, stored or new.

        All methods are prepared before the first map is computed, so that an unsupported method
        fails early. Images that cannot be read or explained are reported to the listener and
        skipped.

        Parameters
        ----------
        progress
            Called with the number of maps done, the total, and the estimated seconds left (None:
            unknown).

        Yields
        ------
        ScoreRow
            Scores and cost of one method on one image.

        Raises
        ------
        IbisaError
            A method does not support this model, or a result cannot be written.
        """
        pictures = self._pictures()
        digests = {entry.name: self._digest(entry) for entry in self.entries}
        work = _Run(self, digests, pictures, progress)
        for image, sha256 in pictures.items():
            yield from work.rows(image, sha256)

    def _digest(self, entry: Entry) -> str:
        """Return a digest of everything but the image that the scores of a method depend on."""
        made = self.target, self.seed, entry.files
        return request_digest(self.explainer, entry.method, *made)[:12]

    def _pictures(self) -> dict[Path, str]:
        """Return the SHA-256 of each readable image."""
        found: dict[str, Path] = {}
        for image in dict.fromkeys(self.images):
            try:
                sha256 = image_sha256(image)
            except ImageError as error:
                self.listener.failed(image, error)
                continue
            if sha256 in found:
                self.listener.warned(image, f"same content as {found[sha256]}; used once")
            found.setdefault(sha256, image)
        return {image: sha256 for sha256, image in found.items()}


class _Run:
    """The state of one run: what remains, and how long it will take."""

    def __init__(
        self,
        benchmark: Benchmark,
        digests: Mapping[str, str],
        pictures: Mapping[Path, str],
        progress: Progress,
    ) -> None:
        self._benchmark, self._digests, self._progress = benchmark, digests, progress
        self._total, self._done = len(pictures) * len(benchmark.entries), 0
        due = [each for pair in pictures.items() for each in self._missing(*pair)]
        self._forecast = Forecast(Counter(entry.name for entry in due), benchmark.clock)
        self._opened = False

    def rows(self, image: Path, sha256: str) -> Iterator[ScoreRow]:
        """Yield the rows of one image; if it fails, report it and skip the rest of it."""
        missing, ended = self._missing(image, sha256), self._done + len(self._benchmark.entries)
        self._report()
        try:
            problem = self._problem(image) if missing else None
        except _OF_A_PICTURE as error:
            self._fail(image, error, missing, ended)
            return
        if problem is not None:
            self._open(problem)
        try:
            for entry in self._benchmark.entries:
                if problem is None or entry not in missing:
                    row = self._benchmark.store.rows[self._key(sha256, entry)]
                else:
                    missing.remove(entry)
                    row = self._new_row(image, sha256, entry, problem)
                self._done += 1
                self._report()
                yield row
        except _OF_A_PICTURE as error:
            self._fail(image, error, missing, ended)

    def _problem(self, image: Path) -> Problem:
        """Pose the problem of an image; TargetError if it has no such target."""
        benchmark = self._benchmark
        return calibrated(benchmark.explainer.problem(image, benchmark.target))

    def _fail(self, image: Path, error: Exception, missing: list[Entry], ended: int) -> None:
        """Skip an image and its missing rows."""
        self._benchmark.listener.failed(image, error)
        for entry in missing:
            self._forecast.drop(entry.name)
        self._done = ended
        self._report()

    def _key(self, sha256: str, entry: Entry) -> Key:
        return sha256, entry.name, self._digests[entry.name]

    def _missing(self, image: Path, sha256: str) -> list[Entry]:
        """Return the methods whose scores, or maps to be saved, are missing."""
        return [
            entry
            for entry in self._benchmark.entries
            if self._key(sha256, entry) not in self._benchmark.store.rows
            or self._unmeasured(self._key(sha256, entry))
            or ((path := self._map_path(image, sha256, entry)) and not path.exists())
        ]

    def _map_path(self, image: Path, sha256: str, entry: Entry) -> Path | None:
        maps, digest = self._benchmark.maps, self._digests[entry.name]
        return None if maps is None else maps.path(image, sha256, entry.name, digest)

    def _open(self, problem: Problem) -> None:
        """Prepare all methods once, so that unsupported ones fail before the long work."""
        if not self._opened:
            check_measurable(problem, self._benchmark.metrics)
            for entry in self._benchmark.entries:
                self._benchmark.explainer.prepare(problem, entry.method)
        self._opened = True

    def _unmeasured(self, key: Key) -> list[MapMetric | StabilityMetric]:
        """Return the metrics without a score in the store."""
        row, metrics = self._benchmark.store.rows.get(key), self._benchmark.metrics
        return [each for each in metrics if row is None or each.name not in row.scores]

    def _new_row(self, image: Path, sha256: str, entry: Entry, problem: Problem) -> ScoreRow:
        """Compute, save and score the map, as far as that has not been done."""
        key, store = self._key(sha256, entry), self._benchmark.store
        path, wanted = self._map_path(image, sha256, entry), self._unmeasured(key)
        of_maps = [each for each in wanted if not isinstance(each, StabilityMetric)]
        of_methods = [each for each in wanted if isinstance(each, StabilityMetric)]
        row = store.rows.get(key)
        map: npt.NDArray[Any] | None = None
        with self._forecast.working(entry.name):
            if row is not None and path is not None and path.exists():
                map = read_map(path) if of_maps else None
            elif row is None or path is not None or of_maps:
                explanation, peak_bytes = self._explain(image, entry, problem, path)
                map = explanation.map
                row = row or _row(image, key, explanation, peak_bytes)
            if wanted or key not in store.rows:
                scores = self._scores(problem, entry, map, of_maps, of_methods)
                store.add(replace(row, scores=scores))
        return store.rows[key]

    def _explain(
        self, image: Path, entry: Entry, problem: Problem, path: Path | None
    ) -> tuple[Explanation, int]:
        """Compute and save a map; return the explanation and its peak memory."""
        benchmark = self._benchmark
        with PeakMemory() as memory:
            explanation = benchmark.explainer.explain(
                image,
                problem.row.objective,
                seed=benchmark.seed,
                progress=lambda *_: self._report(),
                method=entry.method,
            )
        for text in explanation.warnings:
            if text not in benchmark.explainer.warnings:
                benchmark.listener.warned(image, f"{entry.name}: {text}")
        if benchmark.maps is not None and path is not None:
            benchmark.maps.write(path, explanation.map)
        return explanation, memory.bytes

    def _scores(
        self,
        problem: Problem,
        entry: Entry,
        map: npt.NDArray[Any] | None,
        of_maps: Sequence[MapMetric],
        of_methods: Sequence[StabilityMetric],
    ) -> dict[str, float]:
        benchmark, scores = self._benchmark, dict[str, float]()
        if map is not None:
            scores |= evaluate(subject_of(problem), problem, map, of_maps)
        if of_methods:
            scores |= stability_of(
                benchmark.explainer,
                problem,
                of_methods,
                seed=benchmark.seed,
                method=entry.method,
            )
        return scores

    def _report(self) -> None:
        self._progress(self._done, self._total, self._forecast.seconds_left())


def _row(image: Path, key: Key, explanation: Explanation, peak_bytes: int) -> ScoreRow:
    """Return a row without scores."""
    sha256, method, settings = key
    return ScoreRow(
        image=image.name,
        image_sha256=sha256,
        method=method,
        settings=settings,
        target=explanation.target.caption,
        forward=explanation.passes.forward,
        backward=explanation.passes.backward,
        seconds=round(explanation.timings["total"], SECONDS_DIGITS),
        peak_bytes=peak_bytes,
        scores={},
    )
