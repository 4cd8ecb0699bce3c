"""The shell hands values to a model outside torch and its gradients back, and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from ibisa_onnx.gradients.shell import differentiable


class Squares:
    """Scores [N, 2]: the sum of the squares of an image, and their double."""

    def __init__(self) -> None:
        self.cotangents: list[np.ndarray] = []

    def forward(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = (images**2).sum((1, 2, 3))
        return np.stack([total, 2 * total], 1), images

    def backward(self, saved: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        self.cotangents.append(cotangent)
        slope = cotangent @ np.array([1, 2], np.float32)
        return 2 * saved * slope[:, None, None, None]


def test_gradients_flow_on_both_sides_of_the_model() -> None:
    function = differentiable(Squares())
    mask = torch.linspace(0.1, 0.9, 12).reshape(1, 1, 3, 4).requires_grad_()
    images = torch.arange(24.0).reshape(2, 1, 3, 4) / 10
    (found,) = torch.autograd.grad(torch.log(function(mask * images)).sum(), mask)
    twin = torch.stack([((mask * images) ** 2).sum((1, 2, 3)) * k for k in (1, 2)], 1)
    (expected,) = torch.autograd.grad(torch.log(twin).sum(), mask)
    torch.testing.assert_close(found, expected)


def test_the_cotangent_is_plain_memory() -> None:
    model = Squares()
    images = torch.ones(3, 1, 2, 2, requires_grad=True)
    differentiable(model)(images).sum().backward()  # the gradient of a sum is an expanded scalar
    assert model.cotangents[0].flags.c_contiguous
    assert model.cotangents[0].shape == (3, 2)


def test_without_grad_nothing_is_kept() -> None:
    with torch.no_grad():
        assert not differentiable(Squares())(torch.ones(1, 1, 2, 2)).requires_grad
