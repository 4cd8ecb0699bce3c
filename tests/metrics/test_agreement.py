"""Agreement of maps by hand: ranks, ties, pairs, and maps that have no ranks."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.metrics import (
    RANDOMISATION,
    SEED_STABILITY,
    randomisation,
    seed_stability,
    spearman,
)

RNG = np.random.default_rng(0)
MAP = RNG.random((9, 11))


def ranked(values: np.ndarray) -> np.ndarray:
    """Ranks by counting: those below, and half of those that are the same."""
    flat = values.ravel()
    return np.array([(flat < each).sum() + (flat == each).sum() / 2 for each in flat])


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_correlation_is_of_ranks_ties_shared(levels: int) -> None:
    one, two = RNG.integers(0, levels, (2, 9, 11))
    expected = np.corrcoef(ranked(one), ranked(two))[0, 1]
    assert spearman(one, two) == pytest.approx(expected)


def test_the_same_order_is_one_and_the_opposite_minus_one() -> None:
    assert spearman(MAP, np.exp(5 * MAP)) == pytest.approx(1)
    assert spearman(MAP, -(MAP**3)) == pytest.approx(-1)
    assert spearman(np.array([[0, 128, 255]], np.uint8), np.array([[0, 1, 2]])) == pytest.approx(1)


def test_stability_is_the_mean_over_all_pairs() -> None:
    maps = [MAP, MAP**2, -MAP]  # 1, -1 and -1
    assert seed_stability(maps) == pytest.approx(-1 / 3)
    assert SEED_STABILITY(maps[:2]) == pytest.approx(1)
    rng = np.random.default_rng(1)
    maps = [rng.random((9, 11)) for _ in range(4)]
    pairs = [spearman(maps[i], maps[j]) for i in range(4) for j in range(i)]
    assert seed_stability(maps) == pytest.approx(np.mean(pairs))


def test_a_method_that_ignores_the_seed_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="1 by construction"):
        assert seed_stability([MAP, MAP.copy(), MAP]) == pytest.approx(1)


def test_maps_that_rank_alike_but_differ_are_fine(recwarn: pytest.WarningsRecorder) -> None:
    assert seed_stability([MAP, MAP**2]) == pytest.approx(1)
    assert not recwarn.list


def test_randomisation_takes_the_size() -> None:
    assert randomisation(MAP, MAP) == pytest.approx(1)
    assert randomisation(MAP, -MAP) == pytest.approx(1)
    noise = np.random.default_rng(2).random((200, 200, 2))
    assert randomisation(noise[..., 0], noise[..., 1]) == pytest.approx(0, abs=0.02)
    assert not RANDOMISATION.higher_is_better
    assert SEED_STABILITY.higher_is_better


def test_of_several_shuffled_models_the_worst_counts() -> None:
    noise = np.random.default_rng(3).random((9, 11))
    assert RANDOMISATION([MAP, noise, -MAP]) == pytest.approx(1)
    assert RANDOMISATION([MAP, noise, MAP[::-1]]) < 0.5


def test_constant_maps_agree_with_each_other_alone() -> None:
    assert spearman(np.zeros((9, 11)), np.full((9, 11), 0.1)) == 1
    assert spearman(np.zeros((9, 11)), MAP) == 0
    assert spearman(MAP, np.zeros((9, 11))) == 0


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(IbisaError, match="requires 2 or more maps, not 1"):
        seed_stability([MAP])
    with pytest.raises(IbisaError, match=r"the maps differ in shape: \(9, 11\) and \(9, 10\)"):
        seed_stability([MAP, MAP[:, :-1]])
    with pytest.raises(IbisaError, match="NaN"):
        randomisation(MAP, MAP * np.nan)
