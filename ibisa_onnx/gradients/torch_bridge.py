"""The PyTorch autograd shell: vector-Jacobian products to torch, and torch's to the rest of us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.base import VectorJacobian


def differentiable(model: VectorJacobian) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a model outside torch as a function that torch can differentiate once."""
    return lambda values: _Shell.apply(values, model)  # type: ignore[no-untyped-call]


class _Shell(torch.autograd.Function):
    """Hands torch's tensors to the model, and its gradients back."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, model: VectorJacobian) -> torch.Tensor:
        raw, saved = model.forward(values.detach().numpy())
        ctx.pull = lambda cotangent: model.backward(saved, cotangent)
        return torch.from_numpy(raw)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.from_numpy(ctx.pull(cotangents[0].contiguous().numpy())), None


class Differentiated:
    """A function of torch tensors, float32 [N, ...], as one that can be pulled back through.

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
