"""The model as a file: its bytes, its graph without weights, its hash, and what is wrong with it.

ONNX Runtime opens the file itself, by path where there is one; what is here is needed around that.
Weights in external files are never read into memory, only hashed as a stream.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.custom_operators import explain_absent
from ibisa_onnx.models.ort_messages import shorten

if TYPE_CHECKING:
    import onnx

_ENDINGS = (".onnx", ".ort")
# Fields of a model that do not count in what it computes.
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
    """Where a model comes from: a path, bytes, or neither (a session opened by someone else)."""

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    stamp: tuple[int, int] | None = None
    """The file's size and time of change when it was opened."""
    extension: Callable[[onnx.GraphProto], object] | None = field(default=None, repr=False)
    """What is done to the graph whenever it is loaded, in place."""

    @classmethod
    def of(cls, source: str | os.PathLike[str] | bytes) -> ModelFile:
        """Return the file at a path, or one that is held in memory."""
        return cls(data=source) if isinstance(source, bytes) else cls.at(source)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> ModelFile:
        """Return the file at a path, which stays the same whatever folder one changes to."""
        if not os.fspath(path):
            raise ModelError("the model's path is empty; name a file")
        try:
            absolute = Path(path).absolute()
            return cls(absolute, stamp=_stamp(absolute))
        except ValueError as error:
            raise ModelError(f"there can be no model file {str(path)[:200]!r}: {error}") from error

    def check_unchanged(self) -> None:
        """Raise `ModelError` where the file is no longer the one that was opened."""
        if self.path is not None and self.stamp not in (None, _stamp(self.path)):
            raise ModelError(
                f"{self.path} was changed or removed after it was opened; open it again"
            )

    @classmethod
    def of_session(cls, session: Any) -> ModelFile:
        """Return what a live `onnxruntime.InferenceSession` still remembers of its model."""
        path, data = getattr(session, "_model_path", None), getattr(session, "_model_bytes", None)
        if data or not path:
            return cls(data=bytes(data) if data else None)
        return cls.at(path)

    @property
    def name(self) -> str | None:
        """The file's name without its folder."""
        return self.path.name if self.path else None

    @property
    def label(self) -> str:
        """What to call the model in an error."""
        return self.name or "the model"

    @property
    def folder(self) -> Path | None:
        """Where external weights are looked for."""
        return self.path.parent if self.path else None

    def check_readable(self) -> None:
        """Raise `ModelError` where there is plainly nothing to open."""
        if self.path is None:
            if not self.data:
                raise ModelError("the model is empty: 0 bytes were given")
        elif self.path.is_dir():
            raise ModelError(f"{self.path} is a folder, not an ONNX file; name the file in it")
        elif not self.path.exists():
            raise ModelError(f"there is no model file {self.path}; check the path")
        elif not os.access(self.path, os.R_OK):
            raise ModelError(f"{self.path} may not be read; change its permissions")
        elif self.path.stat().st_size == 0:
            raise ModelError(f"{self.path} is empty (0 bytes); copy or download it again")

    def load_proto(self) -> onnx.ModelProto | None:
        """Parse the model without external weights, its initializers not listed as inputs.

        None where there is none to parse, as for `parse`.
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

        None where there is no ONNX protobuf to read: a live session that does not remember its
        file, or a file in ONNX Runtime's own format.
        """
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

        self.check_unchanged()
        try:
            if self.data is not None:
                return onnx.load_model_from_string(self.data)
            if self.path is not None and self.path.exists():
                return onnx.load(str(self.path), format="protobuf", load_external_data=False)
        except DecodeError:
            pass
        return None

    @property
    def why_no_graph(self) -> str:
        """Say why `load_proto` gives nothing."""
        if self.path is None and self.data is None:
            return "the session does not remember its file (give its path)"
        if self.path is not None and not self.path.exists():
            return f"the session's file {self.path} is not there any more"
        return f"{self.label} holds no ONNX graph (give the .onnx file it was made from)"

    def sha256(self) -> str | None:
        """Hash the file, then its external weights in the order of their names, as a stream.

        For a model in one file this is what `sha256sum` prints.
        """
        self.check_unchanged()
        digest = hashlib.sha256()
        if self.data is not None:
            digest.update(self.data)
        elif self.path is None or not self.path.exists():
            return None
        else:
            _hash_file(digest, self.path)
        model = self.load_proto()
        if model is not None:
            self._hash_weights(digest, model)
        return digest.hexdigest()

    def graph_sha256(self) -> str | None:
        """Hash what the model computes, its external weights too, and nothing it says of itself.

        So `annotate` does not change it. None where there is no graph to read.
        """
        model = self.parse()
        if model is None:
            return None
        for name in _SAID_OF_ITSELF:
            model.ClearField(name)
        digest = hashlib.sha256(model.SerializeToString(deterministic=True))
        self._hash_weights(digest, model)
        return digest.hexdigest()

    def _hash_weights(self, digest: Any, model: onnx.ModelProto) -> None:
        """Feed the external weights to a hash, in the order of their files' names."""
        if self.folder is not None:
            for location in weight_files(model):
                _hash_file(digest, self.folder / location)

    def follow_links(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None]:
        """Return a graph made from this one, and the folder of its external weights.

        Where the model is a link, as in Hugging Face's cache, ONNX Runtime follows links to weights
        into the folder that it leads to, too. Of a graph without a path it has to be told: weights
        are called otherwise then in the graph that is returned. Whatever else leaves the model's
        folder stays as it is, and is refused.
        """
        if self.path is None or self.folder is None:
            return model, None
        home, names = self.path.resolve().parent, {}
        for location in weight_files(model):
            place = self.folder / location
            plain = not Path(location).is_absolute() and ".." not in Path(location).parts
            if plain and place.resolve().is_relative_to(home):
                names[location] = str(place.resolve().relative_to(home))
            elif place.exists():
                return model, self.folder
        if home == self.folder.resolve() or not names:
            return model, self.folder
        return rename_weights(model, names), home

    def explain_failure(self, error: Exception) -> ModelError:
        """Turn what ONNX Runtime said while opening this model into one line that helps."""
        model = self.load_proto()
        if model is None or not (model.ir_version and model.graph.node):
            return ModelError(
                f"{self.path or 'the model'} is not an ONNX model, or it is truncated; "
                "copy it again or export it anew"
            )
        missing = self._missing_weights(model)
        if missing:
            return ModelError(f"{self.label}: {missing}")
        why = explain_absent(model, error) or essence(error)
        return ModelError(f"ONNX Runtime cannot open {self.label}: {why}")

    def _missing_weights(self, model: onnx.ModelProto) -> str | None:
        """Say which external weights are absent or cut short, if any are."""
        for tensor in external_tensors(model):
            if self.folder is None:
                return (
                    f"its weights are in a file of their own ({tensor.location}), which bytes "
                    "cannot name; open the model by its path"
                )
            path = self.folder / tensor.location
            if not path.exists():
                return f"its weights file {path} is missing; put it beside the model"
            if path.stat().st_size < tensor.end:
                return f"its weights file {path} is truncated; copy it again"
        return None


def beside(model: str | os.PathLike[str], ending: str) -> Path:
    """Name a file that goes with a model's: `ending` takes the place of .onnx or .ort alone."""
    path = Path(model)
    stem = path.stem if path.suffix.lower() in _ENDINGS else path.name  # net.v1 is all a name
    return path.parent / (stem + ending)


@dataclass(frozen=True)
class ExternalTensor:
    """Where a tensor's values lie outside the model: a file, and the byte after the last."""

    location: str
    end: int


def external_tensors(model: onnx.ModelProto) -> Iterator[ExternalTensor]:
    """Yield every tensor of the model whose values lie in another file."""
    import onnx

    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            yield ExternalTensor(entries.get("location", ""), end)


def weight_files(model: onnx.ModelProto) -> list[str]:
    """Return the names of the files that a model's external weights are in, sorted."""
    return sorted({tensor.location for tensor in external_tensors(model)})


def rename_weights(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Return a copy of a model that calls the files of its external weights otherwise."""
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in _tensors(copy.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names.get(entry.value, entry.value)
    return copy


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the initializers and the constants of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def without_initializer_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop, in place, the graph inputs that have an initializer, so that they are constants.

    Files of IR version 3 had to list them; a later runtime takes them for overridable defaults,
    warns about each, and folds none.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        # Before version 4 an initializer that is no input is invalid.
        model.ir_version = max(model.ir_version, 4)
    return model


def essence(error: object, limit: int = 300) -> str:
    """Return what another library's error says, on one line, without ONNX Runtime's ornaments."""
    text = shorten(str(error))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return size and time of change (nanoseconds), None where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _hash_file(digest: Any, path: Path) -> None:
    """Feed a file to a hash, a mebibyte at a time."""
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
