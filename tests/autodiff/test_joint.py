"""The public door: output and gradient from one graph in one run."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ibisa_onnx.autodiff import backward_graph, differentiate
from ibisa_onnx.errors import ModelError, UnsupportedOperatorError

F = np.float32


def run(model, **feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def classifier(opset, dims=("N", 3, 8, 8), seed=0):
    """A small network whose operators changed over the opsets: Clip, ReduceMean, Softmax …"""
    rng = np.random.default_rng(seed)
    node = helper.make_node
    clip = (
        [node("Clip", ["c"], ["h"], min=0.0, max=6.0)]
        if opset < 11
        else [node("Clip", ["c", "low", "high"], ["h"])]
    )
    mean = (
        [node("ReduceMean", ["h"], ["m"], axes=[2, 3], keepdims=0)]
        if opset < 18
        else [node("ReduceMean", ["h", "axes"], ["m"], keepdims=0)]
    )
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(F),
        "b": rng.normal(size=4).astype(F),
        "v": rng.normal(size=(4, 5)).astype(F),
    }
    if opset >= 11:
        constants |= {"low": np.array(0, F), "high": np.array(6, F)}
    if opset >= 18:
        constants["axes"] = np.array([2, 3])
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        *clip,
        *mean,
        node("MatMul", ["m", "v"], ["s"]),
        node("Softmax", ["s"], ["y"], axis=1, name="soft"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (dims[0], 5))],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def given(batch=2):
    rng = np.random.default_rng(3)
    x, dy = rng.normal(size=(batch, 3, 8, 8)), rng.normal(size=(batch, 5))
    return x.astype(F), dy.astype(F)


def test_hand_computed(build):
    """y = x^2 + 3 x at 2, with dL/dy = 10: y = 10, dL/dx = 70."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Mul", ["x", "three"], ["triple"]),
        helper.make_node("Add", ["square", "triple"], ["y"]),
    ]
    model = build(nodes, F([2.0]), {"three": np.array([3.0])}, 17, [1])
    y, dx = run(backward_graph(model), x=F([2.0]), cotangent=F([10.0]))
    assert y == 10
    assert dx == 70


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 20, 22, 24])
def test_every_opset_gives_the_models_output_and_its_gradient(opset):
    model = classifier(opset)
    x, dy = given()
    y, dx = run(backward_graph(model), x=x, cotangent=dy)
    np.testing.assert_array_equal(y, run(model, x=x)[0])
    derivative = differentiate(model, "x", "y")
    _, *saved = run(derivative.forward, x=x)
    feeds = {derivative.cotangent: dy, **dict(zip(derivative.saved, saved, strict=True))}
    np.testing.assert_array_equal(dx, run(derivative.backward, **feeds)[0])


def test_inputs_and_outputs_are_the_documented_ones():
    joint = backward_graph(classifier(13))
    shapes = {
        each.name: [side.dim_param or side.dim_value for side in each.type.tensor_type.shape.dim]
        for each in (*joint.graph.input, *joint.graph.output)
    }
    assert [each.name for each in joint.graph.input] == ["x", "cotangent"]
    assert [each.name for each in joint.graph.output] == ["y", "gradient"]
    assert shapes["cotangent"] == shapes["y"] == ["N", 5]
    assert shapes["gradient"] == shapes["x"] == ["N", 3, 8, 8]
    onnx.checker.check_model(joint, full_check=True)


def test_one_session_takes_any_batch():
    options = ort.SessionOptions()
    session = ort.InferenceSession(backward_graph(classifier(9)).SerializeToString(), options)
    x, dy = given(3)
    together = session.run(None, {"x": x, "cotangent": dy})
    alone = [session.run(None, {"x": x[i : i + 1], "cotangent": dy[i : i + 1]}) for i in range(3)]
    for whole, *parts in zip(together, *alone, strict=True):
        np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-6)


def test_weights_are_in_it_once():
    model = classifier(13)
    names = [tensor.name for tensor in backward_graph(model).graph.initializer]
    assert len(names) == len(set(names))
    copies = [
        t for t in backward_graph(model).graph.initializer if numpy_helper.to_array(t).size > 50
    ]
    assert sorted(t.name for t in copies) == ["w"]


def test_a_path_bytes_and_a_model_are_the_same(tmp_path):
    model = classifier(13)
    onnx.save(model, tmp_path / "m.onnx")
    graphs = [
        backward_graph(source).SerializeToString(deterministic=True)
        for source in (
            model,
            model.SerializeToString(),
            tmp_path / "m.onnx",
            str(tmp_path / "m.onnx"),
        )
    ]
    assert len(set(graphs)) == 1


def test_the_model_is_left_as_it_is():
    model = classifier(9)
    before = model.SerializeToString(deterministic=True)
    backward_graph(model)
    assert model.SerializeToString(deterministic=True) == before


def test_names_that_the_model_has_are_not_taken_twice(build):
    nodes = [
        helper.make_node("Exp", ["x"], ["gradient"]),
        helper.make_node("Tanh", ["gradient"], ["cotangent"]),
        helper.make_node("Neg", ["cotangent"], ["y"]),
    ]
    joint = backward_graph(build(nodes, F([0.5]), {}, 17, [1]))
    assert [each.name for each in joint.graph.input] == ["x", "cotangent_"]
    assert [each.name for each in joint.graph.output] == ["y", "gradient_"]
    _, dx = run(joint, x=F([0.5]), cotangent_=F([1.0]))
    np.testing.assert_allclose(dx, -np.exp(0.5) / np.cosh(np.exp(0.5)) ** 2, rtol=1e-5)


def test_half_precision_goes_through(build):
    x = np.linspace(-1, 1, 6).astype(np.float16)
    joint = backward_graph(build([helper.make_node("Sigmoid", ["x"], ["y"])], x, {}, 17, [6]))
    y, dx = run(joint, x=x, cotangent=np.ones(6, np.float16))
    assert dx.dtype == np.float16
    np.testing.assert_allclose(dx, y * (1 - y), atol=1e-3)


def test_what_to_differentiate_is_asked_for_where_it_is_not_plain():
    node = helper.make_node
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "ab"]
    inputs.append(helper.make_tensor_value_info("k", TensorProto.INT64, [2]))
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("s", "t")]
    nodes = [node("Add", ["a", "b"], ["s"]), node("Exp", ["a"], ["t"])]
    graph = helper.make_graph(nodes, "two", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match=r"choose one of: a, b$"):
        backward_graph(model)
    assert [o.name for o in backward_graph(model, input="b").graph.output] == ["s", "gradient"]
    a = np.array([0.0, 1.0], F)
    feeds = {"a": a, "b": a, "k": np.zeros(2, np.int64), "cotangent": np.ones(2, F)}
    _, dx = run(backward_graph(model, input="a", output="t"), **feeds)
    np.testing.assert_allclose(dx, np.exp(a), rtol=1e-6)
    with pytest.raises(ModelError, match="choose one of: s, t"):
        backward_graph(model, input="a", output="u")
    del model.graph.input[:]
    with pytest.raises(ModelError, match="has no input"):
        backward_graph(model)


def test_an_image_in_bytes_is_the_input_where_there_is_no_other():
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "x"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])]
    graph = helper.make_graph(nodes, "bytes", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    pixels = np.array([0, 7, 255], np.uint8)
    _, dx = run(backward_graph(model), pixels=pixels, cotangent=np.ones(3, F))
    assert dx.dtype == F
    np.testing.assert_array_equal(dx, 2 * pixels.astype(F))


def test_refuses_by_naming_node_and_operator(build):
    nodes = [helper.make_node("NoSuchOperator", ["x"], ["y"], name="odd")]
    with pytest.raises(UnsupportedOperatorError, match=r"NoSuchOperator 'odd': [^;]*$"):
        backward_graph(build(nodes, F([1.0]), {}, 17, None))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m\.onnx is a text file, not an ONNX model"):
        backward_graph(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="does not exist"):
        backward_graph(tmp_path / "n.onnx")


class Network(nn.Module):
    """The parts of a network that older opsets write otherwise."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU6())
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = nn.functional.pad(self.stem(x), (1, 0, 1, 0), value=0.5)
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        a, b = x.split(3, dim=1)
        x = torch.cat([b, a.exp().clamp(max=3)], dim=1)[:, :, 1:]
        return self.head(x.mean((2, 3))).log_softmax(1)


@pytest.mark.parametrize("opset", [9, 10, 11, 13, 17, 18])
def test_agrees_with_torch(opset):
    torch.manual_seed(0)
    network = Network().eval()
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), stream, opset_version=opset, dynamo=False)
    expected = network(x)
    dy = torch.randn_like(expected)
    expected.backward(dy)
    joint = backward_graph(stream.getvalue())
    name = joint.graph.input[0].name
    y, dx = run(joint, **{name: x.detach().numpy(), "cotangent": dy.numpy()})
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    scale = float(x.grad.abs().max())
    np.testing.assert_allclose(dx / scale, x.grad.numpy() / scale, atol=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("name", ["squeezenet", "mobilenetv2", "face_rfb320", "mobilenetv2_int8"])
def test_real_models(assets, name):
    """Opset 7, 9 and 16: the deployed output bit by bit, and the gradient of the two graphs."""
    path = assets / "models" / f"{name}.onnx"
    joint = backward_graph(path)
    source, output = joint.graph.input[0].name, joint.graph.output[0].name
    deployed = onnx.load(path)
    derivative = differentiate(deployed, source, output)
    sides = [s.dim_value or 1 for s in joint.graph.input[0].type.tensor_type.shape.dim]
    pixels = joint.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, sides, np.uint8) if pixels else rng.normal(size=sides).astype(F)
    y, *saved = run(derivative.forward, **{source: x})
    np.testing.assert_allclose(y, run(deployed, **{source: x})[0], rtol=1e-4, atol=1e-5)
    dy = (y == y.max()).astype(F)
    feeds = {derivative.cotangent: dy, **dict(zip(derivative.saved, saved, strict=True))}
    found = run(joint, **{source: x, "cotangent": dy})
    np.testing.assert_array_equal(found[0], y)
    expected = run(derivative.backward, **feeds)[0]
    np.testing.assert_allclose(found[1], expected, atol=1e-6 * float(np.abs(expected).max()))
    assert joint.ByteSize() < 1.05 * path.stat().st_size


def test_a_name_inside_a_branch_is_not_taken_twice():
    """The branch depends on the batch, so that it stays in the graph."""
    inner = helper.make_graph(
        [helper.make_node("Identity", ["one"], ["cotangent"])],
        "branch",
        [],
        [helper.make_tensor_value_info("cotangent", TensorProto.FLOAT, [])],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["scale"], then_branch=inner, else_branch=inner),
        helper.make_node("Mul", ["x", "scale"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array(1.0, np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    joint = backward_graph(model, input="x")
    assert joint.graph.input[-1].name == "cotangent_"
    session = ort.InferenceSession(joint.SerializeToString(), providers=["CPUExecutionProvider"])
    dy = np.array([3, 4], np.float32)
    feeds = {"x": dy, "flag": np.array(True), "cotangent_": dy}
    np.testing.assert_array_equal(session.run(["gradient"], feeds)[0], dy)


def test_a_transform_of_the_newest_kind_shares_a_graph_with_older_nodes(build):
    nodes = [helper.make_node("DFT", ["x", "", "axis"], ["y"])]
    x = np.random.default_rng(0).normal(size=(1, 6, 2)).astype(np.float32)
    joint = backward_graph(build(nodes, x, {"axis": np.array(1)}, 20, None))
    session = ort.InferenceSession(joint.SerializeToString(), providers=["CPUExecutionProvider"])
    dy = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    _, dx = session.run(None, {"x": x, "cotangent": dy})
    whole = 6 * np.fft.ifft(dy[..., 0] + 1j * dy[..., 1], axis=1)  # the transform's adjoint
    np.testing.assert_allclose(dx, np.stack([whole.real, whole.imag], -1), atol=1e-5)


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_the_greater_of_two_halves_gets_the_gradient(build, op_type):
    """ONNX Runtime's CPU multiplies halves in float32 and rounds only for Max, not for others."""
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node(op_type, ["a", "b"], ["y"]),
    ]
    x = np.random.default_rng(0).normal(size=100).astype(np.float16)
    model = build(nodes, x, {"k": np.array(0.7)}, 17, None)
    _, dx = run(backward_graph(model), x=x, cotangent=np.ones_like(x))
    sign = 1 if op_type == "Max" else -1
    np.testing.assert_allclose(dx, sign * np.sign(x) * np.float16(0.7))
