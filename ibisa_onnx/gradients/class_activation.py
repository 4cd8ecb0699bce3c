"""Class activation maps that come with a gradient: where in the features the answer is.

A backward graph that ends at the image passes the last feature maps on its way, so Grad-CAM's map
of each masked image costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from ibisa_onnx.autodiff.driver import ExtraOutput
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.layer import last_spatial, spatial_tensors
from ibisa_onnx.models.onnx_session import DeployedModel


def class_activation_at(tensor: str) -> ExtraOutput:
    """Return what writes Grad-CAM's sum at a tensor A [N, C, h, w], float32 [N, h, w].

    That is the sum over k of alpha_k A_k before the ReLU, alpha_k the mean of A_k's cotangent over
    its places (Selvaraju et al., arXiv 1610.02391, eq. 1 and 2). Nothing is written where the
    tensor has no cotangent.
    """

    def write(tape: Tape, cotangent_of: Callable[[str], str | None]) -> str | None:
        cotangent = cotangent_of(tensor)
        if cotangent is None:
            return None
        # Cast first: in half precision the sum over channels may overflow.
        slope, features = (
            tape.op("Cast", each, to=onnx.TensorProto.FLOAT) for each in (cotangent, tensor)
        )
        alpha = tape.op("ReduceMean", slope, tape.ints(2, 3), keepdims=1)
        weighted = tape.op("Mul", alpha, features)
        return tape.op("ReduceSum", weighted, tape.ints(1), keepdims=0)

    return write


def last_features(model: DeployedModel, outputs: tuple[str, ...], size: tuple[int, int]) -> str:
    """Return the name of the last feature maps before the output; empty where there are none.

    Parameters
    ----------
    outputs
        What is differentiated; of several outputs none is the last.
    size
        Height and width of the model's input.
    """
    if len(outputs) != 1:
        return ""
    try:
        chosen = last_spatial(spatial_tensors(model, outputs[0], size))
    except GradientError:  # shapes that cannot be told; the gradient needs none
        return ""
    return chosen.name if chosen and chosen.name not in outputs else ""
