"""The PyTorch autograd shell: a model that computes its own vector-Jacobian products, to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch


class VectorJacobian(Protocol):
    """A model outside torch that can be pulled back through."""

    def forward(self, values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], Any]:
        """Return the output [N, ...] of values [N, ...], and what `backward` needs."""

    def backward(self, saved: Any, cotangent: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the cotangent of the values [N, ...] from the output's [N, ...]."""


def differentiable(model: VectorJacobian) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the model as a function that torch can differentiate once."""
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
