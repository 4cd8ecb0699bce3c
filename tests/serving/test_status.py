"""Which errors are the caller's: every class has a status on purpose."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from documentation.snippets import ROOT

import ibisa_onnx as ibisa
from ibisa_onnx.serving import Status, status_of

CALLERS = Status(400, "INVALID_ARGUMENT")
OURS = Status(500, "INTERNAL")
EXPECTED = {
    ibisa.ImageError: CALLERS,
    ibisa.TargetError: CALLERS,
    ibisa.AbsentTargetError: CALLERS,
    ibisa.OptionError: CALLERS,
    ibisa.OverloadError: Status(429, "RESOURCE_EXHAUSTED"),
    ibisa.RemoteError: Status(502, "UNAVAILABLE"),
    ibisa.DeadlineError: Status(504, "DEADLINE_EXCEEDED"),
    # The server's operator chose the model, its settings and its environment.
    ibisa.ModelError: OURS,
    ibisa.ProviderError: OURS,
    ibisa.PreprocessingError: OURS,
    ibisa.OutputError: OURS,
    ibisa.PredictionMismatchError: OURS,
    ibisa.GradientError: OURS,
    ibisa.UnsupportedOperatorError: OURS,
    ibisa.NonFiniteGradientError: OURS,
    ibisa.MetricError: OURS,
    ibisa.ResultError: OURS,
    ibisa.ExportError: OURS,
    ibisa.MissingDependencyError: OURS,
}
HOME = "ibisa_onnx.errors"


def classes(base: type[ibisa.IbisaError]) -> Iterator[type[ibisa.IbisaError]]:
    for each in base.__subclasses__():
        yield each
        yield from classes(each)


def test_every_class_of_errors_is_listed() -> None:
    assert {each for each in classes(ibisa.IbisaError) if each.__module__ == HOME} == set(EXPECTED)


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_has_its_status(kind: type[ibisa.IbisaError]) -> None:
    status = status_of(kind("something", "do something else"))
    assert status == EXPECTED[kind]
    assert status.by_caller == (EXPECTED[kind] == CALLERS)


def test_other_errors_are_the_servers() -> None:
    for error in (ValueError("x"), MemoryError(), KeyError("x"), ibisa.IbisaError("x")):
        assert status_of(error) == OURS


def test_the_table_of_the_docs_is_this() -> None:
    text = (ROOT / "docs/how-to/service.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+Error`[;, ]*)+)\s*\| (\d{3})", text, re.MULTILINE)
    told = {name: int(code) for names, code in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {
        each.__name__: status.http for each, status in EXPECTED.items() if status != OURS
    }
