"""Class activation maps as a by-product of a gradient: where in the features the target is.

A backward graph from the output to the image computes the features' cotangents on the way, so a
class activation map of each masked image is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import numpy as np
import onnx

from ibisa_onnx.autodiff.driver import ExtraOutput, WithCotangent
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.layer import FeatureMaps, SpatialTensor, feature_maps, last_of_side
from ibisa_onnx.models.onnx_session import DeployedModel

_STRIDE = 16  # input pixels per feature: deep enough for objects, twice as fine as the last layer
_DEPTH = 1 / 3  # minimal depth in layers: a transformer's patch embeddings distinguish no objects
_DENSE_STRIDE = 8  # minimal stride of dense predictors, which score every location
_PYRAMID_STRIDE = 3  # minimal stride of a pyramid's finest level


def class_activation_at(features: Sequence[SpatialTensor]) -> ExtraOutput:
    """Return a writer of the class activation at features A [N, C, h, w], float32 [N, 2, h, w].

    Let c_k = A_k dA_k be the contribution of channel k at a location, dA being A's cotangent. The
    first map is sum_k c_k, whose positive part is HiResCAM (Draelos and Carin, arXiv 2011.08891,
    eq. 5); it includes evidence against the target. The second is sum_k max(c_k, 0), which for
    non-negative features is LayerCAM (Jiang et al., IEEE TIP 30, 2021, eq. 6 and 7); it is stable
    under changes of the image. For a pyramid, the maps of all levels are summed at the finest
    resolution. Nothing is written if no cotangent reaches the features.
    """
    finest = max(features, key=lambda each: each.side)

    def write(tape: Tape, with_cotangent: WithCotangent) -> str | None:
        levels = [
            _spread(tape, _contributions(tape, *found), each, finest)
            for each in features
            if (found := with_cotangent(each.name)) is not None
        ]
        return reduce(partial(tape.op, "Add"), levels) if levels else None

    return write


def _contributions(tape: Tape, features: str, cotangent: str) -> str:
    """Write both sums over channels, float32 [N, 2, h, w]."""
    # Cast first: in half precision the sum over channels may overflow.
    slope, values = (
        tape.op("Cast", each, to=onnx.TensorProto.FLOAT) for each in (cotangent, features)
    )
    each = tape.op("Mul", slope, values)
    net, gross = (
        tape.op("ReduceSum", of, tape.ints(1), keepdims=1) for of in (each, tape.op("Relu", each))
    )
    return tape.op("Concat", net, gross, axis=1)


def _spread(tape: Tape, sums: str, level: SpatialTensor, finest: SpatialTensor) -> str:
    """Write the sums of a level at the finest resolution, preserving their total."""
    if (level.height, level.width) == (finest.height, finest.width):
        return sums
    rows = tape.op("Shape", sums, start=0, end=2)
    sides = tape.op("Concat", rows, tape.ints(finest.height, finest.width), axis=0)
    resized = tape.op("Resize", sums, None, None, sides, mode="linear")
    share = level.height * level.width / (finest.height * finest.width)
    return tape.op("Mul", resized, tape.constant(np.array(share, np.float32)))


def deep_features(
    model: DeployedModel, outputs: tuple[str, ...], size: tuple[int, int]
) -> tuple[SpatialTensor, ...]:
    """Return the features for class activation: a bottleneck, or the levels of a feature pyramid.

    A bottleneck is the last tensor that all paths go through at a stride of 16 pixels, or as close
    to it as possible. If there is none, as in detectors with a feature pyramid, all paths go
    through maps of several resolutions together. Empty if there is neither.

    Parameters
    ----------
    model
        The model.
    outputs
        The tensors to differentiate; with several there are no such features.
    size
        Height and width of the model's input.
    """
    if len(outputs) != 1:
        return ()
    try:
        maps = feature_maps(model, outputs[0], size)
    except GradientError:  # shapes that cannot be inferred; the gradient itself needs none
        return ()
    fitting = [
        each
        for each in maps.tensors
        if each.bottleneck and each.depth >= _DEPTH and each.name in maps.mixed
    ]
    if maps.tensors and maps.tensors[-1].name not in maps.mixed:
        fitting = [each for each in fitting if each.side <= max(size) / _DENSE_STRIDE]
    chosen = last_of_side(fitting, max(size) / _STRIDE)
    return (chosen,) if chosen else _pyramid(maps, max(size) / _PYRAMID_STRIDE)


def _pyramid(maps: FeatureMaps, most: float) -> tuple[SpatialTensor, ...]:
    """Return the levels of a feature pyramid, none with a side above `most`.

    They are the last maps, one per resolution, that all paths go through together.
    """
    known = {each.name: each for each in maps.tensors}
    found: tuple[SpatialTensor, ...] = ()
    for cut in maps.cuts:
        levels = sorted((known[name] for name in cut), key=lambda each: -each.side)
        several = len({each.side for each in levels}) == len(levels) > 1
        deep = any(each.depth >= _DEPTH for each in levels)
        if several and deep and levels[0].side <= most and cut <= maps.mixed:
            found = tuple(levels)
    return found
