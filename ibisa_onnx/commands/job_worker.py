"""What the workers of a job do: open the model, explain images, write results as `run` does.

All of it is pickled and runs in another process, on Ray perhaps on another machine. What is to be
printed is noted, and printed by the parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibisa_onnx.commands.console import Bar, Console, Line
from ibisa_onnx.commands.explaining import IBISA
from ibisa_onnx.commands.model_options import ModelChoice
from ibisa_onnx.commands.outputs import Destinations
from ibisa_onnx.commands.resuming import FinishedPictures, PictureResults, Request
from ibisa_onnx.commands.work import Work
from ibisa_onnx.errors import (
    AbsentTargetError,
    IbisaError,
    OptionError,
    ProviderError,
    ResultError,
    TargetError,
)
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.methods.stopping import STOPPED
from ibisa_onnx.serving.jobs import Item, Outcome, message_of
from ibisa_onnx.serving.storage import Storage, storage_at

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Explainer
    from ibisa_onnx.explanation import Explanation
    from ibisa_onnx.methods.base import Method
    from ibisa_onnx.methods.registry import MethodSettings

_OF_THE_JOB = (ResultError, OptionError, ProviderError, TargetError)
"""Errors that every image would have."""


@dataclass(frozen=True)
class Opening:
    """Opens the model of a run in a worker: the run's options, pickled."""

    choice: ModelChoice
    explainer: Mapping[str, Any]
    targets: Sequence[Any] | None
    several: bool
    method: str
    seed: int
    deadline: float | None
    uncertainty: bool
    signed: bool
    with_data: bool
    console: Console
    settings: MethodSettings | None = None
    request: str = ""
    inputs: tuple[str, ...] = ()
    place: str | None = None  # of Ray's results
    map_type: str | None = None  # of Ray's rows
    overlays: bool = True
    folder: str = field(default_factory=os.getcwd)

    def open(self) -> Explainer:
        """Open the model."""
        from ibisa_onnx.models.running import deadline_limit

        with deadline_limit(self.deadline):
            return self.choice.explainer(**self.explainer)

    def named_method(self, explainer: Explainer) -> Method:
        """Return the method."""
        if self.method == IBISA or self.settings is None:
            return explainer.method
        from ibisa_onnx.methods.registry import method_named

        return method_named(self.method, self.settings)

    @property
    def drawn(self) -> dict[str, bool]:
        """Options of the results' files."""
        return {"uncertainty": self.uncertainty, "signed": self.signed, "data": self.with_data}

    def __call__(self, stop: Callable[[], bool]) -> Callable[[Item], Outcome]:
        """Open the model in a worker; return what explains an image."""
        with suppress(OSError):  # of another node, where only absolute paths work
            os.chdir(self.folder)
        return _Worker(self, self.open(), stop)


class _Worker:
    """Explains images in a worker."""

    def __init__(self, opening: Opening, explainer: Explainer, stop: Callable[[], bool]) -> None:
        self._opening, self._explainer, self._stop = opening, explainer, stop
        self._method = opening.named_method(explainer)
        self._storage = None if opening.place is None else storage_at(opening.place)

    def __call__(self, item: Item) -> Outcome:
        """Explain an image; errors that every image would have are raised."""
        from ibisa_onnx.models.running import last_resort

        outcome = Outcome()
        try:
            with last_resort(lambda _: os._exit(1)):
                self._explain(item, outcome)
        except _OF_THE_JOB as error:
            if isinstance(error, AbsentTargetError) or item.target is not None:
                outcome.error = message_of(error, item.source)
            else:
                raise
        except Exception as error:
            outcome.error = message_of(error, item.source)
        if outcome.error is not None:
            outcome.rows, outcome.files = [], []
            outcome.sha256 = _hash_of(item.image)
        return outcome

    def _explain(self, item: Item, outcome: Outcome) -> None:
        opening = self._opening
        where = Destinations(
            [item.source],
            None,
            several_targets=opening.several,
            with_data=opening.with_data,
            stems={item.source: Path(item.stem)},
            inputs=opening.inputs,
        )
        request = Request(opening.request)
        if item.find and (found := FinishedPictures(request, where).find(item.source)):
            outcome.found = [[str(path) for path in paths] for paths in found]
            outcome.sha256 = _hash_of(item.image)
            return
        work = _JobWork(
            _Told(opening.console, outcome),
            self._explainer,
            where,
            opening.targets if item.target is None else [item.target],
            opening.seed,
            opening.deadline,
            opening.uncertainty,
            signed=opening.signed,
            method=self._method,
            stop=self._stop,
            request=None if item.target is not None else request,
            item=item,
            outcome=outcome,
            map_type=opening.map_type,
            overlays=opening.overlays,
            storage=self._storage,
        )
        work.explain(item.source, alone=True)


def _hash_of(image: str | bytes) -> str | None:
    from ibisa_onnx.io.images import image_sha256

    try:
        return image_sha256(image)
    except IbisaError:
        return None


class _Told(Console):
    """A console that notes what is to be printed."""

    def __init__(self, console: Console, outcome: Outcome) -> None:
        super().__init__(console.as_json, console.quiet, console.verbose)
        object.__setattr__(self, "_told", outcome.told)

    _told: list[tuple[str, tuple[Any, ...]]]

    def result(
        self, lines: Sequence[Line], data: Mapping[str, Any], *, bare: Sequence[str] = ()
    ) -> None:
        shown = () if self.as_json or self.quiet else tuple(lines)
        plain = dict(data) if self.as_json else {}
        self._told.append(("result", (shown, plain, tuple(bare))))

    def note(self, lines: Sequence[Line]) -> None:
        if self.verbose:
            self._told.append(("note", (tuple(lines),)))

    def warn(self, warnings: Sequence[str]) -> None:
        self._told += [("warn", (text,)) for text in warnings]

    def progress(self, label: str) -> Bar:
        return Bar()


@dataclass(frozen=True, kw_only=True)
class _JobWork(Work):
    """Explains one image of a job; results are also noted in its outcome."""

    item: Item
    outcome: Outcome
    map_type: str | None
    overlays: bool
    storage: Storage | None

    def _source(self, picture: str) -> str | bytes:
        return self.item.image

    def _results(self) -> PictureResults:
        return PictureResults(self.where.several_targets, self._save)

    def _save(self, contents: Mapping[Path, bytes]) -> None:
        if self.storage is None:
            write_files(contents)
        else:
            self.storage.write({path.as_posix(): data for path, data in contents.items()})
        names = [str(path) for path in contents]
        self.outcome.files = list(dict.fromkeys((*self.outcome.files, *names)))

    def _deliver(
        self, picture: str, explanation: Explanation, results: PictureResults, *, first: bool
    ) -> None:
        outcome = self.outcome
        outcome.sha256 = explanation.provenance.image_sha256
        outcome.finished &= explanation.completion.cut_short != STOPPED
        if self.map_type is not None:
            from ibisa_onnx.serving.tables import row_of

            outcome.rows.append(row_of(explanation, self.map_type, signed=self.signed))
        if self.overlays:
            super()._deliver(picture, explanation, results, first=first)
        else:
            self.console.warn(explanation.warnings)


def print_noted(console: Console, outcome: Outcome) -> None:
    """Print what a worker has noted."""
    for kind, arguments in outcome.told:
        if kind == "result":
            lines, data, bare = arguments
            console.result(lines, data, bare=bare)
        elif kind == "note":
            console.note(*arguments)
        else:
            console.warn(arguments)
