"""Explanations with planted maps and checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ibisa_onnx import (
    Certificate,
    Completion,
    ExplainedTarget,
    Explanation,
    Passes,
    Provenance,
    Sufficiency,
)
from ibisa_onnx.monitor import Observation

CERTIFICATE = Certificate("exact", "planted", 0.0, 1e-3, holds=True)


def planted(map: Any, **changed: Any) -> Explanation:
    """Return an explanation with a map, whose highest-ranked half restores 0.8 of 0.9."""
    map = np.asarray(map, np.float32)
    explanation = Explanation(
        map=map,
        image=np.zeros((*map.shape, 3), np.uint8),
        target=ExplainedTarget("class", "dog (1)", "scores", 0.9),
        sufficiency=Sufficiency((0.0, 0.5), (0.1, 0.82)),
        completion=Completion(10, 10, "steps"),
        passes=Passes(20, 10, 20, 10),
        timings={},
        certificate=CERTIFICATE,
        provenance=Provenance(None, None, None, None, {}, (), {}, 0, {}),
    )
    return replace(explanation, **changed)


def spot(rows: slice, columns: slice, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """Return a map that is 1 in a rectangle and 0 elsewhere."""
    map = np.zeros(size, np.float32)
    map[rows, columns] = 1
    return map


def seen(rng: np.random.Generator, shift: float = 0.0) -> Observation:
    """Return an observation whose `outside` is uniform over a fifth of the range."""
    return Observation(
        outside=float(rng.uniform(0.2, 0.4) + shift),
        sufficiency=float(rng.uniform(0.6, 1)),
        difference=float(rng.uniform(0, 1e-6)),
        unfaithful=False,
        fallback=False,
        flat=False,
        warned=bool(rng.random() < 0.2),
        cut_short=False,
        passes=31,
    )
