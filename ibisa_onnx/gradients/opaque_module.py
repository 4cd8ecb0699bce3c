"""A torch module without inner layers, which warns methods that look for them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch

_NO_LAYERS = (
    "{asked}, but a model run by ONNX Runtime is a single layer to torch: methods that hook layers "
    "or modify their gradients (GuidedBackprop, Deconvolution, DeepLift, DeepLiftShap, LRP, "
    "LayerGradCam, GuidedGradCam) return plain gradients or meaningless maps. Use methods on the "
    "input, or split the model at an inner tensor with OnnxModule(output=) and OnnxModule(input=)"
)


class OpaqueModule(torch.nn.Module):
    """A module whose inner layers are invisible to torch.

    It warns once (`UserWarning`) if its layers are accessed (`children`, `apply`, `_modules`) or if
    it is hooked like a layer. It has one parameter without elements, because libraries read a
    model's device and dtype from its first parameter.

    Attributes
    ----------
    begins_inside
        Whether its input is an inner tensor of a model, where hooks are valid.
    ends_inside
        Whether its output is an inner tensor of a model, where hooks are valid.
    """

    begins_inside = ends_inside = False

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._warn = _Once()
        self.__dict__["_modules"] = _Submodules(self._warn)
        self.placement = torch.nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)

    def apply(self, fn: Callable[[torch.nn.Module], None]) -> Self:
        """Apply a function to this module alone."""
        self._warn("apply() was called")
        return super().apply(fn)

    def children(self) -> Iterator[torch.nn.Module]:
        """Return an iterator over nothing."""
        if not _torch_asks():
            self._warn("children() was called")
        return super().children()

    def named_children(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Return an iterator over nothing."""
        if not _torch_asks():
            self._warn("named_children() was called")
        return super().named_children()

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook on the output."""
        if not self.ends_inside:
            self._warn("a forward hook was registered")
        return super().register_forward_hook(*args, **kwargs)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook on the input."""
        if not self.begins_inside:
            self._warn("a forward pre-hook was registered")
        return super().register_forward_pre_hook(*args, **kwargs)

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook on the gradients of input and output."""
        self._warn_of_backward_hook()
        return super().register_full_backward_hook(*args, **kwargs)

    def register_full_backward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook on the gradient of the output."""
        self._warn_of_backward_hook()
        return super().register_full_backward_pre_hook(*args, **kwargs)

    def register_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook of torch's older kind on the gradients."""
        self._warn_of_backward_hook()
        return super().register_backward_hook(*args, **kwargs)

    def _warn_of_backward_hook(self) -> None:
        if not (self.begins_inside or self.ends_inside):
            self._warn("a backward hook was registered")


class _Once:
    """Issues only the first warning."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, asked: str) -> None:
        if not self._said:
            self._said = True
            warnings.warn(_NO_LAYERS.format(asked=asked), UserWarning, stacklevel=3)


class _Submodules(dict[str, torch.nn.Module]):
    """The empty submodules; some libraries access them directly instead of by methods."""

    def __init__(self, warn: _Once) -> None:
        super().__init__()
        self._warn = warn

    def items(self) -> Any:
        if not _torch_asks():
            self._warn("_modules was read")
        return super().items()

    def __reduce__(self) -> tuple[type[_Submodules], tuple[_Once]]:
        return type(self), (self._warn,)  # otherwise copy and pickle would read the items


def _torch_asks() -> bool:
    """Return whether the caller's caller is torch itself: `eval()` and `to()` access children."""
    module = str(sys._getframe(2).f_globals.get("__name__", ""))
    return module.partition(".")[0] == "torch"
