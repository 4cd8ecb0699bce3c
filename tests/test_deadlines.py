"""Models that do not come back: whoever asks does, and all is well later on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from endless import SIDE, endless_model

import ibisa_onnx as ibisa
from ibisa_onnx.errors import DeadlineError
from ibisa_onnx.models import running
from ibisa_onnx.models.running import time_limit

DEADLINE = 0.2


@pytest.fixture(autouse=True)
def _little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_GRACE", 0.3)


def picture(level: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 30, (SIDE, SIDE, 3), np.uint8)
    noise[3, 3] = 255
    return np.maximum(noise, level).astype(np.uint8)


DARK, BRIGHT = picture(0), picture(200)


def explainer(**of_model: Any) -> ibisa.Explainer:
    data = endless_model(**of_model).SerializeToString()
    return ibisa.Explainer(data, preprocessing="unit", providers=["cpu"], cache=False)


@pytest.mark.parametrize(
    "ask",
    [
        lambda e: e.explain(BRIGHT, deadline=DEADLINE),
        lambda e: e.explain(BRIGHT, deadline=DEADLINE, method="rise"),
        lambda e: e.explain_all(BRIGHT, "top:2", deadline=DEADLINE),
        lambda e: e.explain_batch([DARK, BRIGHT], deadline=DEADLINE),
        lambda e: list(e.iter_explanations(BRIGHT, deadline=DEADLINE)),
        lambda e: list(e.explain_rounds(BRIGHT, deadline=DEADLINE)),
    ],
)
def test_a_picture_that_it_never_answers_ends_late_and_harms_no_other(
    ask: Callable[[ibisa.Explainer], object],
) -> None:
    explaining = explainer(above=0.5)
    before = explaining.explain(DARK)
    with pytest.raises(DeadlineError, match=r"was ended after .*deadline: 0\.2 s"):
        ask(explaining)
    after = explaining.explain(DARK, deadline=1000)
    np.testing.assert_array_equal(after.map, before.map)
    assert after.certificate == before.certificate


def test_the_graphs_of_the_gradient_are_ended_too() -> None:
    """What it never answers are pictures that are partly hidden, by the graph of the gradient."""
    explaining = explainer(dimmed=True)
    with pytest.raises(DeadlineError, match="the gradient graph of the model was ended"):
        explaining.explain(DARK, deadline=DEADLINE)
    rounds = explaining.explain_rounds(DARK, deadline=DEADLINE)
    with pytest.raises(DeadlineError):
        list(rounds)


def test_opening_and_asking_are_ended_within_a_limit() -> None:
    with pytest.raises(DeadlineError), time_limit(DEADLINE):
        _ = explainer(opaque=True).kind
    explaining = explainer(above=0.5)
    for ask in (explaining.predict, explaining.answers, explaining.problem):
        with pytest.raises(DeadlineError), time_limit(DEADLINE):
            ask(BRIGHT)
    assert explaining.predict(DARK)


def test_what_time_did_not_suffice_for_is_not_taken_for_impossible() -> None:
    """As a gradient that was not opened, or a kind of model that was not told, and is kept."""
    explaining = explainer(above=0.5)
    problem = explaining.problem(DARK)
    with time_limit(DEADLINE):
        with pytest.raises(DeadlineError):
            explaining.predict(BRIGHT)
        with pytest.raises(DeadlineError):  # now at once
            explaining.prepare(problem)
    assert explaining.explain(DARK).certificate.gradient == "exact"
    data = endless_model(above=0.9, opaque=True).SerializeToString()
    unknown = ibisa.DeployedModel.open(data, providers=["cpu"])
    with time_limit(DEADLINE):
        with pytest.raises(DeadlineError):
            explaining.predict(BRIGHT)
        with pytest.raises(DeadlineError):
            ibisa.Explainer(unknown, preprocessing="unit")
    assert ibisa.Explainer(unknown, preprocessing="unit").kind.name == explaining.kind.name


def test_a_slow_model_is_left_to_end_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its prediction takes far longer than the deadline, and is not ended as one that hangs."""
    monkeypatch.setattr(running, "_GRACE", 60.0)
    with pytest.raises(DeadlineError, match="no time for a first step"):
        explainer(above=0.5).explain(DARK, deadline=1e-9)
