"""`ibisa-onnx annotate`: preprocessing and labels written into the model's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, Line, console_options, rows, write_bytes
from ibisa_onnx.commands.deadlines import deadline_of_all
from ibisa_onnx.commands.model_options import ModelChoice, described_model_options
from ibisa_onnx.commands.model_output import model_destination, write_model
from ibisa_onnx.commands.outputs import check_out
from ibisa_onnx.commands.resolved_fields import (
    field_rows,
    fields_data,
    label_rows,
    labels_data,
    sections_text,
)
from ibisa_onnx.errors import ModelError, OutputError, PreprocessingError, ResultError

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.models.onnx_file import ModelFile
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.models.signature import Signature
    from ibisa_onnx.preprocessing.resolve import ResolvedPreprocessing
    from ibisa_onnx.targets.labels import KnownLabels

_LONGEST = 60
_NOT_KNOWN = (
    "how pixels become this model's input is not known, and a guess is not written into a file; "
    "say --preprocess imagenet, caffe, tf, unit or raw, or give --mean, --std, --scale and "
    "--channel-order"
)


@dataclass(frozen=True)
class _Facts:
    """What is to be written, and what it was read from."""

    signature: Signature
    resolved: ResolvedPreprocessing
    labels: KnownLabels | None
    warnings: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...] | None:
        """The labels alone."""
        return self.labels.labels if self.labels else None


@click.command("annotate", short_help="Write preprocessing and labels into a model's file.")
@click.argument("model")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help="The file to write, MODEL itself too, or - for stdout. "
    "Default: MODEL.annotated.onnx beside MODEL (with --remove: MODEL.plain.onnx).",
)
@click.option("--remove", is_flag=True, help="Take out what an earlier annotate wrote.")
@described_model_options
@deadline_of_all
@console_options
def command(console: Console, out: str | None, remove: bool, choice: ModelChoice) -> None:
    """Write into MODEL's metadata how pictures become its input, and what its classes are called.

    What is said here counts first, then what the file or files beside it say already. The new file
    then needs no flag on these, and others can read it: see docs/reference/preprocessing.md.
    """
    check_out(out)
    if remove:
        _remove(console, out, choice)
        return
    given = (choice.labels, choice.preprocess)
    path = model_destination(choice.model, out, ".annotated.onnx", given=given, in_place=True)
    model = choice.open()
    facts, file = _settle(choice, model), model.file
    console.warn(facts.warnings)
    del model  # its weights are not needed twice
    from ibisa_onnx.preprocessing.annotate import annotate

    proto = _parse(file)
    annotate(proto, facts.resolved.spec, facts.names)
    metadata = _write(path, proto, file)
    _check_says(facts, metadata, None if path is None else path.parent)
    console = console.on_stderr() if path is None else console
    _tell(console, choice, path, facts, metadata)


def _settle(choice: ModelChoice, model: DeployedModel) -> _Facts:
    """Settle what is to be written, and see that it fits the model.

    Raises
    ------
    OutputError
        The model has no such output.
    PreprocessingError
        How pixels become the model's input could only be guessed.
    TargetError
        The labels are not as many as the classes.
    """
    resolved, reader = choice.read(model)
    reader.check()
    labels, doubts = choice.find_labels(reader)
    if resolved.values_are_guessed:
        raise PreprocessingError(_NOT_KNOWN)
    warnings = [*model.warnings, *resolved.warnings, *doubts, *_guesses(resolved)]
    if labels is not None and reader.declared_classes is None:
        warnings += _unchecked(choice, model, resolved)
    return _Facts(model.signature, resolved, labels, tuple(warnings))


def _guesses(resolved: ResolvedPreprocessing) -> list[str]:
    """Warn of what nobody said, which the file will hold as guesses."""
    fields = [field.field for field in resolved.resolved_fields if field.is_guess]
    if not fields:
        return []
    named = ", ".join(f"{field} = {getattr(resolved.spec, field)}" for field in fields)
    flags = ", ".join(f"--{field.replace('_', '-')}" for field in fields)
    return [f"not said, and written as guesses: {named}; if the model was made for others: {flags}"]


def _unchecked(
    choice: ModelChoice, model: DeployedModel, resolved: ResolvedPreprocessing
) -> list[str]:
    """Count the classes by a run where no shape tells; warn where there are none to count."""
    import numpy as np

    black = np.zeros((*resolved.spec.size, 3), np.uint8)
    try:
        choice.explainer(model).predict(black)
    except OutputError as error:
        return [f"the number of labels could not be checked: {error}"]
    return []


def _parse(file: ModelFile) -> onnx.ModelProto:
    """Return the model's graph, its weights in other files left there."""
    proto = file.parse()
    if proto is None:
        raise ModelError(f"nothing can be written into {file.label}: {file.why_no_graph}")
    return proto


def _write(path: Path | None, proto: onnx.ModelProto, file: ModelFile) -> dict[str, str]:
    """Write the model once ONNX Runtime has opened it; return its metadata."""
    from ibisa_onnx.models.session_options import check_opens

    data = check_opens(proto, file)
    if path is None:
        write_bytes(data)
    else:
        write_model(path, data, proto, file)
    return {each.key: each.value for each in proto.metadata_props}


def _check_says(facts: _Facts, metadata: Mapping[str, str], folder: Path | None) -> None:
    """Check that a reader of the new file finds what was to be written."""
    from ibisa_onnx.preprocessing.resolve import resolve_preprocessing
    from ibisa_onnx.targets.labels import choose_labels, known_labels

    spec = resolve_preprocessing(facts.signature, metadata, folder=folder).spec
    first, _ = choose_labels(known_labels(metadata, folder), None)
    misread = facts.labels is not None and (first is None or first.labels != facts.names)
    if spec != facts.resolved.spec or misread:
        raise ResultError(
            "the new file is read otherwise than was written: "
            f"{spec} for {facts.resolved.spec}; this is a bug, please report it"
        )


def _remove(console: Console, out: str | None, choice: ModelChoice) -> None:
    """Take out what an earlier `annotate` wrote."""
    from ibisa_onnx.models.onnx_file import ModelFile
    from ibisa_onnx.models.signature import METADATA_KEY
    from ibisa_onnx.preprocessing.annotate import annotate, written_keys

    if choice.preprocess or choice.flags or choice.labels or _still_to_be_said(choice):
        raise click.UsageError(
            "--remove takes out, the other options put in; give one or the other"
        )
    path = model_destination(choice.model, out, ".plain.onnx", in_place=True)
    file = ModelFile.of(choice.source())
    file.check_readable()
    proto = _parse(file)
    metadata = {each.key: each.value for each in proto.metadata_props}
    keys = [METADATA_KEY, *written_keys(metadata)]
    if METADATA_KEY not in metadata:
        raise ModelError(
            f"{file.label} has no metadata key {METADATA_KEY}: there is nothing to remove"
        )
    annotate(proto, None, None)
    left = _write(path, proto, file)
    console = console.on_stderr() if path is None else console
    data = {"model": choice.model, "file": path and str(path), "removed": keys, "metadata": left}
    text = sections_text(_title(path), {"removed": [f"  {key}" for key in keys]})
    console.result(text, data, bare=[str(path)] if path else [])


def _tell(
    console: Console,
    choice: ModelChoice,
    path: Path | None,
    facts: _Facts,
    metadata: Mapping[str, str],
) -> None:
    """Say what was written, where, from which sources, and what no file can say."""
    from ibisa_onnx.models.signature import METADATA_KEY
    from ibisa_onnx.preprocessing.annotate import written_keys

    written = {key: metadata[key] for key in (METADATA_KEY, *written_keys(metadata))}
    resolved_fields, flags = facts.resolved.resolved_fields, _still_to_be_said(choice)
    data: dict[str, Any] = {
        "model": choice.model,
        "file": path and str(path),
        "written": written,
        "preprocessing": fields_data(resolved_fields),
        "labels": labels_data(facts.labels),
        "still_to_be_said": flags,
        "warnings": list(facts.warnings),
    }
    sections: dict[str, Sequence[Line]] = {
        "written": _written_rows(written, facts.names),
        "preprocessing": field_rows(resolved_fields),
        "labels": label_rows(facts.labels),
        "checked": [
            "  it opens, and says all of this itself"
            + (f"; still give {' '.join(flags)}" if flags else "")
        ],
    }
    console.result(sections_text(_title(path), sections), data, bare=[str(path)] if path else [])


def _still_to_be_said(choice: ModelChoice) -> list[str]:
    """Return the flags that were given and that no metadata stand for: `run` needs them again."""
    pairs = (("--input", choice.input), ("--output", choice.output))
    extra = [f"--extra-input {name}=…" for name, _ in choice.extra_inputs]
    return [*(f"{flag} {name}" for flag, name in pairs if name is not None), *extra]


def _title(path: Path | None) -> str:
    return f"wrote {path}" if path else "wrote to stdout"


def _written_rows(written: Mapping[str, str], labels: Sequence[str] | None) -> list[Line]:
    """Show each key that was written and the beginning of its value."""
    from ibisa_onnx.models.signature import METADATA_KEY

    whole = "preprocessing" + (f" and {len(labels)} labels" if labels else "")
    shown = {
        key: value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
        for key, value in written.items()
    }
    return rows(list((shown | {METADATA_KEY: f"JSON: {whole}"}).items()))
