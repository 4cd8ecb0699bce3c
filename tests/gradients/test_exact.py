"""The backward ONNX graph through the torch shell, held against differences and torch autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from ibisa_onnx.errors import GradientError, ModelError
from ibisa_onnx.gradients.exact import ExactGradient
from ibisa_onnx.gradients.shell import differentiable
from ibisa_onnx.model import DeployedModel

Deploy = Callable[..., DeployedModel]


def pulled(function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The gradient of a loss that mixes the scores of all images."""
    images = images.clone().requires_grad_()
    logs = F.log_softmax(function(images), 1)
    loss = (logs[:, 1] * torch.arange(1, len(images) + 1)).sum() + (logs[:, 3] ** 2).mean()
    (gradient,) = torch.autograd.grad(loss, images)
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
    deployed: Deploy, network: torch.nn.Module, images: torch.Tensor, options: dict[str, Any]
) -> None:
    function = differentiable(ExactGradient(deployed(**options), "scores"))
    torch.testing.assert_close(function(images), network(images), rtol=1e-5, atol=1e-5)
    assert_close(pulled(function, images), pulled(network, images), 1e-5)


@pytest.mark.parametrize("batch", ["n", 1])
def test_one_image(
    deployed: Deploy, network: torch.nn.Module, images: torch.Tensor, batch: int | str
) -> None:
    function = differentiable(ExactGradient(deployed(batch=batch), "scores"))
    assert_close(pulled(function, images[:1]), pulled(network, images[:1]), 1e-5)


def test_half_precision(deployed: Deploy, network: torch.nn.Module, images: torch.Tensor) -> None:
    function = differentiable(ExactGradient(deployed(half=True), "scores"))
    assert function(images).dtype == torch.float32
    assert_close(pulled(function, images), pulled(network, images), 2e-2)


def test_it_agrees_with_central_differences(deployed: Deploy, images: torch.Tensor) -> None:
    function = differentiable(ExactGradient(deployed(), "scores"))
    gradient = pulled(function, images[:1])

    def loss(image: torch.Tensor) -> float:
        logs = F.log_softmax(function(image).double(), 1)
        return float(logs[0, 1] + logs[0, 3] ** 2)

    rng = np.random.default_rng(0)
    for _ in range(5):
        direction = torch.from_numpy(rng.normal(size=gradient.shape).astype(np.float32))
        slope = loss(images[:1] + 1e-2 * direction) - loss(images[:1] - 1e-2 * direction)
        expected = float((gradient * direction).sum())
        assert slope / 2e-2 == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_extra_inputs_are_fed(
    deployed: Deploy, network: torch.nn.Module, images: torch.Tensor
) -> None:
    model = deployed(extra_inputs={"gain": np.full(1, 3.0)})
    function = differentiable(ExactGradient(model, "scores"))
    assert_close(pulled(function, images), pulled(lambda x: 3 * network(x), images), 1e-5)


def test_the_forward_half_is_the_deployed_model_bit_for_bit(
    deployed: Deploy, images: torch.Tensor
) -> None:
    model = deployed()
    raw, _ = ExactGradient(model, "scores").forward(images.numpy())
    np.testing.assert_array_equal(raw, model.run(images.numpy())["scores"])


@pytest.mark.parametrize(("batch", "counted"), [("n", 2), (2, 2), (3, 3)])
def test_passes_are_images_and_padding_counts(
    deployed: Deploy, images: torch.Tensor, batch: int | str, counted: int
) -> None:
    model = deployed(batch=batch)
    function = differentiable(ExactGradient(model, "scores"))
    assert model.passes.forward == 0
    pulled(function, images)
    passes = model.passes
    assert (passes.forward, passes.backward) == (counted, counted)
    assert (passes.forward_calls, passes.backward_calls) == (1, 1)
    function(images)  # nobody asks for its gradient
    assert (passes.forward, passes.backward) == (2 * counted, counted)


def test_a_later_forward_does_not_disturb_an_earlier_gradient(
    deployed: Deploy, images: torch.Tensor
) -> None:
    function = differentiable(ExactGradient(deployed(), "scores"))
    image = images[:1].clone().requires_grad_()
    score = function(image)[0, 2]
    function(images[1:] * 10)
    (late,) = torch.autograd.grad(score, image)
    (prompt,) = torch.autograd.grad(function(image)[0, 2], image)
    torch.testing.assert_close(late, prompt, rtol=0, atol=0)


def test_a_session_that_forgot_its_file_has_no_graph(small_onnx: Callable[..., Any]) -> None:
    data = small_onnx().SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    del data
    session._model_bytes = None
    with pytest.raises(GradientError, match="give its path"):
        ExactGradient(DeployedModel.open(session), "scores")


def test_an_operator_without_a_rule_is_named(deployed: Deploy) -> None:
    with pytest.raises(GradientError, match="Floor") as caught:
        ExactGradient(deployed(last=("Floor",)), "scores")
    assert "\n" not in str(caught.value)


def test_more_images_than_the_model_takes_is_said_in_one_line(
    deployed: Deploy, images: torch.Tensor
) -> None:
    gradient = ExactGradient(deployed(batch=1), "scores")
    with pytest.raises((ModelError, GradientError)) as caught:
        gradient.forward(images.numpy())
    assert "\n" not in str(caught.value)
