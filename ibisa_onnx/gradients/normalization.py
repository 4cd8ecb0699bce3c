"""Batch and instance normalisation with correct gradients for any memory layout.

PyTorch 2.13 and 2.14 misread the image or its cotangent on the CPU if there is a single image and
the two have different memory layouts; MPS has had a similar bug. Nothing else lives here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_OPERATORS = ("batch_norm", "instance_norm")


class ContiguousNormalization(TorchFunctionMode):
    """A context in which normalisation receives its image and its cotangent contiguous.

    It has no effect inside TorchScript.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a torch function."""
        kwargs = kwargs or {}
        if not any(name in getattr(func, "__name__", "") for name in _OPERATORS):
            return func(*args, **kwargs)
        result = func(
            *map(_in_order, args), **{key: _in_order(value) for key, value in kwargs.items()}
        )
        normalized = result[0] if isinstance(result, tuple | list) else result
        if isinstance(normalized, Tensor) and normalized.requires_grad:
            normalized.register_hook(_in_order)  # type: ignore[no-untyped-call]
        return result


def _in_order(value: Any) -> Any:
    """Return a tensor in contiguous layout, and any other value unchanged."""
    return value.contiguous() if isinstance(value, Tensor) else value
