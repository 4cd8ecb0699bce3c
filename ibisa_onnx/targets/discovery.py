"""What kind of model is this? Told by metadata, operators, names, shapes, and a run on noise.

Each kind is a file with a `find`; the first that recognises the model has it.
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
"""By name, in the order in which they are tried; a classifier is what none of them knows."""

_TOLD: dict[str, Finder] = {
    "text recogniser": lambda facts: sequence.find(facts, said=True),
    "segmenter": lambda facts: segmentation.find(facts, said=True),
    "embedder": embedding.find_told,
    "regression": regression.find_told,
}
"""What also finds a kind where a user says that the model is one."""


def discover(facts: ModelFacts, reader: Reader, wanted: str | None = None) -> Kind:
    """Tell what kind of model it is.

    Parameters
    ----------
    facts
        What is known of it.
    reader
        Of its class scores.
    wanted
        The kind that a user says it is; None: to be told.

    Raises
    ------
    OptionError
        There is no such kind, or the model cannot be one.
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
        raise OptionError(f"kind is {wanted!r}, but no output looks like one of that kind")
    broken = unread.find(facts) if wanted is None else None
    return broken or classification.ClassifierKind(reader)
