"""Batch and instance normalization whose gradient is right whatever the layout of what reaches it.

PyTorch 2.13 and 2.14 read the image, or its cotangent, in the wrong order on the CPU where there is
one image and the two lie differently in memory; MPS has had the like. Nothing else lives here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_OPERATORS = ("batch_norm", "instance_norm")


class ContiguousNormalization(TorchFunctionMode):
    """A context in which normalization gets its image, and later its cotangent, in order.

    It does not reach into TorchScript.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call an operator of torch."""
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
    """Return a tensor as it lies in memory where nothing is said, and anything else as it is."""
    return value.contiguous() if isinstance(value, Tensor) else value
