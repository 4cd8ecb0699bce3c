"""Arguments of wrong types and values: an `IbisaError` in one line, from every public function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.autodiff import backward_graph
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.methods import GradCam, Iba, Ibisa, Occlusion, Rise
from ibisa_onnx.preprocessing import annotate

MODEL, IMAGE = str(model_path()), str(scene_path())
FAST = ibisa.Options(steps=1, check=False, budget=13, grid=8)
WRONG: tuple[Any, ...] = (
    *(None, True, -1, float("nan"), 10**400, "", "\ud800", b"x", {1: 2}, [[1]], object(), int),
    *(np.array([1, 2]), np.array(1.5), iter([1])),
)
Call = Callable[[Any], Any]


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(MODEL, options=FAST, threads=1, cache=False)


@pytest.fixture(scope="module")
def explanation(explainer: ibisa.Explainer) -> ibisa.Explanation:
    return explainer.explain(IMAGE)


def check(call: Call) -> None:
    """Call with each wrong value: what it does not accept is told in one line."""
    told = []
    for value in WRONG:
        try:
            found = call(value)
            list(found) if hasattr(found, "__next__") else None
        except ibisa.IbisaError as error:
            told.append(str(error))
    assert not any("\n" in each for each in told)


def field_calls(kind: Callable[..., Any], **given: Any) -> dict[str, Call]:
    return {
        f"{kind.__name__}.{each.name}": partial(_with, kind, given, each.name)
        for each in fields(kind)  # type: ignore[arg-type]
    }


def _with(kind: Callable[..., Any], given: dict[str, Any], name: str, value: Any) -> Any:
    return kind(**(given | {name: value}))


OPENING = (
    *("model", "input_spec", "providers", "input", "output", "preprocessing", "overrides"),
    *("labels", "activation", "kind", "gradient", "surrogate", "options", "budget", "threads"),
    *("extra_inputs", "limits"),
)
DATA = {
    **field_calls(ibisa.Limits),
    **field_calls(ibisa.Options),
    **field_calls(ibisa.InputSpec, shape=(None, 3, 8, 8)),
    **field_calls(ibisa.Preprocessing, size=(8, 8)),
    "from_dict": ibisa.Preprocessing.from_dict,
    "from_environment": ibisa.Limits.from_environment,
    "load": ibisa.Explanation.load,
    "backward_graph": backward_graph,
    "annotate": lambda value: annotate(value, None, None),
}
TARGETS = {
    **field_calls(ibisa.BoxTarget),
    **field_calls(ibisa.ClassTarget),
    **field_calls(ibisa.ContrastTarget, target=0, versus=1),
    **field_calls(ibisa.KeypointTarget),
    **field_calls(ibisa.PointTarget, at=(1, 1)),
    **field_calls(ibisa.RegionTarget),
    **field_calls(ibisa.SimilarityTarget, output="logits"),
    **field_calls(ibisa.TextTarget),
    **field_calls(ibisa.ValueTarget, output="logits", index="0"),
}
METHODS = {
    **field_calls(GradCam),
    **field_calls(Iba, images=[IMAGE, IMAGE]),
    **field_calls(Ibisa),
    **field_calls(Occlusion),
    **field_calls(Rise),
}
CALLS: dict[str, Callable[[ibisa.Explainer], Call]] = {
    "image": lambda e: e.problem,
    "target": lambda e: partial(e.problem, IMAGE),
    "seed": lambda e: lambda value: e.explain(IMAGE, seed=value),
    "deadline": lambda e: lambda value: e.explain(IMAGE, deadline=value),
    "method": lambda e: lambda value: e.explain(IMAGE, method=value),
    "targets": lambda e: partial(e.iter_explanations, IMAGE),
    "rounds": lambda e: partial(e.explain_rounds, IMAGE),
    "batch": lambda e: e.explain_batch,
    "batch's targets": lambda e: partial(e.explain_batch, [IMAGE]),
    "top": lambda e: lambda value: e.predict(IMAGE, value),
    "confidence": lambda e: lambda value: e.answers(IMAGE, confidence=value),
    "trial": lambda e: e.try_preprocessing,
    "trial's targets": lambda e: partial(e.try_preprocessing, [IMAGE]),
    "map_of": lambda e: e.map_of,
    "map_of's image": lambda e: partial(e.map_of, e.problem(IMAGE)),
    "prepare": lambda e: e.prepare,
}
RESULTS: dict[str, Callable[[ibisa.Explanation], Call]] = {
    "encode": lambda found: found.encode,
    "signed": lambda found: lambda value: found.overlay(signed=value),
    "uncertainty": lambda found: lambda value: found.encode(".png", uncertainty=value),
}


@pytest.mark.parametrize("name", OPENING)
def test_opening(name: str) -> None:
    check(lambda value: ibisa.Explainer(**({"model": MODEL, "cache": False} | {name: value})))


@pytest.mark.parametrize("name", [each.name for each in fields(ibisa.Overrides)])
def test_overrides(name: str) -> None:
    for kind in (dict, ibisa.Overrides):
        check(lambda value, kind=kind: ibisa.Explainer(MODEL, overrides=kind(**{name: value})))


def test_no_overrides_are_fine_beside_a_whole_preprocessing() -> None:
    spec = ibisa.Explainer(MODEL).preprocessing.spec
    assert ibisa.Explainer(MODEL, preprocessing=spec, overrides={}).preprocessing.spec == spec
    with pytest.raises(ibisa.PreprocessingError):
        ibisa.Explainer(MODEL, preprocessing=spec, overrides={"mean": np.zeros(3)})


@pytest.mark.parametrize("name", ["providers", "input", "layout", "extra_inputs", "limits"])
def test_a_deployed_model(name: str) -> None:
    check(lambda value: ibisa.DeployedModel.open(MODEL, **{name: value}))


@pytest.mark.parametrize("name", DATA)
def test_data(name: str) -> None:
    check(DATA[name])


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name: str, explainer: ibisa.Explainer) -> None:
    check(lambda value: explainer.problem(IMAGE, TARGETS[name](value)))


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str, explainer: ibisa.Explainer) -> None:
    problem = explainer.problem(IMAGE)
    check(lambda value: explainer.prepare(problem, METHODS[name](value)))


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str, explainer: ibisa.Explainer) -> None:
    check(CALLS[name](explainer))


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str, explanation: ibisa.Explanation) -> None:
    check(RESULTS[name](explanation))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", 3),
        ("labels", np.array(1.5)),
        ("overrides", 3),
        ("overrides", {"colour": 1}),
        ("providers", [None]),
        ("limits", 3),
        ("cache", np.zeros(2)),
    ],
)
def test_the_argument_is_named(name: str, value: Any) -> None:
    with pytest.raises(ibisa.IbisaError, match=name.removesuffix("s")):
        ibisa.Explainer(MODEL, **{name: value})
