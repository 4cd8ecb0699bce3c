"""Images of a job: files, folders, Parquet files and tar archives, by path or URL.

A source is listed once, by the driver of the job: `found_in`. It is cut into units, of which a
worker reads the images one after the other: `units` and `read`. Nothing here decodes an image.
"""

from __future__ import annotations

import os
import stat
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from ibisa_onnx.errors import IbisaError, ImageError, OptionError
from ibisa_onnx.io.files import open_regular
from ibisa_onnx.limits import Limits, variable
from ibisa_onnx.models.endpoint import without_credentials
from ibisa_onnx.serving.jobs import Done, group_of
from ibisa_onnx.serving.storage import file_system, local_path

FILES, PARQUET, TAR = "files", "parquet", "tar"
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SUFFIXES = {
    **dict.fromkeys((".parquet", ".pq"), PARQUET),
    **dict.fromkeys((".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz"), TAR),
}
_OURS = ".ibisa."
_COLUMNS = ("image", "bytes", "path", "jpg", "png")  # tried in this order
_TRIES = 3
_WAIT = 0.5  # seconds before the first repetition, doubled for each
_FOOTERS = 16  # Parquet files opened at a time
_ROWS = 64  # read at a time
_HEADERS = frozenset(
    (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
)
_LARGEST_HEADER = 1 << 20  # bytes of a member's name or attributes
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Found:
    """A file of a job.

    Attributes
    ----------
    source
        Its path or URL.
    kind
        FILES for one image, PARQUET or TAR for many.
    stamp
        Changes when the file does: size and modification time, or ETag.
    rows
        Number of images; None: unknown until it is read.
    """

    source: str
    kind: str
    stamp: str
    rows: int | None = None


@dataclass(frozen=True)
class Unit:
    """What a worker reads in one go: image files, or ranges of rows of one file.

    Attributes
    ----------
    kind
        FILES, PARQUET or TAR.
    sources, stamps
        The files; one unless the kind is FILES.
    stems
        Where the results of each image file belong, without suffix; of other kinds, the folder.
    ranges
        Rows to read, `stop` excluded; None: to the end. Empty for FILES.
    """

    kind: str
    sources: tuple[str, ...]
    stamps: tuple[str, ...]
    stems: tuple[str, ...]
    ranges: tuple[tuple[int, int | None], ...] = ()

    @property
    def group(self) -> str:
        """A digest of what is to be done."""
        return group_of(self.kind, self.sources, self.stamps, self.ranges)


@dataclass(frozen=True)
class Row:
    """One image of a unit.

    Attributes
    ----------
    number
        Its row in the file; of FILES, its place in the unit.
    source
        Path or URL; of a row, followed by # and the row's name.
    stem
        Where its results belong, without suffix.
    image
        Path or bytes; None if it cannot be read, which `error` explains.
    target
        What to explain, from a column; None: the job's targets.
    error
        Why it cannot be read.
    """

    number: int
    source: str
    stem: str
    image: str | bytes | None
    target: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns of Parquet files, or members of a tar archive's samples, are read.

    Attributes
    ----------
    image
        Bytes, paths, or structs of both; None: the first of "image", "bytes", "path", "jpg", "png".
    target
        What to explain; None: the job's targets.
    """

    image: str | None = None
    target: str | None = None


def found_in(sources: Sequence[str], columns: Columns) -> list[Found]:
    """List the files of sources, without duplicates.

    Parameters
    ----------
    sources
        Paths and URLs of images, folders, Parquet files and tar archives; URLs may contain `*`.
    columns
        Columns that Parquet files must have.

    Raises
    ------
    ImageError
        A source does not exist, cannot be listed or contains no images.
    OptionError
        A Parquet file lacks a column.
    """
    listed: dict[str, Found] = {}
    for source in sources:
        files = list(_of_url(source) if local_path(source) is None else _of_path(source))
        if not files:
            kinds = ", ".join((*IMAGE_SUFFIXES, ".parquet", ".tar"))
            raise ImageError(f"{without_credentials(source)}: no images in this folder ({kinds})")
        listed.update((each.source, each) for each in files)
    tables = [each for each in listed.values() if each.kind == PARQUET]
    with ThreadPoolExecutor(_FOOTERS) as pool:
        counts = pool.map(lambda each: _count_rows(each.source, columns), tables)
        for each, rows in zip(tables, counts, strict=True):
            listed[each.source] = replace(each, rows=rows)
    return list(listed.values())


def _of_path(source: str) -> Iterator[Found]:
    """Yield the files of a path, or of a folder sorted by name."""
    path = Path(local_path(source) or "")
    try:
        state = path.stat()
        if not stat.S_ISDIR(state.st_mode):
            yield _local(str(path.absolute()), state)
            return
        with os.scandir(path) as entries:
            inside = sorted((each for each in entries if _is_wanted(each.name)), key=_name)
        for entry in inside:
            if entry.is_file():
                yield _local(str(path.absolute() / entry.name), entry.stat())
    except OSError as error:
        raise ImageError(f"{path}: cannot read: {error.strerror}; check the path") from error


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _local(path: str, state: os.stat_result) -> Found:
    return Found(path, kind_of(path), f"{state.st_size}-{state.st_mtime_ns}")


def _of_url(source: str) -> Iterator[Found]:
    """Yield the files of a URL; a folder is one that does not end like a file, or has a `*`."""
    system, path = file_system(source)
    protocol = source.partition("://")[0]

    def list_files() -> list[dict[str, Any]]:
        if "*" in path:
            found = system.glob(path, detail=True)
            return [each for each in found.values() if each.get("type") != "directory"]
        if kind_of(path) != FILES or _suffix(path) in IMAGE_SUFFIXES:
            return [system.info(path)]
        inside = system.ls(path, detail=True)
        return [each for each in inside if _is_wanted(_last(each["name"]))]

    try:
        infos = _repeated(list_files)
    except Exception as error:  # each file system raises its own
        raise ImageError(f"{without_credentials(source)}: cannot list: {_why(error)}") from error
    for info in sorted(infos, key=lambda each: str(each["name"])):
        name = str(info["name"])
        url = name if "://" in name else system.unstrip_protocol(name)
        url = url if url.startswith(f"{protocol}://") else f"{protocol}://{name}"
        yield Found(url, kind_of(url), _stamp(info))


def _stamp(info: dict[str, Any]) -> str:
    """Return the size of a file and what else shows that it has changed."""
    names = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    changed = next((str(info[name]) for name in names if info.get(name) is not None), "")
    return f"{info.get('size')}-{changed}"


def _last(path: str) -> str:
    return urlsplit(path).path.rstrip("/").rpartition("/")[2]


def _suffix(path: str) -> str:
    return PurePosixPath(_last(path)).suffix.lower()


def kind_of(path: str) -> str:
    """Return what a path or URL holds by its name: one image (FILES), or many."""
    name = (_last(path) if "://" in path else Path(path).name).lower()
    return next((kind for end, kind in _SUFFIXES.items() if name.endswith(end)), FILES)


def _is_wanted(name: str) -> bool:
    """Return whether a file in a folder is an image or holds images; results are left out."""
    known = PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES or kind_of(name) != FILES
    return known and not name.startswith(".") and _OURS not in name


def units(
    found: Sequence[Found],
    stems: Sequence[str],
    columns: Columns,
    done: Done,
    *,
    images: int,
    workers: int,
) -> Iterator[Unit]:
    """Yield what is left to do, in units.

    Parameters
    ----------
    found
        All files.
    stems
        For each, where its results belong.
    columns
        Which members of tar archives are images.
    done
        What is done already.
    images
        Maximum images per unit; a tar archive may be one unit whatever its size.
    workers
        Number of workers: if there are fewer tar archives than that, each is divided.
    """
    files: list[tuple[Found, str]] = []
    tars = sum(each.kind == TAR for each in found)
    for each, stem in zip(found, stems, strict=True):
        if each.kind != FILES:
            whole = columns.target is not None  # which may be the last member of a sample
            divide = each.kind == PARQUET or (tars < 2 * workers and not whole)
            yield from _units_of(each, stem, columns, done, images if divide else None)
        elif not done.has(each.source, each.stamp):
            files.append((each, stem))
            if len(files) == images:
                yield _unit_of(files)
                files = []
    if files:
        yield _unit_of(files)


def _unit_of(files: Sequence[tuple[Found, str]]) -> Unit:
    return Unit(
        FILES,
        tuple(each.source for each, _ in files),
        tuple(each.stamp for each, _ in files),
        tuple(stem for _, stem in files),
    )


def _units_of(
    each: Found, stem: str, columns: Columns, done: Done, images: int | None
) -> Iterator[Unit]:
    """Yield the units of the rows of one file that are left."""
    rows = each.rows
    if rows is None and images is not None and done.missing(each.source, each.stamp, 0, None):
        rows = _count_members(each.source, columns)
    left = done.missing(each.source, each.stamp, 0, rows)
    unit = Unit(each.kind, (each.source,), (each.stamp,), (stem,))
    if images is None:
        if left:
            yield replace(unit, ranges=tuple(left))
        return
    for start, stop in left:
        assert stop is not None
        for first in range(start, stop, images):
            yield replace(unit, ranges=((first, min(first + images, stop)),))


def _count_members(source: str, columns: Columns) -> int:
    """Return the number of images of a tar archive."""
    try:
        return sum(number is not None for number, *_ in _members(source, columns))
    except IbisaError:
        raise
    except Exception as error:  # of tarfile and file systems
        shown = without_credentials(source)
        raise ImageError(f"{shown}: cannot read this tar archive: {_why(error)}") from error


def read(unit: Unit, columns: Columns, done: Done, limits: Limits | None = None) -> Iterator[Row]:
    """Yield the images of a unit that are not done, in order.

    Raises
    ------
    ImageError
        The file cannot be read any further; rows that were yielded before are complete.
    """
    limits = Limits.of(limits)
    if unit.kind == FILES:
        for number, source in enumerate(unit.sources):
            if not done.has(source, unit.stamps[number]):
                yield _file(number, source, unit.stems[number], limits)
        return
    (source,), (stamp,), (stem,) = unit.sources, unit.stamps, unit.stems
    ranges = [
        left for start, stop in unit.ranges for left in done.missing(source, stamp, start, stop)
    ]
    read_rows = _parquet if unit.kind == PARQUET else _tar
    try:
        yield from read_rows(source, stem, ranges, columns, limits)
    except IbisaError:
        raise
    except Exception as error:  # of pyarrow, tarfile and file systems
        raise ImageError(f"{without_credentials(source)}: cannot read: {_why(error)}") from error


def _file(number: int, source: str, stem: str, limits: Limits) -> Row:
    """Return an image file; a local one is read later, by its path."""
    path = local_path(source)
    if path is not None:
        return Row(number, source, stem, path)
    try:
        return Row(number, source, stem, _download(source, limits))
    except IbisaError as error:
        return Row(number, source, stem, None, error=str(error))


def _download(source: str, limits: Limits) -> bytes:
    """Return the bytes of a URL or of a file that a row names."""
    path, shown = local_path(source), without_credentials(source)
    if path is not None:
        from ibisa_onnx.io.files import read_file

        return read_file(path, "image", ImageError, limits)
    system, name = file_system(source)

    def fetch() -> bytes:
        with system.open(name, "rb") as file:
            return bytes(file.read(limits.file_bytes + 1))

    try:
        data = _repeated(fetch)
    except Exception as error:  # each file system raises its own
        raise ImageError(f"{shown}: cannot read: {_why(error)}") from error
    _check_size(len(data), shown, limits)
    return data


def _check_size(size: int, shown: str, limits: Limits) -> None:
    if size > limits.file_bytes:
        raise ImageError(f"{shown}: {_too_large(limits)}")


def _too_large(limits: Limits) -> str:
    return (
        f"more bytes than the limit of {limits.file_bytes:,} for image files; set "
        f"{variable('file_bytes')} to allow more"
    )


def _repeated(function: Callable[[], _Read]) -> _Read:
    """Call a function of a file system up to three times; what is missing stays missing."""
    for number in range(_TRIES - 1):
        try:
            return function()
        except (FileNotFoundError, PermissionError, NotADirectoryError, IbisaError):
            raise
        except Exception:
            time.sleep(_WAIT * 2**number)
    return function()


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    return (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"


# Parquet.


def _count_rows(source: str, columns: Columns) -> int:
    """Return the number of rows of a Parquet file, whose columns are checked."""
    shown = without_credentials(source)
    try:
        with ExitStack() as stack:
            file = _repeated(lambda: _opened_parquet(source, stack))
            rows, names = int(file.metadata.num_rows), file.schema_arrow.names
    except IbisaError:
        raise
    except Exception as error:  # of pyarrow and file systems
        raise ImageError(f"{shown}: cannot read this Parquet file: {_why(error)}") from error
    _image_column(names, columns, shown)
    if columns.target is not None and columns.target not in names:
        raise OptionError(
            f"{shown} has no column {columns.target!r} of targets; its columns are {_listed(names)}"
        )
    return rows


def _image_column(names: Sequence[str], columns: Columns, shown: str) -> str:
    wanted = _COLUMNS if columns.image is None else (columns.image,)
    found = next((each for each in wanted if each in names), None)
    if found is None:
        raise OptionError(
            f"{shown} has no column {' or '.join(map(repr, wanted))} of images; its columns are "
            f"{_listed(names)}; pass one with --image-column"
        )
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20])[:300] or "none"


def _opened_parquet(source: str, stack: ExitStack, once: Sequence[str] = ()) -> Any:
    """Open a Parquet file; equal values of the columns `once` are held once."""
    from ibisa_onnx.imports import import_extra

    parquet = import_extra("pyarrow.parquet", "ray")
    file = _open(source, stack)
    return stack.enter_context(
        parquet.ParquetFile(file, memory_map=False, read_dictionary=list(once))
    )


def _open(source: str, stack: ExitStack) -> BinaryIO:
    """Open a file or URL for reading."""
    path = local_path(source)
    if path is None:
        system, name = file_system(source)
        file: BinaryIO = stack.enter_context(system.open(name, "rb"))
        return file
    return stack.enter_context(open_regular(path, "file", ImageError))


def _parquet(
    source: str,
    stem: str,
    ranges: Iterable[tuple[int, int | None]],
    columns: Columns,
    limits: Limits,
) -> Iterator[Row]:
    """Yield the rows of ranges of a Parquet file; only row groups with such rows are read."""
    with ExitStack() as stack:
        file = _repeated(lambda: _opened_parquet(source, stack))
        column = _image_column(file.schema_arrow.names, columns, without_credentials(source))
        if not file.schema_arrow.field(column).type.num_fields:  # no struct
            file = _repeated(lambda: _opened_parquet(source, stack, [column]))
        names = [name for name in (column, columns.target) if name is not None]
        for start, stop in ranges:
            for number, values in _rows(file, names, start, stop or file.metadata.num_rows):
                target = None if columns.target is None else values[columns.target]
                place = f"{stem}/{number:08d}"
                yield _cell(number, source, place, values[column], target, limits)


def _rows(file: Any, names: list[str], start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield the rows from `start` to `stop` as dicts, with their numbers."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        if first < stop and last > start:
            number = first
            for batch in file.iter_batches(_ROWS, row_groups=[group], columns=names):
                low, high = max(start - number, 0), min(stop - number, batch.num_rows)
                for place in range(low, high):  # one at a time: equal values are stored once
                    row = {name: _value(batch.column(name)[place]) for name in names}
                    yield number + place, row
                number += batch.num_rows
        first = last


def _value(scalar: Any) -> Any:
    """Return a cell's value; an error in its place if it cannot be read."""
    try:
        return scalar.as_py()
    except ValueError as error:  # for instance text that is not UTF-8
        return error


def _cell(number: int, source: str, stem: str, value: Any, target: Any, limits: Limits) -> Row:
    """Return the row of one cell: bytes, a path, or a struct of both."""
    name = f"{source}#{number}"
    if isinstance(value, dict):  # as Hugging Face's datasets write it
        value = value.get("bytes") or value.get("path")
    try:
        for each in (value, target):
            if isinstance(each, Exception):
                raise ImageError(f"{name} cannot be read: {each}")
        if isinstance(value, bytes):
            _check_size(len(value), name, limits)
            return Row(number, name, stem, value, target)
        if not isinstance(value, str) or not value:
            raise ImageError(f"{name} is {type(value).__name__}; an image is bytes or a path")
        return Row(number, name, stem, _download(_beside(source, value), limits), target)
    except IbisaError as error:
        return Row(number, name, stem, None, target, str(error))


def _beside(source: str, path: str) -> str:
    """Return a path in a Parquet file: relative paths start at the file's folder."""
    if "://" in path or Path(path).is_absolute():
        return path
    if (local := local_path(source)) is not None:
        return str(Path(local).parent / path)
    return f"{source.rpartition('/')[0]}/{path}"


# Tar archives of samples, as webdataset writes them.


def _tar(
    source: str,
    stem: str,
    ranges: Iterable[tuple[int, int | None]],
    columns: Columns,
    limits: Limits,
) -> Iterator[Row]:
    """Yield the images of ranges of a tar archive.

    A sample's members share a name up to its first dot; the target is another member of it.
    """
    sample, target, key = list[Row](), None, ""
    try:
        for number, name, data in _wanted(source, list(ranges), columns, limits):
            if _key_of(name) != key or columns.target is None:
                yield from _with_target(sample, target, columns)
                sample, target, key = [], None, _key_of(name)
            if number is None:
                target = None if data is None else data.decode(errors="replace").strip()
                continue
            row = Row(number, f"{source}#{name}", f"{stem}/{number:08d}", data)
            large = f"{row.source}: {_too_large(limits)}" if data is None else None
            sample.append(replace(row, error=large))
    except Exception:
        yield from _with_target(sample, target, columns)
        raise
    yield from _with_target(sample, target, columns)


def _with_target(sample: Sequence[Row], target: str | None, columns: Columns) -> Iterator[Row]:
    """Yield the images of a sample with its target, without which they are errors."""
    for each in sample:
        if columns.target is not None and target is None:
            error = f"{each.source}: its sample has no member .{columns.target}"
            yield replace(each, image=None, error=each.error or error)
        else:
            yield replace(each, target=target)


def _wanted(
    source: str, ranges: Sequence[tuple[int, int | None]], columns: Columns, limits: Limits
) -> Iterator[tuple[int | None, str, bytes | None]]:
    """Yield number, name and content of images in ranges, and, without number, of targets.

    The content of a member that exceeds the limit is None.
    """
    ends = [stop for _, stop in ranges]
    for number, member, archive in _members(source, columns):
        if number is not None and None not in ends and number >= max(filter(None, ends), default=0):
            return
        if number is not None and not any(
            start <= number and (stop is None or number < stop) for start, stop in ranges
        ):
            continue
        content = archive.extractfile(member) if member.size <= limits.file_bytes else None
        yield number, member.name, content.read() if content is not None else None


class _Member(tarfile.TarInfo):
    """A member whose name and attributes do not fill the memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def _members(
    source: str, columns: Columns
) -> Iterator[tuple[int | None, tarfile.TarInfo, tarfile.TarFile]]:
    """Yield the images of a tar archive with their numbers, and the targets without."""
    number = 0
    with ExitStack() as stack:
        file = _open(source, stack)
        archive = stack.enter_context(tarfile.open(fileobj=file, mode="r:*", tarinfo=_Member))
        for member in archive:
            ending = member.name[len(_key_of(member.name)) + 1 :].lower()
            if member.isfile() and _is_image(ending, columns):
                yield number, member, archive
                number += 1
            elif member.isfile() and ending and ending == (columns.target or "").lower():
                yield None, member, archive
            archive.members = []  # type: ignore[attr-defined]  # all that were seen


def _key_of(name: str) -> str:
    """Return the key of a member's sample: a/1 for a/1.left.png."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _is_image(ending: str, columns: Columns) -> bool:
    if columns.image is not None:
        return ending == columns.image
    return f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES
