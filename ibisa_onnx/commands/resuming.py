"""What a run leaves in its overlays so that the next one goes on from there, and how that is read.

Each overlay says in a text of its own which request it answers: a digest of the picture's content
and of all else that the result depends on, as it was resolved and not as it was said. With it stand
the files that belong to the overlay, and the overlays of the picture so far; one of them says that
it is the last. An overlay is renamed after its files, so what it names was there.

The alternatives were a list in the folder, which two runs at once would have to share, and which
stays behind where results are moved; and the records, which there are with --with-data alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
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
"""What a file of an overlay's is called, behind the name that they share."""


@dataclass(frozen=True)
class Request:
    """What is asked of each picture; `digest` is of all but the picture."""

    digest: str

    def of(self, image_sha256: str) -> str:
        """Return a digest of what is asked of one picture."""
        return hashlib.sha256(f"{self.digest} {image_sha256}".encode()).hexdigest()


@dataclass(frozen=True)
class Mark:
    """What an overlay says of itself.

    Attributes
    ----------
    request
        Which it answers: a `Request.of`.
    files
        The names of the overlay and of what goes with it, in the order in which they are told; of
        maps with their SHA-256. A record, whose times are never the same, holds the request.
    overlays
        The names of the overlays of that picture so far.
    last
        Whether these are all.
    """

    request: str
    files: dict[str, str | None]
    overlays: list[str]
    last: bool

    def put_into(self, png: bytes) -> bytes:
        """Return an overlay that says this of itself."""
        return with_text(png, _KEY, json.dumps(asdict(self)))

    @classmethod
    def of(cls, overlay: Path) -> Mark | None:
        """Return what an overlay says of itself; None where it says nothing, or is not whole.

        Whoever wrote it, it names no files but those that may go with the overlay.
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
        """Tell whether all that it names is there, and is what it was."""
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
        return True  # the overlay, in which this was read


class FinishedPictures:
    """Finds the results of earlier runs that answer the same request."""

    def __init__(self, request: Request, where: Destinations) -> None:
        self._request, self._where = request, where

    def find(self, picture: str) -> list[list[Path]]:
        """Return the files of each explanation of a picture, in their order, if it is finished.

        Nothing where any is missing, damaged or of another request, or the picture cannot be read.
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
            answers = [marks[name] for name in last.overlays]
            if all(answer.holds(folder) for answer in answers):
                return [[folder / name for name in answer.files] for answer in answers]
        return []


@dataclass
class PictureResults:
    """Writes the results of one picture, each overlay with its mark.

    `several` is whether there may be more than one, so that the last is known at the end alone.
    """

    several: bool
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
            In the order in which they are told.
        contents
            Of each; a record holds the request.
        request
            What it answers; None: the overlay says nothing, and is not taken for finished.

        Raises
        ------
        ResultError
            A file cannot be written.
        """
        overlay = next((path for path in paths if path.suffix.lower() == _OVERLAY), None)
        if overlay is None or request is None:
            write_files(contents)
            return
        self._overlays.append(overlay.name)
        files = {each.name: _known_by(each, contents) for each in paths}
        mark = Mark(request, files, list(self._overlays), not self.several)
        self._latest = overlay, contents[overlay], mark
        others = {path: data for path, data in contents.items() if path != overlay}
        write_files({**others, overlay: mark.put_into(contents[overlay])})

    def end(self) -> None:
        """Say in the last overlay that it is the last, where it could not say so.

        Raises
        ------
        ResultError
            It cannot be written.
        """
        if self.several and self._latest is not None:
            overlay, png, mark = self._latest
            write_files({overlay: replace(mark, last=True).put_into(png)})


def _known_by(path: Path, contents: Mapping[Path, bytes]) -> str | None:
    """Return the SHA-256 of a map."""
    return hashlib.sha256(contents[path]).hexdigest() if path.suffix == _MAP else None
