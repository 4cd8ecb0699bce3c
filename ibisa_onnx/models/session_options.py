"""How ONNX Runtime opens a file, or a graph made from it: strict and quiet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ibisa_onnx.errors import DeadlineError, IbisaError, ModelError
from ibisa_onnx.models.custom_operators import library_for
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.ort import CPU, import_onnxruntime
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.running import ONLY_FATAL, open_session

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from ibisa_onnx.models.weights import Weights

_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_NO_SPINNING = ("session.intra_op.allow_spinning", "0")


def open_file(
    file: ModelFile, providers: Sequence[str], threads: int | None
) -> onnxruntime.InferenceSession:
    """Open the file as it is, or, where it lists initializers as inputs, with these constant."""
    source = file.data if file.path is None else str(file.path)
    file.check()
    try:
        session = create_session(source, providers, threads, file.label)
        if not session.get_overridable_initializers():
            return session
        model = file.load_proto()
        if model is None:
            return session
        return open_graph(model, file, providers, threads)
    except IbisaError:
        raise
    except Exception as error:
        raise file.explain_failure(error) from error


def open_graph(
    model: onnx.ModelProto,
    file: ModelFile,
    providers: Sequence[str | tuple[str, dict[str, str]]],
    threads: int | None,
    weights: Weights | None = None,
) -> onnxruntime.InferenceSession:
    """Open a graph that was made from a file; weights in external files are found where its are."""
    followed, folder = file.follow_links(model)
    data = serialise(followed, file.label)
    return create_session(data, providers, threads, file.label, folder, weights)


def create_session(
    source: str | bytes | None,
    providers: Sequence[str | tuple[str, dict[str, str]]],
    threads: int | None,
    label: str,
    external_folder: Path | None = None,
    weights: Weights | None = None,
) -> onnxruntime.InferenceSession:
    """Create a session that never falls back to another provider and logs nothing but crashes.

    `weights` are initializers that were taken out of the graph; they are not copied. A library of
    operators that it turns out to lack is registered where it is installed.
    """
    try:
        return _create_session(source, providers, threads, label, external_folder, weights)
    except Exception as error:
        library = library_for(error)
        if library is None:
            raise
    return _create_session(source, providers, threads, label, external_folder, weights, library)


def _create_session(
    source: str | bytes | None,
    providers: Sequence[str | tuple[str, dict[str, str]]],
    threads: int | None,
    label: str,
    external_folder: Path | None,
    weights: Weights | None,
    library: str | None = None,
) -> onnxruntime.InferenceSession:
    """Create a session; `library` holds operators that ONNX Runtime does not have itself."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    # An explanation takes turns between several sessions and torch: threads of the one that wait
    # spinning take the processor from the next.
    options.add_session_config_entry(*_NO_SPINNING)
    if threads is not None:
        options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(library)
    if external_folder is not None:
        options.add_session_config_entry(_EXTERNAL_FOLDER, str(external_folder.resolve()))
    values = {name: runtime.OrtValue.ortvalue_from_numpy(w) for name, w in (weights or {}).items()}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    session = open_session(source, options, providers, label)
    session.given_weights = values  # it reads them where they are, and does not keep them itself
    return session


def serialise(model: onnx.ModelProto, label: str) -> bytes:
    """Return the bytes of a graph; weights in external files stay there."""
    from google.protobuf.message import EncodeError  # type: ignore[import-untyped,unused-ignore]

    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"{label} holds 2 GB or more in one file; save its weights as external data"
        ) from error


def check_opens(model: onnx.ModelProto, file: ModelFile) -> bytes:
    """Return the bytes of a graph, once ONNX Runtime has opened it.

    `file` is the one that it was made from.

    Raises
    ------
    ModelError
        The graph holds 2 GB or more, or ONNX Runtime refuses it.
    """
    data = serialise(model, file.label)
    try:
        open_graph(model, file, [CPU], None)
    except DeadlineError:
        raise
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot open a graph made from {file.label}: {essence(error)}"
        ) from error
    return data
