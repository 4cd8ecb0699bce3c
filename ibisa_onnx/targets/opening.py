"""Joint resolution of a model's preprocessing and of how its outputs are read.

The input size must be known before the kind of a model is, and the kind's usual preprocessing may
then fill in what is not specified.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ibisa_onnx.errors import OptionError
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.memory import check_call
from ibisa_onnx.preprocessing.resolve import (
    Overrides,
    ResolvedPreprocessing,
    Usual,
    settle_preprocessing,
)
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.discovery import KINDS
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.reader import Labels, OutputReader


def open_reader(
    model: ImageModel,
    preprocessing: Preprocessing | str | os.PathLike[str] | None = None,
    overrides: Overrides | Mapping[str, Any] | None = None,
    *,
    output: str | None = None,
    activation: str | None = None,
    labels: Labels | None = None,
    kind: str | None = None,
) -> tuple[ResolvedPreprocessing, OutputReader]:
    """Resolve the preprocessing of an open model, and return it with the reader of its outputs.

    Parameters
    ----------
    model
        The model.
    preprocessing, overrides
        As in `settle_preprocessing`.
    output, activation, labels, kind
        As in `OutputReader`.

    Raises
    ------
    IbisaError
        The settings contradict the model, or each other.
    """

    def settle(usual: Usual | None = None) -> ResolvedPreprocessing:
        return settle_preprocessing(
            model.signature,
            model.metadata,
            preprocessing,
            overrides,
            model.folder,
            usual,
            model.limits,
        )

    def read(resolved: ResolvedPreprocessing, facts: ModelFacts | None = None) -> OutputReader:
        return OutputReader(model, output, activation, labels, resolved.spec, kind, facts)

    resolved = settle()
    check_call(model.signature, model.label, model.limits, resolved.spec.size)
    reader = read(resolved)
    if not resolved.spec.is_guess("mean", "resize", "channel_order"):
        return resolved, reader
    try:
        found = reader.kind
    except OptionError:
        if reader.facts.is_deployed or kind not in KINDS:
            raise
        return resolved, reader  # a function's first image may reveal more
    if not found.preprocessing:
        return resolved, reader
    usual = settle(Usual(f"default for {found.family}", found.preprocessing))
    if usual.spec == resolved.spec:
        return usual, reader
    return usual, read(usual, reader.facts.under(usual.spec))
