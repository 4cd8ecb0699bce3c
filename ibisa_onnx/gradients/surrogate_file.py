"""A surrogate as a file: of which format it is, whether it may be opened, and what it says.

There are two formats. An ONNX file is a graph and its weights: nothing in it is run but the
operators of ONNX Runtime. An archive of `torch.export` (`.pt2`) is code: to open one, torch
unpickles sample inputs, weights and constants, and evaluates the expressions that its sizes are
written as. No scan of ours could tell a harmless one, for it would have to follow each change of
torch's format; so whoever made it, one is opened only where that was allowed.
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
"""The key of the facts in an ONNX file's metadata, JSON."""
ARCHIVED_FACTS = "ibisa.json"
"""The name of the same among the extra files of an archive of `torch.export`."""

_ZIP = b"PK\x03\x04"
_INSTEAD = {
    "surrogate": "give an ONNX file (`distill` and `export --surrogate` write one)",
    "program": "export its network from where it was built",
}


@dataclass(frozen=True)
class SurrogateFacts:
    """What a surrogate's file says of itself; None where it does not.

    Attributes
    ----------
    model
        The name of the deployed model that it stands for.
    model_sha256, graph_sha256
        That model's digests, with its metadata and without.
    certified
        False where it agrees too little with that model.
    """

    model: str | None = None
    model_sha256: str | None = None
    graph_sha256: str | None = None
    certified: bool | None = None

    @classmethod
    def read(cls, text: str | bytes) -> SurrogateFacts:
        """Read them; what cannot be read is not said."""
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
        """Say what speaks against the surrogate as one of a deployed model."""
        found, known, own = [], self.model_sha256, model.sha256
        if known and own and known != own and not self._is_of_graph(model):
            found.append(
                f"the surrogate was made for another model, {self.model or 'unnamed'} "
                f"(sha256 {known[:12]}, this one has {own[:12]}): make one for this file"
            )
        if self.certified is False:
            found.append("the surrogate is not certified: it agrees too little with its model")
        return found

    def _is_of_graph(self, model: ImageModel) -> bool:
        """Tell whether it was made for the same model with other metadata."""
        return self.graph_sha256 is not None and self.graph_sha256 == model.graph_sha256


def trusted_archive(path: Path, what: str, trust: bool) -> bool:
    """Tell by its content whether a file is an archive of `torch.export`, whatever its name.

    Parameters
    ----------
    path
        The file, of any format.
    what
        What a message calls it: "surrogate" or "program".
    trust
        Whether code in it may be run.

    Raises
    ------
    GradientError
        It is such an archive and its code may not be run; or it is no regular file, or cannot be
        read.
    """
    archive = is_archive(path, what)
    if archive and not trust:
        raise GradientError(
            f"{path} is an archive of torch.export, which may hold code that is run as it is "
            f"opened; {_INSTEAD[what]}, or say trust=True if you trust whoever made it"
        )
    return archive


def is_archive(path: Path, what: str) -> bool:
    """Tell the same and trust nothing: the file is not opened as what it is."""
    with open_regular(path, what, GradientError) as file:
        return file.read(len(_ZIP)) == _ZIP


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a surrogate's file, and of the weights that lie beside it.

    Raises
    ------
    IbisaError
        It is no regular file, or cannot be read.
    """
    if not is_archive(path, "surrogate"):
        return ModelFile.at(path).sha256()
    with open_regular(path, "surrogate", GradientError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
