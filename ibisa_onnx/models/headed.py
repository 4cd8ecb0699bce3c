"""ONNX nodes behind a model without a graph: a separate session that runs on its outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import IbisaError, ModelError, OutputError
from ibisa_onnx.models.base import ImageModel, Values
from ibisa_onnx.models.ort import CPU
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.running import run, untimed
from ibisa_onnx.models.session_options import create_session
from ibisa_onnx.models.signature import TensorInfo

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.limits import Limits
    from ibisa_onnx.models.onnx_session import DeployedModel

_OPSET, _IR_VERSION = 13, 8  # heads use operators that are unchanged since opset 7


class HeadedModel(ImageModel):
    """A model without a graph, with additional outputs that nodes compute from its own.

    Otherwise identical to that model; passes and warnings are shared.

    Parameters
    ----------
    model
        The model, for example a function.
    tensors
        Names of the tensors that the nodes produce.
    write
        Appends the nodes, in place, to a graph whose inputs are the model's outputs.

    Raises
    ------
    OutputError
        The nodes do not produce a tensor.
    ModelError
        ONNX Runtime cannot open the nodes.
    """

    def __init__(
        self,
        model: ImageModel,
        tensors: Sequence[str],
        write: Callable[[onnx.GraphProto], object],
    ) -> None:
        made = tuple(TensorInfo(name, "float32", ()) for name in tensors)
        signature = replace(model.signature, outputs=(*model.signature.outputs, *made))
        super().__init__(signature, model.max_batch, model.max_concurrency)
        self.passes, self.warnings = model.passes, model.warnings
        self._model, self._tensors, self._write = model, list(tensors), write
        graph = self._written(write)
        self._sources = [each.name for each in graph.graph.input]
        data = graph.SerializeToString(deterministic=True)
        self._digest = hashlib.sha256(data).hexdigest()
        try:
            with untimed():
                self._session = create_session(data, [CPU], 1, self.label)
        except IbisaError:
            raise
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime cannot open nodes behind {self.label}: {essence(error)}"
            ) from error

    def _written(self, write: Callable[[onnx.GraphProto], object]) -> onnx.ModelProto:
        """Return the graph of the nodes; its inputs are the outputs that the nodes read."""
        from onnx import helper

        inputs = []
        for each in self._model.signature.outputs:
            elem = helper.np_dtype_to_tensor_dtype(np.dtype(each.dtype))
            shape = (None, *each.shape[1:])  # rows that pad a fixed batch are left out
            inputs.append(helper.make_tensor_value_info(each.name, elem, shape))
        graph = helper.make_graph([], "heads", inputs, [])
        write(graph)
        read = {name for node in graph.node for name in node.input}
        del graph.input[:]
        graph.input.extend(each for each in inputs if each.name in read)
        made = {name for node in graph.node for name in node.output}
        for name in self._tensors:
            if name not in made:
                raise OutputError(
                    f"{self.label} has no output {name!r}, and tensors inside it cannot be read"
                )
            graph.output.add(name=name)
        opset = helper.make_opsetid("", _OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)

    def infer(self, feeds: Values, outputs: Sequence[str]) -> Values:
        """Make one call, and run the nodes on its outputs."""
        own = [name for name in outputs if name not in self._tensors]
        return self.completed(self._model.infer(feeds, list(dict.fromkeys([*self._sources, *own]))))

    def completed(self, raw: Values) -> Values:
        """Return the model's outputs together with those of the nodes.

        Raises
        ------
        OutputError
            The outputs' shapes do not match.
        """
        feeds = {name: np.ascontiguousarray(raw[name]) for name in self._sources}
        try:
            with untimed():  # negligible beside the function, which may be slow
                made = run(self._session, self._tensors, feeds, "reading its outputs")
        except ModelError as error:
            shapes = ", ".join(f"{name} {list(each.shape)}" for name, each in feeds.items())
            why = essence(error.__cause__)
            raise OutputError(
                f"the outputs of {self.label} do not match each other: {shapes} ({why})"
            ) from error
        return {**raw, **dict(zip(self._tensors, made, strict=True))}

    @property
    def limits(self) -> Limits | None:
        """The model's limits."""
        return self._model.limits

    @property
    def name(self) -> str | None:
        """The model's name."""
        return self._model.name

    @property
    def label(self) -> str:
        """The model's label."""
        return self._model.label

    @property
    def identity(self) -> str:
        """The model's identity with a digest of the nodes."""
        return f"{self._model.identity}+{self._digest}"

    @property
    def sha256(self) -> str | None:
        """The model's hash."""
        return self._model.sha256

    @property
    def providers(self) -> tuple[str, ...]:
        """The model's providers."""
        return self._model.providers

    @property
    def what(self) -> str:
        """What the model is."""
        return self._model.what

    @property
    def origin(self) -> Mapping[str, str] | None:
        """The server that runs the model."""
        return self._model.origin

    def differentiable(self) -> DeployedModel | None:
        """Return the ONNX model whose gradient stands for this model's, with the same nodes."""
        from ibisa_onnx.models.onnx_session import DeployedModel

        model = self._model.differentiable()
        if not isinstance(model, DeployedModel):
            return None
        return model.exposing(self._tensors, self._write)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model's metadata."""
        return self._model.metadata

    @property
    def folder(self) -> Path | None:
        """The model's folder."""
        return self._model.folder

    @property
    def preferred_batch(self) -> int:
        """The model's, unless images of a batch turned out to affect each other."""
        return min(self._model.preferred_batch, self.max_batch)

    def extra_feed(self, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Return the values of all inputs but the image, by name, for `batch` images."""
        return self._model.extra_feed(batch)
