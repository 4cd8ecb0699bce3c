"""Adds a batch axis to models whose image input has none: [C, H, W] becomes [1, C, H, W].

torchvision exports its detectors without one. A Reshape in front of the graph is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ibisa_onnx.models.signature import IMAGE_CHANNELS, IMAGE_DTYPES, TensorInfo

if TYPE_CHECKING:
    import onnx


def lone_picture(inputs: Sequence[TensorInfo], name: str | None = None) -> str | None:
    """Return the name of the image input without a batch axis, if there is one.

    Parameters
    ----------
    inputs
        All inputs of the model.
    name
        The input the user named; None: the only candidate.
    """
    if any(len(each.shape) == 4 for each in inputs):
        return None
    found = [
        each.name
        for each in inputs
        if len(each.shape) == 3
        and each.dtype in IMAGE_DTYPES
        and (each.shape[0] in IMAGE_CHANNELS or each.shape[2] in IMAGE_CHANNELS)
        and name in (None, each.name)
    ]
    return found[0] if len(found) == 1 else None


def add_batch_axis(graph: onnx.GraphProto, name: str) -> None:
    """Give an input a leading axis of one, in place."""
    import numpy as np
    from onnx import helper, numpy_helper

    (given,) = (each for each in graph.input if each.name == name)
    sides = [side.dim_value or side.dim_param or -1 for side in given.type.tensor_type.shape.dim]
    shape = [1, *sides]
    inner, wanted = f"{name}/without_batch", f"{name}/shape"
    for node in graph.node:
        for place, each in enumerate(node.input):
            if each == name:
                node.input[place] = inner
    elem = given.type.tensor_type.elem_type
    given.CopyFrom(helper.make_tensor_value_info(name, elem, shape))
    # 0 would copy the axis of the same index, which is off by one here: at most one may be dynamic.
    known = np.array([side if isinstance(side, int) else -1 for side in sides], np.int64)
    graph.initializer.append(numpy_helper.from_array(known, wanted))
    graph.node.insert(0, helper.make_node("Reshape", [name, wanted], [inner], name=inner))
