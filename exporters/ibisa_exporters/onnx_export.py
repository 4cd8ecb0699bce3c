"""Conversion of a network to an ONNX file: traced with a dynamic or fixed batch, tidied, saved.

Opsets from 18 are written from a `torch.export` program, earlier ones, which it does not support,
by torch's older tracer.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ibisa_exporters.trained import TrainedModel
from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import ExportError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.models.ort_messages import essence

INPUT, OUTPUT, BATCH = "image", "scores", "batch"
_NAMES: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
OPSET = 18
"""Default opset: the earliest that torch writes without conversion."""
_LARGEST = 1 << 30  # bytes of weights in the .onnx itself; the format's limit is 2 GB
_SMALLEST_EXTERNAL = 1024


@dataclass(frozen=True)
class Form:
    """Form of an ONNX file.

    Attributes
    ----------
    opset
        Version of the operator set.
    half
        Whether weights, input and output are float16.
    batch
        Fixed batch size; None: dynamic.
    """

    opset: int = OPSET
    half: bool = False
    batch: int | None = None

    def __post_init__(self) -> None:
        check_type("opset", self.opset, int, "an integer", ExportError)
        check_type("batch", self.batch, (int, NoneType), "an integer", ExportError)

    @property
    def dtype(self) -> str:
        """NumPy name of the dtype of input and output."""
        return "float16" if self.half else "float32"


def to_onnx(model: TrainedModel, form: Form, hint: str = "") -> onnx.ModelProto:
    """Convert a network to an ONNX graph with input `image` and output `scores`.

    `hint` is appended to the error if the network cannot be traced.

    Raises
    ------
    ExportError
        torch cannot convert the network, or not in this form.
    """
    module = model.module
    if form.half:
        with quietly():
            module = copy.deepcopy(module).half()
    example = model.example.to(torch.float16 if form.half else torch.float32)
    example = example.expand(form.batch or 2, *example.shape[1:]).contiguous()
    with quietly():
        if form.opset < OPSET:
            proto = _from_tracer(module, example, form)
        else:
            hint = hint or ("torch.export must support it" if form.batch else "batch=1 may help")
            proto = _from_program(trace(module, example, form.batch is None, hint), form)
    if (written := proto.opset_import[0].version) != form.opset:
        raise ExportError(f"torch writes opset {written}, not {form.opset}; choose another opset=")
    _tidy(proto)
    return proto


def trace(
    module: nn.Module, example: Tensor, open_batch: bool, hint: str
) -> torch.export.ExportedProgram:
    """Trace a network on images, with a dynamic batch or the example's.

    `hint` is appended to the error.

    Raises
    ------
    ExportError
        torch cannot trace the network.
    """
    shapes = ({0: torch.export.Dim.DYNAMIC} if open_batch else {},)
    try:
        with quietly():
            program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    except Exception as error:
        if "data-dependent" in str(error):
            hint = "its control flow depends on pixel values; use torch.where or similar instead"
        raise ExportError(f"torch cannot trace the network: {_essence(error)}; {hint}") from error
    forget_sources(program)
    return program


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Save a graph; weights that are too large for it are written to one file beside it."""
    if sum(len(tensor.raw_data) for tensor in proto.graph.initializer) <= _LARGEST:
        onnx.save_model(proto, path)
        return
    data = weights_path(path)
    onnx.save_model(
        proto,
        path,
        save_as_external_data=True,
        location=data.name,
        size_threshold=_SMALLEST_EXTERNAL,
    )
    data.chmod(path.stat().st_mode)  # onnx restricts it to its owner


def weights_path(path: Path) -> Path:
    """Return the file of external weights: PATH.data."""
    return path.with_name(f"{path.name}.data")


@contextlib.contextmanager
def _faults_of_torch(form: Form, advice: str) -> Iterator[None]:
    """Turn torch's errors into one line."""
    try:
        yield
    except Exception as error:
        raise ExportError(
            f"torch cannot export the network to ONNX opset {form.opset}: {_essence(error)}; "
            f"{advice}"
        ) from error


def _from_program(program: torch.export.ExportedProgram, form: Form) -> onnx.ModelProto:
    import_extra("onnxscript", "export")
    # Without no_grad, attention is decomposed differently from how it was traced.
    with _faults_of_torch(form, "opset=17 uses another exporter"), torch.no_grad():
        written = torch.onnx.export(
            program, dynamo=True, opset_version=form.opset, verbose=False, **_NAMES
        )
    if written is None:
        raise ExportError("torch wrote nothing; try another opset=")
    proto: onnx.ModelProto = written.model_proto
    return proto


def _from_tracer(module: nn.Module, example: Tensor, form: Form) -> onnx.ModelProto:
    buffer = io.BytesIO()
    axes = {INPUT: {0: BATCH}, OUTPUT: {0: BATCH}} if form.batch is None else None
    with _faults_of_torch(form, f"omit opset= (default {OPSET})"):
        torch.onnx.export(
            module,
            (example,),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=form.opset,
            dynamic_axes=axes,
            **_NAMES,
        )
    return onnx.load_model_from_string(buffer.getvalue())


def _tidy(proto: onnx.ModelProto) -> None:
    """Remove source locations, and name the batch dimension."""
    graph = proto.graph
    first = graph.input[0].type.tensor_type.shape.dim[0]
    symbol = first.dim_param
    for node in [*graph.node, *(node for function in proto.functions for node in function.node)]:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in [*graph.input, *graph.output, *graph.value_info]:
        value.ClearField("metadata_props")
        for side in value.type.tensor_type.shape.dim:
            if symbol and side.dim_param == symbol:
                side.dim_param = BATCH
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")


def forget_sources(program: torch.export.ExportedProgram) -> None:
    """Remove the source lines and paths that torch records for every operation."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for kind in ("stack_trace", "from_node"):  # the latter differs between runs
                    node.meta.pop(kind, None)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress torch's output during an export, and fused attention, which has no ONNX operator.

    Errors are raised as usual.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    level = logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.CRITICAL)
    aside = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(aside),
            contextlib.redirect_stderr(aside),
            _without_graphs(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _without_graphs() -> Iterator[None]:
    """Prevent the older tracer from printing its graph on failure, which bypasses sys.stdout."""
    name = "_jit_onnx_log"
    log = getattr(torch._C, name, None)
    if log is None:
        yield
        return
    setattr(torch._C, name, lambda *_: None)
    try:
        yield
    finally:
        setattr(torch._C, name, log)


def _essence(error: Exception) -> str:
    """Return the root cause of an error, on one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return essence(error) or type(error).__name__
