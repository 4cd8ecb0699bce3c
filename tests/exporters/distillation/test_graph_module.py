"""A graph in torch gives what ONNX Runtime gives, and its gradient."""

from __future__ import annotations

import node_cases
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from ibisa_exporters.distillation.graph_module import GraphModule
from ibisa_exporters.distillation.operators import OPERATORS
from onnx import numpy_helper

from ibisa_onnx.errors import UnsupportedOperatorError

SHAPE = (2, 4, 9, 10)


def weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(2)
    return [
        numpy_helper.from_array(rng.uniform(0.1, 1, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]


def integers(**values: list[int]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in values.items()]


def model(nodes: list[str], constants: list[onnx.TensorProto], opset: int = 17) -> onnx.ModelProto:
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]>'
        f"net (float[n,4,9,10] x) => (float[] y) {{ {' '.join(nodes)} }}"
    )
    parsed = onnx.parser.parse_model(text)
    del parsed.graph.output[0].type.tensor_type.shape.dim[:]
    parsed.graph.output[0].type.tensor_type.ClearField("shape")
    parsed.graph.initializer.extend(constants)
    return parsed


W = weights(w=(6, 4, 3, 3), b=(6,), d=(4, 1, 3, 3), s=(4,), t=(4,), u=(4,), v=(4,), m=(10, 7))
CASES = {
    "conv": ["y = Conv<pads=[1,1,1,1]>(x, w, b)"],
    "conv strided, padded unevenly": ["y = Conv<strides=[2,2], pads=[0,1,1,0]>(x, w)"],
    "conv depthwise": ["y = Conv<group=4, dilations=[2,2]>(x, d)"],
    "conv same": ['y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w, b)'],
    "conv valid": ['y = Conv<auto_pad="VALID", strides=[2,1]>(x, w)'],
    "conv same lower": ['y = Conv<auto_pad="SAME_LOWER", strides=[2,3]>(x, w, b)'],
    "batch norm": ["y = BatchNormalization<epsilon=0.01>(x, s, t, u, v)"],
    "max pool": ["y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)"],
    "average pool": ["y = AveragePool<kernel_shape=[3,2], strides=[2,2], pads=[1,1,1,0]>(x)"],
    "average pool with its padding": [
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)"
    ],
    "max pool same": ['y = MaxPool<kernel_shape=[2,3], auto_pad="SAME_LOWER", strides=[2,3]>(x)'],
    "max pool dilated": ["y = MaxPool<kernel_shape=[2,3], dilations=[2,3], pads=[1,1,0,1]>(x)"],
    "average pool same": ['y = AveragePool<kernel_shape=[2,3], auto_pad="SAME_UPPER">(x)'],
    "average pool same with its padding": [
        'y = AveragePool<kernel_shape=[2,4], auto_pad="SAME_LOWER", count_include_pad=1>(x)'
    ],
    "global pools": ["a = GlobalAveragePool(x)", "c = GlobalMaxPool(x)", "y = Sub(a, c)"],
    "matmul": ["y = MatMul(x, m)"],
    "gemm": ["a = ReduceMean<axes=[2,3], keepdims=0>(x)", "y = Gemm<transB=1>(a, g, b)"],
    "activations": [
        "a = Relu(x)",
        "c = HardSwish(x)",
        "e = LeakyRelu<alpha=0.2>(x)",
        "f = HardSigmoid(x)",
        "h = Elu(x)",
        "i = Tanh(x)",
        "j = Sigmoid(x)",
        "y = Concat<axis=1>(a, c, e, f, h, i, j)",
    ],
    "arithmetic": ["a = Mul(x, x)", "c = Add(a, half)", "e = Sqrt(c)", "y = Div(half, e)"],
    "shapes": [
        "a = Transpose<perm=[0,2,3,1]>(x)",
        "c = Reshape(a, shape)",
        "e = Unsqueeze(c, one)",
        "f = Squeeze(e, one)",
        "y = Flatten(f)",
    ],
    "flatten late": ["a = Flatten<axis=2>(x)", "c = Softmax(a)", "y = Reshape(c, whole)"],
    "flatten from behind": ["a = Flatten<axis=-1>(x)", "y = Reshape(a, whole)"],
    "reshape the first axis": ["a = Reshape(x, rows)", "c = MatMul(a, m)", "y = Reshape(c, back)"],
    "pad": ["y = Pad(x, pads, half)"],
    "cut": ["y = Pad(x, cut)"],
    "clip": ["y = Clip(x, half, )"],
    "clip from above": ["y = Clip(x, , half)"],
    "clip nothing": ["a = Clip(x)", "y = Relu(a)"],
    "dropout": ["y = Dropout(x, half)"],
    "cast": ["a = Cast<to=1>(x)", "y = Mul(a, half)"],
    "softmax": ["y = Softmax<axis=1>(x)"],
    "layer norm": ["y = LayerNormalization<axis=-1>(x, n)"],
}
CONSTANTS = [
    *W,
    *weights(g=(6, 4), n=(10,)),
    numpy_helper.from_array(np.float32(0.5), "half"),
    *integers(shape=[1, 9, -1], one=[1], pads=[0, 0, 1, 0, 0, 0, 2, 3]),
    *integers(whole=[0, -1], rows=[-1, 10], back=[-1, 4, 9, 7], cut=[0, 0, -1, 0, 0, 0, 2, -3]),
]


@pytest.mark.parametrize("name", CASES)
def test_parity_with_onnx_runtime(name: str) -> None:
    proto = model(CASES[name], [])
    used = {each for node in proto.graph.node for each in node.input}
    proto.graph.initializer.extend(each for each in CONSTANTS if each.name in used)
    one = name != "shapes"  # of which the file has the number of images written in
    images = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString())
    if one:
        expected = session.run(None, {"x": images})[0]
    else:
        expected = np.concatenate([session.run(None, {"x": each[None]})[0] for each in images])
    leaf = torch.tensor(images, requires_grad=True)
    found = GraphModule(proto, "x", "y")(leaf)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)
    assert found.requires_grad


OLD = {
    "softmax of all axes from the first": (11, "y = Softmax(x)"),
    "softmax of all axes from another": (9, "y = LogSoftmax<axis=2>(x)"),
    "clip by attributes": (7, "y = Clip<min=-0.5, max=0.25>(x)"),
    "clip by one attribute": (9, "y = Clip<max=0.25>(x)"),
    "pad by attributes": (9, "y = Pad<pads=[0,0,1,2,0,0,0,3], value=0.5>(x)"),
    "mean over axes by attributes": (13, "y = ReduceMean<axes=[-1,1], keepdims=0>(x)"),
    "axes by attributes": (11, "a = Unsqueeze<axes=[1,4]>(x) y = Squeeze<axes=[1]>(a)"),
    "batch norm": (7, "y = BatchNormalization<momentum=0.5>(x, s, t, u, v)"),
    "dropout": (9, "y = Dropout<ratio=0.5>(x)"),
    "average pool": (7, "y = AveragePool<kernel_shape=[2,2], pads=[0,1,1,0]>(x)"),
}


@pytest.mark.parametrize("name", OLD)
def test_old_opsets_mean_what_they_meant(name: str) -> None:
    opset, nodes = OLD[name]
    proto = model([nodes], [], opset)
    used = {each for node in proto.graph.node for each in node.input}
    proto.graph.initializer.extend(each for each in CONSTANTS if each.name in used)
    images = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": images})[0]
    found = GraphModule(proto, "x", "y")(torch.from_numpy(images))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_node_tests_of_onnx_are_met_or_refused() -> None:
    """Each of an operator's float inputs as the image, all other inputs constant."""
    met = set()
    for case in node_cases.load_cases():
        output, expected = next(iter(case.outputs.items()))
        if case.operator not in OPERATORS or not isinstance(expected, np.ndarray):
            continue
        for name in case.float_inputs:
            images = torch.from_numpy(case.inputs[name].astype(np.float32))
            try:
                with torch.no_grad():
                    found = GraphModule(node_cases.variant(case, name), name, output)(images)
            except UnsupportedOperatorError:
                continue
            wanted = expected.astype(np.float32)
            np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-3, err_msg=case.name)
            met.add(case.operator)
    assert met == OPERATORS.keys()


def test_a_quantised_graph_is_the_real_function_it_approximates(bytes_onnx) -> None:
    proto = bytes_onnx
    module = GraphModule(proto, "image", "scores")
    session = ort.InferenceSession(proto.SerializeToString())
    images = np.random.default_rng(1).integers(0, 256, (4, 12, 12, 3)).astype(np.uint8)
    expected = [session.run(None, {"image": each[None]})[0][0] for each in images]
    found = module(torch.from_numpy(images).float())
    np.testing.assert_allclose(found.detach(), expected, atol=0.6)  # half a step of rounding
    assert [name for name, _ in module.named_parameters()]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (["y = Softplus(x)"], "Softplus"),
        (["a = Shape(x)", "y = Reshape(x, a)"], "Shape"),
        (["y = MaxPool<kernel_shape=[2,2], ceil_mode=1>(x)"], "ceil_mode"),
        (["y = AveragePool<kernel_shape=[2,2], dilations=[1,2]>(x)"], "dilations"),
        (['y = Pad<mode="reflect">(x, pads)'], "mode=reflect"),
        (["a = Cast<to=7>(x)", "y = Cast<to=1>(a)"], "rounding"),
        (["y = Relu<steepness=2>(x)"], "steepness"),
        (["y = ReduceMean<keepdims=1>(x)"], "axes"),
    ],
)
def test_what_is_not_covered_is_refused_by_name(nodes: list[str], says: str) -> None:
    constants = integers(pads=[0, 0, 1, 0, 0, 0, 2, 3]) if "pads" in nodes[0] else []
    with pytest.raises(UnsupportedOperatorError, match=says):
        GraphModule(model(nodes, constants), "x", "y")(torch.zeros(SHAPE))


def test_opsets_of_another_broadcasting_are_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="opset 6"):
        GraphModule(model(["y = Relu(x)"], [], opset=6), "x", "y")


def test_a_weight_that_is_not_in_the_file() -> None:
    proto = model(["y = Conv(x, w)"], weights(w=(6, 4, 3, 3)))
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(UnsupportedOperatorError, match="'w' is not in the file"):
        GraphModule(proto, "x", "y")
