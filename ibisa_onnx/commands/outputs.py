"""Input images and output names: which images are meant, and which files are written for them.

This module deals with names only; it lists folders, but reads and writes no files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

import click

from ibisa_onnx.commands.usage import check_output
from ibisa_onnx.errors import ImageError, ResultError
from ibisa_onnx.io.atomic import check_not_given, made_folder, remove_abandoned

STDIO = "-"
_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_KINDS = (".png", ".npy", ".json")
_MARK = ".ibisa"
_LONGEST_NAME = 255  # bytes, on most file systems
_ROOM = 24  # bytes of ".ibisa.uncertainty.npy", the longest suffix
_SLUG = 40  # characters of a label in a file name
_OF_A_TARGET = re.compile(rf"(.+)\.[a-z0-9-]+{re.escape(_MARK)}\.png", re.DOTALL)


def expand(images: Sequence[str]) -> list[str]:
    """Replace each folder by the images in it, sorted by name.

    Overlays from earlier runs are left out.

    Raises
    ------
    ImageError
        A folder has no images or cannot be listed; a path is empty.
    """
    found: list[str] = []
    for image in images:
        if not image:
            raise ImageError("an image path is empty; specify a file or a folder")
        folder = Path(image)
        if image == STDIO or not folder.is_dir():
            found.append(image)
            continue
        try:
            inside = sorted(path for path in folder.iterdir() if _is_picture(path))
        except OSError as error:
            raise ImageError(f"{folder}: cannot list the folder: {error.strerror}") from error
        if not inside:
            raise ImageError(f"{folder}: no images in this folder ({', '.join(_PICTURES)})")
        found.extend(map(str, inside))
    return list(dict.fromkeys(found))


def _is_picture(path: Path) -> bool:
    ours = Path(path.stem).suffix == _MARK
    hidden = path.name.startswith(".")
    return path.suffix.lower() in _PICTURES and not ours and not hidden and path.is_file()


class Destinations:
    """Chooses the output files of each explanation: unique, and never an input file.

    Parameters
    ----------
    images
        All images, as passed.
    output
        Value of `-o`: a file, a folder, "-" for stdout; None: beside each image.
    several_targets
        Whether each image has several explanations, which are named after their labels.
    with_data
        Whether the map (.npy) and the record (.json) are written beside the overlay.
    model
        The model's path, which must not be overwritten either.
    stems
        Paths of the images' results without suffix; None: chosen here.
    inputs
        Files that must not be overwritten; None: the images and the model.

    Raises
    ------
    click.UsageError
        `output` cannot hold all results.
    """

    def __init__(
        self,
        images: Sequence[str],
        output: str | None,
        *,
        several_targets: bool = False,
        with_data: bool = False,
        model: str = STDIO,
        stems: dict[str, Path] | None = None,
        inputs: Sequence[str] | None = None,
    ) -> None:
        output = STDIO if output is None and STDIO in images else output
        several = several_targets or len(images) > 1
        self.to_stdout = output == STDIO
        self._several_targets = several_targets
        self._with_data = with_data
        given = (*images, model) if inputs is None else inputs
        self._given = [each for each in given if each != STDIO]
        self._behind_links = self._given if inputs is None else None
        self._file: Path | None = None
        folder: Path | None = None
        if self.to_stdout and (several or with_data):
            raise click.UsageError(
                "stdout accepts one image only; write to a folder with -o FOLDER/"
            )
        if output is not None and not self.to_stdout:
            if _names_a_folder(output, several):
                folder = Path(output)
            elif several:
                raise click.UsageError(
                    f"-o {output} is one file for several results; use -o FOLDER/"
                )
            else:
                self._file = Path(output)
                check_output(self._file, self._given)
        self._folder = self._file.parent if self._file else folder
        room = _ROOM + (_SLUG + 12 if several_targets else 0)
        self._stems = distinct_stems(images, folder, room) if stems is None else stems
        if self._file is None:  # comparing each result with a million images would take days
            self._given = [each for each in self._given if _may_be_result(each)]
        self._taken: set[Path] = set()
        self._listed: dict[Path, dict[Path, list[Path]]] = {}

    @property
    def several_targets(self) -> bool:
        """Whether each image has several explanations."""
        return self._several_targets

    def check(self) -> None:
        """Check, before any work, that every output folder can be created and written to.

        Creates nothing, and removes unfinished files of a killed run.

        Raises
        ------
        ResultError
            A folder cannot be created or written to.
        """
        if self.to_stdout:
            return
        folders = [self._folder] if self._folder else [stem.parent for stem in self._stems.values()]
        for folder in dict.fromkeys(folders):
            check_folder(folder)
            remove_abandoned(folder)

    @property
    def folder(self) -> Path | None:
        """The folder of all results; None if they lie beside the images."""
        return self._folder

    @property
    def is_one_file(self) -> bool:
        """Whether `output` is a file."""
        return self._file is not None

    @property
    def inputs(self) -> list[str]:
        """The inputs whose names a result could have."""
        return self._given

    def stem(self, image: str) -> Path:
        """Return the path of an image's results without suffix."""
        return self._stems[image]

    def overlays_of(self, image: str) -> list[Path]:
        """Return the paths of an image's overlays that earlier runs may have written.

        With several targets, these are matched by name in a listing made at the first call.
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
        """Return the files of one explanation of an image; none if it is written to stdout.

        `extra` are the names of further maps, written with the data.

        Returns
        -------
        dict of Path to str
            The content of each file: a suffix, or the name of a further map.

        Raises
        ------
        ResultError
            One of them is an input file.
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
            if path.is_symlink():  # which would be written through, to any of the inputs perhaps
                if self._behind_links is None:
                    raise ResultError(f"{path} is a link; remove it, or change -o")
                check_not_given(path, self._behind_links)
            check_not_given(path, self._given)
        return paths

    def _beside(self, image: str, index: int | str | None, name: str) -> Path:
        """Return the overlay's path, named after its image and, with several targets, its label."""
        stem = self._stems[image]
        if not self._several_targets:
            return stem.with_name(f"{stem.name}{_MARK}.png")
        slug = label_slug(name) or ("target" if index is None else f"class-{index}")
        path = stem.with_name(f"{stem.name}.{slug}{_MARK}.png")
        others = chain([] if index is None else [index], count(2))
        while path in self._taken:  # labels repeat: ImageNet has two cranes
            path = stem.with_name(f"{stem.name}.{slug}-{next(others)}{_MARK}.png")
        self._taken.add(path)
        return path


def _may_be_result(path: str) -> bool:
    """Return whether an input has a name that results have, or could be another name of one."""
    # Lowercase, because file systems may ignore case.
    return f"{_MARK}." in path.lower() or os.path.islink(path)  # noqa: PTH114 - it never raises


def _overlays_in(folder: Path) -> dict[Path, list[Path]]:
    """Return the overlays of targets in a folder by the stem of their image."""
    found: dict[Path, list[Path]] = {}
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if fits := _OF_A_TARGET.fullmatch(path.name):
                found.setdefault(folder / fits[1], []).append(path)
    return found


def check_folder(folder: Path) -> None:
    """Check that a folder can be written to, creating it temporarily if it does not exist.

    Raises
    ------
    ResultError
        It cannot be created or written to.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ResultError(f"{folder} is a file, not a folder; pass another folder with -o")
        with made_folder(folder, keep=False):
            if not os.access(folder, os.W_OK):
                raise ResultError(f"{folder}: no write access; pass another folder with -o")
    except OSError as error:
        raise ResultError(
            f"{folder}: cannot create this folder: {error.strerror}; pass another folder with -o"
        ) from error


def _names_a_folder(output: str, several: bool) -> bool:
    """Return whether `-o` names a folder rather than a file."""
    path = Path(output)
    if output.endswith(("/", os.sep)) or path.is_dir():
        return True
    if path.suffix.lower() in _KINDS:
        return False
    if several or not path.suffix:
        return True
    raise click.UsageError(
        f"-o {output}: unsupported suffix; use {', '.join(_KINDS)} or a folder, -o FOLDER/"
    )


def distinct_stems(
    images: Sequence[str], folder: Path | None = None, room: int = _ROOM
) -> dict[str, Path]:
    """Return a unique path for each image's results: `a`, or `a.jpg` if `a` is taken.

    Names are shortened to leave room for a suffix of `room` bytes.
    """
    stems: dict[str, Path] = {}
    taken: set[Path] = set()
    for image in images:
        source = Path("stdin" if image == STDIO else image)
        # The stem of `..png` is a dot, which is a folder.
        whole = [each for each in (source.stem, source.name) if each.strip(".")] or [source.name]
        fitting = (_cut(name, room) for name in whole)
        numbered = (f"{_cut(source.name, room + 8)}-{number}" for number in count(2))
        home = source.parent if folder is None else folder
        names = (home / name for name in chain(fitting, numbered))
        stems[image] = next(path for path in names if path not in taken)
        taken.add(stems[image])
    return stems


def _cut(name: str, room: int) -> str:
    """Return the beginning of a name, leaving this many bytes for a suffix."""
    name = name[: _LONGEST_NAME - room]
    while len(os.fsencode(name)) > _LONGEST_NAME - room:
        name = name[:-1]
    return name


def label_slug(label: str) -> str:
    """Return a label as part of a file name: lowercase ASCII letters, digits and hyphens."""
    from ibisa_onnx.io.overlay import ascii_fold

    return re.sub(r"[^a-z0-9]+", "-", ascii_fold(label).lower())[:_SLUG].strip("-")
