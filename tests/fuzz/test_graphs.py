"""The graph walks, of differentiation and of targets, on graphs that were tampered with."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.examples import fuzzed
from fuzz.mutation import CORPUS, mutate, read
from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import IbisaError, UnsupportedOperatorError
from ibisa_onnx.preprocessing.annotate import annotate


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus_has_gradients(path):
    model = read(path)
    if path.stem == "branches":
        with pytest.raises(UnsupportedOperatorError, match="no gradient rule"):
            differentiate(model, "image", "y")
        return
    differentiate(model, "image", model.graph.output[-1].name)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
@fuzzed(40)
@given(seed=st.integers(0, 2**63))
def test_differentiation_raises_nothing_else(path, seed):
    model = read(path)
    mutate(model, Random(seed))
    for value in model.graph.output:
        try:
            differentiate(model, "image", value.name)
        except IbisaError as error:
            said = str(error)
            if "MemoryError" in said or "RecursionError" in said:
                raise


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
@fuzzed(40)
@given(seed=st.integers(0, 2**63))
def test_annotation_keeps_the_graph(path, seed):
    model = read(path)
    mutate(model, Random(seed))
    before = model.graph.SerializeToString(deterministic=True)
    with suppress(IbisaError):
        annotate(model, None, ["a", "b"])
    assert model.graph.SerializeToString(deterministic=True) == before
