"""Where results go: which pictures are meant, and the name of each file that is written for them.

Only names; nothing is read or written here but the listing of a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

import click

from ibisa_onnx.errors import ImageError, ResultError
from ibisa_onnx.io.atomic import check_not_given, made_folder, remove_abandoned

STDIO = "-"
_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_KINDS = (".png", ".npy", ".json")
_MARK = ".ibisa"
_LONGEST_NAME = 255  # bytes, on most file systems
_ROOM = 24  # bytes of ".ibisa.uncertainty.npy", the longest that is put behind a name
_SLUG = 40  # characters of a label in a name
_OF_A_TARGET = re.compile(rf"(.+)\.[a-z0-9-]+{re.escape(_MARK)}\.png", re.DOTALL)


def check_out(out: str | None) -> None:
    """Raise `click.UsageError` where -o names nothing: "" would be the folder one is in."""
    if out == "":
        raise click.UsageError("-o is empty; name a file or a folder, or leave it out")


def expand(images: Sequence[str]) -> list[str]:
    """Put in place of each folder the pictures in it, in the order of their names.

    Pictures that an earlier run wrote are left out.

    Raises
    ------
    ImageError
        A folder holds no pictures, or cannot be listed; a path is empty.
    """
    found: list[str] = []
    for image in images:
        if not image:
            raise ImageError("a picture's path is empty; name a file or a folder")
        folder = Path(image)
        if image == STDIO or not folder.is_dir():
            found.append(image)
            continue
        try:
            inside = sorted(path for path in folder.iterdir() if _is_picture(path))
        except OSError as error:
            raise ImageError(f"{folder}: cannot list the folder: {error.strerror}") from error
        if not inside:
            raise ImageError(f"{folder}: no pictures in this folder ({', '.join(_PICTURES)})")
        found.extend(map(str, inside))
    return list(dict.fromkeys(found))


def _is_picture(path: Path) -> bool:
    ours = Path(path.stem).suffix == _MARK
    hidden = path.name.startswith(".")
    return path.suffix.lower() in _PICTURES and not ours and not hidden and path.is_file()


class Destinations:
    """Names the files of each explanation: never one name twice, never that of an input.

    Parameters
    ----------
    images
        All pictures, as given.
    output
        What `-o` said: a file, a folder, "-" for stdout, or None: beside each picture.
    several_targets
        Each picture has several explanations, told apart by their labels.
    with_data
        The map (.npy) and the record (.json) are written beside the overlay.
    model
        The model's path, which is not written over either.

    Raises
    ------
    click.UsageError
        `output` cannot hold what there will be.
    """

    def __init__(
        self,
        images: Sequence[str],
        output: str | None,
        *,
        several_targets: bool = False,
        with_data: bool = False,
        model: str = STDIO,
    ) -> None:
        output = STDIO if output is None and STDIO in images else output
        several = several_targets or len(images) > 1
        self.to_stdout = output == STDIO
        self._several_targets = several_targets
        self._with_data = with_data
        self._given = [each for each in (*images, model) if each != STDIO]
        self._file: Path | None = None
        folder: Path | None = None
        if self.to_stdout and (several or with_data):
            raise click.UsageError("stdout takes one picture; write to a folder: -o FOLDER/")
        if output is not None and not self.to_stdout:
            if _names_a_folder(output, several):
                folder = Path(output)
            elif several:
                raise click.UsageError(f"-o {output} is one file for several results: -o FOLDER/")
            else:
                self._file = Path(output)
        self._folder = self._file.parent if self._file else folder
        room = _ROOM + (_SLUG + 12 if several_targets else 0)
        self._stems = distinct_stems(images, folder, room)
        self._taken: set[Path] = set()
        self._listed: dict[Path, dict[Path, list[Path]]] = {}

    @property
    def several_targets(self) -> bool:
        """Whether each picture has several explanations."""
        return self._several_targets

    def check(self) -> None:
        """See that every folder there will be can be made and written to, before any work.

        Leaves nothing behind, and takes away what a run that was killed did not finish writing.

        Raises
        ------
        ResultError
            One cannot.
        """
        if self.to_stdout:
            return
        folders = [self._folder] if self._folder else [stem.parent for stem in self._stems.values()]
        for folder in dict.fromkeys(folders):
            check_folder(folder)
            remove_abandoned(folder)

    def overlays_of(self, image: str) -> list[Path]:
        """Name the overlays that may be there of a picture, from whatever run.

        Of several targets those whose names fit, as they were when it was first asked.
        """
        stem = self._stems[image]
        if self._several_targets:
            if stem.parent not in self._listed:
                self._listed[stem.parent] = _overlays_in(stem.parent)
            return self._listed[stem.parent].get(stem, [])
        main = self._file or stem.with_name(f"{stem.name}{_MARK}.png")
        if main.suffix.lower() == ".png":
            return [main]
        return [main.with_suffix(".png")] if self._with_data else []

    def of(
        self, image: str, index: int | str | None, name: str, extra: Sequence[str] = ()
    ) -> dict[Path, str]:
        """Name the files for one explanation of a picture; none where stdout takes it.

        `extra` are the names of further maps, which go with the data.

        Returns
        -------
        dict of Path to str
            What is written into each: a suffix, or the name of a further map.

        Raises
        ------
        ResultError
            One of them is a file that was given.
        """
        if self.to_stdout:
            return {}
        main = self._file or self._beside(image, index, name)
        paths = {main: main.suffix.lower()}
        if self._with_data:
            others = [kind for kind in _KINDS if kind != main.suffix.lower()]
            paths |= {main.with_suffix(kind): kind for kind in others}
            paths |= {main.with_suffix(f".{name}.npy"): name for name in extra}
        for path in paths:
            check_not_given(path, self._given)
        return paths

    def _beside(self, image: str, index: int | str | None, name: str) -> Path:
        """Name the overlay after its picture and, of several targets, after what it is called."""
        stem = self._stems[image]
        if not self._several_targets:
            return stem.with_name(f"{stem.name}{_MARK}.png")
        slug = label_slug(name) or ("target" if index is None else f"class-{index}")
        path = stem.with_name(f"{stem.name}.{slug}{_MARK}.png")
        others = chain([] if index is None else [index], count(2))
        while path in self._taken:  # ImageNet alone has two kinds of crane
            path = stem.with_name(f"{stem.name}.{slug}-{next(others)}{_MARK}.png")
        self._taken.add(path)
        return path


def _overlays_in(folder: Path) -> dict[Path, list[Path]]:
    """List the overlays of targets in a folder by what they are named after; none if it is none."""
    found: dict[Path, list[Path]] = {}
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if fits := _OF_A_TARGET.fullmatch(path.name):
                found.setdefault(folder / fits[1], []).append(path)
    return found


def check_folder(folder: Path) -> None:
    """Make a folder and take it away again; that it is writable is not said by rights alone.

    Raises
    ------
    ResultError
        It cannot be made or written to.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ResultError(f"{folder} is a file, not a folder; choose another with -o")
        with made_folder(folder, keep=False):
            if not os.access(folder, os.W_OK):
                raise ResultError(f"{folder}: no write access; choose another folder with -o")
    except OSError as error:
        raise ResultError(
            f"{folder}: cannot make this folder: {error.strerror}; choose another with -o"
        ) from error


def _names_a_folder(output: str, several: bool) -> bool:
    """Whether `-o` names a folder rather than a file."""
    path = Path(output)
    if output.endswith(("/", os.sep)) or path.is_dir():
        return True
    if path.suffix.lower() in _KINDS:
        return False
    if several or not path.suffix:
        return True
    raise click.UsageError(f"-o {output}: results are {', '.join(_KINDS)} or in a folder: -o DIR/")


def distinct_stems(
    images: Sequence[str], folder: Path | None = None, room: int = _ROOM
) -> dict[str, Path]:
    """Give each picture a path to name its results after: `a`, or `a.jpg` where `a` is taken.

    Names are cut where a file's could not be longer by `room` bytes.
    """
    stems: dict[str, Path] = {}
    taken: set[Path] = set()
    for image in images:
        source = Path("stdin" if image == STDIO else image)
        # Of `..png` the stem is a dot, which is a folder.
        whole = [each for each in (source.stem, source.name) if each.strip(".")] or [source.name]
        fitting = (_cut(name, room) for name in whole)
        numbered = (f"{_cut(source.name, room + 8)}-{number}" for number in count(2))
        home = source.parent if folder is None else folder
        names = (home / name for name in chain(fitting, numbered))
        stems[image] = next(path for path in names if path not in taken)
        taken.add(stems[image])
    return stems


def _cut(name: str, room: int) -> str:
    """Return the beginning of a name that leaves this many bytes to what is put behind it."""
    name = name[: _LONGEST_NAME - room]
    while len(os.fsencode(name)) > _LONGEST_NAME - room:
        name = name[:-1]
    return name


def label_slug(label: str) -> str:
    """Return a label as part of a file name: lower-case ASCII letters, digits and hyphens."""
    from ibisa_onnx.io.overlay import ascii_fold

    return re.sub(r"[^a-z0-9]+", "-", ascii_fold(label).lower())[:_SLUG].strip("-")
