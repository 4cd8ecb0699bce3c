"""A graph in torch gives what ONNX Runtime gives, and its gradient."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from exporters.distillation.graph_module import GraphModule
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
    "conv same lower": ['y = Conv<auto_pad="SAME_LOWER", strides=[2,3]>(x, w, b)'],
    "batch norm": ["y = BatchNormalization<epsilon=0.01>(x, s, t, u, v)"],
    "max pool": ["y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)"],
    "average pool": ["y = AveragePool<kernel_shape=[3,2], strides=[2,2], pads=[1,1,1,0]>(x)"],
    "average pool with its padding": [
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)"
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
    "pad": ["y = Pad(x, pads)"],
    "clip": ["y = Clip(x, half, )"],
    "softmax": ["y = Softmax<axis=1>(x)"],
    "layer norm": ["y = LayerNormalization<axis=-1>(x, n)"],
}
CONSTANTS = [
    *W,
    *weights(g=(6, 4), n=(10,)),
    numpy_helper.from_array(np.float32(0.5), "half"),
    *integers(shape=[1, 9, -1], one=[1], pads=[0, 0, 1, 0, 0, 0, 2, 3]),
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


def test_softmax_of_old_files_flattens() -> None:
    proto = model(["y = Softmax(x)"], [], opset=11)
    images = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": images})[0]
    found = GraphModule(proto, "x", "y")(torch.from_numpy(images))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


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
    ],
)
def test_what_is_not_covered_is_refused_by_name(nodes: list[str], says: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=says):
        GraphModule(model(nodes, []), "x", "y")(torch.zeros(SHAPE))


def test_a_weight_that_is_not_in_the_file() -> None:
    proto = model(["y = Conv(x, w)"], weights(w=(6, 4, 3, 3)))
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(UnsupportedOperatorError, match="'w' is not in the file"):
        GraphModule(proto, "x", "y")
