"""Quantised models: straight through the quantisers, exact elsewhere.

Small models of one quantised operator are compared with what they approximate, written in float64.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.autodiff import differentiate, missing_rules
from ibisa_onnx.errors import UnsupportedOperatorError

SCALES = {"xs": np.float32(0.02), "ys": np.float32(0.05), "bs": np.float32(0.03)}
ZEROS = {"xz": np.uint8(120), "yz": np.uint8(110), "bz": np.uint8(140)}


def contrib(op_type, inputs, outputs=("y",), **attributes):
    return helper.make_node(op_type, inputs, outputs, domain="com.microsoft", **attributes)


def model_of(nodes, x, constants=None, opset=17, elem=None):
    """A model from x to y; the constants keep their dtypes."""
    values = {**SCALES, **ZEROS, **(constants or {})}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items() if k in used],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def gradient(model, x, dy=None):
    """y and dx; y has to be the deployed model's to the last bit."""
    derivative = differentiate(model, "x", "y")
    y, *saved = run(derivative.forward, {"x": x})
    np.testing.assert_array_equal(y, run(model, {"x": x})[0])
    dy = np.random.default_rng(1).normal(size=y.shape) if dy is None else dy
    feeds = {derivative.cotangent: dy.astype(np.float32)}
    feeds |= dict(zip(derivative.saved, saved, strict=True))
    wanted = {each.name for each in derivative.backward.graph.input}
    assert wanted == feeds.keys()
    (dx,) = run(derivative.backward, feeds)
    assert (dx.shape, dx.dtype) == (x.shape, np.float32)
    return y, dx


def numeric(function, x, dy):
    """The vector-Jacobian product of a float64 function by central differences."""
    result, step = np.zeros(x.shape), 1e-6
    for index in np.ndindex(*x.shape):
        ahead, behind = x.astype(np.float64), x.astype(np.float64)
        ahead[index] += step
        behind[index] -= step
        result[index] = np.sum(dy * (function(ahead) - function(behind))) / (2 * step)
    return result


def compare(model, x, function, dy_shape):
    """Against a function that takes the model's input as real numbers and gives y likewise."""
    dy = np.random.default_rng(1).normal(size=dy_shape)
    y, dx = gradient(model, x, dy)
    real = function(x.astype(np.float64))
    assert np.abs(real - y).max() <= 1.01  # half a step of each quantiser on the way
    np.testing.assert_allclose(dx, numeric(function, x, dy), rtol=1e-3, atol=1e-4)


@pytest.fixture
def bytes_():
    rng = np.random.default_rng(0)
    return lambda *shape, low=90, high=150: rng.integers(low, high, shape).astype(np.uint8)


def real_x(x):
    return (x - 120) * 0.02


def real_b(b):
    return (b.astype(np.float64) - 140) * 0.03


def as_y(y):
    return y / 0.05 + 110


Q, DQ = "QuantizeLinear", "DequantizeLinear"


# -- quantisers


def test_a_pair_of_quantisers_is_passed_straight_through():
    x = np.float32([[-1.0, 0.013, 0.4], [1.5, -0.7, 0.999]])
    nodes = [
        helper.make_node(Q, ["x", "xs", "xz"], ["q"]),
        helper.make_node(DQ, ["q", "xs", "xz"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["y"]),
    ]
    _, dx = gradient(model_of(nodes, x), x, np.ones((2, 3)))
    np.testing.assert_allclose(dx, 2 * x, rtol=1e-6)


def test_paths_beside_and_through_quantisers_add_up():
    x = np.float32([0.3, -0.2])
    nodes = [
        helper.make_node(Q, ["x", "xs", "xz"], ["q"]),
        helper.make_node(DQ, ["q", "xs", "xz"], ["d"]),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    np.testing.assert_allclose(gradient(model_of(nodes, x), x, np.ones(2))[1], [2, 2])


def test_saturation_passes_the_gradient():
    """A probability of 1 has no room in a range that ends at 255/256."""
    x = np.float32([[9.0, 0.0, -1.0]])
    scale = {"s": np.float32(1 / 256), "z": np.uint8(0)}
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node(Q, ["p", "s", "z"], ["y"]),
    ]
    y, dx = gradient(model_of(nodes, x, scale), x, np.float32([[1, 0, 0]]))
    p = np.exp(x) / np.exp(x).sum()
    assert y[0, 0] == 255
    np.testing.assert_allclose(dx, 256 * p[0, 0] * (np.float32([[1, 0, 0]]) - p), rtol=1e-3)


@pytest.mark.parametrize("zero", [np.uint8(0), np.int8(-128)])
def test_a_range_from_zero_after_a_sum_stands_for_a_relu(zero):
    x = np.float32([[1.0, -1.0, 0.5]])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["c"]),
        helper.make_node(Q, ["c", "xs", "zero"], ["q"]),
        helper.make_node(DQ, ["q", "xs", "zero"], ["y"]),
    ]
    weight = np.float32([[1, -1], [0.5, 2], [1, 1]])  # c = [1, -2.5]
    model = model_of(nodes, x, {"w": weight, "zero": zero})
    np.testing.assert_allclose(gradient(model, x, np.ones((1, 2)))[1], weight[:, :1].T)


def test_a_relu_that_is_there_is_not_doubled_nor_lost():
    x = np.float32([[0.001, -1.0, 0.5]])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node(Q, ["r", "xs", "zero"], ["q"]),
        helper.make_node(DQ, ["q", "xs", "zero"], ["y"]),
    ]
    model = model_of(nodes, x, {"zero": np.uint8(0)})
    np.testing.assert_array_equal(gradient(model, x, np.ones((1, 3)))[1], [[1, 0, 1]])


def test_another_scale_on_the_way_back_counts():
    x = np.float32([0.4, 0.2])
    nodes = [
        helper.make_node(Q, ["x", "xs", "xz"], ["q"]),
        helper.make_node(DQ, ["q", "ys", "yz"], ["y"]),
    ]
    np.testing.assert_allclose(gradient(model_of(nodes, x), x, np.ones(2))[1], [2.5, 2.5])


def test_scales_of_each_channel():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    scale = {
        "s": np.float32([0.1, 0.2, 0.4]),
        "t": np.float32([0.5, 0.5, 1.0]),
        "z": np.int8([1, 2, 3]),
    }
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], axis=1),
        helper.make_node(DQ, ["q", "t", "z"], ["y"], axis=1),
    ]
    _, dx = gradient(model_of(nodes, x, scale), x, np.ones(x.shape))
    expected = (scale["t"] / scale["s"])[None, :, None] * np.ones(x.shape)
    np.testing.assert_allclose(dx, expected, rtol=1e-6)


def test_integers_keep_their_gradient_through_moves_and_maxima(bytes_):
    x = bytes_(1, 4, 4, 2)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("MaxPool", ["t"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["m", "c"], ["k"], axis=1),
        helper.make_node(DQ, ["k", "xs", "xz"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["y"]),
    ]
    constant = np.full((1, 1, 2, 2), 7, np.uint8)
    pooled = lambda v: v.reshape(1, 2, 2, 2, 2, 2).transpose(0, 5, 1, 3, 2, 4).max((4, 5))  # noqa: E731
    function = lambda v: real_x(np.concatenate([pooled(v), constant], 1)) ** 2  # noqa: E731
    compare(model_of(nodes, x, {"c": constant}), x, function, (1, 3, 2, 2))


def test_bytes_cast_to_floats():
    x = np.uint8([[0, 128, 255]])
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "xs"], ["m"]),
        helper.make_node("Sin", ["m"], ["y"]),
    ]
    _, dx = gradient(model_of(nodes, x), x, np.ones((1, 3)))
    np.testing.assert_allclose(dx, 0.02 * np.cos(0.02 * x.astype(np.float64)), rtol=1e-5)


def test_quantised_weights_alone_need_no_counterpart():
    x = np.float32([[1.0, -2.0]])
    nodes = [
        helper.make_node(DQ, ["b", "bs", "bz"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = model_of(nodes, x, {"b": np.uint8([[140, 150], [160, 130]])})
    _, dx = gradient(model, x, np.ones((1, 2)))
    np.testing.assert_allclose(dx, [[0.3, 0.3]], rtol=1e-5)
    forward = differentiate(model, "x", "y").forward
    assert [node.op_type for node in forward.graph.node].count("MatMul") == 1


# -- operators on integers


def test_qlinear_conv(bytes_):
    x = bytes_(1, 2, 4, 4)
    rng = np.random.default_rng(0)
    w = rng.integers(-50, 50, (3, 2, 3, 3)).astype(np.int8)
    ws, bias = np.float32([0.01, 0.02, 0.03]), rng.integers(-900, 900, 3).astype(np.int32)
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    node = helper.make_node("QLinearConv", inputs, ["y"], kernel_shape=[3, 3])
    constants = {"w": w, "ws": ws, "wz": np.zeros(3, np.int8), "b": bias}

    def function(v):
        kernel = w * ws.astype(np.float64)[:, None, None, None]
        windows = np.lib.stride_tricks.sliding_window_view(real_x(v), (3, 3), (2, 3))
        conv = np.einsum("nchwij,ocij->nohw", windows, kernel)
        return as_y(conv + (bias * 0.02 * ws.astype(np.float64))[None, :, None, None])

    compare(model_of([node], x, constants), x, function, (1, 3, 2, 2))


@pytest.mark.parametrize("fused_relu", [False, True])
def test_qlinear_conv_with_channels_last(bytes_, fused_relu):
    x = bytes_(1, 4, 4, 2, low=60, high=200)
    w = np.random.default_rng(0).integers(-50, 50, (3, 2, 1, 1)).astype(np.int8)
    inputs = ["x", "xs", "xz", "w", "xs", "wz", "ys", "zero"]
    node = contrib("QLinearConv", inputs, kernel_shape=[1, 1], channels_last=1)
    zero = np.uint8(0 if fused_relu else 110)
    constants = {"w": w, "wz": np.int8(0), "zero": zero}

    def function(v):
        y = np.einsum("nhwc,oc->nhwo", real_x(v), w[:, :, 0, 0] * 0.02) / 0.05
        return np.maximum(y, 0) if fused_relu else y + 110

    compare(model_of([node], x, constants), x, function, (1, 4, 4, 3))


def test_qlinear_matmul(bytes_):
    x, b = bytes_(3, 4), np.random.default_rng(0).integers(90, 170, (4, 5)).astype(np.uint8)
    node = helper.make_node("QLinearMatMul", ["x", "xs", "xz", "b", "bs", "bz", "ys", "yz"], ["y"])
    compare(model_of([node], x, {"b": b}), x, lambda v: as_y(real_x(v) @ real_b(b)), (3, 5))


ELEMENTWISE = [
    ("QLinearAdd", lambda v, b: real_x(v) + real_b(b)),
    ("QLinearMul", lambda v, b: real_x(v) * real_b(b)),
]


@pytest.mark.parametrize(("op_type", "function"), ELEMENTWISE)
@pytest.mark.parametrize("shape", [(3, 4), (4,), (3, 1)])
def test_qlinear_arithmetic(bytes_, op_type, function, shape):
    x, b = bytes_(3, 4), bytes_(*shape)
    node = contrib(op_type, ["x", "xs", "xz", "b", "bs", "bz", "ys", "yz"])
    compare(model_of([node], x, {"b": b}), x, lambda v: as_y(function(v, b)), (3, 4))


@pytest.mark.parametrize(
    ("op_type", "attributes", "function"),
    [
        ("QLinearSigmoid", {}, lambda v: 1 / (1 + np.exp(-v))),
        ("QLinearLeakyRelu", {"alpha": 0.3}, lambda v: np.where(v > 0, v, 0.3 * v)),
        ("QLinearGlobalAveragePool", {}, lambda v: v.mean((2, 3), keepdims=True)),
    ],
)
def test_qlinear_functions(bytes_, op_type, attributes, function):
    x = bytes_(1, 3, 2, 2)
    x[x == 120] = 121  # where LeakyRelu has a kink
    node = contrib(op_type, ["x", "xs", "xz", "ys", "yz"], **attributes)
    shape = function(x.astype(np.float64)).shape
    compare(model_of([node], x), x, lambda v: as_y(function(real_x(v))), shape)


@pytest.mark.parametrize("opset", [11, 13])
def test_qlinear_softmax(bytes_, opset):
    """Before opset 13 everything behind the axis is normalized as one."""
    x = bytes_(2, 3, 4)
    constants = {"s": np.float32(1 / 256), "z": np.uint8(0)}
    node = contrib("QLinearSoftmax", ["x", "xs", "xz", "s", "z"], axis=1, opset=opset)
    axes = (1,) if opset == 13 else (1, 2)

    def function(v):
        e = np.exp(real_x(v))
        return 256 * e / e.sum(axes, keepdims=True)

    compare(model_of([node], x, constants, opset=opset), x, function, (2, 3, 4))


def test_qlinear_average_pool(bytes_):
    x = bytes_(1, 2, 4, 4)
    node = contrib(
        "QLinearAveragePool", ["x", "xs", "xz", "ys", "yz"], kernel_shape=[2, 2], strides=[2, 2]
    )
    function = lambda v: as_y(real_x(v).reshape(1, 2, 2, 2, 2, 2).mean((3, 5)))  # noqa: E731
    compare(model_of([node], x), x, function, (1, 2, 2, 2))


def test_qlinear_concat_and_where(bytes_):
    x, b = bytes_(2, 3), bytes_(2, 3)
    join = contrib("QLinearConcat", ["ys", "yz", "x", "xs", "xz", "b", "bs", "bz"], axis=1)
    function = lambda v: as_y(np.concatenate([real_x(v), real_b(b)], 1))  # noqa: E731
    compare(model_of([join], x, {"b": b}), x, function, (2, 6))
    choose = contrib("QLinearWhere", ["c", "x", "xs", "xz", "b", "bs", "bz", "ys", "yz"])
    which = np.array([[True, False, True], [False, True, True]])
    function = lambda v: as_y(np.where(which, real_x(v), real_b(b)))  # noqa: E731
    compare(model_of([choose], x, {"b": b, "c": which}), x, function, (2, 3))


def test_qgemm(bytes_):
    x, b = bytes_(3, 4), bytes_(5, 4)
    c = np.random.default_rng(0).integers(-900, 900, 5).astype(np.int32)
    inputs = ["x", "xs", "xz", "b", "bs", "bz", "c", "ys", "yz"]
    node = contrib("QGemm", inputs, transB=1, alpha=0.5)
    function = lambda v: as_y(0.5 * (real_x(v) @ real_b(b).T + c * 0.02 * 0.03))  # noqa: E731
    compare(model_of([node], x, {"b": b, "c": c}), x, function, (3, 5))


def test_a_dynamically_quantised_product():
    """As `quantize_dynamic` writes it: what sets the range counts as constant."""
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    b = np.random.default_rng(1).integers(90, 170, (4, 5)).astype(np.uint8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "b", "z", "bz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "bs"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    dy = np.random.default_rng(1).normal(size=(3, 5))
    _, dx = gradient(model_of(nodes, x, {"b": b}), x, dy)
    np.testing.assert_allclose(dx, dy @ real_b(b).T, rtol=1e-4, atol=1e-5)
    fused = contrib("DynamicQuantizeMatMul", ["x", "b", "bs", "bz"])
    _, dx = gradient(model_of([fused], x, {"b": b}), x, dy)
    np.testing.assert_allclose(dx, dy @ real_b(b).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("each_column", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", [(), ("B", "h", "c")])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_dynamically_quantised_lstm_has_the_gradient_of_the_float_one(
    direction, each_column, given, kind
):
    """Of one with the same weights; these are small, for processors that add pairs in 16 bits."""
    rng, hidden, both = np.random.default_rng(2), 5, 1 + (direction == "bidirectional")
    x = rng.normal(size=(4, 2, 3)).astype(np.float32)
    sides, middle = (both, 4 * hidden) if each_column else (both,), 0 if kind is np.int8 else 128
    quantised, real = {}, {}
    for name, inputs in (("W", 3), ("R", hidden)):
        values = (rng.integers(-60, 60, (both, inputs, 4 * hidden)) + middle).astype(kind)
        scale = rng.uniform(0.002, 0.006, sides).astype(np.float32)
        zero = np.full(sides, middle, kind)
        quantised |= {name: values, f"{name}s": scale, f"{name}z": zero}
        turned = scale.reshape(both, 1, -1) * (values.astype(np.float32) - middle)
        real[name] = turned.transpose(0, 2, 1)
    shared = {"B": (both, 8 * hidden), "h": (both, 2, hidden), "c": (both, 2, hidden)}
    constants = {name: rng.normal(size=shared[name]).astype(np.float32) for name in given}
    constants["flat"] = np.array([-1])
    rest = [name if name in given else "" for name in ("B", "lengths", "h", "c", "P")]
    names = ["x", "W", "R", *rest]
    attributes = {"hidden_size": hidden, "direction": direction}
    behind = [
        helper.make_node("Reshape", ["Y", "flat"], ["a"]),
        helper.make_node("Reshape", ["Yc", "flat"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=0),
    ]
    outputs, scales = ["Y", "", "Yc"], ["Ws", "Wz", "Rs", "Rz"]
    fast = contrib("DynamicQuantizeLSTM", [*names, *scales], outputs, **attributes)
    slow = helper.make_node("LSTM", names, outputs, **attributes)
    y, dx = gradient(model_of([fast, *behind], x, quantised | constants), x)
    expected, dx_expected = gradient(model_of([slow, *behind], x, real | constants), x)
    np.testing.assert_allclose(y, expected, atol=0.05)
    np.testing.assert_allclose(dx, dx_expected, rtol=1e-4, atol=1e-5)


def test_integer_convolution_and_product(bytes_):
    x = bytes_(1, 2, 4, 4)
    w = bytes_(3, 2, 2, 2)
    nodes = [
        helper.make_node("ConvInteger", ["x", "w", "xz", "bz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "small"], ["y"]),
    ]

    def function(v):
        windows = np.lib.stride_tricks.sliding_window_view(v - 120, (2, 2), (2, 3))
        return 1e-3 * np.einsum("nchwij,ocij->nohw", windows, w.astype(np.float64) - 140)

    compare(model_of(nodes, x, {"w": w, "small": np.float32(1e-3)}), x, function, (1, 3, 3, 3))
    x, b = bytes_(3, 4), bytes_(4, 5)
    node = contrib("MatMulIntegerToFloat", ["x", "b", "xs", "bs", "xz", "bz"])
    compare(model_of([node], x, {"b": b}), x, lambda v: real_x(v) @ real_b(b), (3, 5))


def test_quantisers_of_onnx_runtimes_own_domain():
    x = np.float32([0.4, 0.2])
    nodes = [contrib(Q, ["x", "xs", "xz"], ["q"]), contrib(DQ, ["q", "ys", "yz"])]
    np.testing.assert_allclose(gradient(model_of(nodes, x), x, np.ones(2))[1], [2.5, 2.5])


# -- whole files


def _quantisable(random):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "v"], ["d"]),
        helper.make_node("Relu", ["d"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "u"], ["y"]),
    ]
    weights = {"w": random(8, 3, 3, 3) / 5, "v": random(8, 8, 3, 3) / 8, "u": random(8, 5)}
    x = random(1, 3, 12, 12).astype(np.float32)
    return model_of(nodes, x, {k: v.astype(np.float32) for k, v in weights.items()}), x


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_statically_quantised_file_has_the_float_files_gradient(tmp_path, form, per_channel):
    quantisation = pytest.importorskip("onnxruntime.quantization")
    rng = np.random.default_rng(0)
    model, x = _quantisable(lambda *shape: rng.normal(size=shape))
    images = [rng.normal(size=x.shape).astype(np.float32) for _ in range(8)]

    class Reader(quantisation.CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"x": image} for image in [x, *images]])

        def get_next(self):
            return next(self.left, None)

    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, tmp_path / "float.onnx")
    quantisation.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        Reader(),
        quant_format=getattr(quantisation.QuantFormat, form),
        per_channel=per_channel,
    )
    dy = rng.normal(size=(1, 5))
    _, exact = gradient(model, x, dy)
    _, through = gradient(onnx.load(tmp_path / "int8.onnx"), x, dy)
    cosine = np.sum(exact * through) / np.linalg.norm(exact) / np.linalg.norm(through)
    assert cosine > 0.98


# -- refusals


def test_arithmetic_of_integers_is_refused():
    nodes = [
        helper.make_node("Div", ["x", "two"], ["h"], name="the half"),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, np.uint8([3, 4]), {"two": np.uint8(2)})
    (missing,) = missing_rules(model, "x", "y")
    assert (missing.node, missing.op_type) == ("the half", "Div")
    with pytest.raises(
        UnsupportedOperatorError, match="its integer arithmetic is not differentiable"
    ):
        differentiate(model, "x", "y")


def test_the_end_of_the_gradient_behind_quantisers_is_named():
    nodes = [
        helper.make_node(DQ, ["x", "xs", "xz"], ["d"]),
        helper.make_node("ArgMax", ["d"], ["y"], name="the end"),
    ]
    (missing,) = missing_rules(model_of(nodes, np.uint8([[3, 4]])), "x", "y")
    assert missing.node == "the end"
    assert "differentiate 'd'" in missing.why
    _, dx = gradient_of("d", model_of(nodes, np.uint8([[3, 4]])), np.uint8([[3, 4]]))
    np.testing.assert_allclose(dx, [[0.02, 0.02]], rtol=1e-6)


def gradient_of(output, model, x):
    derivative = differentiate(model, "x", output)
    y, *saved = run(derivative.forward, {"x": x})
    feeds = {
        derivative.cotangent: np.ones_like(y),
        **dict(zip(derivative.saved, saved, strict=True)),
    }
    return y, run(derivative.backward, feeds)[0]


def test_open_sides(bytes_):
    """Batch, height and width are found out at run time."""
    x, w = bytes_(2, 2, 5, 6), np.ones((3, 2, 3, 3), np.int8)
    inputs = ["x", "xs", "xz", "w", "xs", "wz", "ys", "yz"]
    nodes = [
        helper.make_node("QLinearConv", inputs, ["q"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node(DQ, ["q", "ys", "yz"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["y"]),
    ]
    fixed = model_of(nodes, x, {"w": w, "wz": np.int8(0)})
    _, expected = gradient(fixed, x)
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    for place, name in ((0, "n"), (2, "h"), (3, "w")):
        dims[place].dim_param = name
    np.testing.assert_allclose(gradient(fixed, x)[1], expected, rtol=1e-5)


def test_quantised_weights_in_an_external_file(bytes_, tmp_path):
    x, w = (
        bytes_(1, 2, 4, 4),
        np.random.default_rng(0).integers(-9, 9, (3, 2, 3, 3)).astype(np.int8),
    )
    nodes = [
        helper.make_node(DQ, ["x", "xs", "xz"], ["d"]),
        helper.make_node(DQ, ["w", "xs"], ["v"]),
        helper.make_node("Conv", ["d", "v"], ["y"]),
    ]
    model = model_of(nodes, x, {"w": w})
    _, expected = gradient(model, x, np.ones((1, 3, 2, 2)))
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=100)
    light = onnx.load(path, load_external_data=False)
    derivative = differentiate(light, "x", "y")
    for graph, name in ((derivative.forward, "f.onnx"), (derivative.backward, "b.onnx")):
        (tmp_path / name).write_bytes(graph.SerializeToString())
    forward, backward = (ort.InferenceSession(tmp_path / name) for name in ("f.onnx", "b.onnx"))
    _, *saved = forward.run(None, {"x": x})
    feeds = {derivative.cotangent: np.ones((1, 3, 2, 2), np.float32)}
    (dx,) = backward.run(None, feeds | dict(zip(derivative.saved, saved, strict=True)))
    np.testing.assert_allclose(dx, expected, rtol=1e-6)


def test_the_scale_that_is_found_at_run_time_is_refused_as_an_output(build):
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "y", "zero"])
    model = build([node], np.array([1.0, -2.0, 3.0], np.float32), {}, 17, None)
    with pytest.raises(UnsupportedOperatorError, match=r"DynamicQuantizeLinear.*scale"):
        differentiate(model, "x", "y")
