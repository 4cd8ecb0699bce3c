"""The bridge hands values and gradients on to a model outside torch, and to one inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.torch_bridge import Differentiated, differentiable


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
    by_torch = torch.stack([((mask * images) ** 2).sum((1, 2, 3)) * k for k in (1, 2)], 1)
    (expected,) = torch.autograd.grad(torch.log(by_torch).sum(), mask)
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


# -- torch.func


class Pushing(Squares):
    """The same, with Jacobian-vector products; it counts its runs."""

    runs = 0

    def forward(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.runs += 1
        return super().forward(images)

    def jvp(self, saved: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        total = (2 * saved * tangent).sum((1, 2, 3))
        return np.stack([total, 2 * total], 1)


def squares(images: torch.Tensor) -> torch.Tensor:
    """The same in torch."""
    total = (images**2).sum((1, 2, 3))
    return torch.stack([total, 2 * total], 1)


def one(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function of one image [C, H, W], a score [2]."""
    return lambda image: function(image[None])[0]


TRANSFORMS = [
    lambda f: vmap(one(f)),
    lambda f: grad(lambda x: (f(x) ** 2).sum()),
    lambda f: vmap(grad(lambda x: one(f)(x)[1] ** 2)),
    lambda f: grad(lambda x: (vmap(one(f))(x) ** 2).sum()),
    lambda f: jacrev(f),
    lambda f: jacfwd(f),
    lambda f: vmap(jacrev(one(f))),
    lambda f: vmap(jacfwd(one(f))),
    lambda f: jacrev(vmap(one(f), in_dims=1)),
    lambda f: vmap(vmap(grad(lambda x: one(f)(x[None])[1] ** 2), in_dims=1)),
    lambda f: jvp(f, (IMAGES,), (IMAGES.flip(0),)),
]
IMAGES = torch.linspace(-1, 1, 36).reshape(3, 3, 2, 2)


@pytest.mark.parametrize("place", range(len(TRANSFORMS)))
def test_what_torch_func_makes_of_it_is_what_it_makes_of_torchs_own(place: int) -> None:
    transform = TRANSFORMS[place]
    ours, theirs = transform(differentiable(Pushing())), transform(squares)
    if callable(ours):
        ours, theirs = ours(IMAGES), theirs(IMAGES)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
def test_a_jacobian_runs_the_model_once(jacobian: Callable[..., Any]) -> None:
    model = Pushing()
    jacobian(differentiable(model))(IMAGES)
    assert model.runs == 1


@pytest.mark.parametrize(
    "second",
    [
        lambda f: hessian(lambda x: f(x).sum())(IMAGES),
        lambda f: jacrev(jacrev(f))(IMAGES),
        lambda f: jacfwd(jacfwd(f))(IMAGES),
        lambda f: penalty(f).backward(),
    ],
)
def test_a_second_derivative_is_refused(second: Callable[..., Any]) -> None:
    with pytest.raises(GradientError, match="first derivatives only") as caught:
        second(differentiable(Pushing()))
    assert "\n" not in str(caught.value)


def penalty(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The sum of a gradient, as gradient penalties take it: a silent zero would be wrong."""
    leaf = IMAGES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf).sum(), leaf, create_graph=True)
    return (slope**2).sum() + leaf.sum()


def test_forward_mode_is_refused_where_the_model_has_none() -> None:
    with pytest.raises(GradientError, match="no forward-mode derivative; use reverse mode"):
        jvp(differentiable(Squares()), (IMAGES,), (IMAGES,))


# -- torch's functions for the rest of us

VALUES = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
COTANGENT = np.array([[1, 0], [-1, 2]], np.float32)


def sum_and_squares(values: torch.Tensor) -> torch.Tensor:
    """[N, 3] to [N, 2]: the sum, and the sum of squares."""
    return torch.stack([values.sum(1), (values**2).sum(1)], 1)


def test_values_and_gradients_are_those_worked_out_by_hand() -> None:
    function = Differentiated(sum_and_squares)
    result, saved = function.forward(VALUES)
    np.testing.assert_array_equal(result, [[6, 14], [15, 77]])
    pulled = function.backward(saved, COTANGENT)
    # The first asks for the sum, whose slope is 1; the second for -1 + 2 * 2 v.
    np.testing.assert_array_equal(pulled, [[1, 1, 1], [15, 19, 23]])
    assert result.dtype == pulled.dtype == np.float32
    assert type(result) is type(pulled) is np.ndarray


def test_the_values_are_left_alone_and_may_be_read_only() -> None:
    values = VALUES.copy()
    values.flags.writeable = False
    doubled = Differentiated(lambda x: x.mul(1).mul_(2))
    result, saved = doubled.forward(values)
    np.testing.assert_array_equal(
        doubled.backward(saved, np.ones_like(result)), 2 * np.ones((2, 3))
    )
    np.testing.assert_array_equal(values, VALUES)


def test_an_earlier_gradient_outlives_a_later_forward() -> None:
    function = Differentiated(sum_and_squares)
    _, saved = function.forward(VALUES)
    function.forward(VALUES * 100)
    np.testing.assert_array_equal(function.backward(saved, COTANGENT)[1], [15, 19, 23])


def test_there_and_back_again_is_the_same_function() -> None:
    """Into torch by one way, out of it by the other."""
    function = Differentiated(differentiable(Differentiated(sum_and_squares)))
    result, saved = function.forward(VALUES)
    np.testing.assert_array_equal(result, [[6, 14], [15, 77]])
    pulled = function.backward(saved, COTANGENT)
    np.testing.assert_array_equal(pulled, [[1, 1, 1], [15, 19, 23]])


def test_gradients_that_were_switched_off_outside_are_taken_all_the_same() -> None:
    function = Differentiated(sum_and_squares)
    with torch.no_grad():
        _, saved = function.forward(VALUES)
        np.testing.assert_array_equal(function.backward(saved, COTANGENT)[0], [1, 1, 1])


@pytest.mark.parametrize(
    "function",
    [
        torch.no_grad()(sum_and_squares),
        lambda values: sum_and_squares(values.detach()),
        lambda values: sum_and_squares(values).detach(),
        lambda values: torch.ones(len(values), 2),
    ],
)
def test_without_any_gradient_it_is_refused(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    with pytest.raises(
        GradientError, match=r"no gradient flows through.*remove torch\.no_grad"
    ) as caught:
        Differentiated(function).forward(VALUES)
    assert "\n" not in str(caught.value)


def test_what_depends_on_its_weights_alone_has_a_gradient_of_zero() -> None:
    weight = torch.ones(2, requires_grad=True)
    function = Differentiated(lambda values: weight.expand(len(values), 2) * 3)
    result, saved = function.forward(VALUES)
    np.testing.assert_array_equal(result, np.full((2, 2), 3))
    np.testing.assert_array_equal(function.backward(saved, COTANGENT), np.zeros((2, 3)))
    assert weight.grad is None
