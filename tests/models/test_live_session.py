"""A live session whose file was replaced or removed since it was opened."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import ibisa_onnx as ibisa

CPU = ["CPUExecutionProvider"]


@pytest.fixture
def file(tmp_path: Path, linear_model) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(linear_model(), path)
    return path


def weaker(model: onnx.ModelProto) -> bytes:
    """The same inputs and outputs, other weights."""
    (weights,) = [each for each in model.graph.initializer if each.name == "w"]
    values = onnx.numpy_helper.to_array(weights)[:, ::-1].copy()
    weights.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    return model.SerializeToString()


def explainer(session: onnxruntime.InferenceSession, **more: object) -> ibisa.Explainer:
    return ibisa.Explainer(session, preprocessing="unit", budget=30, **more)


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)


def test_an_unchanged_file_lends_its_hash_and_its_gradient(file: Path) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=CPU)
    found = explainer(session).explain(image())
    assert found.certificate.gradient == "exact"
    assert not found.certificate.fallback
    assert found.provenance.model_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_replaced_file_is_never_taken_for_the_model(file: Path, linear_model) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=CPU)
    before = explainer(session, gradient="forward-only").explain(image())
    file.write_bytes(weaker(linear_model()))
    found = explainer(session).explain(image())
    assert found.provenance.model_sha256 is None
    assert found.certificate.fallback
    assert any("has changed since the session was opened" in text for text in found.warnings)
    np.testing.assert_array_equal(found.map, before.map)


@pytest.mark.parametrize("content", [None, b"", b"no model"], ids=["removed", "empty", "damaged"])
def test_a_lost_file_is_reported(file: Path, content: bytes | None) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=CPU)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    found = explainer(session).explain(image())
    assert found.provenance.model_sha256 is None
    assert found.certificate.fallback
    with pytest.raises(ibisa.GradientError, match=r"no longer exists|has changed"):
        explainer(session, gradient="exact")


def test_another_shape_is_another_model(file: Path, linear_model) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=CPU)
    onnx.save(linear_model(classes=7), file)
    assert explainer(session).explain(image()).certificate.fallback


def test_a_session_of_bytes_keeps_its_model(file: Path) -> None:
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=CPU)
    file.unlink()
    assert explainer(session).explain(image()).certificate.gradient == "exact"
