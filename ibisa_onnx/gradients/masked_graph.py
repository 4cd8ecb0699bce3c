"""The bottleneck as a part of an ONNX graph: a mask goes in where the image went in.

Only masks, a few kilobytes, then travel between torch and the device at each step; the image and
the baseline are handed over once. The same formula for torch is `bottleneck.Bottleneck.through`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ibisa_onnx.bottleneck import Bottleneck, interpolation
from ibisa_onnx.model.signature import ImageInput, Layout

MASK = "ibisa/mask"
_ROWS, _COLUMNS = "ibisa/rows", "ibisa/columns"
_BASELINE, _DIFFERENCE = "ibisa/baseline", "ibisa/difference"


def with_bottleneck(model: onnx.ModelProto, image: ImageInput) -> onnx.ModelProto:
    """Replace a model's image by z = b + m (x - b), where m = R s C is the mask s enlarged.

    Returns
    -------
    onnx.ModelProto
        A model whose input `MASK` takes s, float32 [N, 1, h, w], and whose further inputs take
        what `constants` returns. The rest is as in `model`, which is left alone.
    """
    masked = onnx.ModelProto()
    masked.CopyFrom(model)
    graph = masked.graph
    place, declared = next(
        (place, each) for place, each in enumerate(model.graph.input) if each.name == image.name
    )
    batch = declared.type.tensor_type.shape.dim[0]
    sides = (1, image.channels, image.height, image.width)
    shapes: dict[str, tuple[int | str | None, ...]] = {
        MASK: (batch.dim_value or batch.dim_param or None, 1, None, None),
        _ROWS: (image.height, None),
        _COLUMNS: (None, image.width),
        _BASELINE: sides,
        _DIFFERENCE: sides,
    }
    del graph.input[place]
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    del graph.node[:]
    graph.node.extend([*_mixing(image), *model.graph.node])
    return masked


def constants(bottleneck: Bottleneck, grid: tuple[int, int]) -> dict[str, npt.NDArray[np.float32]]:
    """Return what such a model takes beside masks of `grid` (rows, columns) cells, by name."""
    rows, columns = interpolation(grid, bottleneck.image.shape[2:])
    values = {
        _ROWS: rows,
        _COLUMNS: columns.T.contiguous(),
        _BASELINE: bottleneck.baseline,
        _DIFFERENCE: bottleneck.image - bottleneck.baseline,
    }
    return {name: value.numpy() for name, value in values.items()}


def _mixing(image: ImageInput) -> list[onnx.NodeProto]:
    """Return the nodes from the mask to the model's own input, in its layout and dtype."""
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("MatMul", [_ROWS, MASK], {}),
        ("MatMul", ["", _COLUMNS], {}),
        ("Mul", ["", _DIFFERENCE], {}),
        ("Add", ["", _BASELINE], {}),
    ]
    if image.layout is Layout.NHWC:
        steps.append(("Transpose", [""], {"perm": [0, 2, 3, 1]}))
    if image.dtype != "float32":
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(image.dtype))
        steps.append(("Cast", [""], {"to": elem}))
    names = [*(f"ibisa/mixed_{number}" for number in range(1, len(steps))), image.name]
    befores = ["", *names]
    return [
        helper.make_node(op, [each or before for each in inputs], [name], name=name, **attributes)
        for (op, inputs, attributes), before, name in zip(steps, befores, names, strict=False)
    ]
