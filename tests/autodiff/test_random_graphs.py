"""Random chains and diamonds of operators, each against central differences in float64.

A graph grows node by node: an operator and a tensor to put it on are drawn, and the operator is
left out where it would make numbers huge or sit on one of its corners. In the end every tensor
that nothing reads is weighted and summed, so that every node matters to the result.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from ibisa_onnx.autodiff.node import Node, evaluate

OPSET = 18


class Growth:
    """A graph under construction, and the value of each of its tensors."""

    def __init__(self, x, seed):
        self.values = {"x": x}
        self.nodes, self.constants, self.read = [], {}, set()
        self.random = np.random.default_rng(seed)

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants[name] = self.values[name] = np.asarray(array)
        return name

    def normal(self, *shape):
        return self.constant(self.random.normal(size=shape))

    def ints(self, *numbers):
        return self.constant(np.array(numbers, np.int64))

    def put(self, op_type, *inputs, count=1, **attributes):
        """Add a node, unless its results are too large to be differenced well."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(count)]
        proto = helper.make_node(op_type, inputs, names, **attributes)
        feeds = {name: self.values[name] for name in inputs if name}
        results = evaluate(Node.read(proto, {"": OPSET}), feeds, {"": OPSET})
        if all(0 < r.size <= 200 and np.abs(r).max() < 30 for r in results):
            self.nodes.append(proto)
            self.values.update(zip(names, results, strict=True))
            self.read.update(inputs)

    @property
    def tensors(self):
        return [
            n for n, v in self.values.items() if n not in self.constants and v.dtype.kind == "f"
        ]

    def finish(self):
        """Sum up whatever nothing reads."""
        parts = []
        for name in [n for n in self.tensors if n not in self.read]:
            weighted = f"{name}_weighted"
            weights = self.normal(*self.values[name].shape)
            self.nodes.append(helper.make_node("Mul", [name, weights], [weighted]))
            self.nodes.append(
                helper.make_node("ReduceSum", [weighted], [f"{name}_sum"], keepdims=0)
            )
            parts.append(f"{name}_sum")
        self.nodes.append(helper.make_node("Sum", parts, ["y"]))


def axis_of(draw, value):
    return draw(st.integers(-value.ndim, value.ndim - 1))


def smooth(g, draw, t):
    g.put(draw(st.sampled_from(["Tanh", "Sigmoid", "Sin", "Cos", "Exp", "Neg", "Softplus"])), t)


def cornered(g, draw, t):
    if np.abs(g.values[t]).min() > 1e-3:
        g.put(draw(st.sampled_from(["Relu", "Abs", "LeakyRelu", "Elu"])), t)


def binary(g, draw, t):
    """With a tensor of the graph that broadcasts against it, or with a constant that does."""
    value, others = g.values[t], [n for n in g.tensors if _broadcasts(g.values[n], g.values[t])]
    other = draw(st.sampled_from([*others, ""]))
    if not other:
        shape = draw(hnp.broadcastable_shapes(value.shape, max_dims=4, max_side=3))
        other = g.normal(*shape)
    op_type = draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min", "Sum"]))
    apart = np.abs(value - g.values[other]).min() > 1e-3
    if apart or op_type not in ("Max", "Min"):
        g.put(op_type, *draw(st.permutations([t, other])))


def _broadcasts(a, b):
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return True


def divided(g, draw, t):
    denominator = f"t{len(g.nodes)}_0"
    g.put("Softplus", t)
    if denominator in g.values:
        g.put("Div", t, denominator)


def matmul(g, draw, t):
    side = g.values[t].shape[-1]
    if draw(st.booleans()):
        g.put("MatMul", t, g.normal(side, 2))
    elif g.values[t].ndim > 1:
        g.put("Einsum", t, g.normal(side, 2), equation="...i,ij->...j")


def softmax(g, draw, t):
    op_type = draw(st.sampled_from(["Softmax", "LogSoftmax"]))
    g.put(op_type, t, axis=axis_of(draw, g.values[t]))


def reduction(g, draw, t):
    axis, keep = axis_of(draw, g.values[t]), draw(st.integers(0, 1))
    if g.values[t].ndim == 1:
        keep = 1
    name = draw(st.sampled_from(["Sum", "Mean", "L2", "LogSumExp", "SumSquare", "Prod"]))
    g.put(f"Reduce{name}", t, g.ints(axis), keepdims=keep)


def rearranged(g, draw, t):
    value = g.values[t]
    kind = draw(st.sampled_from(["Transpose", "Reshape", "Unsqueeze", "Flatten"]))
    if kind == "Transpose":
        g.put(kind, t, perm=draw(st.permutations(range(value.ndim))))
    elif kind == "Reshape":
        g.put(kind, t, g.ints(-1, value.shape[-1]))
    elif kind == "Unsqueeze" and value.ndim < 4:
        g.put(kind, t, g.ints(axis_of(draw, value)))
    elif kind == "Flatten":
        g.put(kind, t, axis=draw(st.integers(0, value.ndim)))


def cut(g, draw, t):
    value = g.values[t]
    axis = axis_of(draw, value)
    side = value.shape[axis]
    kind = draw(st.sampled_from(["Slice", "backward", "Split", "Gather"]))
    if kind == "Slice":
        start = draw(st.integers(0, side - 1))
        g.put(kind, t, g.ints(start), g.ints(side), g.ints(axis), g.ints(draw(st.integers(1, 2))))
    elif kind == "backward":
        g.put("Slice", t, g.ints(-1), g.ints(-1000), g.ints(axis), g.ints(-1))
    elif kind == "Split" and side > 1:
        g.put(kind, t, g.ints(1, side - 1), count=2, axis=axis)
    elif kind == "Gather":
        picked = draw(st.lists(st.integers(0, side - 1), min_size=1, max_size=3))
        g.put(kind, t, g.ints(*picked), axis=axis)


def grown(g, draw, t):
    value = g.values[t]
    axis = axis_of(draw, value)
    kind = draw(st.sampled_from(["Concat", "Tile", "Expand", "Pad", "CumSum"]))
    if kind == "Concat":
        g.put(kind, t, t, axis=axis)
    elif kind == "Tile":
        g.put(kind, t, g.ints(*draw(st.permutations([2, *[1] * (value.ndim - 1)]))))
    elif kind == "Expand" and value.ndim < 4:
        g.put(kind, t, g.ints(2, *value.shape))
    elif kind == "Pad":
        pads = draw(st.lists(st.integers(0, 1), min_size=2 * value.ndim, max_size=2 * value.ndim))
        mode = draw(st.sampled_from(["constant", "edge"]))
        g.put(kind, t, g.ints(*pads), mode=mode)
    elif kind == "CumSum":
        g.put(kind, t, g.constant(np.array(axis)), reverse=draw(st.integers(0, 1)))


def chosen(g, draw, t):
    mask = g.constant(g.random.random(g.values[t].shape) < 0.5)
    others = [n for n in g.tensors if g.values[n].shape == g.values[t].shape]
    g.put("Where", mask, t, draw(st.sampled_from(others)))


STEPS = [smooth, cornered, binary, binary, divided, matmul, softmax, reduction, rearranged]
STEPS += [cut, grown, chosen]


@st.composite
def graphs(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=3))
    seed = draw(st.integers(0, 10**6))
    growth = Growth(np.random.default_rng(seed).normal(size=shape), seed + 1)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=3, max_size=10)):
        # The newest tensor makes chains; any other makes branches.
        tensors = growth.tensors
        step(growth, draw, draw(st.sampled_from([*tensors, *[tensors[-1]] * 2])))
    growth.finish()
    return growth


@pytest.mark.parametrize("is_open", [False, True])
@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(growth=graphs())
def test_random_graph(check, is_open, growth):
    x = growth.values["x"]
    used = {name for node in growth.nodes for name in node.input}
    constants = {name: value for name, value in growth.constants.items() if name in used}
    check(growth.nodes, x, constants, opset=OPSET, dims=[None] * x.ndim if is_open else None)
