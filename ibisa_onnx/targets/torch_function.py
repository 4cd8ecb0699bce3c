"""A user's own objective as a torch function of the raw outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.imports import import_extra
from ibisa_onnx.targets.base import Doubles, Objective, Raw

if TYPE_CHECKING:
    import torch


class TorchObjective(Objective):
    """A score that torch computes, and derives, from the raw outputs.

    Parameters
    ----------
    function
        From tensors float32 [N, ...], one for each output, to scores [N]: logarithms of
        probabilities, or like them. Rows do not mix.
    outputs
        Names of the outputs, or inner tensors, that it takes.
    caption
        What to call it.

    Raises
    ------
    MissingDependencyError
        torch is not installed.
    """

    def __init__(
        self, function: Callable[..., torch.Tensor], outputs: Sequence[str], caption: str
    ) -> None:
        import_extra("torch", "torch")
        self._function, self._outputs, self.caption = function, tuple(outputs), caption

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that the function takes."""
        return self._outputs

    def score(self, raw: Raw) -> Doubles:
        """Return the function's scores, [N]."""
        from ibisa_onnx.gradients.torch_bridge import score_and_vjp

        return score_and_vjp(self._function, [raw[name] for name in self._outputs])[0]

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return the derivative of each score by each output, by torch's autograd."""
        from ibisa_onnx.gradients.torch_bridge import score_and_vjp

        _, gradients = score_and_vjp(self._function, [raw[name] for name in self._outputs])
        return dict(zip(self._outputs, gradients, strict=True))

    def describe(self) -> dict[str, Any]:
        """Return the caption."""
        return {"kind": "function", "caption": self.caption}
