"""Explanations on OpenVINO, in sessions of the user's own and of ours.

The core of the test suite runs on it too, by `make openvino`.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path

OPENVINO = "OpenVINOExecutionProvider"
pytestmark = pytest.mark.skipif(
    OPENVINO not in onnxruntime.get_available_providers(),
    reason="this build of ONNX Runtime has no OpenVINO provider",
)


def session(path: Path, **options: str) -> onnxruntime.InferenceSession:
    """A session as a service opens it."""
    return onnxruntime.InferenceSession(str(path), providers=[(OPENVINO, options)])


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.fixture(scope="module")
def on_cpu() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), providers=["cpu"])


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
def test_a_session_of_the_users_own_agrees_with_the_cpu(
    on_cpu: ibisa.Explainer, gradient: str
) -> None:
    own = ibisa.Explainer(session(model_path(), device_type="CPU"), gradient=gradient)
    cpu = ibisa.Explainer(model_path(), providers=["cpu"], gradient=gradient)
    there, here = own.explain(scene_path()), cpu.explain(scene_path())
    assert there.provenance.providers[0] == OPENVINO
    assert there.certificate.gradient == gradient
    assert there.certificate.holds
    assert (there.passes.forward, there.passes.backward) == (
        here.passes.forward,
        here.passes.backward,
    )
    assert there.target.index == here.target.index
    assert abs(there.target.probability - here.target.probability) < 1e-4
    assert correlation(there.map, here.map) > 0.999


def check_every_node(
    monkeypatch: pytest.MonkeyPatch, home: Path, model: Path, image: Path, preprocessing: str | None
) -> None:
    """Explain with profiling sessions; all nodes ran on OpenVINO."""
    sessions: list[Any] = []
    plain = onnxruntime.InferenceSession

    class Profiled(plain):  # type: ignore[misc,valid-type]
        def __init__(self, source: Any, options: Any = None, *rest: Any, **named: Any) -> None:
            options = options or onnxruntime.SessionOptions()
            options.enable_profiling = True
            options.profile_file_prefix = str(home / str(len(sessions)))
            super().__init__(source, options, *rest, **named)
            sessions.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Profiled)
    explainer = ibisa.Explainer(
        model, providers=["openvino"], preprocessing=preprocessing, cache=False
    )
    found = explainer.explain(image)
    ran: Counter[str] = Counter()
    for each in sessions:
        for event in json.loads(Path(each.end_profiling()).read_text()):
            ran[event.get("args", {}).get("provider", "")] += event.get("cat") == "Node"
    assert found.certificate.gradient == "exact"
    assert ran[OPENVINO] >= found.passes.forward_calls + found.passes.backward_calls
    assert ran["CPUExecutionProvider"] == 0, ran


def test_every_node_runs_on_openvino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the model, and those of its backward graph."""
    check_every_node(monkeypatch, tmp_path, model_path(), scene_path(), None)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "preprocessing"), [("squeezenet", "caffe"), ("mobilenetv2", "tf")]
)
def test_every_node_of_real_models_runs_on_openvino(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, assets: Path, name: str, preprocessing: str
) -> None:
    model, image = assets / f"models/{name}.onnx", next((assets / "images").glob("*.JPEG"))
    check_every_node(monkeypatch, tmp_path, model, image, preprocessing)


def test_a_batch_a_deadline_and_the_same_map_again() -> None:
    explainer = ibisa.Explainer(session(model_path()), gradient="exact")
    alone = explainer.explain(scene_path())
    np.testing.assert_array_equal(explainer.explain(scene_path()).map, alone.map)
    for each in explainer.explain_batch([scene_path()] * 3):
        assert correlation(each.map, alone.map) > 0.999
    with pytest.raises(ibisa.DeadlineError):
        explainer.explain(scene_path(), deadline=1e-3)
    assert explainer.explain(scene_path(), deadline=60).completion.cut_short is None


def test_options_of_the_provider_reach_derived_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO does not report them, so those of an open session are passed again."""
    opened: list[dict[str, str]] = []
    plain = onnxruntime.InferenceSession

    class Noted(plain):  # type: ignore[misc,valid-type]
        def __init__(self, *given: Any, providers: Any = None, **named: Any) -> None:
            opened.extend(each[1] for each in providers if each[0] == OPENVINO)
            super().__init__(*given, providers=providers, **named)

    own, options = session(model_path(), num_of_threads="1"), {"num_of_threads": 1}
    monkeypatch.setattr(onnxruntime, "InferenceSession", Noted)
    for model in (own, model_path()):
        explainer = ibisa.Explainer(model, providers=[("openvino", options)], gradient="exact")
        assert not any("does not report" in each for each in explainer.warnings)
    assert len(opened) >= 5
    assert all(each == {"num_of_threads": "1"} for each in opened)
    assert any("OpenVINO does not report" in each for each in ibisa.Explainer(own).warnings)
    stated = ibisa.Explainer(own, providers=["openvino"])
    assert not any("does not report" in each for each in stated.warnings)
    with pytest.raises(ibisa.ProviderError, match="pass its name, or"):
        ibisa.Explainer(model_path(), providers=[("openvino", "CPU")])


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "preprocessing"), [("squeezenet", "caffe"), ("mobilenetv2", "tf")]
)
def test_photographs(assets: Path, name: str, preprocessing: str) -> None:
    """Predictions agree; ten steps amplify rounding, so maps of some photographs differ."""
    path = assets / "models" / f"{name}.onnx"
    own = ibisa.Explainer(session(path), preprocessing=preprocessing)
    cpu = ibisa.Explainer(path, preprocessing=preprocessing, providers=["cpu"])
    found = []
    for image in sorted((assets / "images").glob("*.JPEG"))[3:9]:
        there, here = own.explain(image), cpu.explain(image)
        assert (there.certificate.gradient, there.certificate.holds) == ("exact", True)
        assert there.target.index == here.target.index
        assert abs(there.target.probability - here.target.probability) < 1e-4
        found.append(correlation(there.map, here.map))
    assert np.median(found) > 0.995
    assert min(found) > 0.9


@pytest.mark.real
def test_a_box_of_a_detector(assets: Path) -> None:
    path, image = assets / "models" / "face_rfb320.onnx", assets / "detection" / "15.jpg"
    own = ibisa.Explainer(session(path))
    cpu = ibisa.Explainer(path, providers=["cpu"])
    there, here = own.answers(image), cpu.answers(image)
    assert len(there) == len(here) > 0
    for one, other in zip(there, here, strict=True):
        assert abs(one.score - other.score) < 1e-4
    assert correlation(own.explain(image).map, cpu.explain(image).map) > 0.95
