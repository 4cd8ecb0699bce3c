"""Methods compared: each explains each picture, and every map is measured alike."""

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
"""Told how many maps are done, how many there will be, and about how many seconds are left."""

_OF_A_PICTURE = (ImageError, OutputError, GradientError, MetricError, TargetError)


@dataclass(frozen=True)
class Entry:
    """A method under the name that the table has for it.

    `files` are read by the method, so its maps depend on what is in them.
    """

    name: str
    method: Method
    files: Sequence[Path] = ()


class Listener(Protocol):
    """Is told what befalls single pictures."""

    def failed(self, image: Path, error: Exception) -> None:
        """Hear of a picture that cannot be read or explained, or has no such target: left out."""

    def warned(self, image: Path, text: str) -> None:
        """Hear what there is to know about a picture, or about a map of it."""


class SilentListener:
    """A listener that does nothing."""

    def failed(self, image: Path, error: Exception) -> None:
        """Go on."""

    def warned(self, image: Path, text: str) -> None:
        """Go on."""


@dataclass
class Benchmark:
    """Methods, pictures and metrics; what is in the store already is not measured again.

    Attributes
    ----------
    explainer
        Of the model.
    entries
        The methods, in the order of the table.
    images
        Pictures; of those with the same content the first.
    metrics
        What is measured.
    seed
        Of all methods.
    target
        What is explained of each picture, one answer; None: what the model says first.
    maps
        Where each map is kept; where one is missing it is made again, and not measured again.
    listener
        Is told of single pictures.
    clock
        Gives seconds.
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
        """Measure what is missing, picture by picture; yields each row, old and new.

        All methods are opened before the first map is made.

        Raises
        ------
        IbisaError
            A method cannot explain this model; a result cannot be written.
        """
        pictures = self._pictures()
        digests = {entry.name: self._digest(entry) for entry in self.entries}
        work = _Run(self, digests, pictures, progress)
        for image, sha256 in pictures.items():
            yield from work.rows(image, sha256)

    def _digest(self, entry: Entry) -> str:
        """Return a digest of all but the picture that the scores of a method depend on."""
        made = self.target, self.seed, entry.files
        return request_digest(self.explainer, entry.method, *made)[:12]

    def _pictures(self) -> dict[Path, str]:
        """Return the SHA-256 of each picture that can be read."""
        found: dict[str, Path] = {}
        for image in dict.fromkeys(self.images):
            try:
                sha256 = image_sha256(image)
            except ImageError as error:
                self.listener.failed(image, error)
                continue
            if sha256 in found:
                self.listener.warned(image, f"has the content of {found[sha256]}, and counts once")
            found.setdefault(sha256, image)
        return {image: sha256 for sha256, image in found.items()}


class _Run:
    """The work of one run: what is due, and how long it takes."""

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
        """Yield the rows of one picture; where it fails, tell of it and go on without it."""
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
        """Ask about a picture; TargetError where it has no such target."""
        benchmark = self._benchmark
        return calibrated(benchmark.explainer.problem(image, benchmark.target))

    def _fail(self, image: Path, error: Exception, missing: list[Entry], ended: int) -> None:
        """Leave a picture out, and what is missing of it."""
        self._benchmark.listener.failed(image, error)
        for entry in missing:
            self._forecast.drop(entry.name)
        self._done = ended
        self._report()

    def _key(self, sha256: str, entry: Entry) -> Key:
        return sha256, entry.name, self._digests[entry.name]

    def _missing(self, image: Path, sha256: str) -> list[Entry]:
        """Return the methods of which scores, or maps that are to be kept, are not there."""
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
        """Open all methods, once: what cannot be done is said before the long work."""
        if not self._opened:
            check_measurable(problem, self._benchmark.metrics)
            for entry in self._benchmark.entries:
                self._benchmark.explainer.prepare(problem, entry.method)
        self._opened = True

    def _unmeasured(self, key: Key) -> list[MapMetric | StabilityMetric]:
        """Return the metrics of which a row has no score."""
        row, metrics = self._benchmark.store.rows.get(key), self._benchmark.metrics
        return [each for each in metrics if row is None or each.name not in row.scores]

    def _new_row(self, image: Path, sha256: str, entry: Entry, problem: Problem) -> ScoreRow:
        """Explain, keep the map, and measure it, as far as that has not been done."""
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
        """Make a map, and keep it; return it with the memory that took."""
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
