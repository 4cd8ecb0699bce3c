"""The real models: the gradient predicts what a small step along it does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

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
@pytest.mark.parametrize("name", ["mobilenetv2_int8", "deeplabv3_int8"])
def test_quantised_models_say_what_is_missing(assets, name):
    model = onnx.load(assets / "models" / f"{name}.onnx")
    assert missing_rules(model, model.graph.input[0].name, model.graph.output[0].name)
