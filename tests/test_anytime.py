"""A map at any time: round by round, by a deadline, or when someone has seen enough."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.errors import DeadlineError, OptionError, ResultError, TargetError
from ibisa_onnx.gradients import onnx_backward
from ibisa_onnx.gradients.selection import ESTIMATED
from ibisa_onnx.methods.ibisa import forward_only
from ibisa_onnx.methods.stopping import Control, StoppingRule
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.preprocessing.geometry import Geometry
from ibisa_onnx.statements import Completion

GRADIENTS = ("exact", *ESTIMATED)
CHECK = 4


OVERHEAD = 5
"""Passes before the queries: the prediction, and four that settle the baseline."""


def explainer(gradient: str, budget: int = 200) -> ibisa.Explainer:
    return ibisa.Explainer(
        model_path(), threads=1, providers=["cpu"], gradient=gradient, budget=budget
    )


@pytest.fixture
def picture() -> np.ndarray:
    return draw_scene(np.random.default_rng(5), count=2).image


class After:
    """A wish to stop at the n-th time of asking."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_rounds_end_in_the_explanation(gradient: str, picture: np.ndarray) -> None:
    explaining = explainer(gradient)
    *earlier, last = explaining.explain_rounds(picture, seed=3)
    whole = explaining.explain(picture, seed=3)
    assert len(earlier) == 9
    np.testing.assert_array_equal(last.map, whole.map)
    assert (last.passes, last.completion) == (whole.passes, whole.completion)
    done = [each.completion.done for each in (*earlier, last)]
    assert done == sorted(set(done))
    assert done[-1] == last.completion.planned
    assert all(each.sufficiency is None for each in earlier)
    assert last.sufficiency == whole.sufficiency
    assert all(each.completion.cut_short is None for each in (*earlier, last))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_an_early_round_counts_what_it_took(gradient: str, picture: np.ndarray) -> None:
    rounds = explainer(gradient).explain_rounds(picture)
    first, second = next(rounds), next(rounds)
    both = first.completion, second.completion
    if gradient == "exact":
        assert [each.done for each in both] == [1, 2]
        assert second.passes.backward == 2
    else:
        assert second.passes.forward == OVERHEAD + both[1].done
        assert second.passes.backward == 0


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
def test_rounds_count_their_own_passes_alone(gradient: str, picture: np.ndarray) -> None:
    """Whatever is explained between two of them, and whichever thread asks for the next."""
    explaining = explainer(gradient, 60)
    rounds = explaining.explain_rounds(picture)
    with ThreadPoolExecutor(2) as threads:  # a server's, say
        found = [next(rounds)]
        explaining.explain(picture, seed=1)
        found += [threads.submit(next, rounds).result(), next(rounds)]
        found += threads.submit(list, rounds).result()
    alone = [each.passes for each in explaining.explain_rounds(picture)]
    assert [each.passes for each in found] == alone


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_wish_to_stop_ends_with_the_map_so_far(gradient: str, picture: np.ndarray) -> None:
    found = explainer(gradient).explain(picture, stop=After(2))
    completion = found.completion
    assert completion.cut_short == "stop"
    assert 0 < completion.done < completion.planned
    assert found.sufficiency is None  # whoever stops does not wait for a check
    assert any(f"{completion.done} of {completion.planned}" in text for text in found.warnings)
    if gradient != "exact":
        assert found.passes.forward == OVERHEAD + completion.done


def test_without_a_gradient_it_stops_within_a_round(picture: np.ndarray) -> None:
    found = explainer("forward-only", 1000).explain(picture, stop=After(1))
    assert found.completion.done == 8
    assert np.ptp(found.map) > 0


@pytest.mark.parametrize("budget", [30, 60])
def test_rounds_of_a_single_query_end_too(budget: int, picture: np.ndarray) -> None:
    found = explainer("forward-only", budget).explain(picture, stop=After(1))
    assert found.completion.cut_short == "stop"
    assert found.completion.done <= 8


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_deadline_that_has_passed_is_an_error(gradient: str, picture: np.ndarray) -> None:
    explaining = explainer(gradient)
    with pytest.raises(DeadlineError, match="no time for a first step"):
        explaining.explain(picture, deadline=1e-9)
    assert explaining.model.passes.count.forward == 1  # the prediction


@pytest.mark.parametrize("seconds", [19, 20, 25, 30, 35, 40, 60])
def test_a_deadline_is_hard(
    seconds: int, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a pass takes a second, and to restore the map takes ten."""
    now = [1000.0]
    run, bound, restore = DeployedModel.run, onnx_backward.run_bound, Geometry.restore

    def slow(self: DeployedModel, images: np.ndarray, *rest: Any) -> Any:
        now[0] += len(images)
        return run(self, images, *rest)

    def slow_step(*arguments: Any) -> Any:
        now[0] += 1
        return bound(*arguments)

    def restored(self: Geometry, values: np.ndarray) -> np.ndarray:
        now[0] += 5  # the map, and the evidence against
        return restore(self, values)

    explaining = explainer("exact")
    explaining.warm_up()
    explaining._pipeline._per_pixel = 10 / picture[..., 0].size
    monkeypatch.setattr(DeployedModel, "run", slow)
    monkeypatch.setattr(onnx_backward, "run_bound", slow_step)
    monkeypatch.setattr(Geometry, "restore", restored)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    try:
        done = explaining.explain(picture, deadline=seconds).completion.done
    except DeadlineError:
        done = 0
    assert now[0] - 1000 <= seconds
    assert (done == 0) == (seconds == 19)
    assert (done == 10) == (seconds == 60)


def test_without_time_the_check_is_left_out(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoppingRule, "over", lambda self, ahead: False)
    monkeypatch.setattr(Control, "require", lambda self, ahead=0.0: None)
    found = explainer("exact").explain(picture, deadline=1e-9)
    assert found.sufficiency is None
    assert any("no time for the check" in text for text in found.warnings)


def test_a_deadline_is_kept_with_the_check_in_it(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own, on which a pass takes a second."""
    now = [1000.0]
    real = DeployedModel.run

    def slow(self: DeployedModel, images: np.ndarray, *rest: Any) -> dict[str, np.ndarray]:
        now[0] += len(images)
        return real(self, images, *rest)

    monkeypatch.setattr(DeployedModel, "run", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    for seconds in (40, 100):
        found = explainer("forward-only", 400).explain(picture, deadline=seconds)
        assert found.completion.cut_short == "deadline"
        assert seconds - 16 <= found.passes.forward <= seconds
        assert found.timings["total"] == found.passes.forward


def test_a_deadline_is_kept_where_to_learn_takes_longer_than_to_ask(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a round's regression takes twenty seconds, and a query none."""
    now = [1000.0]
    real = forward_only.regress

    def slow(*arguments: Any) -> Any:
        now[0] += 20
        return real(*arguments)

    monkeypatch.setattr(forward_only, "regress", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = explainer("forward-only", 400).explain(picture, deadline=70)
    assert found.completion.cut_short == "deadline"
    assert found.timings["total"] == 60


def test_a_deadline_is_kept_where_the_check_fills_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a call of sixteen images takes sixteen seconds."""
    now = [1000.0]

    def scores(images: np.ndarray) -> np.ndarray:
        now[0] += len(images)
        return np.stack([images.mean((1, 2, 3)), np.ones(len(images))], 1)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    spec = ibisa.InputSpec((16, 3, 16, 16))
    explaining = ibisa.Explainer(scores, spec, preprocessing="unit", activation="softmax")
    found = explaining.explain(scene_path(), 0, deadline=75)
    assert found.completion.cut_short == "deadline"
    assert found.timings["total"] == found.passes.forward == 64


def test_time_enough_cuts_nothing(picture: np.ndarray) -> None:
    found = explainer("forward-only", 60).explain(picture, deadline=1000, stop=lambda: False)
    assert found.completion == Completion(50, 50, "queries")
    assert not any("cut short" in text for text in found.warnings)


def test_a_deadline_for_each_target_is_as_many_times_as_long(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a pass takes a second."""
    now = [1000.0]
    real = DeployedModel.run

    def slow(self: DeployedModel, images: np.ndarray, *rest: Any) -> dict[str, np.ndarray]:
        now[0] += len(images)
        return real(self, images, *rest)

    monkeypatch.setattr(DeployedModel, "run", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    explaining = explainer("forward-only", 400)
    for given in ({"deadline_each": 50}, {"deadline_each": 500, "deadline": 150}):
        found = explaining.explain_all(picture, "top:3", **given)
        assert [each.completion.cut_short for each in found] == ["deadline"] * 3
        spent = sum(each.passes.forward for each in found)
        assert 100 < spent <= 150
    with pytest.raises(OptionError, match="deadline_each is 0"):
        explaining.explain_all(picture, deadline_each=0)


def test_each_target_has_its_own_deadline(picture: np.ndarray) -> None:
    *found, _ = explainer("forward-only", 60).explain_all(picture, "top:3", deadline=1000)
    assert all(each.completion.cut_short is None for each in found)


@pytest.mark.parametrize("seconds", [0, -1, "soon"])
def test_a_deadline_is_some_time(seconds: Any, picture: np.ndarray) -> None:
    explaining = explainer("exact")
    with pytest.raises(OptionError, match="deadline"):
        explaining.explain(picture, deadline=seconds)
    with pytest.raises(OptionError, match="deadline"):
        next(explaining.explain_rounds(picture, deadline=seconds))
    assert explaining.model.passes.forward == 0


def test_rounds_are_of_one_target(picture: np.ndarray) -> None:
    with pytest.raises(TargetError, match="explain_all"):
        next(explainer("exact").explain_rounds(picture, "top:2"))


# -- effect and uncertainty


def test_effects_add_up_to_what_the_picture_adds() -> None:
    """For a picture larger than the model's input, part of which is cropped away."""
    scene = draw_scene(np.random.default_rng(8), count=1)
    large = np.pad(np.repeat(np.repeat(scene.image, 3, 0), 3, 1), ((0, 0), (60, 60), (0, 0)))
    explaining = explainer("forward-only", 800)
    found = explaining.explain(large, scene.objects[0].index)
    assert found.effect is not None
    assert found.sufficiency is not None
    gained = found.target.probability - found.sufficiency.probabilities[0]
    assert found.effect.shape == found.map.shape == large.shape[:2]
    assert 0.5 * gained < found.effect.sum() < 1.5 * gained


def test_every_round_knows_how_sure_it_is(picture: np.ndarray) -> None:
    for found in explainer("forward-only", 60).explain_rounds(picture):
        assert found.uncertainty is not None
        assert found.uncertainty.dtype == np.float32
        assert found.uncertainty.shape == found.map.shape
        assert found.uncertainty.min() >= 0
        assert found.uncertainty.max() > 0


def test_uncertainty_is_saved_and_drawn(picture: np.ndarray, tmp_path: Any) -> None:
    found = explainer("forward-only", 60).explain(picture)
    found.save(tmp_path)
    loaded = ibisa.Explanation.load(tmp_path)
    assert loaded.uncertainty is not None
    np.testing.assert_array_equal(loaded.uncertainty, found.uncertainty)
    np.testing.assert_array_equal(loaded.effect, found.effect)
    two, three = found.overlay(), found.overlay(uncertainty=True)
    assert three.shape[1] > 1.4 * two.shape[1]
    surer = replace(found, uncertainty=found.uncertainty / 4)
    assert not np.array_equal(surer.overlay(uncertainty=True), three)


def test_uncertainty_is_drawn_alike_however_large_the_picture(picture: np.ndarray) -> None:
    """An effect of a pixel in millions is next to nothing, and no less sure for that."""
    found = explainer("forward-only", 60).explain(picture)
    assert found.effect is not None
    assert found.uncertainty is not None
    of_a_large_one = replace(found, effect=found.effect / 1e4, uncertainty=found.uncertainty / 1e4)
    np.testing.assert_allclose(
        of_a_large_one.overlay(uncertainty=True).astype(float),
        found.overlay(uncertainty=True),
        atol=1,
    )


def test_a_gradient_does_not_know_how_sure_it_is() -> None:
    found = explainer("exact").explain(scene_path())
    assert found.effect is None
    assert found.uncertainty is None
    with pytest.raises(ResultError, match="no uncertainty"):
        found.overlay(uncertainty=True)
