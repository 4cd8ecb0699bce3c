"""A gradient that is not the deployed model's is found by what the model says a step further."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.errors import OutputError
from ibisa_onnx.gradients.onnx_backward import _MaskedGraph
from ibisa_onnx.methods.ibisa.gradient_check import GradientCheck
from ibisa_onnx.methods.problem import MaskGradient, Problem
from ibisa_onnx.statements import Certificate
from ibisa_onnx.targets.classification import ClassObjective

SPOILT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned": lambda gradient: -gradient,
    "zero": np.zeros_like,
    "shuffled": lambda gradient: np.random.default_rng(1).permuted(gradient, axis=None),
    "shifted": lambda gradient: np.roll(gradient, (5, 9), (2, 3)),
    "transposed": lambda gradient: gradient.transpose(0, 1, 3, 2),
    "larger": lambda gradient: gradient * np.float32(100),
    "smaller": lambda gradient: gradient * np.float32(0.01),
}


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the backward graph give another gradient, at outputs that stay right."""
    backward = _MaskedGraph.backward

    def spoilt(kind: str) -> None:
        monkeypatch.setattr(_MaskedGraph, "backward", lambda *args: SPOILT[kind](backward(*args)))

    return spoilt


def picture(seed: int = 2) -> np.ndarray:
    return draw_scene(np.random.default_rng(seed), count=2).image


def demo(**options: Any) -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=1, providers=["cpu"], **options)


def test_a_right_gradient_is_right_for_every_answer() -> None:
    explainer = demo(options="fast", gradient="exact")
    for seed in range(6):
        for found in explainer.explain_all(picture(seed), "top:4"):
            assert found.certificate.gradient_error < 0.25
            assert found.certificate.gradient_tolerance == 0.5
            assert found.certificate.holds


@pytest.mark.parametrize("kind", SPOILT)
def test_under_auto_a_wrong_gradient_is_done_without(
    spoil: Callable[[str], None], kind: str
) -> None:
    spoil(kind)
    found = demo().explain(picture())
    assert found.certificate.gradient == "forward-only"
    assert "the exact gradient does not match the deployed model" in found.certificate.reason
    right = demo(gradient="forward-only").explain(picture())
    assert np.corrcoef(found.map.ravel(), right.map.ravel())[0, 1] > 0.7


@pytest.mark.parametrize("kind", SPOILT)
def test_asked_for_by_name_it_is_used_with_a_warning(
    spoil: Callable[[str], None], kind: str
) -> None:
    spoil(kind)
    found = demo(gradient="exact", options="fast").explain(picture())
    assert found.certificate.gradient == "exact"
    assert not found.certificate.holds
    assert found.certificate.difference <= found.certificate.tolerance
    assert found.certificate.gradient_error > found.certificate.gradient_tolerance
    (warning,) = (each for each in found.warnings if "may not be faithful" in each)
    assert "directional derivative" in warning


def test_of_several_answers_only_those_with_a_wrong_gradient_do_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vjp = ClassObjective.vjp
    second = demo().predict(picture(), 3)[1].index

    def turned(self: ClassObjective, raw: Any) -> dict[str, np.ndarray]:
        sign = np.float32(-1 if self.index == second else 1)
        return {name: sign * each for name, each in vjp(self, raw).items()}

    monkeypatch.setattr(ClassObjective, "vjp", turned)
    found = demo().explain_all(picture(), "top:3")
    used = [each.certificate.gradient for each in found]
    assert used == ["exact", "forward-only", "exact"]


@pytest.mark.parametrize(("rounds", "preset"), [(101, "quality"), (13, "fast")])
def test_it_takes_a_pass_whatever_the_rounds(rounds: int, preset: str) -> None:
    first, second = demo(options=preset).explain_all(picture(), "top:2")
    assert first.passes.forward == rounds
    assert second.passes.forward == rounds - (6 if preset == "quality" else 5 + 1)


def test_the_record_is_the_same_from_eight_threads() -> None:
    explainer = demo(options="fast")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: explainer.explain(picture()), range(16)))
    assert len({each.certificate for each in found}) == 1
    assert len({(each.passes.forward, each.map.tobytes()) for each in found}) == 1
    assert found[0].certificate == demo(options="fast").explain(picture()).certificate


class Turned(torch.autograd.Function):
    """What it is given, with the gradient's sign turned."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> torch.Tensor:
        return -cotangents[0]


class Middle(torch.nn.Module):
    """Two classes by the brightness of the middle; `turned`: its gradient has the other sign."""

    def __init__(self, turned: bool = False) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = images[:, :, 12:20, 12:20].mean((1, 2, 3))
        seen = Turned.apply(seen) if self.turned else seen
        return torch.stack([torch.zeros_like(seen), 8 * seen - 4], 1)


@pytest.mark.parametrize("turned", [False, True])
def test_a_surrogate_that_answers_right_and_derives_wrong_is_not_trusted(turned: bool) -> None:
    model = Middle()

    def answer(images: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(images)).numpy()

    spec = ibisa.InputSpec((None, 3, 32, 32))
    shown = np.zeros((32, 32, 3), np.uint8)
    shown[12:20, 12:20] = 200
    explainer = ibisa.Explainer(
        answer, input_spec=spec, surrogate=Middle(turned), preprocessing="unit"
    )
    found = explainer.explain(shown, 1)
    assert found.certificate.gradient == ("forward-only" if turned else "surrogate")
    assert found.map[12:20, 12:20].mean() > 2 * found.map.mean()
    if turned:
        assert (
            "the surrogate gradient does not match the deployed model" in found.certificate.reason
        )
    else:
        assert found.certificate.gradient_error < 0.5
        assert (found.passes.forward, found.passes.backward) == (22, 10)


Function = Callable[[np.ndarray], np.ndarray]


def planted(probability: Function, score: Function | None = None, *, coarse: bool = False) -> float:
    """Check the gradient 2 of the score at the mask 0.5, whatever it really is: log p unless told.

    Functions of the sum of the mask's four cells.
    """
    score = score or (lambda sums: np.log(np.maximum(probability(sums), 1e-300)))

    def both(sums: np.ndarray) -> np.ndarray:
        return np.stack([probability(sums), score(sums)])

    class Masked:
        def take(self, rows: Any) -> Masked:
            return self

        def through(self, masks: np.ndarray) -> np.ndarray:
            return masks

    class Planted:
        masked = Masked()
        rows = (type("Row", (), {"probability": 1.0}),)

        def probability_and_score(self, images: np.ndarray, rows: Any) -> np.ndarray:
            return both(images.reshape(len(images), -1).sum(1).astype(np.float64))

    masks = np.full((1, 2, 2), 0.5, np.float32)
    own, there = both(np.array([2.0]))
    slope = np.full((1, 2, 2), 2, np.float32)
    found = MaskGradient(slope, own, probability=own, score=there)
    check = GradientCheck(1, coarse=coarse)
    check.watch(Planted(), lambda _: found)(masks)
    return check.errors[0]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    ("slope", "error"), [(2, 0), (1, 0.5), (4, 0.5), (-2, 2), (20, 0.9), (0, 1)]
)
def test_the_error_is_the_relative_one(slope: float, error: float, coarse: bool) -> None:
    """Straight in log p, or, where both sides are asked and far apart, in the log-odds."""
    own = np.exp(-1)

    def probability(sums: np.ndarray) -> np.ndarray:
        if not coarse:
            return own * np.exp(slope * (sums - 2))
        odds = own / (1 - own) * np.exp(slope / (1 - own) * (sums - 2))
        return odds / (1 + odds)

    assert planted(probability, coarse=coarse) == pytest.approx(error, abs=1e-4)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(("slope", "error"), [(2, 0), (1, 0.5), (-2, 2), (0, 1)])
def test_a_score_that_is_not_log_p_is_compared_by_itself(
    slope: float, error: float, coarse: bool
) -> None:
    """As of a text: log-odds, of which log p changes by a hundredth where p is .99."""

    def log_odds(sums: np.ndarray) -> np.ndarray:
        return np.log(99) + slope * (sums - 2)

    def probability(sums: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-log_odds(sums)))

    found = planted(probability, lambda sums: log_odds(sums) - np.log(99), coarse=coarse)
    assert found == pytest.approx(error, abs=1e-4)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("probability", [1.0, 1 - 1e-7, 0.0])
def test_where_the_answer_is_certain_nothing_tells(probability: float, coarse: bool) -> None:
    assert planted(lambda sums: np.full(len(sums), probability), coarse=coarse) is None


def test_an_answer_that_is_none_a_step_further_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that answers NaN is asked row by row, and the rows beside it are still checked."""
    ask = Problem.probability_and_score

    def first_fails(self: Problem, images: np.ndarray, rows: Any) -> np.ndarray:
        if len(self) == 3 and 0 in np.asarray(rows):
            raise OutputError("NaN")
        return ask(self, images, rows)

    monkeypatch.setattr(Problem, "probability_and_score", first_fails)
    options = ibisa.Options(check=False, baseline="blur")
    found = demo(options=options).explain_all(picture(), "top:3")
    known = [each.certificate.gradient_error is not None for each in found]
    assert known == [False, True, True]


def test_an_older_certificate_says_nothing_of_the_gradient() -> None:
    old = Certificate("exact", "every operator has a rule", 3e-7, 1e-3, True)
    assert old.gradient_error is None
    assert old.holds
