"""Retention of log-odds, held against its definition and numeric gradients."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.targets.base import Objective, Raw
from ibisa_onnx.targets.retention import Retention, log_odds


class Sigmoid(Objective):
    """log p of one logit z, [N, 1]: p = 1 / (1 + exp(-z)), whose log-odds are z."""

    outputs = ("z",)

    def score(self, raw: Raw) -> np.ndarray:
        return np.asarray(-np.logaddexp(0, -raw["z"][:, 0].astype(np.float64)))

    def vjp(self, raw: Raw) -> dict[str, np.ndarray]:
        return {"z": (1 / (1 + np.exp(raw["z"]))).astype(np.float32)}

    def describe(self) -> dict[str, str]:
        return {"kind": "value", "caption": "z"}


RETENTION = Retention(Sigmoid(), baseline_log_odds=2.0, picture_log_odds=6.0)


def raw(*logits: float) -> dict[str, np.ndarray]:
    return {"z": np.array(logits, np.float64)[:, None]}


def test_it_is_one_for_the_picture_and_a_share_of_the_log_odds_in_between() -> None:
    np.testing.assert_allclose(RETENTION.probability(raw(6, 4, 3, 8)), [1, 0.5, 0.25, 1.5], 1e-6)


def test_it_goes_on_falling_below_the_baseline() -> None:
    scores = RETENTION.score(raw(2.5, 2.0, 1.0, -5.0))
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()


@pytest.mark.parametrize("logit", [7.0, 6.0, 3.0, 2.3, 2.0, -1.0])
def test_its_derivative_is_the_numeric_one(logit: float) -> None:
    step = 1e-4
    above, below = (RETENTION.score(raw(logit + by))[0] for by in (step, -step))
    found = RETENTION.vjp(raw(logit))["z"]
    assert found.shape == (1, 1)
    assert found.dtype == np.float32
    assert found[0, 0] == pytest.approx((above - below) / (2 * step), rel=1e-3)


class Margin(Sigmoid):
    """The logit itself, times a scale, as the score: not the log of the probability."""

    SCALE = 0.1

    def score(self, raw: Raw) -> np.ndarray:
        return np.asarray(self.SCALE * raw["z"][:, 0].astype(np.float64))

    def probability(self, raw: Raw) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-raw["z"][:, 0].astype(np.float64))))

    def vjp(self, raw: Raw) -> dict[str, np.ndarray]:
        return {"z": np.full_like(raw["z"], self.SCALE, np.float32)}


@pytest.mark.parametrize("logit", [7.0, 6.0, 3.0, 2.3, 2.0, -1.0])
def test_of_a_score_that_is_not_log_p_it_is_the_retained_score(logit: float) -> None:
    """Linear in the logit, so that r equals that by log-odds; the derivative is numeric."""
    retention = Retention(Margin(), 0.2, 0.6, by_score=True)
    np.testing.assert_allclose(
        retention.probability(raw(logit)), RETENTION.probability(raw(logit)), rtol=1e-6
    )
    step = 1e-4
    above, below = (retention.score(raw(logit + by))[0] for by in (step, -step))
    found = retention.vjp(raw(logit))["z"][0, 0]
    assert found == pytest.approx((above - below) / (2 * step), rel=1e-3)


def test_a_saturated_probability_has_a_finite_derivative() -> None:
    sure = Retention(Sigmoid(), float(log_odds(1 - 1e-6)), float(log_odds(1.0)))
    found = sure.vjp(raw(100.0, 14.0))["z"]
    assert np.isfinite(found).all()


def test_it_reads_and_describes_what_its_objective_does() -> None:
    assert RETENTION.outputs == ("z",)
    assert RETENTION.describe()["caption"] == "z"
    assert RETENTION.family == Sigmoid().family
