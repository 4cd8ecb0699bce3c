"""What is computed from sides that are fixed is constant, though the batch be open."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.autodiff.driver import missing_rules
from ibisa_onnx.autodiff.graph import Graph

KERNEL, STRIDE = 3, 2


class Nodes(list):
    """Nodes that are named as they come."""

    def op(self, op_type, *inputs, output="", **attributes):
        name = output or f"{op_type}_{len(self)}"
        self.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def value(self, value):
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value)))

    def same_pad(self, x, mode, output=""):
        """TensorFlow's SAME padding as PyTorch computes it, in the older exporter's words."""
        ends = [end for axis in (3, 2) for end in self.amounts(x, axis)]  # from the last axis on
        zero = numpy_helper.from_array(np.array([0]))
        zeros = self.op("ConstantOfShape", self.value([4]), value=zero)
        flat = self.op("Concat", *ends, zeros, axis=0)
        pairs = self.op("Reshape", flat, self.value([-1, 2]))
        bounds = [self.value([number]) for number in (-1, -(2**63) + 1, 0, -1)]
        columns = self.op("Transpose", self.op("Slice", pairs, *bounds), perm=[1, 0])
        pads = self.op("Reshape", columns, self.value([-1]))
        return self.op("Pad", x, pads, mode=mode, output=output)

    def amounts(self, x, axis):
        side = self.op("Gather", self.op("Shape", x), self.value(axis), axis=0)
        real = self.op("Cast", side, to=TensorProto.FLOAT)
        windows = self.op("Ceil", self.op("Div", real, self.value(np.float32(STRIDE))))
        last = self.op("Sub", self.op("Cast", windows, to=TensorProto.INT64), self.value(1))
        reach = self.op("Add", self.op("Mul", last, self.value(STRIDE)), self.value(KERNEL))
        total = self.op("Clip", self.op("Sub", reach, side), self.value(0))
        before = self.op("Div", total, self.value(2))
        after = self.op("Sub", total, before)
        return [self.op("Unsqueeze", end, self.value([0])) for end in (before, after)]


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pads_computed_from_fixed_sides_are_constant(build, check, spread, mode):
    nodes = Nodes()
    nodes.same_pad("x", mode, output="y")
    x, dims, opset = spread(2, 1, 5, 4), ["N", 1, 5, 4], 19 if mode == "wrap" else 17
    graph = Graph(build(nodes, x, {}, opset, dims), "y")
    assert graph.type("y").dims == ("N", 1, 7, 5)
    assert graph.value(nodes[-1].input[1]).tolist() == [0, 0, 1, 0, 0, 0, 1, 1]
    check(nodes, x, opset=opset, dims=dims)


def test_a_chain_of_computed_pads_is_followed_to_its_end(build):
    nodes, name = Nodes(), "x"
    for _ in range(6):
        name = nodes.op("Conv", nodes.same_pad(name, "edge"), "kernel", strides=[2, 2])
    nodes.op("Identity", name, output="y")
    constants = {"kernel": np.ones((1, 1, KERNEL, KERNEL))}
    model = build(nodes, np.zeros((1, 1, 100, 75), np.float32), constants, 17, ["N", 1, 100, 75])
    assert Graph(model, "y").type("y").dims == ("N", 1, 2, 2)
    assert missing_rules(model, "x", "y") == ()


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pads_computed_from_open_sides_are_taken_as_they_come(build, check, spread, mode):
    nodes = Nodes()
    nodes.same_pad("x", mode, output="y")
    x, dims = spread(2, 1, 5, 4), ["N", 1, "H", "W"]
    assert Graph(build(nodes, x, {}, 17, dims), "y").value(nodes[-1].input[1]) is None
    check(nodes, x, dims=dims)


def test_computed_pads_that_wrap_are_refused(build):
    nodes = Nodes()
    nodes.same_pad("x", "wrap", output="y")
    model = build(nodes, np.zeros((1, 1, 5, 4), np.float32), {}, 19, ["N", 1, "H", "W"])
    (missing,) = missing_rules(model, "x", "y")
    assert "computed at run time" in missing.why


def test_numbers_beside_an_open_batch_are_followed(build):
    """As tf2onnx scales the whole shape in floats and cuts the sides out of it."""
    nodes = Nodes()
    real = nodes.op("Cast", nodes.op("Shape", "x"), to=TensorProto.FLOAT)
    scaled = nodes.op("Floor", nodes.op("Mul", real, nodes.value(np.float32([1, 1, 1.5, 2]))))
    sides = nodes.op("Cast", scaled, to=TensorProto.INT64)
    cut = nodes.op("Slice", sides, nodes.value([2]), nodes.value([4]))
    nodes.op("Reshape", cut, nodes.value([1, 2]), output="z")
    model = build(nodes, np.zeros((1, 2, 3, 2)), {}, 17, ["N", 2, 3, 2])
    graph = Graph(model, "z")
    assert graph.value(sides) is None
    assert graph.value("z").tolist() == [[4, 4]]


def test_a_negative_side_is_open(build, check, spread):
    """As older Paddle converters write it."""
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    x, dims = spread(2, 3, 2, 4), [-1, 3, -1, -1]
    model = build([node], x, {}, 17, dims)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.DOUBLE, [-1, 3, 1, 1])
    )
    graph = Graph(model, "y")
    assert graph.type("x").dims == (None, 3, None, None)
    assert not any(
        side.dim_value < 0
        for info in (*graph.inputs, *graph.outputs)
        for side in info.type.tensor_type.shape.dim
    )
    check(node, x, dims=dims)


@pytest.mark.parametrize("doublings", [3, 20])
def test_a_vector_that_is_doubled_is_followed_while_it_is_short(build, spread, doublings):
    nodes = Nodes()
    vector = nodes.op("Shape", "x")
    for _ in range(doublings):
        vector = nodes.op("Concat", vector, vector, axis=0)
    size = nodes.op("Cast", nodes.op("Size", vector), to=TensorProto.FLOAT)
    nodes.op("Mul", "x", size, output="y")
    graph = Graph(build(nodes, spread(2, 3), {}, 17, [2, 3]), "y")
    assert graph.type(vector).dims == ((16,) if doublings == 3 else None)
    assert graph.type("y").dims == (2, 3) or doublings == 20
