"""Class activation maps that come with a gradient: where in the features the answer is.

A backward graph that ends at the image passes the features on its way, so a map of where each
masked image keeps the answer costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from ibisa_onnx.autodiff.driver import ExtraOutput
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.layer import last_of_side, spatial_tensors
from ibisa_onnx.models.onnx_session import DeployedModel

_STRIDE = 16  # input pixels a feature: deep enough to tell objects, and twice as fine as the last
_DEPTH = 1 / 3  # of the layers, at least: a transformer's patches tell no objects
_DENSE_STRIDE = 8  # at least, where each place of the output is one of the image


def class_activation_at(tensor: str) -> ExtraOutput:
    """Return what writes the class activation at a tensor A [N, C, h, w], float32 [N, 2, h, w].

    With c_k = A_k dA_k, what channel k contributes at a place (dA is A's cotangent), that is first
    sum_k c_k, of which HiResCAM shows what is positive (Draelos and Carin, arXiv 2011.08891, eq.
    5): it knows what speaks against the answer. Then sum_k max(c_k, 0), which for features that are
    not negative is LayerCAM's (Jiang et al., IEEE TIP 30, 2021, eq. 6 and 7): it hardly changes
    when the image does. Nothing is written where the tensor has no cotangent.
    """

    def write(tape: Tape, cotangent_of: Callable[[str], str | None]) -> str | None:
        cotangent = cotangent_of(tensor)
        if cotangent is None:
            return None
        # Cast first: in half precision the sum over channels may overflow.
        slope, features = (
            tape.op("Cast", each, to=onnx.TensorProto.FLOAT) for each in (cotangent, tensor)
        )
        each = tape.op("Mul", slope, features)
        net, gross = (
            tape.op("ReduceSum", of, tape.ints(1), keepdims=1)
            for of in (each, tape.op("Relu", each))
        )
        return tape.op("Concat", net, gross, axis=1)

    return write


def deep_features(model: DeployedModel, outputs: tuple[str, ...], size: tuple[int, int]) -> str:
    """Return the name of the features whose activation is asked for; empty where there are none.

    They are the last ones that all paths go through at the depth where a feature stands for 16
    pixels, or nearest to it.

    Parameters
    ----------
    outputs
        What is differentiated; of several outputs none has such features.
    size
        Height and width of the model's input.
    """
    if len(outputs) != 1:
        return ""
    try:
        tensors = spatial_tensors(model, outputs[0], size)
    except GradientError:  # shapes that cannot be told; the gradient needs none
        return ""
    deep = [each for each in tensors if each.bottleneck and each.depth >= _DEPTH]
    fitting = [each for each in deep if each.name not in outputs]
    if any(each.name in outputs for each in tensors):
        fitting = [each for each in fitting if each.side <= max(size) / _DENSE_STRIDE]
    chosen = last_of_side(fitting, max(size) / _STRIDE)
    return chosen.name if chosen else ""
