"""Nodes of older opsets against what they are rewritten to, both run by ONNX Runtime."""

from __future__ import annotations

from itertools import count

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.upgrade import _CHANGES, Upgrade
from ibisa_onnx.errors import UnsupportedOperatorError

NEW = 18
SHAPE = (2, 3, 4, 5)
node = helper.make_node
F = np.float32


def model(nodes, opset, constants=None, elem=TensorProto.FLOAT):
    """A model from `x` of SHAPE to `y`."""
    graph = helper.make_graph(
        [nodes] if isinstance(nodes, onnx.NodeProto) else nodes,
        "test",
        [helper.make_tensor_value_info("x", elem, SHAPE)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def upgraded(old, target=NEW):
    new = onnx.ModelProto()
    new.CopyFrom(old)
    numbers = count()
    upgrade = Upgrade(Graph(old, "y"), target, lambda hint: f"{hint}_{next(numbers)}")
    del new.graph.node[:]
    new.graph.node.extend(upgrade.nodes(old.graph.node))
    new.opset_import[0].version = target
    return new


def run(built):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(built.SerializeToString(), options)
    dtype = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else F
    x = np.random.default_rng(0).normal(size=SHAPE).astype(dtype)
    return session.run(["y"], {"x": x})[0]


def branch(inner, name):
    graph = helper.make_graph(inner, name, [], [helper.make_tensor_value_info(name, 1, None)])
    return graph


def conditional(inner):
    """An If whose first branch, always taken, computes `a`."""
    choice = node(
        "If",
        ["c"],
        ["y"],
        then_branch=branch([inner], "a"),
        else_branch=branch([node("Identity", ["x"], ["b"])], "b"),
    )
    return [choice], {"c": np.array(True)}


ROI = {"r": np.array([[0.4, 0.7, 3.1, 3.8]], F), "i": np.array([0])}
BN = {k: np.linspace(0.5, 2, 3).astype(F) for k in "abcd"}

CASES = {
    **{
        f"{op} of opset {opset}": (node(op, ["x"], ["y"], axes=[1, -1], keepdims=0), opset, {})
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2")
        for opset in (11, 12, 13, 17)
        if not (op == "ReduceSum" and opset > 12)
    },
    "ReduceProd": (node("ReduceProd", ["x"], ["y"], axes=[2]), 13, {}),
    "ReduceSumSquare": (node("ReduceSumSquare", ["x"], ["y"], axes=[2]), 13, {}),
    "ReduceLogSumExp": (node("ReduceLogSumExp", ["x"], ["y"], axes=[2]), 13, {}),
    "ReduceSum over all": (node("ReduceSum", ["x"], ["y"], keepdims=0), 7, {}),
    "ReduceSum with an input": (node("ReduceSum", ["x", "k"], ["y"]), 13, {"k": np.array([1])}),
    "Unsqueeze": (node("Unsqueeze", ["x"], ["y"], axes=[0, 3]), 7, {}),
    "Squeeze": (
        [node("Unsqueeze", ["x"], ["u"], axes=[0]), node("Squeeze", ["u"], ["y"], axes=[0])],
        11,
        {},
    ),
    "Squeeze of all": (
        [node("Unsqueeze", ["x"], ["u"], axes=[0]), node("Squeeze", ["u"], ["y"])],
        9,
        {},
    ),
    **{
        f"{op} over {axis} in opset {opset}": (node(op, ["x"], ["y"], axis=axis), opset, {})
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for axis, opset in ((0, 7), (1, 9), (2, 12), (-1, 11))
    },
    "Softmax by default": (node("Softmax", ["x"], ["y"]), 12, {}),
    "Softmax of 13": (node("Softmax", ["x"], ["y"], axis=1), 13, {}),
    "Clip": (node("Clip", ["x"], ["y"], min=-0.3, max=0.4), 7, {}),
    "Clip at 0": (node("Clip", ["x"], ["y"], min=0.0), 10, {}),
    "Clip above only": (node("Clip", ["x"], ["y"], max=0.4), 10, {}),
    "Clip of 11": (node("Clip", ["x", "", "k"], ["y"]), 11, {"k": np.array(0.2, F)}),
    "Dropout": (node("Dropout", ["x"], ["y"], ratio=0.3), 7, {}),
    "Dropout with its mask": (node("Dropout", ["x"], ["y", "mask"], ratio=0.3), 10, {}),
    "Pad": (node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5), 7, {}),
    "Pad with zeros": (node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1]), 10, {}),
    "Pad by reflection": (
        node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect"),
        10,
        {},
    ),
    "Slice": (node("Slice", ["x"], ["y"], starts=[1, -3], ends=[3, 100], axes=[2, 3]), 7, {}),
    "Slice without axes": (node("Slice", ["x"], ["y"], starts=[1, 0], ends=[2, 2]), 9, {}),
    "Split by attribute": (node("Split", ["x"], ["z", "y"], axis=2, split=[1, 3]), 7, {}),
    "Split evenly": (node("Split", ["x"], ["z", "y"], axis=2), 11, {}),
    "Split evenly in 13": (node("Split", ["x"], ["z", "y"], axis=2), 13, {}),
    "Split by input": (node("Split", ["x", "k"], ["z", "y"], axis=2), 13, {"k": np.array([1, 3])}),
    "TopK": (node("TopK", ["x"], ["y", "i"], k=2, axis=2), 7, {}),
    "TopK of 10": (node("TopK", ["x", "k"], ["y", "i"]), 10, {"k": np.array([2])}),
    "Scatter": (
        node("Scatter", ["x", "i", "u"], ["y"], axis=1),
        9,
        {"i": np.zeros((1, 1, 1, 1), np.int64), "u": np.ones((1, 1, 1, 1), F)},
    ),
    **{
        f"Upsample {mode} in {opset}": (
            node("Upsample", ["x"] if opset < 9 else ["x", "k"], ["y"], mode=mode, **attributes),
            opset,
            {} if opset < 9 else {"k": np.array([1, 1, 2.5, 1.7], F)},
        )
        for mode in ("nearest", "linear")
        for opset, attributes in ((7, {"scales": [1.0, 1.0, 2.5, 1.7]}), (9, {}))
    },
    "Resize linear": (
        node("Resize", ["x", "k"], ["y"], mode="linear"),
        10,
        {"k": np.array([1, 1, 2.5, 0.6], F)},
    ),
    "Resize nearest": (node("Resize", ["x", "k"], ["y"]), 10, {"k": np.array([1, 1, 2.5, 1], F)}),
    "Resize of 11": (
        node("Resize", ["x", "r", "k"], ["y"], mode="linear"),
        11,
        {"k": np.array([1, 1, 2.5, 1.7], F), "r": np.zeros(0, F)},
    ),
    "RoiAlign": (
        node("RoiAlign", ["x", "r", "i"], ["y"], output_height=2, output_width=3),
        10,
        ROI,
    ),
    "BatchNormalization": (
        node("BatchNormalization", ["x", *"abcd"], ["y"], epsilon=0.1, spatial=1),
        7,
        BN,
    ),
    "BatchNormalization of 9": (node("BatchNormalization", ["x", *"abcd"], ["y"]), 9, BN),
    "an operator that only gained types": (
        node("ThresholdedRelu", ["x"], ["y"], alpha=0.2),
        11,
        {},
    ),
    "an operator of another domain": (
        node("Gelu", ["x"], ["y"], domain="com.microsoft"),
        9,
        {},
    ),
    **{
        f"{inner.op_type} in a branch": (conditional(inner)[0], 11, conditional(inner)[1])
        for inner in (
            node("Softmax", ["x"], ["a"], axis=1),
            node("Unsqueeze", ["x"], ["a"], axes=[0]),
        )
    },
}


@pytest.mark.parametrize("name", CASES)
def test_computes_what_it_computed(name):
    nodes, opset, constants = CASES[name]
    old = model(nodes, opset, constants)
    np.testing.assert_array_equal(run(upgraded(old)), run(old))


def test_half_precision_keeps_its_type():
    for changed in (
        node("Clip", ["x"], ["y"], min=-0.3, max=0.4),
        node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5),
    ):
        old = model(changed, 10, elem=TensorProto.FLOAT16)
        new = run(upgraded(old))
        assert new.dtype == np.float16
        np.testing.assert_array_equal(new, run(old))


def test_what_has_not_changed_stays_the_same_node():
    old = model([node("Relu", ["x"], ["h"]), node("MaxPool", ["h"], ["y"], kernel_shape=[2, 2])], 8)
    assert list(upgraded(old).graph.node) == list(old.graph.node)


@pytest.mark.parametrize(
    ("changed", "opset", "constants"),
    [
        (node("Resize", ["x", "k"], ["y"], name="down"), 10, {"k": np.array([1, 1, 0.5, 1], F)}),
        (node("Resize", ["x", "run_time"], ["y"], name="down"), 10, {}),
        (node("BatchNormalization", ["x", *"abcd"], ["y"], name="down", spatial=0), 7, BN),
        (node("BatchNormalization", ["x", *"abcd"], ["y", *"mvst"], name="down"), 9, BN),
        (node("NoSuchOperator", ["x"], ["y"], name="down"), 9, {}),
    ],
)
def test_refuses_by_name(changed, opset, constants):
    with pytest.raises(UnsupportedOperatorError, match=f"{changed.op_type} 'down' of opset"):
        upgraded(model(changed, opset, constants))


def test_newer_opsets_are_upgraded_to_as_well():
    old = model(
        node("GridSample", ["x", "g"], ["y"], mode="bilinear", align_corners=1),
        18,
        {"g": np.random.default_rng(1).uniform(-1, 1, (2, 6, 6, 2)).astype(F)},
    )
    np.testing.assert_array_equal(run(upgraded(old, 20)), run(old))
    normal = node("GroupNormalization", ["x", "a", "b"], ["y"], name="norm", num_groups=1)
    with pytest.raises(UnsupportedOperatorError, match="GroupNormalization 'norm'"):
        upgraded(model(normal, 18), 21)


def test_every_changed_default_is_in_the_table():
    """A new opset that gives an attribute another default changes nodes that do not name it."""
    newest = onnx.defs.onnx_opset_version()
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or schema.deprecated or schema.name in _CHANGES:
            continue
        last = onnx.defs.get_schema(schema.name, max(newest, schema.since_version))
        for name, attribute in schema.attributes.items():
            if schema.since_version >= 7 and name in last.attributes:
                now = last.attributes[name].default_value
                assert attribute.default_value == now, f"{schema.name}-{schema.since_version}"
