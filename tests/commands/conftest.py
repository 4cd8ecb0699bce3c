"""An explainer that costs nothing, and pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ibisa_onnx.errors import TargetError
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.images import image_sha256, read_image
from ibisa_onnx.statements import (
    Certificate,
    Completion,
    ExplainedTarget,
    Passes,
    Provenance,
    Sufficiency,
)
from ibisa_onnx.targets.base import Answer

LABELS = ("goat", "Crème brûlée", "子犬", "crane", "crane")


@dataclass(frozen=True)
class FakeKind:
    """What `kind` is."""

    name: str = "classifier"


@dataclass(frozen=True)
class FakeMethod:
    """What `method` is."""

    name: str = "ibisa"
    settings: Mapping[str, object] = field(default_factory=dict)


class FakeExplainer:
    """Gives a blob for each target and remembers what it was asked."""

    def __init__(self, model, **options):
        self.model, self.options = model, options
        self.warnings = ("the mean is a guess",)
        self.method = FakeMethod()
        self.kind = FakeKind()
        self.asked = []
        self.versions = {"ibisa-onnx": "1"}
        type(self).last = self

    @property
    def settings(self):
        content = self.model if isinstance(self.model, bytes) else _content(Path(self.model))
        return {"model": content.hex(), **self.options}

    def iter_explanations(
        self, image, targets, *, seed, progress=None, deadline=None, stop=None, method=None
    ):
        picture = read_image(image)
        sha256 = image_sha256(image)
        self.asked.append((image, targets, seed))
        for index in self._indices(targets):
            if progress is not None:
                progress(10, 10)
            made = self._explanation(picture, index, seed)
            provenance = replace(made.provenance, image_sha256=sha256)
            yield replace(made, provenance=provenance)

    def answers(self, image):
        read_image(image)
        return [Answer(label, 1 / 2 ** (i + 1), i, label) for i, label in enumerate(LABELS)]

    @staticmethod
    def _indices(targets):
        for target in targets or [0]:
            if isinstance(target, int):
                yield target
            elif top := re.fullmatch(r"top:(\d+)", target):
                yield from range(int(top[1]))
            elif target in LABELS:
                yield LABELS.index(target)
            else:
                raise TargetError(f"there is no class {target!r}; the nearest is 'goat'")

    @staticmethod
    def _explanation(picture, index, seed):
        map = np.zeros(picture.shape[:2], np.float32)
        map[: len(map) // 2 + 1] = 1 + index
        return Explanation(
            map=map,
            image=picture,
            target=ExplainedTarget(
                kind="class",
                caption=f"{LABELS[index]} ({index})",
                output="scores",
                probability=0.875,
                index=index,
                label=LABELS[index],
                activation="softmax",
            ),
            sufficiency=Sufficiency((0.0, 0.05, 0.5), (0.01, 0.6, 0.9)),
            completion=Completion(10, 10, "steps"),
            passes=Passes(20, 10, 10, 10),
            timings={"total": 1.5},
            certificate=Certificate("exact", "every operator has a rule", 3e-7, 1e-3, True),
            provenance=Provenance(
                None, None, None, None, {}, ("CPUExecutionProvider",), {}, seed, {}
            ),
            warnings=("the mean is a guess", "the map is a test"),
        )


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@pytest.fixture
def fake(monkeypatch):
    """Put the fake in the place of `ibisa_onnx.Explainer`; its class holds the last one made.

    What `inspect` asks of a picture is answered so, too.
    """
    monkeypatch.setattr("ibisa_onnx.Explainer", FakeExplainer, raising=False)
    monkeypatch.setattr(
        "ibisa_onnx.pipeline.Pipeline.answers",
        lambda _, image, *__: FakeExplainer.answers(None, image),
    )
    FakeExplainer.last = None
    return FakeExplainer


@pytest.fixture
def photo(tmp_path):
    """Write a picture into the test's folder and return its path: `photo("a.jpg")`."""

    def write(name: str = "photo.jpg") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), pixels)
        return path

    return write
