"""From a network to an ONNX file: traced once, its batch open or fixed, tidied, and saved.

Operator sets from 18 on are written from a `torch.export` program; earlier ones, which that way
does not reach, by torch's older tracer.
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
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ibisa_exporters.trained import TrainedModel
from ibisa_onnx.errors import ExportError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.models.ort_messages import essence

INPUT, OUTPUT, BATCH = "image", "scores", "batch"
_NAMES: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
OPSET = 18
"""The default: the earliest that torch writes by itself."""
_LARGEST = 1 << 30  # bytes of weights in the .onnx itself; 2 GB is what the format holds
_SMALLEST_EXTERNAL = 1024


@dataclass(frozen=True)
class Form:
    """How the file shall be.

    Attributes
    ----------
    opset
        Of its operators.
    half
        Weights, input and output are float16.
    batch
        How many images a call takes; None: any number.
    """

    opset: int = OPSET
    half: bool = False
    batch: int | None = None

    @property
    def dtype(self) -> str:
        """The NumPy dtype name of input and output."""
        return "float16" if self.half else "float32"


def to_onnx(model: TrainedModel, form: Form, hint: str = "") -> onnx.ModelProto:
    """Write a network as an ONNX graph: input `image`, output `scores`.

    `hint` says what to do where it cannot be traced.

    Raises
    ------
    ExportError
        torch cannot, or not so.
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
            hint = hint or ("torch.export must take it" if form.batch else "batch=1 may help")
            proto = _from_program(trace(module, example, form.batch is None, hint), form)
    if (written := proto.opset_import[0].version) != form.opset:
        raise ExportError(f"torch writes opset {written}, not {form.opset}; choose another opset=")
    _tidy(proto)
    return proto


def trace(
    module: nn.Module, example: Tensor, open_batch: bool, hint: str
) -> torch.export.ExportedProgram:
    """Trace a network on images, with any number of them or with just as many.

    `hint` says what to do where that fails.

    Raises
    ------
    ExportError
        torch cannot.
    """
    shapes = ({0: torch.export.Dim.DYNAMIC} if open_batch else {},)
    try:
        with quietly():
            program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    except Exception as error:
        if "data-dependent" in str(error):
            hint = "its code depends on values of the picture; use torch.where and the like there"
        raise ExportError(f"torch cannot trace the network: {_essence(error)}; {hint}") from error
    forget_sources(program)
    return program


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Save a graph; weights that are too large for it go into one file beside it."""
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
    data.chmod(path.stat().st_mode)  # onnx makes it for its owner alone


def weights_path(path: Path) -> Path:
    """Return where the weights go that are too large for a graph's file: PATH.data."""
    return path.with_name(f"{path.name}.data")


@contextlib.contextmanager
def _faults_of_torch(form: Form, advice: str) -> Iterator[None]:
    """Tell in one line why torch cannot write a network."""
    try:
        yield
    except Exception as error:
        raise ExportError(
            f"torch cannot write the network as ONNX of opset {form.opset}: {_essence(error)}; "
            f"{advice}"
        ) from error


def _from_program(program: torch.export.ExportedProgram, form: Form) -> onnx.ModelProto:
    import_extra("onnxscript", "export")
    # Without no_grad, attention is taken apart otherwise than it was traced.
    with _faults_of_torch(form, "opset=17 goes another way"), torch.no_grad():
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
    with _faults_of_torch(form, f"leave opset= out ({OPSET})"):
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
    """Take out where the network's code lay, and give the batch its name."""
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
    """Take out the lines of code and the paths that torch notes beside every operation."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for kind in ("stack_trace", "from_node"):  # the second differs from run to run
                    node.meta.pop(kind, None)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold back what torch says while it exports, and its fused attention, which has no operator.

    What matters of it comes as an error.
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
    """Keep the older tracer from printing its graph where it fails, which goes past sys.stdout."""
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
    """Return what was at the root of an error, on one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return essence(error) or type(error).__name__
