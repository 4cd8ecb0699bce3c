"""Operators that ONNX Runtime's optimiser leaves in saved models."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from ibisa_onnx.autodiff import differentiate, missing_rules
from ibisa_onnx.errors import UnsupportedOperatorError

CONTRIB = [helper.make_opsetid("com.microsoft", 1)]


def fused(op_type, inputs, outputs=("y",), **attributes):
    return helper.make_node(op_type, inputs, outputs, domain="com.microsoft", **attributes)


@pytest.fixture
def random():
    rng = np.random.default_rng(0)
    return lambda *shape: rng.normal(size=shape)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", []),
        ("Sigmoid", []),
        ("Tanh", []),
        ("LeakyRelu", [0.3]),
        ("Clip", [-0.7, 0.9]),
        ("HardSigmoid", [0.3, 0.4]),
    ],
)
@pytest.mark.parametrize("add", [False, True])
def test_fused_conv(check, random, activation, parameters, add):
    inputs = ["x", "w", "b"] + ["z"] * add
    node = fused(
        "FusedConv",
        inputs,
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        strides=[2, 2],
        activation=activation,
        **({"activation_params": parameters} if parameters else {}),
    )
    constants = {"w": random(3, 2, 3, 3), "b": random(3), "z": random(1, 3, 3, 3)}
    used = {name: constants[name] for name in inputs[1:]}
    check(node, random(1, 2, 5, 5), used, domains=CONTRIB)


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_fused_matmul(check, random, turned):
    a = random(2, 4, 3) if turned[0] else random(2, 3, 4)
    b = random(2, 5, 4) if turned[1] else random(2, 4, 5)
    node = fused("FusedMatMul", ["x", "b"], transA=turned[0], transB=turned[1], alpha=0.4)
    check(node, a, {"b": b}, domains=CONTRIB)
    swapped = fused("FusedMatMul", ["a", "x"], transA=turned[0], transB=turned[1])
    check(swapped, b, {"a": a}, domains=CONTRIB)


def test_fused_gemm(check, random):
    given = {"activation": "LeakyRelu", "activation_alpha": 0.2, "transB": 1, "alpha": 0.5}
    node = fused("FusedGemm", ["x", "b", "c"], **given)
    check(node, random(3, 4), {"b": random(5, 4), "c": random(5)}, domains=CONTRIB)


@pytest.mark.parametrize(
    ("op_type", "bias", "attributes"),
    [
        ("Gelu", False, {}),
        ("BiasGelu", True, {}),
        ("FastGelu", False, {}),
        ("FastGelu", True, {}),
        ("QuickGelu", False, {}),
        ("QuickGelu", False, {"alpha": 1.0}),
    ],
)
def test_gelu(check, spread, op_type, bias, attributes):
    constants = {"b": np.linspace(-0.5, 0.5, 7)} if bias else {}
    node = fused(op_type, ["x", *constants], **attributes)
    check(node, spread(3, 7, low=-3.0, high=3.0), constants, domains=CONTRIB)


@pytest.mark.parametrize("op_type", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_normalization_in_a_model_older_than_the_operator(check, random, op_type):
    inputs = ["h", "g", "b"] if op_type == "LayerNormalization" else ["h", "g"]
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["h"]),
        helper.make_node(op_type, inputs, ["n"], axis=-1, epsilon=1e-3),
        helper.make_node("Softmax", ["n"], ["y"], axis=2),  # which has to know the rank
    ]
    constants = {"g": random(5), "b": random(5)}
    used = {name: constants[name] for name in inputs[1:]}
    check(nodes, random(2, 3, 5), used, opset=12, double=False)


@pytest.mark.parametrize("simplified", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_skip_layer_normalization(check, random, simplified, bias):
    """Both of its inputs, and both of the outputs that are used."""
    op_type = "SkipSimplifiedLayerNormalization" if simplified else "SkipLayerNormalization"
    beta = [] if simplified else ["beta"]
    inputs = ["x", "h", "gamma", *beta] + ["bias"] * bias
    nodes = [
        helper.make_node("Sin", ["x"], ["h"]),
        fused(op_type, inputs, ["n", "", "", "total"], epsilon=1e-3),
        helper.make_node("Mul", ["n", "total"], ["y"]),
    ]
    constants = {"gamma": random(6), "beta": random(6), "bias": random(6)}
    used = {name: constants[name] for name in inputs[2:]}
    check(nodes, random(2, 3, 6), used, domains=CONTRIB, double=False)


@pytest.mark.parametrize("added", [False, True])
def test_attention(check, random, added):
    inputs = ["x", "w", "b"] + ["", "", "bias"] * added
    constants = {"w": random(6, 12) / 2, "b": random(12)}
    constants |= {"bias": random(1, 2, 3, 3)} if added else {}
    check(
        fused("Attention", inputs, num_heads=2),
        random(2, 3, 6),
        constants,
        domains=CONTRIB,
        double=False,
    )


def test_attention_with_a_scale_of_its_own(check, random):
    node = fused("Attention", ["x", "w", "b"], num_heads=2, scale=0.9)
    constants = {"w": random(6, 12) / 2, "b": random(12)}
    check(node, random(1, 3, 6), constants, domains=CONTRIB, double=False)


@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention(check, random, bias):
    nodes = [
        helper.make_node("Sin", ["x"], ["k"]),
        helper.make_node("Cos", ["x"], ["v"]),
        fused("MultiHeadAttention", ["x", "k", "v"] + ["b"] * bias, num_heads=2),
    ]
    constants = {"b": random(18)} if bias else {}
    check(nodes, random(2, 4, 6), constants, domains=CONTRIB, double=False)


def _refusal(build, node, shapes, x):
    constants = {name: np.ones(shape) for name, shape in shapes.items()}
    (missing,) = missing_rules(build([node], x, constants, 17, None, CONTRIB), "x", "y")
    assert missing.op_type == node.op_type
    return missing.why


def test_what_a_fused_operator_does_not_cover_is_named(build):
    x = np.ones((1, 3, 6), np.float32)
    causal = fused("Attention", ["x", "w", "b"], num_heads=2, unidirectional=1)
    assert "unidirectional" in _refusal(build, causal, {"w": (6, 18), "b": (18,)}, x)
    masked = fused("Attention", ["x", "w", "b", "m"], num_heads=2)
    shapes = {"w": (6, 18), "b": (18,), "m": (1, 3)}
    assert "mask_index" in _refusal(build, masked, shapes, x)
    odd = fused("FusedConv", ["x", "w"], activation="Gaussian")
    assert "Gaussian" in _refusal(build, odd, {"w": (2, 3, 1)}, x)
    packed = fused("MultiHeadAttention", ["x"], num_heads=2)
    assert "packed" in _refusal(build, packed, {}, x)


def test_statistics_of_a_fused_normalization_are_refused(build):
    node = fused("SkipLayerNormalization", ["x", "x", "g"], ["n", "y"])
    x = np.ones((1, 3, 6), np.float32)
    assert "only some of its outputs" in _refusal(build, node, {"g": (6,)}, x)


def test_blocked_layouts_are_refused_with_advice(build, random, tmp_path):
    """At the level "all" the optimiser writes operators for this one processor."""
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    x = random(1, 16, 6, 6).astype(np.float32)
    model = build([node], x, {"w": random(16, 16, 3, 3)}, 17, None)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "all.onnx")
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    saved = onnx.load(tmp_path / "all.onnx")
    if all(node.domain != "com.microsoft.nchwc" for node in saved.graph.node):
        pytest.skip("this processor has no blocked layout")
    with pytest.raises(UnsupportedOperatorError, match=r"nchwc\.Conv.*extended or below"):
        differentiate(saved, "x", "y")


@pytest.mark.parametrize("declared", [[1, 2], [3, 3, 3, 3, 3], []])
def test_a_declared_type_that_is_outdated_does_not_count(build, random, run_gradient, declared):
    """As of files whose graph was changed; of these operators the types are inferred."""
    conv = fused("FusedConv", ["x", "w"], ["t"], activation="Relu")
    nodes = [conv, helper.make_node("GlobalAveragePool", ["t"], ["y"])]
    x = random(1, 2, 5, 5).astype(np.float32)
    model = build(nodes, x, {"w": random(3, 2, 3, 3)}, 17, None, CONTRIB)
    expected = run_gradient(model, x)
    info = helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, declared)
    model.graph.value_info.append(info)
    np.testing.assert_array_equal(run_gradient(model, x), expected)
    assert expected.any()
