"""Explanations on Ray: `Explain` for datasets, and the jobs of `ibisa-onnx run --on ray`.

A job is a dataset of units (`serving.sources`), one actor per core or GPU. An actor reads the
images of a unit, explains them, and writes their results and what is done (`serving.jobs`) by
itself, so neither images nor results pass through the driver or the object store. What Ray returns
are receipts. Ray restarts lost actors and repeats their units; what is written is not repeated.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import IbisaError, ImageError, ModelError, OptionError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.limits import Limits
from ibisa_onnx.serving.jobs import (
    MOST_DEATHS,
    PART_IMAGES,
    PART_SECONDS,
    RESULTS,
    Done,
    Entry,
    Item,
    Manifest,
    Outcome,
    is_part,
    killed,
    message_of,
)
from ibisa_onnx.serving.sources import FILES, Columns, Row, Unit, read
from ibisa_onnx.serving.storage import storage_at
from ibisa_onnx.serving.tables import (
    COLUMNS,
    ERROR,
    SOURCE,
    check_map_type,
    error_row,
    parquet_of,
    row_of,
    rows_of,
    table_of,
)

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Target

_STORE = 100 << 20  # bytes of the object store of a Ray started here: receipts are small
_TOLD = 20  # errors per receipt that are printed
_EXTRA = "ray"
_ADDRESS = re.compile(r"(.+):([0-9]{1,5})")
_CLIENT = "ray://"
_PATIENCE = 10.0  # seconds until a cluster accepts a connection


class Explain:
    """Explains the rows of a Ray dataset: the class to pass to `map_batches`.

    The model is opened once per actor. A row that cannot be explained becomes a row with an error,
    so a bad image does not end the job.

    Parameters
    ----------
    model
        As `Explainer`. A path must exist on every node.
    image
        Column of the images: paths, bytes of image files, or arrays uint8 [H, W, 3].
    target
        Column of targets, class indices or labels, one per row; None: `targets` for all rows.
    targets
        What to explain in each image, as in `Explainer.explain_all`; several add a row each. None:
        the predicted class.
    maps
        How maps are stored: "float32", "float16", "uint8" (255 times the value) or "none".
    overlay
        Whether to add overlays as PNG files.
    prefix
        Put before the names of all columns that are added.
    seed, deadline, method
        As in `Explainer.explain`.
    **explainer
        Further arguments of `Explainer`; `threads` is 1 by default, for one actor per core.

    Raises
    ------
    OptionError
        An argument is invalid.
    IbisaError
        The model cannot be opened.

    Examples
    --------
    ```python
    import ray

    from ibisa_onnx.serving.ray import Explain

    images = ray.data.read_binary_files("s3://bucket/images", include_paths=True)
    images.map_batches(
        Explain,
        fn_constructor_kwargs={"model": "/models/model.onnx", "image": "bytes"},
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=8),
        num_cpus=1,
    ).write_parquet("s3://bucket/explained")
    ```
    """

    def __init__(
        self,
        model: Any,
        *,
        image: str = "image",
        target: str | None = None,
        targets: Sequence[Target] | Target | None = None,
        maps: str = "float32",
        overlay: bool = False,
        prefix: str = "",
        seed: int = 0,
        deadline: float | None = None,
        method: Any = None,
        **explainer: Any,
    ) -> None:
        from ibisa_onnx.explainer import Explainer

        self._image, self._target, self._targets = image, target, targets
        self._maps, self._overlay, self._prefix = check_map_type(maps), overlay, prefix
        self._given = {"seed": seed, "deadline": deadline, "method": method}
        self._explainer = Explainer(model, **{"threads": 1, **explainer})

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Explain a batch.

        Parameters
        ----------
        batch
            Columns by name, as `map_batches` passes them by default (`batch_format="numpy"`).

        Returns
        -------
        pyarrow.Table
            The columns of the batch, except bytes and pixels of images, and, for each explanation:

            - `image_sha256`: SHA-256 of the image
            - `target_kind`, `target_index`, `target_label`, `target_caption`,
              `target_probability`: what was explained
            - `map`: a .npy file [H, W], or null
            - `overlay`: a PNG file, or null
            - `record`: `Explanation.record` as JSON
            - `error`: why the row could not be explained, else null

        Raises
        ------
        OptionError
            The batch has another format, lacks a column, or has one that would be added.
        """
        images = self._column(batch, self._image)
        targets = None if self._target is None else self._column(batch, self._target)
        added = [f"{self._prefix}{name}" for name in COLUMNS]
        if taken := [name for name in added if name in batch]:
            raise OptionError(
                f"the dataset already has a column {taken[0]!r}; pass prefix='ibisa_'"
            )
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        for number, image in enumerate(images):
            found = self._explain(image, None if targets is None else targets[number], number)
            rows += found
            numbers += [number] * len(found)
        table = table_of(rows).rename_columns(added)
        return _with_columns(table, self._kept(batch), numbers)

    def _column(self, batch: Mapping[str, Any], name: str) -> Any:
        if not isinstance(batch, Mapping):
            raise OptionError(
                f"the batch is a {type(batch).__name__}; omit batch_format, or pass 'numpy'"
            )
        if name not in batch:
            raise OptionError(f"there is no column {name!r}; found {', '.join(batch) or 'none'}")
        return batch[name]

    def _explain(self, image: Any, target: Any, number: int) -> list[dict[str, Any]]:
        """Return the rows of one image."""
        if isinstance(target, np.generic):
            target = target.item()
        targets = self._targets if target is None else target
        try:
            found = self._explainer.explain_all(image, targets, **self._given)
            return [row_of(each, self._maps, overlay=self._overlay) for each in found]
        except Exception as error:
            name = image if isinstance(image, str) else f"row {number} of a batch"
            return [error_row(message_of(error, name))]

    def _kept(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns to keep: all but those that hold whole images."""
        images = batch[self._image]
        paths = all(isinstance(each, str) for each in images)
        return {name: values for name, values in batch.items() if paths or name != self._image}


def _with_columns(table: Any, columns: Mapping[str, Any], numbers: Sequence[int]) -> Any:
    """Return a table with these rows of columns in front."""
    arrow = import_extra("pyarrow", _EXTRA)
    for place, (name, values) in enumerate(columns.items()):
        table = table.add_column(place, name, _array(arrow, np.asarray(values)[list(numbers)]))
    return table


def _array(arrow: Any, values: Any) -> Any:
    """Return a column as an Arrow array; arrays as Ray's tensors."""
    if values.ndim == 1 and not any(isinstance(each, np.ndarray) for each in values[:1]):
        return arrow.array(values.tolist() if values.dtype == object else values)
    extensions = import_extra("ray.data.extensions", _EXTRA)
    if values.ndim > 1:
        return extensions.ArrowTensorArray.from_numpy(values)
    return extensions.ArrowVariableShapedTensorArray.from_numpy(values)


@dataclass(frozen=True)
class RayJob:
    """What the actors of a job need; pickled.

    Attributes
    ----------
    opening
        Opens the model; returns the function from an `Item` to its `Outcome`. It is passed a
        function that tells whether to stop.
    place
        Folder or URL of the results.
    request
        Digest of everything but the images that results depend on.
    columns
        Columns of Parquet files and members of tar archives that are read.
    limits
        Limits on image files; None: from the environment of each actor.
    run
        A name of this run of the job, unlike any other's.
    part_images, part_seconds
        How many images a file of results holds at most, and after how many seconds it is written.
    """

    opening: Callable[[Callable[[], bool]], Callable[[Item], Outcome]]
    place: str
    request: str
    columns: Columns = field(default_factory=Columns)
    limits: Limits | None = None
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    part_images: int = PART_IMAGES
    part_seconds: float = PART_SECONDS

    @property
    def manifest(self) -> Manifest:
        """The job's manifest."""
        return Manifest(storage_at(self.place), self.request)


@dataclass
class Receipt:
    """What an actor reports of images that are done.

    Attributes
    ----------
    images
        Number of images.
    errors
        Messages of those that could not be explained; None for each that was, in order.
    part
        Name of the file of results.
    problem
        A file that could not be read to its end.
    fatal
        Why the job cannot go on.
    """

    images: int = 0
    errors: list[str | None] = field(default_factory=list)
    part: str | None = None
    problem: str | None = None
    fatal: IbisaError | None = None


@dataclass
class _Part:
    """Results that are not written yet."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    done: list[tuple[Row, Outcome]] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)


class _Actor:
    """Explains units; opened once per actor. Errors are returned, as Ray would only print them."""

    def __init__(self, job: RayJob) -> None:
        self._job = job
        self._fatal: IbisaError | None = None
        try:
            self._manifest, self._storage = job.manifest, storage_at(job.place)
            self._work = job.opening(lambda: False)
        except IbisaError as error:
            self._fatal = error
        except Exception as error:
            self._fatal = ModelError(f"unexpected {type(error).__name__} in an actor: {error}")

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Explain the units of a batch; yield a receipt for each file of results."""
        for data in batch["unit"]:
            for receipt in self._receipts(pickle.loads(data)):
                yield {"receipt": np.array([pickle.dumps(receipt)], object)}

    def _receipts(self, unit: Unit) -> Iterator[Receipt]:
        if self._fatal is not None:
            yield Receipt(fatal=self._fatal)
            return
        try:
            yield from self._explain(unit)
        except _SupersededError:
            return
        except IbisaError as error:
            yield Receipt(fatal=error)

    def _explain(self, unit: Unit) -> Iterator[Receipt]:
        """Explain a unit, from where an earlier actor left it."""
        group, job = unit.group, self._job
        before = self._manifest.group(group)
        known = [entry for entries in before.values() for entry in entries]
        for entries in before.values():  # the receipts that it may not have delivered
            yield _receipt_of(entries)
        guard = _Guard(self._manifest, job.run, group)
        part, number = _Part(), max(before, default=-1) + 1
        rows, problem = read(unit, job.columns, Done.of(known), job.limits), None
        end = max(
            [start for start, _ in unit.ranges] + [entry.stop or 0 for entry in known], default=0
        )
        while True:
            try:
                row = next(rows, None)
            except ImageError as error:
                row, problem = None, str(error)
            if row is None:
                break
            outcome, end = self._outcome(row, guard), row.number + 1
            part.done.append((row, outcome))
            part.rows += [{SOURCE: row.source, **each} for each in outcome.rows]
            full = len(part.done) >= job.part_images or guard.gave_up
            if full or time.monotonic() - part.begun > job.part_seconds:
                guard.check()
                yield self._write(unit, part, number)
                part, number = _Part(), number + 1
        is_open = bool(unit.ranges) and unit.ranges[-1][1] is None and problem is None
        if part.done or is_open:
            guard.check()
            yield self._write(unit, part, number, end if is_open else None)
        guard.release()
        if problem is not None:
            yield Receipt(problem=problem)

    def _outcome(self, row: Row, guard: _Guard) -> Outcome:
        """Explain one image, unless it is known to kill its worker."""
        if row.image is None:
            return _failed(row.error or "", row.source)
        if deaths := guard.begin(row.number):
            return _failed(killed(deaths, "see the logs of Ray"), row.source)
        item = Item(row.number, row.source, row.image, row.stem, row.target)
        outcome = self._work(item)
        if outcome.error is not None and not outcome.rows:
            outcome.rows = [error_row(outcome.error, outcome.sha256)]
        return outcome

    def _write(self, unit: Unit, part: _Part, number: int, end: int | None = None) -> Receipt:
        """Write a file of results, then what is done; `end` is the number of rows, once known."""
        name = None
        if part.rows:
            name = f"{RESULTS}/part-{unit.group}-{number:06d}-{secrets.token_hex(4)}.parquet"
            self._storage.write({name: parquet_of(part.rows)})
        entries = list(_entries(unit, part, name, end))
        if entries:
            self._manifest.add(unit.group, number, entries)
        receipt = _receipt_of(entries)
        receipt.errors = [outcome.error for _, outcome in part.done]
        return receipt


class _SupersededError(Exception):
    """Another actor has taken over the unit: Ray believed this one, or its node, to be dead."""


class _Guard:
    """Finds the image that killed an earlier actor, by a note in the manifest.

    An actor puts its name on a unit. One that finds another's name, because that actor died, also
    notes each image before it begins; an image whose note is found twice is not tried again. An
    actor whose name was replaced stops.
    """

    def __init__(self, manifest: Manifest, run: str, group: str) -> None:
        self._manifest, self._run, self._group = manifest, run, group
        found = manifest.claim(run, group)
        self._found = found or {}
        self._careful = found is not None
        self._name = secrets.token_hex(8)
        self.gave_up = False  # whether the latest image is not tried again
        self._note(self._found)

    def begin(self, number: int) -> int:
        """Note that an image is begun; return how many actors it has killed if these are enough."""
        if not self._careful:
            return 0
        deaths = int(self._found.get("deaths", 0)) if self._found.get("row") == number else 0
        self.gave_up = deaths >= MOST_DEATHS
        if self.gave_up:
            return deaths
        self.check()
        self._note({"row": number, "deaths": deaths + 1})
        return 0

    def check(self) -> None:
        """Raise `_SupersededError` if another actor has taken over."""
        found = self._manifest.claim(self._run, self._group) or {}
        if found.get("name") != self._name:
            raise _SupersededError

    def release(self) -> None:
        """Remove the note."""
        self._manifest.release(self._run, self._group)

    def _note(self, what: Mapping[str, Any]) -> None:
        self._manifest.note(self._run, self._group, {**what, "name": self._name})


def _failed(message: str, source: str) -> Outcome:
    text = message if source in message else f"{source}: {message}"
    return Outcome(text, rows=[error_row(text)])


def _receipt_of(entries: Sequence[Entry]) -> Receipt:
    """Return the receipt of what is done."""
    errors: list[str | None] = []
    for entry in entries:
        failed = [entry.error or f"{entry.source}: row {row}" for row in entry.failed]
        errors += [*failed, *[None] * (entry.images - len(failed))]
    parts = [entry.part for entry in entries if entry.part is not None]
    return Receipt(len(errors), errors, part=parts[0] if parts else None)


def _entries(unit: Unit, part: _Part, name: str | None, end: int | None) -> Iterator[Entry]:
    """Yield what is done, once a part is written."""
    if unit.kind == FILES:
        for row, outcome in part.done:
            yield Entry(
                unit.sources[row.number],
                unit.stamps[row.number],
                failed=(0,) if outcome.error is not None else (),
                sha256=outcome.sha256,
                error=outcome.error,
                part=name if outcome.rows else None,
                files=tuple(outcome.files),
                stem=unit.stems[row.number] if outcome.files else "",
            )
        return
    (source,), (stamp,), (stem,) = unit.sources, unit.stamps, unit.stems
    stem = stem if any(outcome.files for _, outcome in part.done) else ""
    failed = {row.number for row, outcome in part.done if outcome.error is not None}
    for start, stop in _ranges([row.number for row, _ in part.done]):
        inside = tuple(sorted(failed & set(range(start, stop))))
        yield Entry(source, stamp, start, stop, failed=inside, part=name, stem=stem)
    if end is not None:
        yield Entry(source, stamp, end, end, ended=True)


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as ranges, ends excluded."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


def forget_failed(place: str, manifest: Manifest) -> None:
    """Remove the images that could not be explained from what is done, and from the results.

    Raises
    ------
    ResultError
        A file cannot be read or written.
    """
    storage = storage_at(place)
    for name, entries in manifest.entries():
        if not any(entry.failed for entry in entries):
            continue
        part = next((entry.part for entry in entries if entry.part is not None), None)
        data = None if part is None else storage.read(part)
        if part is not None and data is None:  # someone has removed it
            manifest.replace(name, [])
            continue
        rows = [] if data is None else [row for row in rows_of(data, part or "") if not row[ERROR]]
        new = f"{RESULTS}/part-{secrets.token_hex(16)}.parquet" if rows else None
        if new is not None:
            storage.write({new: parquet_of(rows)})
        manifest.replace(name, list(_without_failed(entries, new)))


def _without_failed(entries: Iterable[Entry], part: str | None) -> Iterator[Entry]:
    for entry in entries:
        if entry.start is None or entry.stop is None:
            if not entry.failed:
                yield replace(entry, part=part)
            continue
        if entry.ended:
            yield entry
            continue
        kept = sorted(set(range(entry.start, entry.stop)) - set(entry.failed))
        for start, stop in _ranges(kept):
            yield replace(entry, start=start, stop=stop, failed=(), part=part)


def done_at(place: str, manifest: Manifest) -> Done:
    """Return what is done and has its results; images whose results are gone are not done."""
    there = set(filter(is_part, storage_at(place).names(RESULTS)))
    listed = (entry for _, entries in manifest.entries() for entry in entries)
    return Done.of(entry for entry in listed if entry.part is None or entry.part in there)


def remove_unlisted(place: str, parts: Collection[str] = ()) -> None:
    """Remove files of results that no entry names: their actors died before it was written."""
    storage = storage_at(place)
    found = filter(is_part, storage.names(RESULTS))
    storage.remove(name for name in found if name not in parts)


def run_units(
    job: RayJob,
    units: Iterable[Unit],
    *,
    address: str | None = None,
    actors: int | None = None,
    gpus: bool = False,
    quiet: bool = False,
) -> Generator[Receipt, None, None]:
    """Explain units on Ray; yield receipts as they arrive.

    Parameters
    ----------
    job
        The job.
    units
        What to do.
    address
        Address of a Ray cluster; None: one that is started here, and stopped at the end, unless
        this process is already connected to one.
    actors
        Number of actors; None: one per core, or per GPU.
    gpus
        Whether each actor uses a GPU.
    quiet
        Whether Ray's own messages are dropped.

    Raises
    ------
    MissingDependencyError
        Ray is not installed.
    OptionError
        There is no cluster at the address, or it has no GPU.
    IbisaError
        What an actor reported: the job cannot go on.
    """
    with connected(address, actors) as ray:
        data = import_extra("ray.data", _EXTRA)
        for name in ("ray", "ray.data") if quiet else ():
            logging.getLogger(name).setLevel(logging.CRITICAL)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # so that each receipt arrives at once
        kind = "GPU" if gpus else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if there == 0:
            raise OptionError(f"the Ray cluster has no {kind}; pass another --provider or cluster")
        items = [{"unit": pickle.dumps(each)} for each in units]
        if not items:
            return
        most = max(1, min(actors or there, len(items)))
        dataset = data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Actor,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=data.ActorPoolStrategy(
                min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=0 if gpus else 1,
            num_gpus=1 if gpus else 0,
        )
        with closing(iter(dataset.iter_rows())) as rows:  # else it would start Ray again
            yield from _received(rows, ray.exceptions.RayError)


def _received(rows: Iterator[Mapping[str, Any]], kind: type[Exception]) -> Iterator[Receipt]:
    """Yield the receipts of rows; `kind` are Ray's own errors."""
    while True:
        try:
            row = next(rows, None)
        except kind as error:
            raise _failure(error) from error
        if row is None:
            return
        receipt: Receipt = pickle.loads(row["receipt"])
        if receipt.fatal is not None:
            raise receipt.fatal
        yield receipt


def _failure(error: Exception) -> ModelError:
    """Return an error of Ray itself in one line; its text ends with the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[-1] if lines else type(error).__name__
    return ModelError(
        f"Ray ended the job: {cause}",
        "see the logs of Ray; nodes need the same packages and files as this machine",
    )


def _check_reachable(address: str | None) -> None:
    """Raise `OptionError` for addresses that cannot work, on which Ray itself waits minutes."""
    if (address or "").startswith(_CLIENT):
        raise OptionError(
            f"cannot reach Ray at {shown(address)}: Ray Client does not support datasets; run this "
            "on a node of the cluster, for instance by `ray job submit`, with --ray-address auto"
        )
    found = _ADDRESS.fullmatch(address or "")
    if found is None:  # "auto", which Ray resolves
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"cannot reach Ray at {shown(address)}: {error}; check --ray-address"
        ) from error


def _unreachable(address: str | None, error: Exception) -> OptionError:
    """Return why Ray cannot be reached; a missing token is in the cause of Ray's error only."""
    what = "start Ray" if address is None else f"reach Ray at {shown(address)}"
    if "AuthenticationError" in f"{error} {error.__cause__}":
        return OptionError(
            f"cannot {what}: the cluster requires a token; set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN to the cluster's token unless it is in ~/.ray/auth_token"
        )
    return OptionError(f"cannot {what}: {' '.join(str(error).split())}; check --ray-address")


class _OneThread:
    """A stream for the thread that makes it: Ray prints what it notices to stdout from its own."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Write, or drop what another thread writes."""
        if threading.get_ident() == self._thread:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def connected(address: str | None, actors: int | None) -> Iterator[Any]:
    """Yield `ray`, connected to a cluster; one that is started here is stopped at the end.

    Raises
    ------
    MissingDependencyError
        Ray is not installed.
    OptionError
        The cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports nothing to anyone
    ray = import_extra("ray", _EXTRA)
    if ray.is_initialized():
        yield ray
        return
    given: dict[str, Any] = {"address": address}
    _check_reachable(address)
    if address is None:
        given = {
            "address": "local",
            "num_cpus": actors,
            "include_dashboard": False,
            "object_store_memory": _STORE,
        }
    try:
        ray.init(**given, log_to_driver=False, logging_level="CRITICAL")
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise _unreachable(address, error) from error
    with redirect_stdout(_OneThread(sys.stdout)):
        try:
            yield ray
        finally:
            ray.shutdown()
