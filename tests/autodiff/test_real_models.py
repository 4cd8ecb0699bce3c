"""The real models: the gradient predicts what a small step along it does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from quantised import cosines

from ibisa_onnx.autodiff import differentiate, missing_rules

CASES = [
    ("squeezenet", "data_0", "softmaxout_1", 60.0),
    ("mobilenetv2", "input", "logits", 1.0),
    ("face_rfb320", "input", "scores", 1.0),
    ("face_rfb320", "input", "boxes", 1.0),
]


@pytest.mark.real
@pytest.mark.parametrize(("name", "source", "target", "scale"), CASES)
def test_directional_derivative(assets, name, source, target, scale):
    model = onnx.load(assets / "models" / f"{name}.onnx")
    assert missing_rules(model, source, target) == ()
    derivative = differentiate(model, source, target)
    forward = ort.InferenceSession(derivative.forward.SerializeToString())
    backward = ort.InferenceSession(derivative.backward.SerializeToString())
    sides = [s if isinstance(s, int) else 1 for s in forward.get_inputs()[0].shape]
    rng = np.random.default_rng(0)
    x = (scale * rng.normal(size=sides)).astype(np.float32)
    y, *saved = forward.run(None, {source: x})
    dy = (y == y.max()).astype(np.float32)
    feeds = {derivative.cotangent: dy, **dict(zip(derivative.saved, saved, strict=True))}
    (dx,) = backward.run(None, feeds)
    length = np.linalg.norm(dx)
    step = (1e-4 * np.linalg.norm(x) / length * dx).astype(np.float32)
    outputs = [forward.run([target], {source: x + s})[0] for s in (step, -step)]
    change = float(np.sum(dy * (outputs[0] - outputs[1])))
    assert change == pytest.approx(2 * float(np.sum(step * dx)), rel=0.15)  # kinks on the way


@pytest.mark.real
def test_a_quantised_model_has_the_gradient_of_its_float_file(assets):
    """Of one photograph; `benchmarks/quantised.py` takes all of them."""
    (cosine,) = cosines(assets / "models", sorted((assets / "images").glob("*.JPEG"))[:1])
    assert cosine > 0.95


@pytest.mark.real
def test_a_quantised_segmentation_ends_at_its_argmax(assets):
    model = onnx.load(assets / "models" / "deeplabv3_int8.onnx")
    (missing,) = missing_rules(model, model.graph.input[0].name, model.graph.output[0].name)
    assert missing.op_type == "ArgMax"


@pytest.mark.real
@pytest.mark.parametrize(("name", "source", "target", "scale"), CASES)
@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_saved_by_the_optimiser(assets, tmp_path, name, source, target, scale, level):
    """What ONNX Runtime saves after fusing has the gradient of what it was given."""
    path = assets / "models" / f"{name}.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    sides = [s if isinstance(s, int) else 1 for s in session.get_inputs()[0].shape]
    x = (scale * np.random.default_rng(0).normal(size=sides)).astype(np.float32)
    expected = _gradient(onnx.load(path), source, target, x)
    found = _gradient(onnx.load(tmp_path / "saved.onnx"), source, target, x)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def _gradient(model, source, target, x):
    """Of the largest element of the output."""
    derivative = differentiate(model, source, target)
    forward = ort.InferenceSession(derivative.forward.SerializeToString())
    backward = ort.InferenceSession(derivative.backward.SerializeToString())
    y, *saved = forward.run(None, {source: x})
    feeds = dict(zip(derivative.saved, saved, strict=True))
    feeds[derivative.cotangent] = (y == y.max()).astype(np.float32)
    return backward.run(None, feeds)[0]
