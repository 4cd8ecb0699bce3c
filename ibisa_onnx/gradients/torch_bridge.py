"""The bridge to PyTorch's autograd: our vector-Jacobian products for torch, and torch's for us."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ibisa_onnx.errors import GradientError


class VectorJacobian(Protocol):
    """A function of arrays [N, ...] outside torch that has vector-Jacobian products."""

    def forward(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Any]:
        """Return the function's result, and what `backward` needs."""

    def backward(self, saved: Any, cotangent: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the cotangent of the values from the result's."""


def differentiable(model: VectorJacobian) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a model outside torch as a function that torch can differentiate once."""
    return lambda values: _Bridge.apply(values, model)  # type: ignore[no-untyped-call]


class _Bridge(torch.autograd.Function):
    """Hands torch's tensors to the model, and its gradients back."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, model: VectorJacobian) -> torch.Tensor:
        raw, saved = model.forward(values.detach().numpy())
        ctx.vjp = lambda cotangent: model.backward(saved, cotangent)
        return torch.from_numpy(raw)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.from_numpy(ctx.vjp(cotangents[0].contiguous().numpy())), None


class Differentiated:
    """A function of torch tensors, float32 [N, ...], as one that has vector-Jacobian products.

    It runs where its tensors are put by the function itself; what goes in and comes out is on the
    CPU.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._function = function

    def forward(
        self, values: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], tuple[torch.Tensor, torch.Tensor]]:
        """Return the function of values [N, ...], and torch's graph of it.

        Raises
        ------
        GradientError
            Nothing in the function is differentiable.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = torch.tensor(values, requires_grad=True)
            result = self._function(leaf)
        if not result.requires_grad:
            raise GradientError(
                "a torch function passes no gradient on to its input; is torch.no_grad in it?"
            )
        return result.detach().numpy(), (leaf, result)

    def backward(
        self, saved: tuple[torch.Tensor, torch.Tensor], cotangent: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return the cotangent of the values from the result's."""
        leaf, result = saved
        (gradient,) = torch.autograd.grad(
            result, leaf, torch.from_numpy(cotangent), allow_unused=True, materialize_grads=True
        )
        return gradient.numpy()


def score_and_vjp(
    function: Callable[..., torch.Tensor], values: Sequence[npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float32]]]:
    """Return a function's scores [N] of several arrays [N, ...], and their derivatives by each.

    Raises
    ------
    GradientError
        It does not return one number for each row, or nothing in it is differentiable.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [torch.tensor(each, dtype=torch.float32, requires_grad=True) for each in values]
        scores = function(*leaves)
        if not isinstance(scores, torch.Tensor) or scores.shape != (len(values[0]),):
            shape = list(getattr(scores, "shape", []))
            raise GradientError(
                f"an objective in torch returned {type(scores).__name__} {shape} for "
                f"{len(values[0])} row(s); return one score each, [N]"
            )
        if not scores.requires_grad:
            raise GradientError(
                "a torch function passes no gradient on to its input; is torch.no_grad in it?"
            )
        gradients = torch.autograd.grad(
            scores.sum(), leaves, allow_unused=True, materialize_grads=True
        )
    return scores.detach().double().numpy(), [each.numpy() for each in gradients]
