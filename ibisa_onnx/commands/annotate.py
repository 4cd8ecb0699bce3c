"""`ibisa-onnx annotate`: embed preprocessing and labels in a model file."""

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
    "no preprocessing information found, and assumed values are not written into a file; pass "
    "--preprocess imagenet|caffe|tf|unit|raw, or --mean, --std, --scale, --channel-order"
)


@dataclass(frozen=True)
class _Facts:
    """The settings to write, with their sources."""

    signature: Signature
    resolved: ResolvedPreprocessing
    labels: KnownLabels | None
    warnings: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...] | None:
        """The class labels."""
        return self.labels.labels if self.labels else None


@click.command("annotate", short_help="Embed preprocessing and labels in a model file.")
@click.argument("model")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help="Output file, which may be MODEL itself, or - for stdout. Default: MODEL.annotated.onnx "
    "beside MODEL, with --remove MODEL.plain.onnx.",
)
@click.option("--remove", is_flag=True, help="Remove the metadata that annotate has written.")
@described_model_options
@deadline_of_all
@console_options
def command(console: Console, out: str | None, remove: bool, choice: ModelChoice) -> None:
    """Embed preprocessing and class labels in MODEL's metadata.

    Options take precedence over metadata in the file, and that over files beside it. The annotated
    file requires no preprocessing or label flags, and other software can read the metadata: see
    docs/reference/preprocessing.md.
    """
    if remove:
        _remove(console, out, choice)
        return
    given = (choice.labels, choice.preprocess)
    path = model_destination(choice.model, out, ".annotated.onnx", given=given, in_place=True)
    model = choice.open_file()
    facts, file = _settle(choice, model), model.file
    console.warn(facts.warnings)
    del model  # frees its weights
    from ibisa_onnx.preprocessing.annotate import annotate

    proto = _parse(file)
    annotate(proto, facts.resolved.spec, facts.names)
    metadata = _write(path, proto, file)
    _check_reads_back(facts, metadata, None if path is None else path.parent)
    console = console.on_stderr() if path is None else console
    _tell(console, choice, path, facts, metadata)


def _settle(choice: ModelChoice, model: DeployedModel) -> _Facts:
    """Return the settings to write, checked against the model.

    Raises
    ------
    OutputError
        The model has no output of this name.
    PreprocessingError
        There is no information on how pixels are normalised.
    TargetError
        The numbers of labels and classes differ.
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
    """Return a warning about assumed settings, which are written too."""
    fields = [field.field for field in resolved.resolved_fields if field.is_guess]
    if not fields:
        return []
    named = ", ".join(f"{field} = {getattr(resolved.spec, field)}" for field in fields)
    flags = ", ".join(f"--{field.replace('_', '-')}" for field in fields)
    return [f"not specified, written as assumed: {named}; if wrong, pass {flags}"]


def _unchecked(
    choice: ModelChoice, model: DeployedModel, resolved: ResolvedPreprocessing
) -> list[str]:
    """Run the model to count its classes if no shape gives them; warn if that fails."""
    import numpy as np

    black = np.zeros((*resolved.spec.size, 3), np.uint8)
    try:
        choice.explainer(model).predict(black)
    except OutputError as error:
        return [f"cannot check the number of labels: {error}"]
    return []


def _parse(file: ModelFile) -> onnx.ModelProto:
    """Return the model's graph, without loading external weights."""
    proto = file.parse()
    if proto is None:
        raise ModelError(f"cannot write metadata to {file.label}: {file.why_no_graph}")
    return proto


def _write(path: Path | None, proto: onnx.ModelProto, file: ModelFile) -> dict[str, str]:
    """Check that ONNX Runtime opens the model, write it, and return its metadata."""
    from ibisa_onnx.models.session_options import check_opens

    data = check_opens(proto, file)
    if path is None:
        write_bytes(data)
    else:
        write_model(path, data, proto, file)
    return {each.key: each.value for each in proto.metadata_props}


def _check_reads_back(facts: _Facts, metadata: Mapping[str, str], folder: Path | None) -> None:
    """Check that the new file reads back as intended."""
    from ibisa_onnx.preprocessing.resolve import resolve_preprocessing
    from ibisa_onnx.targets.labels import choose_labels, known_labels

    spec = resolve_preprocessing(facts.signature, metadata, folder=folder).spec
    first, _ = choose_labels(known_labels(metadata, folder), None)
    misread = facts.labels is not None and (first is None or first.labels != facts.names)
    if spec != facts.resolved.spec or misread:
        raise ResultError(
            "the annotated file reads back differently: "
            f"{spec} instead of {facts.resolved.spec}; this is a bug, please report it"
        )


def _remove(console: Console, out: str | None, choice: ModelChoice) -> None:
    """Remove the metadata that `annotate` has written."""
    from ibisa_onnx.models.onnx_file import ModelFile
    from ibisa_onnx.models.signature import METADATA_KEY
    from ibisa_onnx.preprocessing.annotate import annotate, written_keys

    if choice.preprocess or choice.flags or choice.labels or _flags_still_required(choice):
        raise click.UsageError(
            "--remove cannot be combined with options on preprocessing, labels, inputs or outputs"
        )
    path = model_destination(choice.model, out, ".plain.onnx", in_place=True)
    file = ModelFile.of(choice.source())
    file.check_readable()
    proto = _parse(file)
    metadata = {each.key: each.value for each in proto.metadata_props}
    keys = [METADATA_KEY, *written_keys(metadata)]
    if METADATA_KEY not in metadata:
        raise ModelError(f"nothing to remove: {file.label} has no metadata key {METADATA_KEY}")
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
    """Report the metadata written, its sources, and flags that are still required."""
    from ibisa_onnx.models.signature import METADATA_KEY
    from ibisa_onnx.preprocessing.annotate import written_keys

    written = {key: metadata[key] for key in (METADATA_KEY, *written_keys(metadata))}
    resolved_fields, flags = facts.resolved.resolved_fields, _flags_still_required(choice)
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
            "  ONNX Runtime opens the file, and the metadata reads back as written"
            + (f"; still pass {' '.join(flags)}" if flags else "")
        ],
    }
    console.result(sections_text(_title(path), sections), data, bare=[str(path)] if path else [])


def _flags_still_required(choice: ModelChoice) -> list[str]:
    """Return the flags that metadata cannot replace, and that `run` still requires."""
    pairs = (("--input", choice.input), ("--output", choice.output))
    extra = [f"--extra-input {name}=…" for name, _ in choice.extra_inputs]
    return [*(f"{flag} {name}" for flag, name in pairs if name is not None), *extra]


def _title(path: Path | None) -> str:
    return f"wrote {path}" if path else "wrote to stdout"


def _written_rows(written: Mapping[str, str], labels: Sequence[str] | None) -> list[Line]:
    """Return a row for each metadata key, with the beginning of its value."""
    from ibisa_onnx.models.signature import METADATA_KEY

    whole = "preprocessing" + (f" and {len(labels)} labels" if labels else "")
    shown = {
        key: value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
        for key, value in written.items()
    }
    return rows(list((shown | {METADATA_KEY: f"JSON: {whole}"}).items()))
