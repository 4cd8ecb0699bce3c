"""The PyTorch autograd shell: a model that computes its own vector-Jacobian products, to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch


class VectorJacobian(Protocol):
    """A model outside torch that can be pulled back through."""

    def forward(self, images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], Any]:
        """Return the raw output [N, ...] of images [N, C, H, W], and what `backward` needs."""

    def backward(self, saved: Any, cotangent: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the cotangent of the images [N, C, H, W] from the output's [N, ...]."""


def differentiable(model: VectorJacobian) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the model as a function that torch can differentiate once."""
    return lambda images: _Shell.apply(images, model)  # type: ignore[no-untyped-call]


class _Shell(torch.autograd.Function):
    """Hands torch's tensors to the model, and its gradients back."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, model: VectorJacobian) -> torch.Tensor:
        raw, saved = model.forward(images.detach().numpy())
        ctx.pull = lambda cotangent: model.backward(saved, cotangent)
        return torch.from_numpy(raw)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.from_numpy(ctx.pull(cotangents[0].contiguous().numpy())), None
