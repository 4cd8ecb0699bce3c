"""The backward ONNX graph through the torch bridge, held against differences and torch autograd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper, parser

from ibisa_onnx.errors import GradientError, ModelError
from ibisa_onnx.gradients.base import MaskedModel
from ibisa_onnx.gradients.cache import GradientCache
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.onnx_backward import ExactGradient
from ibisa_onnx.gradients.torch_bridge import differentiable
from ibisa_onnx.models.cuda import cuda_runs_a_node
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCounter

SIDE = 9  # of the small network's images
Deploy = Callable[..., DeployedModel]
Function = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def masked(images: np.ndarray) -> MaskedImages:
    return MaskedImages(images[:1], images[1:])


@pytest.fixture
def masks() -> torch.Tensor:
    """Two masks of a grid that is not square, float32 [2, 1, 4, 6]."""
    return torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def expected(masked: MaskedImages, network: torch.nn.Module) -> Function:
    """What every exact gradient should be: torch's masked, then torch's network."""
    return lambda masks: network(through(masked, masks))


def through(masked: MaskedImages, masks: torch.Tensor) -> torch.Tensor:
    image, baseline = (torch.from_numpy(each) for each in (masked.images, masked.baselines))
    return torch.lerp(baseline, image, F.interpolate(masks, masked.size, mode="bilinear"))


class Scores:
    """A masked model's only output, alone: a `VectorJacobian`, as the torch bridge takes it."""

    def __init__(self, function: MaskedModel) -> None:
        self.function = function

    def forward(self, masks: np.ndarray) -> tuple[np.ndarray, Any]:
        raw, saved = self.function.forward(masks)
        return raw["scores"], saved

    def backward(self, saved: Any, cotangent: np.ndarray) -> np.ndarray:
        return self.function.backward(saved, {"scores": cotangent})


def exact(model: DeployedModel, masked: MaskedImages) -> Function:
    """Our function from masks to scores, as one of torch."""
    source = ExactGradient(model, ("scores",))
    return differentiable(Scores(source(masked, model.passes)))


def pulled(function: Function, masks: torch.Tensor) -> torch.Tensor:
    """The gradient of a loss that mixes the scores of all masks."""
    masks = masks.clone().requires_grad_()
    logs = F.log_softmax(function(masks), 1)
    loss = (logs[:, 1] * torch.arange(1, len(masks) + 1)).sum() + (logs[:, 3] ** 2).mean()
    (gradient,) = torch.autograd.grad(loss, masks)
    return gradient


def assert_close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    assert float((one - other).abs().max() / other.abs().max()) < tolerance


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nhwc": True},
        {"batch": 2},
        {"batch": 3},
        {"batch": 3, "nhwc": True},
        {"listed": True},
        {"extra_inputs": {"gain": np.ones(1, np.float32)}},
    ],
    ids=str,
)
def test_it_agrees_with_torch(
    deployed: Deploy,
    masked: MaskedImages,
    expected: Function,
    masks: torch.Tensor,
    options: dict[str, Any],
) -> None:
    function = exact(deployed(**options), masked)
    torch.testing.assert_close(function(masks), expected(masks), rtol=1e-5, atol=1e-5)
    assert_close(pulled(function, masks), pulled(expected, masks), 1e-5)


@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("grid", [(1, 1), (4, 6), (SIDE, SIDE), (20, 3)])
def test_one_mask_of_any_grid(
    deployed: Deploy,
    masked: MaskedImages,
    expected: Function,
    batch: int | str,
    grid: tuple[int, int],
) -> None:
    function = exact(deployed(batch=batch), masked)
    mask = torch.rand(1, 1, *grid, generator=torch.Generator().manual_seed(2))
    assert_close(pulled(function, mask), pulled(expected, mask), 1e-5)


def test_half_precision(
    deployed: Deploy, masked: MaskedImages, expected: Function, masks: torch.Tensor
) -> None:
    function = exact(deployed(half=True), masked)
    assert function(masks).dtype == torch.float16  # the model's own
    gradient = pulled(function, masks)
    assert gradient.dtype == torch.float32
    assert_close(gradient, pulled(expected, masks), 2e-2)


def test_it_agrees_with_central_differences(
    deployed: Deploy, masked: MaskedImages, masks: torch.Tensor
) -> None:
    function = exact(deployed(), masked)
    gradient = pulled(function, masks[:1])

    def loss(mask: torch.Tensor) -> float:
        logs = F.log_softmax(function(mask).double(), 1)
        return float(logs[0, 1] + logs[0, 3] ** 2)

    rng = np.random.default_rng(0)
    for _ in range(5):
        direction = torch.from_numpy(rng.normal(size=gradient.shape).astype(np.float32))
        slope = loss(masks[:1] + 1e-2 * direction) - loss(masks[:1] - 1e-2 * direction)
        assert slope / 2e-2 == pytest.approx(
            float((gradient * direction).sum()), rel=1e-2, abs=1e-3
        )


@pytest.mark.cuda
@pytest.mark.parametrize("half", [False, True])
def test_it_agrees_with_torch_on_cuda(
    small_onnx: Callable[..., Any],
    masked: MaskedImages,
    expected: Function,
    masks: torch.Tensor,
    half: bool,
) -> None:
    if not cuda_runs_a_node().ran:
        pytest.skip(cuda_runs_a_node().reason)
    model = DeployedModel.open(small_onnx(half=half).SerializeToString(), providers=["cuda"])
    function = exact(model, masked)
    for _ in range(3):  # buffers used again
        assert_close(pulled(function, masks), pulled(expected, masks), 2e-2)


def test_extra_inputs_are_fed(
    deployed: Deploy, masked: MaskedImages, expected: Function, masks: torch.Tensor
) -> None:
    model = deployed(extra_inputs={"gain": np.full(1, 3.0)})
    function = exact(model, masked)
    assert_close(pulled(function, masks), pulled(lambda m: 3 * expected(m), masks), 1e-5)


@pytest.mark.parametrize("factor", [1e-12, 1e-36, 1e3])
def test_the_size_of_the_cotangent_makes_no_difference(
    deployed: Deploy, masked: MaskedImages, expected: Function, factor: float
) -> None:
    """A softmax that is all but certain hands back next to nothing."""
    for batch in ("n", 3):
        mask = torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(2))
        mask.requires_grad_()
        function = exact(deployed(batch=batch), masked)
        (found,) = torch.autograd.grad(function(mask)[0, 2] * factor, mask)
        (wanted,) = torch.autograd.grad(expected(mask)[0, 2], mask)
        assert_close(found / factor, wanted, 1e-5)


def test_behind_an_open_mask_is_the_deployed_model_bit_for_bit(
    deployed: Deploy, images: np.ndarray
) -> None:
    model = deployed()
    for image in np.split(images * 37, 2):
        untouched = MaskedImages(image, np.zeros_like(image))
        function = ExactGradient(model, ("scores",))(untouched, PassCounter())
        found, _ = function.forward(np.ones((1, 1, 1, 1), np.float32))
        np.testing.assert_array_equal(found["scores"], model.run(image)["scores"])


@pytest.mark.parametrize(("batch", "counted"), [("n", 2), (2, 2), (3, 3)])
def test_passes_are_images_and_padding_counts(
    deployed: Deploy,
    masked: MaskedImages,
    masks: torch.Tensor,
    batch: int | str,
    counted: int,
) -> None:
    model = deployed(batch=batch)
    function = exact(model, masked)
    assert model.passes.forward == 0
    pulled(function, masks)
    passes = model.passes
    assert (passes.forward, passes.backward) == (counted, counted)
    assert (passes.forward_calls, passes.backward_calls) == (1, 1)
    function(masks)  # nobody asks for its gradient
    assert (passes.forward, passes.backward) == (2 * counted, counted)


def test_a_later_forward_does_not_disturb_an_earlier_gradient(
    deployed: Deploy, masked: MaskedImages, expected: Function, masks: torch.Tensor
) -> None:
    function = exact(deployed(), masked)
    pulled(function, masks)  # leaves buffers that are used again
    mask = masks[:1].clone().requires_grad_()
    score = function(mask)[0, 2]
    function(masks[1:])
    (late,) = torch.autograd.grad(score, mask)
    (wanted,) = torch.autograd.grad(expected(mask)[0, 2], mask)
    assert_close(late, wanted, 1e-5)


def test_a_gradient_that_may_be_asked_for_again_keeps_its_buffers(
    deployed: Deploy, masked: MaskedImages, masks: torch.Tensor
) -> None:
    function = exact(deployed(), masked)
    mask = masks[:1].clone().requires_grad_()
    score = function(mask)[0, 2]
    (first,) = torch.autograd.grad(score, mask, retain_graph=True)
    pulled(function, masks[1:])
    (again,) = torch.autograd.grad(score, mask)
    torch.testing.assert_close(again, first, rtol=0, atol=0)


def test_two_pictures_do_not_mix(
    deployed: Deploy, network: torch.nn.Module, images: np.ndarray, masks: torch.Tensor
) -> None:
    gradient = ExactGradient(deployed(), ("scores",))
    pictures = [MaskedImages(images[:1], images[1:]), MaskedImages(images[1:], images[:1] * 0)]
    functions = [differentiable(Scores(gradient(each, PassCounter()))) for each in pictures]
    for _ in range(2):
        for function, picture in zip(functions, pictures, strict=True):
            wanted = pulled(lambda m, p=picture: network(through(p, m)), masks)
            assert_close(pulled(function, masks), wanted, 1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"batch": 3}, {"nhwc": True}, {"half": True}, {"last": ("Sigmoid",)}], ids=str
)
def test_several_tensors_at_once_have_the_sum_of_their_gradients(
    deployed: Deploy, masked: MaskedImages, masks: torch.Tensor, options: dict[str, Any]
) -> None:
    """Of the scores, of what is before them, and of feature maps [N, 4, 3, 3]."""
    model, names = deployed(**options), ("scores", "m", "p")
    passes = model.passes.scope()
    together = ExactGradient(model, names)(masked, passes)
    raw, saved = together.forward(masks.numpy())
    assert {name: value.shape for name, value in raw.items()} == {
        "scores": (2, 5),
        "m": (2, 5),
        "p": (2, 4, 3, 3),
    }
    rng, dtype = np.random.default_rng(4), np.float16 if "half" in options else np.float32
    cotangents = {
        name: rng.normal(size=value.shape).astype(np.float32) for name, value in raw.items()
    }
    found = together.backward(saved, cotangents)
    assert (found.shape, found.dtype) == (masks.shape, np.float32)
    assert (passes.forward_calls, passes.backward_calls) == (1, 1)
    each, rounding = [], 5e-3 if "half" in options else 1e-5
    for name in names:
        function = ExactGradient(model, (name,))(masked, PassCounter())
        alone, kept = function.forward(masks.numpy())
        assert alone[name].dtype == raw[name].dtype == dtype
        np.testing.assert_allclose(raw[name], alone[name], rtol=rounding, atol=rounding / 10)
        each.append(function.backward(kept, {name: cotangents[name]}))
    scale = np.abs(each).max()
    np.testing.assert_allclose(found, np.sum(each, 0), atol=2 * rounding * scale)
    # None is lost in the others.
    assert all(np.abs(one).max() > 10 * rounding * scale for one in each)


def test_of_several_tensors_any_may_have_no_say(
    deployed: Deploy, masked: MaskedImages, masks: torch.Tensor
) -> None:
    model = deployed()
    together = ExactGradient(model, ("scores", "p"))(masked, PassCounter())
    alone = ExactGradient(model, ("p",))(masked, PassCounter())
    raw, saved = together.forward(masks.numpy())
    cotangent = np.random.default_rng(0).normal(size=raw["p"].shape).astype(np.float32)
    found = together.backward(saved, {"scores": np.zeros_like(raw["scores"]), "p": cotangent})
    _, saved = alone.forward(masks.numpy())
    expected = alone.backward(saved, {"p": cotangent})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_mask_for_each_of_several_pictures(
    deployed: Deploy, network: torch.nn.Module, images: np.ndarray, masks: torch.Tensor
) -> None:
    """And a fixed batch that is larger is filled with the last picture."""
    pictures = MaskedImages(images, images[::-1] * 0.5)
    for batch in ("n", 2, 3):
        function = exact(deployed(batch=batch), pictures)
        torch.testing.assert_close(
            function(masks), network(through(pictures, masks)), rtol=1e-5, atol=1e-5
        )
        wanted = pulled(lambda m: network(through(pictures, m)), masks)
        assert_close(pulled(function, masks), wanted, 1e-5)


def test_activations_whose_shape_depends_on_values_are_followed() -> None:
    """`scores` is [1, 2]: the mean of the positive pixels' squares, which are gathered first."""
    nodes = [
        helper.make_node("Reshape", ["image", "all"], ["flat"]),
        helper.make_node("Relu", ["flat"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["places"], perm=[1, 0]),
        helper.make_node("GatherND", ["flat", "places"], ["values"]),
        helper.make_node("Mul", ["values", "values"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Reshape", ["mean", "one"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "positive",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2])],
        [
            helper.make_tensor(n, TensorProto.INT64, [len(v)], v)
            for n, v in (("all", [-1]), ("one", [1, 1]))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    deployed = DeployedModel.open(model.SerializeToString(), providers=["cpu"])
    image = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    masked = MaskedImages(image, np.full_like(image, -0.5))
    function = exact(deployed, masked)
    for keep in (1.0, 0.5, 0.9):
        mask = torch.full((1, 1, 2, 2), keep, requires_grad=True)
        (found,) = torch.autograd.grad(function(mask)[0, 0], mask)
        z = through(masked, mask)
        (wanted,) = torch.autograd.grad((z[z > 0] ** 2).mean(), mask)
        assert_close(found, wanted, 1e-5)


def unknown_operator(tape: Any, cotangent_of: Any) -> str:
    name: str = tape.op("Identity", cotangent_of("s"))
    tape.nodes[-1].proto.op_type = "NoSuchOperator"
    return name


def refusal(*_: Any) -> str:
    raise ModelError("planted")


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("what", "planted"),
    [
        ("class_activation_at", lambda _: unknown_operator),
        ("class_activation_at", lambda _: refusal),
        ("class_activation_at", lambda _: lambda *_: 1 / 0),
        ("deep_features", refusal),
    ],
)
def test_what_stands_in_the_way_of_class_activation_costs_no_gradient(
    deployed: Deploy,
    masked: MaskedImages,
    masks: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: str,
    planted: Any,
    kept: bool,
) -> None:
    cotangent = np.ones((2, 5), np.float32)

    def gradient(size: tuple[int, int] | None) -> tuple[np.ndarray, bool]:
        cache = GradientCache(tmp_path) if kept else None
        opened = ExactGradient(model, ("scores",), cache, size)(masked, model.passes)
        _, saved = opened.forward(masks.numpy())
        values = opened.backward(saved, {"scores": cotangent})
        return values, opened.class_activation(saved) is not None

    model = deployed()
    expected, _ = gradient(None)
    monkeypatch.setattr(f"ibisa_onnx.gradients.onnx_backward.{what}", planted)
    for times in (1, 2):
        found, comes = gradient((SIDE, SIDE))
        np.testing.assert_array_equal(found, expected)
        assert not comes
        assert len(model.warnings) == times
    assert "class activation is not available: " in model.warnings[0]


def test_a_session_that_forgot_its_file_has_no_graph(small_onnx: Callable[..., Any]) -> None:
    data = small_onnx().SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    del data
    session._model_bytes = None
    with pytest.raises(GradientError, match="pass the path instead"):
        ExactGradient(DeployedModel.open(session), ("scores",))


def test_an_operator_without_a_rule_is_named(deployed: Deploy) -> None:
    with pytest.raises(GradientError, match="Floor") as caught:
        ExactGradient(deployed(last=("Floor",)), ("scores",))
    assert "\n" not in str(caught.value)


def test_more_masks_than_the_model_takes_is_said_in_one_line(
    deployed: Deploy, masked: MaskedImages, masks: torch.Tensor
) -> None:
    function = exact(deployed(batch=1), masked)
    with pytest.raises((ModelError, GradientError)) as caught:
        function(masks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ends", ["integers", "floats"])
def test_a_quantised_model_is_asked_at_its_float_counterparts_outputs(ends: str) -> None:
    """Else the derivative of log p would be that of one function over the value of another."""
    head = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,8,8] image) => ({} scores) {{ {} }}'
    )
    plain = "c = Conv (image, kernel) p = GlobalAveragePool (c) flat = Flatten (p) "
    rounded = "q = QuantizeLinear (flat, scale, zero) "
    bodies = {
        "float": ("float[n,k]", plain + "scores = Identity (flat)"),
        "integers": ("uint8[n,k]", plain + rounded + "scores = Identity (q)"),
        "floats": ("float[n,k]", plain + rounded + "scores = DequantizeLinear (q, scale, zero)"),
    }
    rng = np.random.default_rng(3)
    weights = {
        "kernel": rng.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "scale": np.float32(0.25),
        "zero": np.uint8(128),
    }

    def opened(kind: str) -> DeployedModel:
        model = parser.parse_model(head.format(*bodies[kind]))
        used = {name for node in model.graph.node for name in node.input}
        tensors = [numpy_helper.from_array(w, n) for n, w in weights.items() if n in used]
        model.graph.initializer.extend(tensors)
        return DeployedModel.open(model.SerializeToString(), providers=["cpu"], threads=1)

    images = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    masked, masks = MaskedImages(images, np.zeros_like(images)), np.ones((2, 1, 2, 2), np.float32)
    function, own = (
        ExactGradient(opened(kind), ("scores",))(masked, PassCounter()) for kind in (ends, "float")
    )
    raw, saved = function.forward(masks)
    (real, kept), told = own.forward(masks), function.differentiated(saved)
    assert own.differentiated(kept) is None
    assert told is not None
    assert told["scores"].dtype == raw["scores"].dtype
    wanted = real["scores"] if ends == "floats" else np.rint(real["scores"] / 0.25 + 128)
    np.testing.assert_allclose(told["scores"], wanted, atol=1e-5)
    assert (raw["scores"] != real["scores"]).any()
