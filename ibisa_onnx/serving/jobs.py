"""Jobs over many images, whatever computes them: a manifest of what is done, and resuming.

The manifest lies beside the results, one folder per request (the digest of everything but the
images that results depend on):

    ibisa-job/REQUEST/job.json                 the model, the options and the versions
    ibisa-job/REQUEST/done/XX/GROUP-N.jsonl    what is done, one entry a line

A fragment is written whole, once the results that its entries name are, and is never changed. So
100 million images are some 100,000 small files, not one that grows; a killed job loses what was in
work, and resumes from the fragments. An entry is one image, or a range of rows of one file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ibisa_onnx.errors import IbisaError, ResultError
from ibisa_onnx.io.formats import encode_json, jsonable
from ibisa_onnx.serving.storage import Storage

FOLDER = "ibisa-job"
"""The folder of manifests, beside the results."""
RESULTS = "results"
"""The folder of a job's Parquet files, beside it."""
PART_IMAGES = 256
"""Images per fragment, and per file of results: what a killed worker repeats at most."""
PART_SECONDS = 60.0
"""Seconds after which a fragment is written, however few images it holds."""
MOST_DEATHS = 2
"""Times that an image may kill its worker process before it becomes an error."""
_FORMAT = 1
_PART = re.compile(rf"{RESULTS}/part-[0-9a-f]+(-[0-9]{{6}}-[0-9a-f]{{8}})?\.parquet")
_OURS = re.compile(
    rf"{FOLDER}/[0-9a-f]{{1,16}}/"
    r"(job\.json|done/[0-9a-f]{2}/[0-9a-f]+-[0-9]{9}\.jsonl|begun/[0-9a-f]+-[0-9a-f]+\.json)"
)
_HOPELESS = 100  # images that fail in succession from the start until a job gives up
_DIGEST = 16  # bytes
_LONGEST_STEM = 100  # characters of one that is made longer
_MOST_ROWS = 1 << 40  # of one file


@dataclass(frozen=True)
class Entry:
    """What is done: one image, or rows of a file that holds many.

    Attributes
    ----------
    source
        Path or URL of the file.
    stamp
        Its size and modification time, or what its file system has instead: changes if it does.
    start, stop
        The range of rows, `stop` excluded; None: the file is one image.
    ended
        Whether the file has no rows from `stop` on.
    failed
        The rows that could not be explained; of an image, row 0.
    sha256
        SHA-256 of the image; None for a range, whose images are listed in `part`.
    error
        Why the image could not be explained.
    part
        Name of the file with the results' rows; None if there is none.
    files
        Names of further files of results.
    stem
        Where the source's overlays belong, without suffix; empty if there are none.
    """

    source: str
    stamp: str
    start: int | None = None
    stop: int | None = None
    ended: bool = False
    failed: tuple[int, ...] = ()
    sha256: str | None = None
    error: str | None = None
    part: str | None = None
    files: tuple[str, ...] = ()
    stem: str = ""

    @property
    def images(self) -> int:
        """Number of images."""
        return 1 if self.start is None or self.stop is None else self.stop - self.start

    def line(self) -> str:
        """Return the entry as a line of JSON, without fields that have their default."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        defaults = {each.name: each.default for each in fields(self)}
        plain = {name: value for name, value in given.items() if value != defaults[name]}
        return json.dumps(plain) + "\n"

    @classmethod
    def of(cls, line: str) -> Entry:
        """Read a line; `ValueError` or `TypeError` if it is not an entry."""
        data = json.loads(line)
        lists = {name: tuple(data[name]) for name in ("failed", "files") if name in data}
        entry = cls(**{**data, **lists})
        required = [each.name for each in fields(cls) if each.default is MISSING]
        if not all(isinstance(getattr(entry, name), str) for name in required):
            raise ValueError("not an entry")
        rows = (entry.start, entry.stop)
        if rows != (None, None) and not _is_range(*rows):
            raise ValueError("not a range of rows")
        if not isinstance(entry.stem, str):
            raise ValueError("not a stem")
        if not all(isinstance(each, int) for each in entry.failed):
            raise ValueError("not numbers of rows")
        if entry.part is not None and not is_part(entry.part):
            raise ValueError("results elsewhere")
        return entry


class Manifest:
    """The manifest of one request, at a storage.

    Parameters
    ----------
    storage
        Where results and manifests are kept.
    request
        Digest of everything but the images that results depend on.
    """

    def __init__(self, storage: Storage, request: str) -> None:
        self._storage, self.request = storage, request
        self._home = f"{FOLDER}/{request[:16]}"

    def start(self, facts: Mapping[str, Any]) -> None:
        """Write job.json, unless it exists.

        Parameters
        ----------
        facts
            The model, options, versions and the like, as plain data.

        Raises
        ------
        ResultError
            It cannot be written.
        """
        name = f"{self._home}/job.json"
        if self._storage.read(name) is None:
            head = {"format": _FORMAT, "request": self.request}
            self._storage.write({name: encode_json(jsonable({**head, **facts}))})

    def others(self) -> list[dict[str, Any]]:
        """Return the facts of the jobs with other requests that have done something here."""
        names = self._names(FOLDER)
        active = {name.split("/")[1] for name in names if _is_fragment(name)}
        active.discard(self._home.split("/")[1])
        return [_json(self._storage.read(f"{FOLDER}/{each}/job.json")) for each in sorted(active)]

    def add(self, group: str, number: int, entries: Sequence[Entry]) -> None:
        """Write one fragment.

        Parameters
        ----------
        group
            Hexadecimal digest of what is being done; its fragments lie together.
        number
            Number of the fragment in its group. An existing one is replaced.
        entries
            What is done; their results are already written.

        Raises
        ------
        ResultError
            It cannot be written.
        """
        text = "".join(each.line() for each in entries)
        self._storage.write({self._fragment(group, number): text.encode()})

    def group(self, group: str) -> dict[int, list[Entry]]:
        """Return the entries of each fragment of a group, by its number, in order."""
        inside = self._names(f"{self._home}/done/{group[:2]}")
        mine = [name for name in inside if name.rpartition("/")[2].startswith(f"{group}-")]
        mine.sort()
        numbers = [int(name.rpartition("-")[2].removesuffix(".jsonl")) for name in mine]
        fragments = map(_entries, self._storage.read_all(mine))
        return dict(zip(numbers, fragments, strict=True))

    def entries(self) -> Iterator[tuple[str, list[Entry]]]:
        """Yield the name and the entries of every fragment."""
        names = self._names(f"{self._home}/done")
        for name, data in zip(names, self._storage.read_all(names), strict=True):
            yield name, _entries(data)

    def replace(self, name: str, entries: Sequence[Entry]) -> None:
        """Replace the entries of a fragment, by the name that `entries` returned."""
        if entries:
            self._storage.write({name: "".join(each.line() for each in entries).encode()})
        else:
            self._storage.remove([name])

    def clear(self) -> None:
        """Forget what is done, here and in all other jobs at this place."""
        self._storage.remove(self._names(FOLDER))

    def discard(self) -> None:
        """Remove this manifest if nothing is done."""
        names = self._names(self._home)
        if not any(map(_is_fragment, names)):
            self._storage.remove(names)

    # What a worker has begun: `serving.ray` finds by it which image killed a worker before.

    def claim(self, run: str, group: str) -> dict[str, Any] | None:
        """Return what an earlier worker of this run has noted on a group; None: nothing."""
        data = self._storage.read(self._claim(run, group))
        return None if data is None else _json(data)

    def note(self, run: str, group: str, claim: Mapping[str, Any]) -> None:
        """Note what a worker is about to do."""
        self._storage.write({self._claim(run, group): json.dumps(claim).encode()})

    def release(self, run: str, group: str) -> None:
        """Remove the note on a group that is done."""
        self._storage.remove([self._claim(run, group)])

    def release_all(self) -> None:
        """Remove all notes of runs that have ended."""
        self._storage.remove(self._names(f"{self._home}/begun"))

    def _names(self, folder: str) -> list[str]:
        """Return the names of manifests' files in a folder; all others are somebody else's."""
        return [each for each in self._storage.names(folder) if _OURS.fullmatch(each)]

    def _claim(self, run: str, group: str) -> str:
        return f"{self._home}/begun/{run}-{group}.json"

    def _fragment(self, group: str, number: int) -> str:
        return f"{self._home}/done/{group[:2]}/{group}-{number:09d}.jsonl"


@dataclass
class Done:
    """What a manifest lists, indexed by source; some 100 bytes of memory per entry.

    Attributes
    ----------
    images
        Number of images that are done.
    failed
        How many of them could not be explained.
    parts
        Names of the files with their results' rows.
    """

    images: int = 0
    failed: int = 0
    parts: set[str] = field(default_factory=set)
    _single: dict[bytes, bool] = field(default_factory=dict)
    _ranges: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    _ended: dict[bytes, int] = field(default_factory=dict)
    _owners: dict[bytes, bytes] = field(default_factory=dict)  # of stems

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Done:
        """Index entries."""
        done = cls()
        for entry in entries:
            done.add(entry)
        return done

    def add(self, entry: Entry) -> None:
        """Add one entry."""
        key = _key(entry.source, entry.stamp)
        if entry.part is not None:
            self.parts.add(entry.part)
        if entry.stem:
            self._owners.setdefault(_key(entry.stem), _key(entry.source))
        if entry.start is None or entry.stop is None:
            before = self._single.get(key)
            failed = bool(entry.failed) and before is not False  # one success is enough
            self.images += before is None
            self.failed += failed - bool(before)
            self._single[key] = failed
            return
        self.images += entry.images
        self.failed += len(entry.failed)
        self._ranges.setdefault(key, []).append((entry.start, entry.stop))
        if entry.ended:
            self._ended[key] = entry.stop

    def own_stem(self, source: str, stem: str) -> str:
        """Return where a source's overlays belong: at `stem`, unless another source's are there."""
        if self._owners.get(_key(stem)) in (None, _key(source)):
            return stem
        return f"{stem[:_LONGEST_STEM]}-{_key(source).hex()[:8]}"

    def has(self, source: str, stamp: str) -> bool:
        """Return whether an image is done."""
        return _key(source, stamp) in self._single

    def has_failed(self, source: str, stamp: str) -> bool:
        """Return whether an image is done and could not be explained."""
        return self._single.get(_key(source, stamp), False)

    def missing(
        self, source: str, stamp: str, start: int, stop: int | None
    ) -> list[tuple[int, int | None]]:
        """Return the ranges of rows of a file that are not done.

        Parameters
        ----------
        source, stamp
            The file.
        start, stop
            The rows that there are; `stop` None: unknown.
        """
        key = _key(source, stamp)
        stop = self._ended.get(key, stop) if stop is None else stop
        left: list[tuple[int, int | None]] = []
        for first, last in sorted(self._ranges.get(key, [])):
            if first > start:
                left.append((start, first))
            start = max(start, last)
        if stop is None or start < stop:
            left.append((start, stop))
        return [(first, last) for first, last in left if last is None or first < last]


@dataclass(frozen=True)
class Item:
    """An image for a worker.

    Attributes
    ----------
    number
        Its place in the job or unit.
    source
        Path or URL, as it is reported.
    image
        Path or bytes.
    stem
        Where its results belong, without suffix.
    target
        What to explain; None: the job's targets.
    stamp
        Size and modification time of a file.
    find
        Whether to look for finished results first.
    """

    number: int
    source: str
    image: str | bytes
    stem: str
    target: Any = None
    stamp: str = ""
    find: bool = False


@dataclass
class Outcome:
    """What a worker returns for an image.

    Attributes
    ----------
    error
        Why it could not be explained; None: it was.
    sha256
        SHA-256 of the image; None if it could not be read.
    finished
        Whether the image is done; False if the work was stopped early.
    found
        The files of finished results of an earlier run, one list per target.
    rows
        One row of results per target; see `serving.tables`.
    files
        Names of the files that were written.
    told
        What is to be printed, in order: names of methods of the console, and arguments.
    """

    error: str | None = None
    sha256: str | None = None
    finished: bool = True
    found: list[list[str]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    told: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)


@dataclass
class Hope:
    """Ends a job in which nothing works: the first 100 images all fail, one after the other."""

    _failed: int = 0
    _works: bool = False

    def see(self, errors: Sequence[str | None]) -> None:
        """Count images: None for each that was explained, the message for each that was not.

        Raises
        ------
        ResultError
            None of the first 100 could be explained.
        """
        self._works |= None in errors
        self._failed += len(errors)
        if not self._works and self._failed >= _HOPELESS:
            raise ResultError(
                f"stopped, because none of the first {self._failed} images could be explained: "
                f"{errors[-1]}"
            )


def _is_range(start: Any, stop: Any) -> bool:
    return isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop <= _MOST_ROWS


def is_part(name: str) -> bool:
    """Return whether a name is that of a file of results; no other is read or removed."""
    return _PART.fullmatch(name) is not None


def group_of(*facts: Any) -> str:
    """Return a digest of plain data as a group's name."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[: 2 * _DIGEST]


def message_of(error: BaseException, image: str) -> str:
    """Return the message of an image's error, which names the image."""
    if isinstance(error, IbisaError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = "not enough memory"
    else:
        text = " ".join(f"unexpected {type(error).__name__}: {error}".split())
    return text if image in text else f"{image}: {text}"


def killed(times: int, ending: str) -> str:
    """Return the message of an image whose worker processes died."""
    return (
        f"its worker process died {times} times ({ending}), perhaps for lack of memory; explain "
        "it alone, on a machine with more memory"
    )


def _entries(data: bytes | None) -> list[Entry]:
    """Return the entries of a fragment; lines that someone has damaged count as missing."""
    found = []
    for line in (data or b"").decode(errors="replace").splitlines():
        try:
            found.append(Entry.of(line))
        except (ValueError, TypeError, RecursionError):
            continue
    return found


def _is_fragment(name: str) -> bool:
    return name.endswith(".jsonl")


def _key(source: str, stamp: str = "") -> bytes:
    text = f"{source}\0{stamp}".encode(errors="surrogatepass")
    return hashlib.blake2b(text, digest_size=_DIGEST).digest()


def _json(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
