"""Custom objectives written as torch functions of the raw outputs."""

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
    """Custom objective computed and differentiated by torch.

    Parameters
    ----------
    function
        Maps float32 tensors [N, ...], one per output, to scores [N]: log-probabilities, or values
        that behave like one. Each row's score must depend on that row only.
    outputs
        Names of the outputs or inner tensors that are passed to the function.
    caption
        Short text for people.

    Raises
    ------
    MissingDependencyError
        torch is not installed.

    Examples
    --------
    >>> def log_p(logits):
    ...     return logits.log_softmax(1)[:, 0]
    >>> objective = TorchObjective(log_p, ["logits"], "class 0")
    """

    def __init__(
        self, function: Callable[..., torch.Tensor], outputs: Sequence[str], caption: str
    ) -> None:
        import_extra("torch", "torch")
        self._function, self._outputs, self.caption = function, tuple(outputs), caption

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are passed to the function."""
        return self._outputs

    def score(self, raw: Raw) -> Doubles:
        """Return the function's scores, float64 [N]."""
        from ibisa_onnx.gradients.torch_bridge import score_and_vjp

        return score_and_vjp(self._function, [raw[name] for name in self._outputs])[0]

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return the gradient of each score with respect to each output, by torch's autograd."""
        from ibisa_onnx.gradients.torch_bridge import score_and_vjp

        _, gradients = score_and_vjp(self._function, [raw[name] for name in self._outputs])
        return dict(zip(self._outputs, gradients, strict=True))

    def describe(self) -> dict[str, Any]:
        """Return the caption."""
        return {"kind": "function", "caption": self.caption}
