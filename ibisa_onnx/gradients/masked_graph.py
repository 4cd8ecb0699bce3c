"""Masking as part of an ONNX graph, whose inputs become masks instead of images.

Each step then transfers only masks, a few kilobytes, to the device and back; images and baselines
are transferred once. `MaskedImages.through` is the same formula in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.autodiff.types import read_type
from ibisa_onnx.gradients.masked_images import MaskedImages, interpolation
from ibisa_onnx.models.signature import ImageInput, Layout

BYTES = ("uint8", "int8")


@dataclass(frozen=True)
class Names:
    """Names of the tensors that masking adds: inputs, `mask` first, and results."""

    mask: str
    rows: str
    columns: str
    baseline: str
    difference: str
    mixed: str
    one: str
    zero: str

    @classmethod
    def free_in(cls, model: onnx.ModelProto, image: ImageInput) -> Names:
        """Return names derived from the image's that no tensor of the model has."""
        taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
        taken |= {each.name for each in (*model.graph.input, *model.graph.initializer)}
        prefix = image.name
        while any(name.startswith(f"{prefix}/") for name in taken):
            prefix += "'"
        return cls(*(f"{prefix}/{each.name}" for each in fields(cls)))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that replace the image, the mask first."""
        return self.mask, self.rows, self.columns, self.baseline, self.difference

    def constants(
        self, masked: MaskedImages, grid: tuple[int, int]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Return the model's inputs besides masks of `grid` (rows, columns) cells, by name."""
        rows, columns = interpolation(grid, masked.size)
        return {
            self.rows: rows,
            self.columns: np.ascontiguousarray(columns.T),
            self.baseline: masked.baselines,
            self.difference: masked.images - masked.baselines,
        }


def insert_masked_images(model: onnx.ModelProto, image: ImageInput, names: Names) -> None:
    """Replace a model's images, in place, by z = b + m (x - b), with m = R s C the resized mask s.

    The new inputs are `names.mask`, which is s, float32 [N, 1, h, w], and those that
    `names.constants` returns.
    """
    graph = model.graph
    place = [each.name for each in graph.input].index(image.name)
    batch = (read_type(graph.input[place]).dims or (None,))[0] or None
    sides = (batch, image.channels, image.height, image.width)
    shapes: dict[str, tuple[int | str | None, ...]] = {
        names.mask: (batch, 1, None, None),
        names.rows: (image.height, None),
        names.columns: (None, image.width),
        names.baseline: sides,
        names.difference: sides,
    }
    del graph.input[place]
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*_mixing(image, names), *nodes])


def _mixing(image: ImageInput, names: Names) -> list[onnx.NodeProto]:
    """Return the nodes from the mask to the model's own input, in its layout and dtype."""
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("MatMul", [names.rows, names.mask], {}),
        ("MatMul", ["", names.columns], {}),
        ("Mul", ["", names.difference], {}),
        ("Add", ["", names.baseline], {}),
    ]
    if image.layout is Layout.NHWC:
        steps.append(("Transpose", [""], {"perm": [0, 2, 3, 1]}))
    constants = []
    if image.dtype in BYTES:  # rounds and clips; the gradient passes straight through
        constants = [("one", np.float32(1)), ("zero", np.dtype(image.dtype).type(0))]
        steps.append(("QuantizeLinear", ["", names.one, names.zero], {}))
    elif image.dtype != "float32":
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(image.dtype))
        steps.append(("Cast", [""], {"to": elem}))
    results = [*(f"{names.mixed}_{number}" for number in range(1, len(steps))), image.name]
    befores = ["", *results]
    fixed = [
        helper.make_node(
            "Constant", [], [getattr(names, name)], value=numpy_helper.from_array(np.asarray(value))
        )
        for name, value in constants
    ]
    return fixed + [
        helper.make_node(op, [each or before for each in inputs], [name], name=name, **attributes)
        for (op, inputs, attributes), before, name in zip(steps, befores, results, strict=False)
    ]
