"""A model split at a tensor: its gradient there against PyTorch, and where it can be split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.demo import model_path
from ibisa_onnx.errors import GradientError, NonFiniteGradientError, UnsupportedOperatorError
from ibisa_onnx.gradients.layer import (
    SpatialTensor,
    SplitModel,
    before_softmax,
    deployed,
    last_of_side,
    last_spatial,
    spatial_tensors,
)
from ibisa_onnx.models.function import FunctionModel, InputSpec
from ibisa_onnx.models.onnx_session import DeployedModel

SIDE, CHANNELS, CLASSES = 8, 4, 5
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Graph = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"k1": (CHANNELS, 3, 3, 3), "k2": (6, CHANNELS, 3, 3), "around": (6, 3, 3, 3)}
    shapes["matrix"] = (6 * SIDE * SIDE // 4, CLASSES)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def build(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: list[Any] | None = None,
    *,
    output: str = "scores",
    dtype: int = FLOAT,
    opset: int = 17,
    ir: int = 8,
    extra: bool = False,
    listed: bool = False,
) -> onnx.ModelProto:
    """A model with an image, perhaps a `gain`, perhaps its initializers as inputs."""
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("image", dtype, shape or ["n", 3, SIDE, SIDE])]
    inputs += [helper.make_tensor_value_info("gain", dtype, [1])] if extra else []
    if listed:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    scores = helper.make_tensor_value_info(output, dtype, None)
    graph = helper.make_graph(nodes, "small", inputs, [scores], tensors)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=ir)


def skipping(
    *,
    batch: int | str = "n",
    nhwc: bool = False,
    half: bool = False,
    eight: bool = False,
    **more: Any,
) -> onnx.ModelProto:
    """`features` on one way from the image to the scores, and another way around them."""
    image = "planes" if nhwc else "image"
    nodes = [node("Transpose", "image", "planes", perm=[0, 3, 1, 2])] if nhwc else []
    nodes += [
        node("Conv", f"{image} k1", "c1", pads=[1, 1, 1, 1]),
        node("Softplus", "c1", "features"),
        node("Conv", "features k2", "c2", pads=[1, 1, 1, 1]),
        node("Conv", f"{image} around", "beside", pads=[1, 1, 1, 1]),
        node("Add", "c2 beside", "sum"),
        node("Softplus", "sum", "s"),
    ]
    constants = weights()
    if eight:
        nodes += [node("QuantizeLinear", "s step", "q"), node("DequantizeLinear", "q step", "dq")]
        constants["step"] = np.array(0.1, np.float32)
    nodes += [
        node("AveragePool", "dq" if eight else "s", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("MatMul", "f matrix", "m"),
        node("Mul", "m gain", "scores") if more.get("extra") else node("Identity", "m", "scores"),
    ]
    dtype = HALF if half else FLOAT
    if half:
        constants = {name: value.astype(np.float16) for name, value in constants.items()}
    shape = [batch, SIDE, SIDE, 3] if nhwc else [batch, 3, SIDE, SIDE]
    return build(nodes, constants, shape, dtype=dtype, **more)


def torch_features(image: torch.Tensor) -> torch.Tensor:
    kernel = torch.from_numpy(weights()["k1"]).double()
    return F.softplus(F.conv2d(image, kernel, padding=1))


def torch_scores(image: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    w = {name: torch.from_numpy(value).double() for name, value in weights().items()}
    total = F.conv2d(features, w["k2"], padding=1) + F.conv2d(image, w["around"], padding=1)
    return F.avg_pool2d(F.softplus(total), 2).flatten(1) @ w["matrix"]


def opened(model: onnx.ModelProto, **options: Any) -> DeployedModel:
    settings = {"providers": ["cpu"], "threads": 1, **options}
    return DeployedModel.open(model.SerializeToString(), **settings)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(6).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)


def close(found: np.ndarray, expected: Any, share: float) -> bool:
    """Whether two arrays differ by no more than a share of the largest value."""
    wanted = np.asarray(expected)
    assert found.shape == wanted.shape
    return bool(np.abs(found - wanted).max() <= share * np.abs(wanted).max())


def forward(split: SplitModel, image: np.ndarray, features: np.ndarray) -> tuple[Any, Any]:
    """Run from the tensor on, counted at the model."""
    return split.forward(image, features, split.model.passes)


def backward(split: SplitModel, saved: Any, cotangent: np.ndarray) -> np.ndarray:
    return split.backward(saved, cotangent, split.model.passes)


def check(split: SplitModel, image: np.ndarray, count: int, share: float, gain: float = 1) -> None:
    """Hold the second part against PyTorch, at features that are not those of the image."""
    rng = np.random.default_rng(7)
    whole = torch.from_numpy(image).double()
    assert close(split.features(image), torch_features(whole), share)
    features = rng.normal(0.5, 1, (count, CHANNELS, SIDE, SIDE)).astype(np.float32)
    cotangent = rng.normal(size=(count, CLASSES)).astype(np.float32)
    leaf = torch.from_numpy(features).double().requires_grad_()
    expected = gain * torch_scores(whole, leaf)
    (gradient,) = torch.autograd.grad(expected, leaf, torch.from_numpy(cotangent).double())
    raw, saved = forward(split, image, features)
    assert close(raw, expected.detach(), share)
    assert close(backward(split, saved, cotangent.astype(raw.dtype)), gradient, share)


@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 1}, {"batch": 4}, {"nhwc": True}, {"listed": True, "ir": 3, "opset": 9}],
    ids=str,
)
def test_the_second_part_is_pytorchs(options: dict[str, Any], image: np.ndarray) -> None:
    split = SplitModel(opened(skipping(**options)), "features", "scores")
    for count in (1, 6):
        check(split, image, count, 1e-5)


def test_in_half_precision(image: np.ndarray) -> None:
    check(SplitModel(opened(skipping(half=True)), "features", "scores"), image, 3, 5e-3)


def test_in_8_bits_the_gradient_goes_straight_through(image: np.ndarray) -> None:
    model = opened(skipping(eight=True))
    check(SplitModel(model, "features", "scores"), image, 3, 2e-2)
    assert model.passes.count.forward == 2 * 3  # the file's own way, and a float one beside it


def test_with_another_input(image: np.ndarray) -> None:
    model = opened(skipping(extra=True), extra_inputs={"gain": np.array([3.0])})
    check(SplitModel(model, "features", "scores"), image, 2, 1e-5, gain=3)


def test_with_weights_in_another_file(image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(skipping(), path, save_as_external_data=True, location="w", size_threshold=64)
    assert (tmp_path / "w").stat().st_size > 1000
    check(
        SplitModel(DeployedModel.open(path, providers=["cpu"]), "features", "scores"),
        image,
        2,
        1e-5,
    )


def test_images_that_run_one_by_one(image: np.ndarray) -> None:
    model = opened(skipping(), max_batch=1)
    check(SplitModel(model, "features", "scores"), image, 3, 1e-5)
    assert (model.passes.count.forward, model.passes.count.forward_calls) == (3, 3)


def test_a_fixed_batch_is_filled_up_and_counted(image: np.ndarray) -> None:
    model = opened(skipping(batch=4))
    check(SplitModel(model, "features", "scores"), image, 6, 1e-5)
    spent = model.passes.count
    assert (spent.forward, spent.backward, spent.forward_calls, spent.backward_calls) == (
        8,
        8,
        2,
        2,
    )


def test_height_and_width_that_are_open() -> None:
    nodes = [
        node("Conv", "image k1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "features"),
        node("GlobalAveragePool", "features", "g"),
        node("Flatten", "g", "scores"),
    ]
    model = opened(build(nodes, {"k1": weights()["k1"]}, ["n", 3, "h", "w"]))
    tensors = spatial_tensors(model, "scores", (6, 10))
    assert [(each.name, each.channels, each.height, each.width) for each in tensors] == [
        ("c1", CHANNELS, 6, 10),
        ("features", CHANNELS, 6, 10),
    ]
    split = SplitModel(model, "features", "scores")
    features = split.features(np.ones((1, 3, 6, 10), np.float32))
    raw, saved = forward(split, np.ones((1, 3, 6, 10), np.float32), features)
    gradient = backward(split, saved, np.ones_like(raw))
    np.testing.assert_allclose(gradient, np.full((1, CHANNELS, 6, 10), 1 / 60), rtol=1e-6)


def test_small_cotangents_are_not_lost_in_half_precision(image: np.ndarray) -> None:
    split = SplitModel(opened(skipping(half=True)), "features", "scores")
    raw, saved = forward(split, image, split.features(image))
    cotangent = np.random.default_rng(0).normal(size=raw.shape).astype(np.float32)
    large = backward(split, saved, cotangent)
    assert close(backward(split, saved, np.float32(2**-30) * cotangent) * 2**30, large, 1e-6)
    assert not backward(split, saved, 0 * cotangent).any()


@pytest.mark.parametrize("place", [0, 5, 9, 14])
def test_inside_the_demo_model_by_differences(place: int) -> None:
    model = DeployedModel.open(model_path(), providers=["cpu"], threads=1)
    output = model.signature.outputs[0].name
    rng = np.random.default_rng(place)
    image = rng.normal(size=(1, 3, 128, 128)).astype(np.float32)
    split = SplitModel(model, spatial_tensors(model, output, (128, 128))[place].name, output)
    features = split.features(image)
    raw, _ = forward(split, image, features)
    np.testing.assert_allclose(raw, model.run(image)[output], atol=1e-5)
    spread = features.std() * np.float32(1)
    features += spread * rng.random(features.shape, np.float32)  # away from the kinks at 0
    direction = rng.normal(size=features.shape).astype(np.float32) * spread
    ends = np.concatenate([features + step * direction for step in (1e-3, -1e-3)])
    raw, saved = forward(split, image, features)
    cotangent = rng.normal(size=raw.shape).astype(np.float32)
    (up, down), _ = forward(split, image, ends)
    slope = float((cotangent * (up - down)).sum()) / 2e-3
    gradient = backward(split, saved, cotangent)
    usual = float(np.linalg.norm(gradient) * spread)  # the deviation of slopes over directions
    assert float((gradient * direction).sum()) == pytest.approx(slope, abs=0.03 * usual)


def test_a_gradient_that_is_not_finite_is_refused(image: np.ndarray) -> None:
    nodes = [
        node("Conv", "image k1", "c1"),
        node("Sqrt", "c1", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "scores"),
    ]
    split = SplitModel(opened(build(nodes, {"k1": 0 * weights()["k1"]})), "c1", "scores")
    raw, saved = forward(split, image, split.features(image))
    with pytest.raises(NonFiniteGradientError, match="c1 is NaN or infinite"):
        backward(split, saved, np.ones_like(raw))


# -- which tensors there are


def names(model: onnx.ModelProto) -> list[str]:
    tensors = spatial_tensors(opened(model), model.graph.output[0].name, (SIDE, SIDE))
    return [each.name for each in tensors]


def test_tensors_are_found_between_image_and_scores_alone() -> None:
    model = skipping()
    model.graph.node.append(node("Relu", "s", "unused"))
    model.graph.node.append(node("Relu", "constant", "fixed"))
    model.graph.node.append(node("Conv", "fixed k1", "from_constant", pads=[1, 1, 1, 1]))
    model.graph.node.append(node("Add", "m bias", "shifted"))
    model.graph.node.append(node("Conv", "from_constant turn", "bias4"))
    model.graph.node.append(node("GlobalAveragePool", "bias4", "bias1"))
    model.graph.node.append(node("Flatten", "bias1", "bias"))
    turn = np.ones((CLASSES, CHANNELS, 1, 1), np.float32)
    for name, value in {"constant": np.ones((1, 3, 8, 8), np.float32), "turn": turn}.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    order = [*range(10), 11, 12, 14, 15, 16, 13, 10]
    nodes = [model.graph.node[place] for place in order]
    copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.output[0].name = "shifted"
    assert names(model) == ["c1", "features", "c2", "beside", "sum", "s", "p"]


def test_a_tensor_that_is_an_output_too_is_found() -> None:
    model = skipping()
    model.graph.output.append(helper.make_tensor_value_info("features", FLOAT, None))
    assert "features" in names(model)
    check(
        SplitModel(opened(model), "features", "scores"),
        np.ones((1, 3, SIDE, SIDE), np.float32),
        1,
        1e-5,
    )


def attention(value: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Two heads over 16 tokens of 8 numbers."""
    nodes = [
        node("Reshape", f"{value} heads", "h"),
        node("Transpose", "h", "q", perm=[0, 2, 1, 3]),
        node("Transpose", "h", "k", perm=[0, 2, 3, 1]),
        node("MatMul", "q k", "logits"),
        node("Softmax", "logits", "a"),
        node("MatMul", "a q", "v"),
        node("ReduceMean", "v", "scores", axes=[1, 2], keepdims=0),
    ]
    return nodes, {"heads": np.array([0, 16, 2, 4])}


def test_maps_of_attention_are_no_pictures() -> None:
    nodes, constants = attention("tokens")
    patches = [
        node("Reshape", "image patches", "cut"),
        node("Transpose", "cut", "cells", perm=[0, 2, 4, 1, 3, 5]),
        node("Reshape", "cells flat", "rows"),
        node("MatMul", "rows embed", "tokens"),
    ]
    constants |= {
        "patches": np.array([0, 3, 4, 2, 4, 2]),
        "flat": np.array([0, 16, 12]),
        "embed": np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32),
    }
    assert names(build(patches + nodes, constants)) == []


def test_of_a_transformer_the_patches_are_left() -> None:
    nodes, constants = attention("tokens")
    patches = [
        node("Conv", "image embed", "patches", strides=[2, 2]),
        node("Reshape", "patches flat", "rows"),
        node("Transpose", "rows", "tokens", perm=[0, 2, 1]),
    ]
    constants |= {
        "flat": np.array([0, 8, 16]),
        "embed": np.random.default_rng(0).normal(size=(8, 3, 2, 2)).astype(np.float32),
    }
    assert names(build(patches + nodes, constants)) == ["patches"]


def test_the_axes_are_followed_through_transpositions() -> None:
    """As in ConvNeXt and Swin: channels go last, are mixed, and come back."""
    nodes = [
        node("Conv", "image k1", "c1", pads=[1, 1, 1, 1]),
        node("Transpose", "c1", "last", perm=[0, 2, 3, 1]),
        node("MatMul", "last mix", "mixed"),
        node("Relu", "mixed", "r"),
        node("MatMul", "among r", "columns"),
        node("Transpose", "columns", "mingled", perm=[0, 3, 1, 2]),
        node("Transpose", "r", "back", perm=[0, 3, 1, 2]),
        node("Reshape", "c1 other", "reshaped"),
        node("Conv", "reshaped k3", "again"),
        node("Sum", "back again mingled", "sum"),
        node("GlobalAveragePool", "sum", "g"),
        node("Flatten", "g", "scores"),
    ]
    constants = {"k1": weights()["k1"], "mix": np.eye(CHANNELS, CLASSES, dtype=np.float32)}
    constants["among"] = np.eye(SIDE, dtype=np.float32)
    constants["other"] = np.array([0, 2, 2 * SIDE, SIDE])
    constants["k3"] = np.ones((CLASSES, 2, SIDE + 1, 1), np.float32)
    assert names(build(nodes, constants)) == ["c1", "back", "again", "sum"]
    assert names(skipping(nhwc=True))[:2] == ["planes", "c1"]


def test_a_convolution_tells_the_axes_anew() -> None:
    """As in ShuffleNet: channels are shuffled by way of five axes."""
    nodes = [
        node("Conv", "image k1", "c1", pads=[1, 1, 1, 1]),
        node("Reshape", "c1 groups", "five"),
        node("Transpose", "five", "turned", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "turned four", "shuffled"),
        node("Conv", "shuffled k2", "c2", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "c2", "g"),
        node("Flatten", "g", "scores"),
    ]
    constants = {
        "k1": weights()["k1"],
        "k2": weights()["k2"],
        "groups": np.array([0, 2, 2, SIDE, SIDE]),
        "four": np.array([0, CHANNELS, SIDE, SIDE]),
    }
    assert names(build(nodes, constants)) == ["c1", "c2"]


def test_shapes_that_onnx_cannot_tell_are_taken_from_the_file() -> None:
    nodes = [
        node("Conv", "image k1", "c1", pads=[1, 1, 1, 1]),
        node("SampleOp", "c1", "strange", domain="com.microsoft"),
        node("Relu", "strange", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "scores"),
    ]
    model = build(nodes, {"k1": weights()["k1"]})
    assert names(model) == ["c1"]
    told = helper.make_tensor_value_info("r", FLOAT, ["n", CHANNELS, SIDE, SIDE])
    model.graph.value_info.append(told)
    assert names(model) == ["c1", "r"]


def test_nodes_in_any_order(image: np.ndarray) -> None:
    model = skipping()
    nodes = [onnx.NodeProto.FromString(each.SerializeToString()) for each in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    assert set(names(model)) == set(names(skipping()))
    check(SplitModel(opened(model), "features", "scores"), image, 1, 1e-5)


def test_old_models() -> None:
    nodes = [
        node("Conv", "image k1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Softmax", "g", "scores"),
    ]
    model = build(nodes, {"k1": weights()["k1"]}, opset=7, ir=3, listed=True)
    assert names(model) == ["c1", "r"]
    split = SplitModel(opened(model), "r", "g")
    image = np.ones((1, 3, SIDE, SIDE), np.float32)
    raw, saved = forward(split, image, split.features(image))
    assert raw.shape == (1, CHANNELS, 1, 1)
    np.testing.assert_allclose(backward(split, saved, np.ones_like(raw)), 1 / SIDE**2, rtol=1e-6)


def test_the_last_tensor_before_it_is_pooled() -> None:
    def maker(name: str, operator: str) -> SpatialTensor:
        return SpatialTensor(name, 4, 6, 6, operator, bottleneck=True, depth=1.0)

    tensors = [maker("a", "Conv"), maker("b", "Relu"), maker("c", "MaxPool"), maker("d", "LpPool")]
    assert last_spatial(tensors) == tensors[1]
    assert last_spatial(tensors[:1]) == tensors[0]
    assert last_spatial(tensors[2:3]) == tensors[2]
    assert last_spatial([]) is None


def test_what_hands_a_pooled_tensor_on_is_pooled_too() -> None:
    nodes = [
        node("Conv", "image k1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("QuantizeLinear", "p step", "q"),
        node("DequantizeLinear", "q step", "dq"),
        node("Identity", "dq", "same"),
        node("GlobalAveragePool", "same", "g"),
        node("Flatten", "g", "scores"),
    ]
    model = build(nodes, {"k1": weights()["k1"], "step": np.array(0.1, np.float32)})
    tensors = spatial_tensors(opened(model), "scores", (SIDE, SIDE))
    assert [each.name for each in tensors] == ["c1", "r", "p", "dq", "same"]  # q holds integers
    assert last_spatial(tensors) == tensors[1]


def test_the_last_tensor_of_about_a_side() -> None:
    sides = [(32, 32), (16, 16), (16, 8), (8, 8)]
    tensors = [
        SpatialTensor(str(n), 4, *each, "Conv", bottleneck=True, depth=1.0)
        for n, each in enumerate(sides)
    ]
    assert last_of_side(tensors, 17) == tensors[2]
    assert last_of_side(tensors, 25) == tensors[0]  # a ratio of 1.28 is nearer than one of 1.56
    assert last_of_side(tensors, 1) == tensors[3]
    assert last_of_side([], 8) is None


# -- softmax


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ([node("Softmax", "m", "scores")], "m"),
        ([node("LogSoftmax", "m", "scores")], "m"),
        ([node("Softmax", "m", "p1"), node("Reshape", "p1 flat", "scores")], "m"),
        ([node("Softmax", "m", "p1"), node("Flatten", "p1", "scores")], "m"),
        ([node("Relu", "m", "scores")], "scores"),
        ([node("Softmax", "m", "p1"), node("Relu", "p1", "scores")], "scores"),
        ([node("Identity", "m", "scores")], "scores"),
    ],
)
def test_the_tensor_before_the_softmax(ends: list[onnx.NodeProto], found: str) -> None:
    model = skipping()
    del model.graph.node[-1]
    model.graph.node.extend(ends)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, CLASSES]), "flat"))
    assert before_softmax(opened(model), "scores") == found


# -- refusals


def refused(*values: Any, match: str) -> None:
    with pytest.raises(GradientError, match=match) as caught:
        deployed(*values)
    assert "\n" not in str(caught.value)


def test_a_function_has_no_inside() -> None:
    function = FunctionModel(lambda images: images.mean((2, 3)), InputSpec((None, 3, SIDE, SIDE)))
    refused(
        function, "gradcam", match="gradcam requires an ONNX graph, which a function does not have"
    )


def test_a_session_that_does_not_remember_its_file() -> None:
    session = onnxruntime.InferenceSession(
        skipping().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session._model_bytes = None
    match = "iba requires an ONNX graph: .* does not store its path"
    refused(DeployedModel.open(session), "iba", match=match)


def test_the_runtimes_own_format(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        skipping().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    model = DeployedModel.open(tmp_path / "model.ort", providers=["cpu"])
    refused(model, "iba", match="model.ort has no ONNX graph")
    with pytest.raises(GradientError, match="has no ONNX graph"):
        SplitModel(model, "features", "scores")
    with pytest.raises(GradientError, match="has no ONNX graph"):
        spatial_tensors(model, "scores", (SIDE, SIDE))


def test_a_tensor_that_does_not_exist() -> None:
    with pytest.raises(GradientError, match="no inner tensor 'elsewhere'"):
        SplitModel(opened(skipping()), "elsewhere", "scores")


def test_an_operator_without_a_rule_behind_the_tensor(image: np.ndarray) -> None:
    nodes = [
        node("Conv", "image k1", "c1", pads=[1, 1, 1, 1]),
        node("SampleOp", "c1", "strange", domain="com.microsoft"),
        node("Relu", "strange", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "scores"),
    ]
    model = opened(build(nodes, {"k1": weights()["k1"]}))
    split = SplitModel(model, "c1", "scores")
    with pytest.raises(UnsupportedOperatorError, match=r"SampleOp.*; choose another tensor"):
        forward(split, image, split.features(image))
    behind = SplitModel(model, "r", "scores")
    raw, saved = forward(behind, image, behind.features(image))
    assert backward(behind, saved, np.ones_like(raw)).shape == (1, CHANNELS, SIDE, SIDE)


def test_sparse_weights_are_named() -> None:
    model = skipping()
    opened_before = opened(model)
    values = helper.make_tensor("sparse", FLOAT, [1], [1.0])
    places = helper.make_tensor("places", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    opened_before.proto = lambda: model  # type: ignore[method-assign]
    with pytest.raises(GradientError, match="sparse initializer 'sparse'"):
        spatial_tensors(opened_before, "scores", (SIDE, SIDE))


def test_tensors_behind_computed_pads_are_found() -> None:
    """The pads are half of the side, rounded up in floats, as a network may compute them."""
    nodes = [
        node("Shape", "image", "sides"),
        node("Gather", "sides two", "side"),
        node("Cast", "side", "real", to=FLOAT),
        node("Mul", "real share", "part"),
        node("Ceil", "part", "whole"),
        node("Cast", "whole", "margin", to=TensorProto.INT64),
        node("Concat", "zeros margin margin zeros margin margin", "pads", axis=0),
        node("Pad", "image pads", "padded"),
        node("Conv", "padded k1", "features"),
        node("GlobalAveragePool", "features", "p"),
        node("Flatten", "p", "scores"),
    ]
    constants = {"k1": weights()["k1"], "two": np.array([2]), "zeros": np.array([0, 0])}
    constants["share"] = np.array([0.3], np.float32)
    model = opened(build(nodes, constants))
    (_, tensor) = spatial_tensors(model, "scores", (SIDE, SIDE))
    assert tensor == SpatialTensor(
        "features", CHANNELS, SIDE + 4, SIDE + 4, "Conv", bottleneck=True, depth=1.0
    )


def test_negative_sides_are_open() -> None:
    """As older Paddle converters write an open batch, height and width."""
    model = opened(skipping(batch=-1))
    assert model.image.batch is None
    names = [each.name for each in spatial_tensors(model, "scores", (SIDE, SIDE))]
    assert names[:2] == ["c1", "features"]
    split, image = SplitModel(model, "features", "scores"), np.ones((1, 3, SIDE, SIDE), np.float32)
    raw, _ = forward(split, image, np.concatenate([split.features(image)] * 2))
    assert close(raw, np.repeat(model.run(image)["scores"], 2, axis=0), 1e-5)
