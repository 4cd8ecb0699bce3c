"""Methods against each other: each explains each picture, and every map is measured alike."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ibisa_onnx.comparison.evaluation import evaluate, subject_of
from ibisa_onnx.comparison.memory import PeakMemory
from ibisa_onnx.comparison.store import Key, Store
from ibisa_onnx.errors import ImageError, OutputError
from ibisa_onnx.explainer import Explainer, Question
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.method import Method
from ibisa_onnx.metrics import FaithfulnessMetric
from ibisa_onnx.model import image_sha256

Progress = Callable[[int, int, float | None], None]
"""Told how many maps are done, how many there will be, and about how many seconds are left."""


@dataclass(frozen=True)
class Entry:
    """A method under the name that the table has for it; None for IBISA itself."""

    name: str
    method: Method | None = None


@dataclass(frozen=True)
class Row:
    """One picture, explained by one method.

    Attributes
    ----------
    settings
        A digest of all that the scores depend on beside picture and method.
    target
        Index of the class explained: the predicted one.
    forward, backward
        Image passes, all that the explanation took.
    seconds, peak_bytes
        How long, and the process's memory at its highest.
    scores
        By name of the metric.
    """

    image: str
    image_sha256: str
    method: str
    settings: str
    target: int
    forward: int
    backward: int
    seconds: float
    peak_bytes: int
    scores: dict[str, float]

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.image_sha256, self.method, self.settings


@dataclass
class Contest:
    """Methods, pictures and metrics; what is in the store already is not measured again.

    Attributes
    ----------
    explainer
        Of the model.
    entries
        The methods, in the order of the table.
    images
        Pictures; those that cannot be read or explained are handed to `failed`, and left out.
    metrics
        What is measured.
    seed
        Of all methods.
    keep
        Told each explanation, for whoever keeps maps.
    """

    explainer: Explainer
    entries: Sequence[Entry]
    images: Sequence[Path]
    metrics: Sequence[FaithfulnessMetric]
    store: Store
    seed: int = 0
    keep: Callable[[Path, Entry, Explanation], None] = lambda *_: None
    failed: Callable[[Path, Exception], None] = lambda *_: None
    _paces: dict[str, list[float]] = field(default_factory=dict)

    def run(self, progress: Progress = lambda *_: None) -> Iterator[Row]:
        """Measure what is missing, picture by picture; yields each row, old and new."""
        digests = {entry.name: self._digest(entry) for entry in self.entries}
        total = len(self.images) * len(self.entries)
        left = {entry.name: len(self.images) for entry in self.entries}
        for image in self.images:
            try:
                yield from self._rows(image, digests, left, total, progress)
            except (ImageError, OutputError) as error:
                self.failed(image, error)
                for name in left:
                    left[name] = min(left[name], len(self.images) - self.images.index(image) - 1)

    def _rows(
        self,
        image: Path,
        digests: dict[str, str],
        left: dict[str, int],
        total: int,
        progress: Progress,
    ) -> Iterator[Row]:
        """Measure one picture."""
        sha256, question = image_sha256(image), None
        for entry in self.entries:
            row = self.store.rows.get((sha256, entry.name, digests[entry.name]))
            if row is None:
                question = question or self.explainer.question(image)
                begin = time.perf_counter()
                row = self._measured(image, sha256, entry, digests[entry.name], question)
                self._paces.setdefault(entry.name, []).append(time.perf_counter() - begin)
                self.store.add(row)
            left[entry.name] -= 1
            progress(total - sum(left.values()), total, self._seconds_left(left))
            yield row

    def _measured(
        self, image: Path, sha256: str, entry: Entry, digest: str, question: Question
    ) -> Row:
        """Explain, and measure the map."""
        target = question.case.index
        with PeakMemory() as memory:
            explanation = self.explainer.explain(image, target, seed=self.seed, method=entry.method)
        self.keep(image, entry, explanation)
        scores = evaluate(subject_of(question), question, explanation.map, self.metrics)
        return Row(
            image=image.name,
            image_sha256=sha256,
            method=entry.name,
            settings=digest,
            target=target,
            forward=explanation.passes.forward,
            backward=explanation.passes.backward,
            seconds=explanation.timings["total"],
            peak_bytes=memory.bytes,
            scores=scores,
        )

    def _digest(self, entry: Entry) -> str:
        """Return a digest of all but the picture that the scores depend on."""
        explainer, method = self.explainer, entry.method
        settings = (
            {**asdict(explainer.options), "gradient": explainer.wanted_gradient}
            if method is None
            else dict(method.settings)
        )
        facts = {
            "model": explainer.model.sha256 or explainer.model.name,
            "preprocessing": explainer.preprocessing.spec.to_dict(),
            "settings": settings,
            "seed": self.seed,
        }
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _seconds_left(self, left: dict[str, int]) -> float | None:
        """Return about how long the rest takes; None until each method has been seen at work."""
        missing = [name for name, count in left.items() if count and name not in self._paces]
        if missing:
            return None
        return sum(
            count * sum(self._paces[name]) / len(self._paces[name])
            for name, count in left.items()
            if count
        )
