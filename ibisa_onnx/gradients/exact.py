"""`exact`: a backward ONNX graph, built from the deployed file and run by the same ONNX Runtime.

Activations go from the forward to the backward session as ONNX Runtime values, on the device where
they were computed, so nothing is computed twice and nothing copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import GradientError, ModelError
from ibisa_onnx.model.session import DeployedModel, from_input

if TYPE_CHECKING:
    import onnxruntime

_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
}


class ExactGradient:
    """One output of a deployed model, differentiated with respect to the image.

    Parameters
    ----------
    model
        The model; its passes are counted there.
    output
        The output's name.

    Raises
    ------
    GradientError
        The graph cannot be read from this source, or (UnsupportedOperatorError) an operator on the
        path has no rule.
    ModelError
        ONNX Runtime refuses a graph.
    """

    def __init__(self, model: DeployedModel, output: str) -> None:
        proto = model.proto()
        if proto is None:
            raise GradientError(
                f"no exact gradient: {model.file.why_no_graph}; use --gradient forward-only"
            )
        self._model = model
        self._derivative = differentiate(proto, model.image.name, output)
        self._forward = model.new_session(self._derivative.forward)
        self._backward = model.new_session(self._derivative.backward)
        self._device = _DEVICES.get(model.providers[0], "cpu")

    def forward(self, images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], Any]:
        """Return the raw output, float32 [N, ...], of images [N, C, H, W], and the activations."""
        filled, wanted = self._fill(images), [each.name for each in self._forward.get_inputs()]
        feed = self._model.feed(filled)
        binding = self._forward.io_binding()
        for name in wanted:
            binding.bind_cpu_input(name, feed[name])
        binding.bind_output(self._derivative.output, "cpu")
        for name in self._derivative.saved:
            binding.bind_output(name, self._device)
        _run(self._forward, binding)
        self._model.passes.count_forward(len(filled))
        raw, *saved = binding.get_outputs()
        kept = raw.numpy()[: len(images)]
        return kept.astype(np.float32), (raw.numpy(), saved)

    def backward(
        self, saved: tuple[npt.NDArray[Any], list[Any]], cotangent: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return the images' cotangent, float32 [N, C, H, W], from the output's [N, ...]."""
        raw, activations = saved
        filled = np.zeros(raw.shape, raw.dtype)
        scale = _scale(cotangent) if raw.dtype == np.float16 else 1.0
        filled[: len(cotangent)] = cotangent / scale
        wanted = {each.name for each in self._backward.get_inputs()}
        binding = self._backward.io_binding()
        if self._derivative.cotangent in wanted:
            binding.bind_cpu_input(self._derivative.cotangent, filled)
        for name, value in zip(self._derivative.saved, activations, strict=True):
            if name in wanted:
                binding.bind_ortvalue_input(name, value)
        binding.bind_output(self._derivative.gradient, "cpu")
        _run(self._backward, binding)
        self._model.passes.count_backward(len(filled))
        gradient = binding.get_outputs()[0].numpy()[: len(cotangent)]
        return from_input(gradient, self._model.image) * np.float32(scale)

    def _fill(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Repeat the last image up to the model's batch, where that is fixed."""
        missing = (self._model.image.batch or 0) - len(images)
        if missing <= 0:
            return images
        return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])


def _scale(cotangent: npt.NDArray[np.float32]) -> float:
    """Return the power of two near the largest value, which half precision may not hold."""
    largest = float(np.abs(cotangent).max())
    return float(2 ** np.floor(np.log2(largest))) if 0 < largest < np.inf else 1.0


def _run(session: onnxruntime.InferenceSession, binding: Any) -> None:
    """Run, and say in one line why it failed."""
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        from ibisa_onnx.model.files import essence

        raise ModelError(f"the gradient graph failed to run: {essence(error)}") from error
