"""The bridge to PyTorch's autograd: external functions for torch, and torch functions for us."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from ibisa_onnx.errors import GradientError


class VectorJacobian(Protocol):
    """A function of arrays [N, ...] outside torch with vector-Jacobian products."""

    def forward(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Any]:
        """Return the function's result, and state for `backward`."""

    def backward(self, saved: Any, cotangent: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the cotangent of the values from the result's."""


@runtime_checkable
class JacobianVector(Protocol):
    """A `VectorJacobian` that also has Jacobian-vector products."""

    def jvp(self, saved: Any, tangent: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the tangent of the result from the values'."""


def differentiable(model: VectorJacobian) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a model outside torch as a function that torch can differentiate once.

    `torch.func.vmap` runs it slice by slice. Forward mode (`jvp`, `jacfwd`) requires a model that
    is a `JacobianVector`. Second derivatives raise `GradientError`.
    """

    def function(values: torch.Tensor) -> torch.Tensor:
        result, _ = _Evaluate.apply(values, model)  # type: ignore[no-untyped-call]
        return cast(torch.Tensor, result)

    return function


class _Kept:
    """State saved by one evaluation for its derivatives; under `vmap`, one per slice.

    torch passes this object on unchanged, whereas it would unpack a plain list.
    """

    def __init__(self, saved: Any) -> None:
        self.saved = saved


class _Evaluate(torch.autograd.Function):
    """Runs the model on a tensor."""

    @staticmethod
    def forward(values: torch.Tensor, model: VectorJacobian) -> tuple[torch.Tensor, _Kept]:
        raw, saved = model.forward(values.detach().numpy())
        return torch.from_numpy(raw), _Kept(saved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        values, ctx.model = inputs
        _, ctx.kept = output
        ctx.save_for_backward(values)
        ctx.save_for_forward(values)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None]:
        (values,) = ctx.saved_tensors
        return _Pull.apply(values, cotangents[0], ctx.kept, ctx.model), None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> tuple[torch.Tensor, None]:
        (values,) = ctx.saved_tensors
        return _Push.apply(values, tangents[0], ctx.kept, ctx.model), None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], values: torch.Tensor, model: VectorJacobian
    ) -> tuple[tuple[torch.Tensor, _Kept], tuple[int, None]]:
        # One by one, as vmap defines it: rows of a batch may interact, and its size may be fixed.
        slices = values.unbind(in_dims[0])
        results, kept = zip(*(_Evaluate.apply(each, model) for each in slices), strict=True)  # type: ignore[no-untyped-call]
        return (torch.stack(results), _Kept(kept)), (0, None)


class _Product(torch.autograd.Function):
    """A product with the Jacobian at `values`, without derivatives of its own."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> NoReturn:
        raise GradientError(_ONCE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise GradientError(_ONCE)

    @classmethod
    def vmap(
        cls,
        info: Any,
        in_dims: tuple[Any, ...],
        values: torch.Tensor,
        vector: torch.Tensor,
        kept: _Kept,
        model: VectorJacobian,
    ) -> tuple[torch.Tensor, int]:
        of_values, of_vector, *_ = in_dims
        products = [
            cls.apply(  # type: ignore[no-untyped-call]
                values if of_values is None else values.select(of_values, place),
                vector if of_vector is None else vector.select(of_vector, place),
                kept if of_values is None else kept.saved[place],
                model,
            )
            for place in range(info.batch_size)
        ]
        return torch.stack(products), 0


class _Pull(_Product):
    """The values' cotangent from the result's."""

    @staticmethod
    def forward(
        values: torch.Tensor, vector: torch.Tensor, kept: _Kept, model: VectorJacobian
    ) -> torch.Tensor:
        return torch.from_numpy(model.backward(kept.saved, vector.detach().contiguous().numpy()))


class _Push(_Product):
    """The result's tangent from the values'."""

    @staticmethod
    def forward(
        values: torch.Tensor, vector: torch.Tensor, kept: _Kept, model: VectorJacobian
    ) -> torch.Tensor:
        if not isinstance(model, JacobianVector):
            raise GradientError(
                "the model has no forward-mode derivative; use reverse mode (grad, vjp, jacrev)"
            )
        return torch.from_numpy(model.jvp(kept.saved, vector.detach().contiguous().numpy()))


_ONCE = (
    "a model run outside torch has first derivatives only, but a second derivative was requested "
    "(create_graph=True, hessian); use a torch network"
)
_NO_FLOW = (
    "no gradient flows through the torch function; remove torch.no_grad() or detach() from it"
)


class Differentiated:
    """A function of torch tensors, float32 [N, ...], with vector-Jacobian products.

    Arguments and results are on the CPU; the function itself may move tensors to another device.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._function = function

    def forward(
        self, values: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], tuple[torch.Tensor, torch.Tensor]]:
        """Return the function's result for values [N, ...], and torch's graph of it.

        Raises
        ------
        GradientError
            The function is not differentiable.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = torch.tensor(values, requires_grad=True)
            result = self._function(leaf)
        if not result.requires_grad:
            raise GradientError(_NO_FLOW)
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
    """Return a function's scores [N] for several arrays [N, ...], and their gradients.

    Raises
    ------
    GradientError
        The function does not return one number per row, or is not differentiable.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [torch.tensor(each, dtype=torch.float32, requires_grad=True) for each in values]
        scores = function(*leaves)
        if not isinstance(scores, torch.Tensor) or scores.shape != (len(values[0]),):
            shape = list(getattr(scores, "shape", []))
            raise GradientError(
                f"a torch objective returned {type(scores).__name__} {shape} for "
                f"{len(values[0])} row(s); return one score per row, [N]"
            )
        if not scores.requires_grad:
            raise GradientError(_NO_FLOW)
        gradients = torch.autograd.grad(
            scores.sum(), leaves, allow_unused=True, materialize_grads=True
        )
    return scores.detach().double().numpy(), [each.numpy() for each in gradients]
