"""Detection of a model's kind, from metadata, operators, names, shapes, and a run on noise.

Each kind is a file with a `find` function; the first that recognises the model determines its kind.
"""

from __future__ import annotations

from collections.abc import Callable

from ibisa_onnx.errors import OptionError
from ibisa_onnx.targets import (
    classification,
    depth,
    detection,
    embedding,
    keypoints,
    regression,
    segmentation,
    sequence,
    unread,
)
from ibisa_onnx.targets.base import Kind, Reader
from ibisa_onnx.targets.facts import ModelFacts

Finder = Callable[[ModelFacts], Kind | None]

KINDS: dict[str, Finder] = {
    "detector": detection.find,
    "text recogniser": sequence.find,
    "segmenter": segmentation.find,
    "embedder": embedding.find,
    "regression": regression.find,
    "depth": depth.find,
    "keypoints": keypoints.find,
}
"""Detectors of kinds by name, in order; a model that none recognises is a classifier."""

_TOLD: dict[str, Finder] = {
    "text recogniser": lambda facts: sequence.find(facts, said=True),
    "segmenter": lambda facts: segmentation.find(facts, said=True),
    "embedder": embedding.find_told,
    "regression": regression.find_told,
}
"""Relaxed detectors, used if the caller specifies the kind."""


def discover(facts: ModelFacts, reader: Reader, wanted: str | None = None) -> Kind:
    """Determine the kind of a model.

    Parameters
    ----------
    facts
        What is known about the model.
    reader
        Reader of its class scores.
    wanted
        Kind specified by the caller; None to detect it.

    Raises
    ------
    OptionError
        The kind is unknown, or no output fits it.
    """
    if wanted is not None and wanted not in (*KINDS, classification.NAME):
        names = ", ".join((*KINDS, classification.NAME))
        raise OptionError(f"kind is {wanted!r}; choose from: {names}")
    finders = [find for name, find in KINDS.items() if wanted in (None, name)]
    for find in finders:
        found = find(facts)
        if found is not None:
            return found
    told = _TOLD[wanted](facts) if wanted in _TOLD else None
    if told is not None:
        return told
    if wanted is not None and wanted != classification.NAME:
        raise OptionError(f"kind is {wanted!r}, but no output of this model fits that kind")
    broken = unread.find(facts) if wanted is None else None
    return broken or classification.ClassifierKind(reader)
