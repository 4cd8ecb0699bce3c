"""How ONNX Runtime opens a file or a derived graph: strict and quiet."""

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
    file: ModelFile,
    providers: Sequence[str | tuple[str, dict[str, str]]],
    threads: int | None,
) -> onnxruntime.InferenceSession:
    """Open a file as it is or, if it lists initializers as inputs, with these made constant."""
    source = file.data if file.path is None else str(file.path)
    file.check()
    try:
        try:
            session = create_session(source, providers, threads, file.label)
        except Exception:
            linked = file.with_links_followed()
            if linked is None:
                raise
            return open_graph(linked, file, providers, threads)
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
    """Open a graph derived from a file; external weights are read from the file's folder."""
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
    """Create a session that never falls back to another provider and logs only crashes.

    `weights` are initializers that were removed from the graph; they are not copied. If the session
    lacks a library of operators that is installed, the library is registered.
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
    """Create a session; `library` has operators that ONNX Runtime lacks."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    # An explanation alternates between several sessions and torch: spinning threads of one would
    # block the others.
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
    session.given_weights = values  # the session reads them in place and holds no reference
    return session


def serialise(model: onnx.ModelProto, label: str) -> bytes:
    """Return the bytes of a graph; external weights stay external."""
    from google.protobuf.message import EncodeError  # type: ignore[import-untyped,unused-ignore]

    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"{label} has 2 GB or more in one file; save its weights as external data"
        ) from error


def check_opens(model: onnx.ModelProto, file: ModelFile) -> bytes:
    """Return the bytes of a graph after checking that ONNX Runtime opens it.

    `file` is the file it was derived from.

    Raises
    ------
    ModelError
        The graph has 2 GB or more, or ONNX Runtime rejects it.
    """
    data = serialise(model, file.label)
    try:
        open_graph(model, file, [CPU], None)
    except DeadlineError:
        raise
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot open a graph derived from {file.label}: {essence(error)}"
        ) from error
    return data
