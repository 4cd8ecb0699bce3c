"""Marks in the overlays from which an interrupted run resumes.

Each overlay holds a PNG text with its request: a digest of the image's content and of all resolved
settings on which the result depends. The text also lists the overlay's own files and the image's
overlays so far; one overlay is marked as the last. An overlay is written after its files, so those
it lists existed.

Alternatives were a list in the folder, which simultaneous runs would have to share and which is
lost if results are moved; and the records, which exist with --with-data only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ibisa_onnx.commands.outputs import STDIO, Destinations
from ibisa_onnx.errors import ImageError, ResultError
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.files import open_regular, read_file, read_text
from ibisa_onnx.io.png_text import text_of, with_text

_KEY = "ibisa-onnx:request"
_OVERLAY, _MAP, _RECORD = ".png", ".npy", ".json"
_DATA = re.compile(rf"\.(\w{{1,20}}\.)?npy|{re.escape(_RECORD)}", re.ASCII)
"""The part of a data file's name that follows the overlay's stem."""


@dataclass(frozen=True)
class Request:
    """The request that a result belongs to; `digest` covers everything except the image."""

    digest: str

    def of(self, image_sha256: str) -> str:
        """Return the digest of the request for one image."""
        return hashlib.sha256(f"{self.digest} {image_sha256}".encode()).hexdigest()


@dataclass(frozen=True)
class Mark:
    """The mark in an overlay.

    Attributes
    ----------
    request
        The overlay's request, from `Request.of`.
    files
        Names of the overlay and its data files, in reporting order; maps with their SHA-256. A
        record, whose timings vary, holds the request instead.
    overlays
        Names of the image's overlays so far.
    last
        Whether `overlays` is complete.
    """

    request: str
    files: dict[str, str | None]
    overlays: list[str]
    last: bool

    def put_into(self, png: bytes) -> bytes:
        """Return an overlay with this mark."""
        return with_text(png, _KEY, json.dumps(asdict(self)))

    @classmethod
    def of(cls, overlay: Path) -> Mark | None:
        """Read the mark of an overlay; None if it has none, or is damaged.

        The overlay may come from anyone, so files that cannot belong to it invalidate the mark.
        """
        try:
            text = text_of(read_file(overlay, "overlay", ResultError), _KEY)
            mark = cls(**json.loads(text or "null"))
            names, known = [name for name in mark.files if name != overlay.name], overlay.stem
            fit = all(
                name.startswith(known) and _DATA.fullmatch(name, len(known)) for name in names
            )
        except (ResultError, ValueError, TypeError, AttributeError, RecursionError):
            return None
        whole = isinstance(mark.files, dict) and isinstance(mark.overlays, list)
        named = whole and all(isinstance(name, str) for name in mark.overlays)
        return mark if named and fit and overlay.name in mark.files else None

    def holds(self, folder: Path) -> bool:
        """Return whether all files of the mark exist and are unchanged."""
        return all(self._is_there(folder / name, known) for name, known in self.files.items())

    def _is_there(self, path: Path, known: str | None) -> bool:
        try:
            if path.suffix == _MAP:
                with open_regular(path, "map", ResultError) as file:
                    return hashlib.file_digest(file, "sha256").hexdigest() == known
            if path.suffix == _RECORD:
                record = json.loads(read_text(path, "record", ResultError))
                return isinstance(record, dict) and record.get("request") == self.request
        except (ResultError, ValueError, RecursionError):
            return False
        return True  # the overlay itself, which was just read


class FinishedPictures:
    """Finds results of earlier runs for the same request."""

    def __init__(self, request: Request, where: Destinations) -> None:
        self._request, self._where = request, where

    def find(self, picture: str) -> list[list[Path]]:
        """Return the files of each explanation of an image, in order, if all are finished.

        Empty if any is missing, damaged or from another request, or the image cannot be read.
        """
        from ibisa_onnx.io.images import image_sha256

        overlays = [] if picture == STDIO else self._where.overlays_of(picture)
        marks = {path.name: mark for path in overlays if (mark := Mark.of(path)) is not None}
        lasts = [mark for mark in marks.values() if mark.last]
        try:
            request = self._request.of(image_sha256(picture)) if lasts else ""
        except ImageError:
            return []
        folder = overlays[0].parent if overlays else Path()
        marks = {name: mark for name, mark in marks.items() if mark.request == request}
        for last in lasts:
            if last.request != request or not all(name in marks for name in last.overlays):
                continue
            parts = [marks[name] for name in last.overlays]
            if all(part.holds(folder) for part in parts):
                return [[folder / name for name in part.files] for part in parts]
        return []


@dataclass
class PictureResults:
    """Writes the results of one image, each overlay with its mark.

    With `several` results, the last one is marked only when all are written. `save` writes files.
    """

    several: bool
    save: Callable[[Mapping[Path, bytes]], None] = write_files
    _overlays: list[str] = field(default_factory=list)
    _latest: tuple[Path, bytes, Mark] | None = None

    def write(
        self,
        paths: Sequence[Path],
        contents: Mapping[Path, bytes],
        request: str | None,
    ) -> None:
        """Write the files of one explanation, the overlay after all others.

        Parameters
        ----------
        paths
            The files, in reporting order.
        contents
            The bytes of each file; a record holds the request.
        request
            The request; None: the overlay is not marked and does not count as finished.

        Raises
        ------
        ResultError
            A file cannot be written.
        """
        overlay = next((path for path in paths if path.suffix.lower() == _OVERLAY), None)
        if overlay is None or request is None:
            self.save(contents)
            return
        self._overlays.append(overlay.name)
        files = {each.name: _known_by(each, contents) for each in paths}
        mark = Mark(request, files, list(self._overlays), not self.several)
        self._latest = overlay, contents[overlay], mark
        others = {path: data for path, data in contents.items() if path != overlay}
        self.save({**others, overlay: mark.put_into(contents[overlay])})

    def end(self) -> None:
        """Mark the last overlay as the last, if several results were possible.

        Raises
        ------
        ResultError
            The overlay cannot be written.
        """
        if self.several and self._latest is not None:
            overlay, png, mark = self._latest
            self.save({overlay: replace(mark, last=True).put_into(png)})


def _known_by(path: Path, contents: Mapping[Path, bytes]) -> str | None:
    """Return the SHA-256 of a map, None for other files."""
    return hashlib.sha256(contents[path]).hexdigest() if path.suffix == _MAP else None
