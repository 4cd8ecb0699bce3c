"""The model file: its bytes, its graph without weights, its hash, and what is wrong with it.

ONNX Runtime opens the file itself, by path if possible; this module does everything around that.
A file is checked (`check`) before anything reads it, since it may be untrusted. External weights
are never loaded into memory, only hashed as a stream.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import ModelError
from ibisa_onnx.io.files import Buffer, is_buffer, is_regular, is_url, missing, open_regular
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.custom_operators import explain_absent
from ibisa_onnx.models.endpoint import Endpoint, is_server_url, without_credentials
from ibisa_onnx.models.external_data import GIVEN, rename_weights, weight_places
from ibisa_onnx.models.mistaken import MOST, describe_mistaken
from ibisa_onnx.models.model_parts import parts, tensors
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.running import endable
from ibisa_onnx.models.skeleton import LARGEST, skeleton_of
from ibisa_onnx.models.soundness import check_sound, names_are_text

if TYPE_CHECKING:
    import onnx

_ENDINGS = (".onnx", ".ort")
_ORT_FORMAT = slice(4, 8), b"ORTM"  # mark of ONNX Runtime's own format
# Fields that do not affect what a model computes.
_SAID_OF_ITSELF = (
    "metadata_props",
    "doc_string",
    "producer_name",
    "producer_version",
    "model_version",
    "domain",
)


@dataclass(frozen=True)
class ModelFile:
    """The origin of a model: a path, bytes, or neither (a session opened elsewhere)."""

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    stamp: tuple[int, int] | None = None
    """The file's size and modification time when it was opened."""
    extension: Callable[[onnx.GraphProto], object] | None = field(default=None, repr=False)
    """Applied to the graph whenever it is loaded, in place."""
    limits: Limits | None = None
    """Limits on the model; None: from the environment."""
    passed: list[bool] = field(default_factory=list, repr=False, compare=False)
    """Not empty after a successful check; shared with derived files."""
    lost: str = ""
    """Why the file is not the model's any more, so that it is never read; empty if it is."""

    @classmethod
    def of(cls, source: str | os.PathLike[str] | Buffer, limits: Limits | None = None) -> ModelFile:
        """Return the file at a path, or in memory."""
        if isinstance(source, str | os.PathLike):
            return cls.at(source, limits)
        if is_buffer(source):
            return cls(data=bytes(source), limits=limits)
        raise ModelError(f"the model is {shown(source)}; pass a path or bytes")

    @classmethod
    def at(cls, path: str | os.PathLike[str], limits: Limits | None = None) -> ModelFile:
        """Return the file at a path, which is made absolute."""
        if not os.fspath(path):
            raise ModelError("the model's path is empty; pass the path of a file")
        if is_server_url(path):
            Endpoint.parse(path)  # reports other URLs
            raise ModelError(
                f"{without_credentials(str(path))} is a model on a server, so there is no file; "
                "pass its ONNX file"
            )
        if is_url(path):
            raise ModelError(missing(path, "model"))
        try:
            absolute = Path(path).absolute()
            return cls(absolute, stamp=_stamp(absolute), limits=limits)
        except ValueError as error:
            raise ModelError(f"invalid model path {str(path)[:200]!r}: {error}") from error

    def check_unchanged(self) -> None:
        """Raise `ModelError` if the file has changed since it was opened."""
        if self.lost or self.path is None:
            return
        if self.stamp not in (None, _stamp(self.path)):
            raise ModelError(
                f"{self.path} was changed or removed after it was opened; open it again"
            )

    @classmethod
    def of_session(cls, session: Any, limits: Limits | None = None) -> ModelFile:
        """Return the model file of a live `onnxruntime.InferenceSession`, as far as it is known."""
        path, data = getattr(session, "_model_path", None), getattr(session, "_model_bytes", None)
        if data or not path:
            # External weights of a model passed as bytes were found by the session's owner.
            return cls(data=bytes(data) if data else None, limits=limits, passed=[True])
        return cls.at(path, limits)

    @property
    def name(self) -> str | None:
        """The file's name without its folder."""
        return self.path.name if self.path else None

    @property
    def label(self) -> str:
        """The model's name in messages."""
        return self.name or "the model"

    @property
    def folder(self) -> Path | None:
        """The folder of external weights."""
        return self.path.parent if self.path else None

    def check_readable(self) -> None:
        """Raise `ModelError` if there is obviously nothing to open."""
        if self.path is None:
            if not self.data:
                raise ModelError("the model is empty (0 bytes)")
        elif os.path.isdir(self.path):  # noqa: PTH112 - which never raises, nor does the next
            raise ModelError(f"{self.path} is a folder, not an ONNX file; pass a file in it")
        elif not os.path.exists(self.path):  # noqa: PTH110
            raise ModelError(missing(self.path, "model"))
        elif not is_regular(self.path):
            raise ModelError(
                f"{self.path} is a pipe or a device, not an ONNX file; pass a regular file"
            )
        elif not os.access(self.path, os.R_OK):
            raise ModelError(f"no permission to read {self.path}; change its permissions")
        elif self.path.stat().st_size == 0:
            raise ModelError(f"{self.path} is empty (0 bytes); copy or download it again")
        elif str(self.path) != str(self.path).encode(errors="replace").decode():
            raise ModelError(f"{self.path}: ONNX Runtime requires paths in UTF-8; rename the file")

    def check(self) -> None:
        """Check that an untrusted model may be opened, without reading its weights.

        Raises
        ------
        ModelError
            It is not a model; a name in it is not UTF-8; it has too many nodes with its functions
            inlined; or external weights are missing, outside its folder, or not regular files.
        """
        if self._skeleton() is None and not self._is_ort_format():
            raise self.not_a_model()

    def load_proto(self) -> onnx.ModelProto | None:
        """Parse the model without external weights, with initializers not listed as inputs.

        Returns None if there is no graph to parse, as `parse`.
        """
        model = self.parse()
        if model is None:
            return None
        without_initializer_inputs(model)
        if self.extension is not None:
            self.extension(model.graph)
        return model

    def parse(self) -> onnx.ModelProto | None:
        """Parse the model as it is, without external weights.

        Returns None if there is no ONNX protobuf to read: a live session that does not store its
        path, or a file in ONNX Runtime's own format.
        """
        with self._opened() as (stream, size):
            return self._checked(stream.read(size) if size <= LARGEST else b"")

    def _skeleton(self) -> onnx.ModelProto | None:
        """Parse the model without the values of its weights."""
        with self._opened() as (stream, size):
            return self._checked(self._slim(stream, size) if size <= LARGEST else b"")

    def _slim(self, stream: BinaryIO, size: int) -> bytes:
        """Read a model without the values of its weights."""
        return skeleton_of(stream, size, self.label, Limits.of(self.limits))

    @contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, int]]:
        """Open the model's bytes, and yield them with their size; size 0 if there are none."""
        self.check_unchanged()
        if self.data is not None:
            yield io.BytesIO(self.data), len(self.data)
        elif self.lost or self.path is None or not self.path.exists():
            yield io.BytesIO(), 0
        else:
            with open_regular(self.path, "model", ModelError) as stream:
                yield stream, os.fstat(stream.fileno()).st_size

    def _checked(self, data: bytes) -> onnx.ModelProto | None:
        """Parse a protobuf, and check that it is sound and its external weights are in place."""
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

        if not data:
            return None
        try:
            model = onnx.load_model_from_string(data)
        except DecodeError:
            return None
        if self.passed:
            return model
        if not names_are_text(self._slim(io.BytesIO(data), len(data))):
            raise ModelError(f"{self.label} contains a name that is not UTF-8; re-export it")
        found = parts(model)
        check_sound(model, self.label, self.limits, found)
        weight_places(found.tensors, self.path)
        self.passed.append(True)
        return model

    def _is_ort_format(self) -> bool:
        place, mark = _ORT_FORMAT
        with self._opened() as (stream, _):
            return stream.read(place.stop)[place] == mark

    @property
    def why_no_graph(self) -> str:
        """Why `load_proto` returns None."""
        if self.lost:
            return self.lost
        if self.path is None and self.data is None:
            return "the session does not store its path (pass the path instead)"
        if self.path is not None and not self.path.exists():
            return f"the session's file {self.path} no longer exists"
        return f"{self.label} has no ONNX graph (pass the .onnx file it was converted from)"

    def sha256(self) -> str | None:
        """Hash the file, then its external weights sorted by name, as a stream.

        For a model in one file this equals the output of `sha256sum`.
        """
        digest = hashlib.sha256()
        with self._opened() as (stream, size):
            if not size:
                return None
            _hash(digest, stream)
        self._hash_weights(digest, self._skeleton())
        return digest.hexdigest()

    def graph_sha256(self) -> str | None:
        """Hash the computation, including external weights but not metadata.

        `annotate` does not change it. Returns None if there is no graph to read.
        """
        model = self.parse()
        if model is None:
            return None
        for name in _SAID_OF_ITSELF:
            model.ClearField(name)
        digest = hashlib.sha256(model.SerializeToString(deterministic=True))
        self._hash_weights(digest, model)
        return digest.hexdigest()

    def _hash_weights(self, digest: Any, model: onnx.ModelProto | None) -> None:
        """Feed the external weights to a hash, sorted by file name."""
        if model is None or self.path is None:
            return
        for place in weight_places(tensors(model), self.path).values():
            with open_regular(place, "weights", ModelError) as stream:
                _hash(digest, stream)

    def follow_links(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None]:
        """Return a derived graph, and the folder of its external weights.

        If the model is a symlink, as in Hugging Face's cache, ONNX Runtime follows links to weights
        in the folder it points to. A graph without a path has no such folder, so the weights are
        renamed in the returned graph.

        Raises
        ------
        ModelError
            Weights are missing, outside the model's folder, or not regular files.
        """
        if self.path is None or self.folder is None:
            return model, None
        places = weight_places(tensors(model), self.path, given=(GIVEN,))
        home = self.folder.resolve()
        if all(place.is_relative_to(home) for place in places.values()):
            return model, self.folder
        base = Path(os.path.commonpath([*(place.parent for place in places.values())]))
        names = {name: str(place.relative_to(base)) for name, place in places.items()}
        return rename_weights(model, names), base

    def with_links_followed(self) -> onnx.ModelProto | None:
        """Return the graph if its weights are symlinks, which ONNX Runtime 1.24 rejects in a file.

        None if they are not, or cannot be read.
        """
        with suppress(ModelError):
            model = self.load_proto()
            if model is not None and self.follow_links(model)[0] is not model:
                return model
        return None

    def explain_failure(self, error: Exception) -> ModelError:
        """Return a one-line error for ONNX Runtime's failure to open this model."""
        model = self._skeleton()
        if model is None or not (model.ir_version and model.graph.node):
            return self.not_a_model()
        why = explain_absent(model, error) or essence(error)
        return ModelError(f"ONNX Runtime cannot open {self.label}: {why}")

    def not_a_model(self) -> ModelError:
        """Return the error for a file that is something else, or damaged."""
        start = self.data or b""
        if self.path is not None:
            with suppress(ModelError), open_regular(self.path, "model", ModelError) as file:
                start = file.read(MOST)
        return ModelError(f"{self.path or 'the model'} is {describe_mistaken(start)}")


def beside(model: str | os.PathLike[str], ending: str) -> Path:
    """Return the path of a file beside a model: `ending` replaces only .onnx or .ort.

    Of a model on a server, it is in the working folder.
    """
    path = Path(Endpoint.parse(model).name if is_server_url(model) else model)
    stem = path.stem if path.suffix.lower() in _ENDINGS else path.name  # net.v1 has no extension
    return path.parent / (stem + ending)


def without_initializer_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove graph inputs that have an initializer, in place, so that they become constants.

    Files of IR version 3 had to list them; later runtimes treat them as overridable defaults, warn
    about each, and fold none.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        # Before version 4, an initializer that is not an input is invalid.
        model.ir_version = max(model.ir_version, 4)
    return model


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return size and modification time (nanoseconds); None if the file does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _hash(digest: Any, stream: BinaryIO) -> None:
    """Feed a file to a hash in blocks of 1 MiB; time limits end this too."""
    with endable("hashing the model's files") as check:
        while block := stream.read(1 << 20):
            digest.update(block)
            check()
