"""A surrogate as a file: its format, whether it may be opened, and its metadata.

There are two formats. An ONNX file is a graph with weights, of which only ONNX Runtime's operators
are executed. A `torch.export` archive (`.pt2`) may contain code: to open it, torch unpickles sample
inputs, weights and constants, and evaluates expressions for sizes. A scanner for harmless archives
would have to track every change of torch's format, so an archive is opened only with the user's
explicit permission.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibisa_onnx.errors import GradientError
from ibisa_onnx.io.files import open_regular
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.onnx_file import ModelFile

FACTS = "ibisa_surrogate"
"""Metadata key of the facts in an ONNX file, as JSON."""
ARCHIVED_FACTS = "ibisa.json"
"""Name of the extra file with the facts in a `torch.export` archive."""

_ZIP = b"PK\x03\x04"
_INSTEAD = {
    "surrogate": "use an ONNX file (`distill` and `export --surrogate` write one)",
    "program": "export the network from its source code",
}


@dataclass(frozen=True)
class SurrogateFacts:
    """Metadata of a surrogate's file; None for missing fields.

    Attributes
    ----------
    model
        Name of the deployed model that it approximates.
    model_sha256, graph_sha256
        Digests of that model, with and without its metadata.
    certified
        Whether its agreement with that model was sufficient.
    """

    model: str | None = None
    model_sha256: str | None = None
    graph_sha256: str | None = None
    certified: bool | None = None

    @classmethod
    def read(cls, text: str | bytes) -> SurrogateFacts:
        """Parse the facts; unreadable fields are None."""
        try:
            found = json.loads(text or "{}")
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(found, dict):
            return cls()
        words = {name: _text(found.get(name)) for name in ("model", "model_sha256", "graph_sha256")}
        certified = found.get("certified")
        return cls(**words, certified=certified if isinstance(certified, bool) else None)

    def warnings(self, model: ImageModel) -> list[str]:
        """Return warnings about its use as a surrogate of a deployed model."""
        found, known, own = [], self.model_sha256, model.sha256
        if known and own and known != own and not self._is_of_graph(model):
            found.append(
                f"the surrogate was made for another model, {self.model or 'unnamed'} "
                f"(sha256 {known[:12]}; this model's is {own[:12]}): create one for this file"
            )
        if self.certified is False:
            found.append(
                "the surrogate is not certified: its agreement with the model is insufficient"
            )
        return found

    def _is_of_graph(self, model: ImageModel) -> bool:
        """Return whether it was made for the same model with other metadata."""
        return self.graph_sha256 is not None and self.graph_sha256 == model.graph_sha256


def trusted_archive(path: Path, what: str, trust: bool) -> bool:
    """Return whether a file is a `torch.export` archive, by content rather than name.

    Parameters
    ----------
    path
        The file, of any format.
    what
        What messages call it: "surrogate" or "program".
    trust
        Whether code in it may be executed.

    Raises
    ------
    GradientError
        The file is an archive and not trusted, is not a regular file, or cannot be read.
    """
    archive = is_archive(path, what)
    if archive and not trust:
        raise GradientError(
            f"{path} is a torch.export archive, and opening it may execute code; "
            f"{_INSTEAD[what]}, or pass trust=True if you trust its author"
        )
    return archive


def is_archive(path: Path, what: str) -> bool:
    """Return whether a file is a `torch.export` archive, by its first bytes alone."""
    with open_regular(path, what, GradientError) as file:
        return file.read(len(_ZIP)) == _ZIP


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a surrogate's file, including its external weights.

    Raises
    ------
    IbisaError
        The file is not a regular file, or cannot be read.
    """
    if not is_archive(path, "surrogate"):
        return ModelFile.at(path).sha256()
    with open_regular(path, "surrogate", GradientError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
