"""Half precision, bfloat16 and mixtures of them with float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from ibisa_onnx.autodiff import differentiate, missing_rules
from ibisa_onnx.errors import UnsupportedOperatorError

HEAD = """
<ir_version: 8, opset_import: ["" : 17]>
head (ELEM[2, 3, 4] x) => (ELEM[2, 5] y) <ELEM[4, 4] w, ELEM[4, 5] u>
{
  h = MatMul(x, w)
  e = Erf(h)
  g = Mul(h, e)
  r = Relu(g)
  p = Softmax(r)
  m = ReduceMean <axes = [1], keepdims = 0> (p)
  y = MatMul(m, u)
}
"""


def head(elem, dtype):
    """A model without operators that bfloat16 has no version of."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(HEAD.replace("ELEM", elem))
    del model.graph.initializer[:]
    for name, shape in (("w", (4, 4)), ("u", (4, 5))):
        value = rng.normal(size=shape).astype(dtype)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def reference_gradient(model, dtype):
    """By ONNX's own evaluator, which knows bfloat16."""
    rng = np.random.default_rng(1)
    x, dy = (rng.normal(size=shape).astype(dtype) for shape in ((2, 3, 4), (2, 5)))
    derivative = differentiate(model, "x", "y")
    for graph in (derivative.forward, derivative.backward):
        onnx.checker.check_model(graph, full_check=True)
    _, *saved = ReferenceEvaluator(derivative.forward).run(None, {"x": x})
    feeds = {derivative.cotangent: dy, **dict(zip(derivative.saved, saved, strict=True))}
    (dx,) = ReferenceEvaluator(derivative.backward).run(None, feeds)
    assert dx.dtype == dtype
    return dx.astype(np.float32)


def test_bfloat16_graphs_are_bfloat16_throughout():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    single = reference_gradient(head("float", np.float32), np.float32)
    brain = reference_gradient(head("bfloat16", ml_dtypes.bfloat16), ml_dtypes.bfloat16)
    assert np.linalg.norm(brain - single) < 0.03 * np.linalg.norm(single)


def _network(x):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("HardSwish", ["c"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "scale"], ["n"], axis=-1),
        helper.make_node("GlobalAveragePool", ["n"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "u"], ["y"]),
    ]
    weights = {"w": (6, 3, 3, 3), "scale": (4,), "u": (6, 5)}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _gradient(model, x):
    derivative = differentiate(model, "x", "y")
    forward, backward = (
        ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        for graph in (derivative.forward, derivative.backward)
    )
    y, *saved = forward.run(None, {"x": x})
    feeds = dict(zip(derivative.saved, saved, strict=True))
    feeds[derivative.cotangent] = np.linspace(-1, 1, y.size).reshape(y.shape).astype(y.dtype)
    (dx,) = backward.run(None, feeds)
    assert (dx.shape, dx.dtype) == (x.shape, x.dtype)
    return dx.astype(np.float32)


@pytest.mark.parametrize("keep_types", [False, True])
@pytest.mark.parametrize("kept", [[], ["HardSwish", "GlobalAveragePool"]])
def test_a_converted_file_has_the_float_files_gradient(keep_types, kept):
    """By a converter's usual choices: float32 at the ends, and in operators that need it."""
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    model = _network(x)
    half = float16.convert_float_to_float16(
        model, keep_io_types=keep_types, op_block_list=kept, disable_shape_infer=True
    )
    elems = {tensor.data_type for tensor in half.graph.initializer}
    assert TensorProto.FLOAT16 in elems
    expected = _gradient(_network(x), x)
    found = _gradient(half, x if keep_types else x.astype(np.float16))
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_bfloat16_is_refused_where_an_operator_has_no_such_version():
    kind = TensorProto.BFLOAT16
    graph = helper.make_graph(
        [helper.make_node("Einsum", ["x"], ["y"], "turn", equation="ij->ji")],
        "turned",
        [helper.make_tensor_value_info("x", kind, [2, 3])],
        [helper.make_tensor_value_info("y", kind, [3, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)], ir_version=10)
    with pytest.raises(UnsupportedOperatorError, match=r"Einsum 'turn'.*Einsum in bfloat16"):
        differentiate(model, "x", "y")
    (missing,) = missing_rules(model, "x", "y")
    assert missing.node == "turn"


def test_mean_variance_normalization_of_halves_has_a_gradient():
    """ONNX defines it for halves by operators that mix them with float32."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float16)

    def build(elem):
        graph = helper.make_graph(
            [helper.make_node("MeanVarianceNormalization", ["x"], ["y"])],
            "normalized",
            [helper.make_tensor_value_info("x", elem, x.shape)],
            [helper.make_tensor_value_info("y", elem, x.shape)],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    expected = _gradient(build(TensorProto.FLOAT), x.astype(np.float32))
    found = _gradient(build(TensorProto.FLOAT16), x)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("op_type", ["LayerNormalization", "InstanceNormalization"])
@pytest.mark.parametrize("size", [1e-3, 1000.0])
def test_normalizations_of_halves_are_differentiated_in_float32(op_type, size):
    """Squares of 1000 are infinite in half precision, and so small an epsilon is 0."""
    inputs = ["x", "s"] if op_type == "LayerNormalization" else ["x", "s", "b"]

    def build(elem, dtype):
        graph = helper.make_graph(
            [helper.make_node(op_type, inputs, ["y"], epsilon=1e-12)],
            "normalized",
            [helper.make_tensor_value_info("x", elem, [1, 3, 8])],
            [helper.make_tensor_value_info("y", elem, [1, 3, 8])],
            [
                numpy_helper.from_array(np.full(count, 2.0, dtype), name)
                for name, count in (("s", 8 if len(inputs) == 2 else 3), ("b", 3))
            ],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    x = (size * np.random.default_rng(0).normal(size=(1, 3, 8))).astype(np.float16)
    expected = _gradient(build(TensorProto.FLOAT, np.float32), x.astype(np.float32))
    found = _gradient(build(TensorProto.FLOAT16, np.float16), x)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_halves_are_normalized_by_float32_statistics():
    def build(elem):
        vectors = {
            name: np.linspace(i, i + 1, 3, dtype=np.float32) for i, name in enumerate("sbmv")
        }
        graph = helper.make_graph(
            [helper.make_node("BatchNormalization", ["x", *vectors], ["y"])],
            "normalized",
            [helper.make_tensor_value_info("x", elem, [1, 3, 8])],
            [helper.make_tensor_value_info("y", elem, [1, 3, 8])],
            [numpy_helper.from_array(vector, name) for name, vector in vectors.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    x = np.random.default_rng(0).normal(size=(1, 3, 8)).astype(np.float16)
    expected = _gradient(build(TensorProto.FLOAT), x.astype(np.float32))
    found = _gradient(build(TensorProto.FLOAT16), x)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("op_type", "operand", "attributes"),
    [
        ("MaxPool", None, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", None, {"kernel_shape": [9, 9]}),
        ("Gather", np.array([0, 0, 2]), {"axis": 2}),
        ("GatherElements", np.zeros((1, 2, 3, 10), np.int64), {"axis": 2}),
        ("GatherND", np.array([[0], [0]]), {}),
        ("Compress", np.array([True, False, True]), {"axis": 2}),
        ("Pad", np.array([0, 0, 2, 1, 0, 0, 1, 2]), {"mode": "reflect"}),
    ],
)
def test_halves_that_meet_in_one_place_are_added(op_type, operand, attributes):
    """ONNX Runtime's CPU kernels add no halves where a scatter is told to add."""

    def build(elem):
        inputs = ["x"] if operand is None else ["x", "o"]
        graph = helper.make_graph(
            [helper.make_node(op_type, inputs, ["y"], **attributes)],
            "scattered",
            [helper.make_tensor_value_info("x", elem, [1, 2, 10, 10])],
            [helper.make_empty_tensor_value_info("y")],
            [] if operand is None else [numpy_helper.from_array(operand, "o")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    x = np.random.default_rng(0).normal(size=(1, 2, 10, 10)).astype(np.float16)
    expected = _gradient(build(TensorProto.FLOAT), x.astype(np.float32))
    found = _gradient(build(TensorProto.FLOAT16), x)
    np.testing.assert_allclose(found, expected, atol=4e-3)
