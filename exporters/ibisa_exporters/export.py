"""One export from end to end: load, write, annotate, verify, and only then keep the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from ibisa_exporters.onnx_export import Form, save, to_onnx, weights_path
from ibisa_exporters.source import importable, load_source, source_file
from ibisa_exporters.surrogate import surrogate_path, write_surrogate
from ibisa_exporters.trained import Request, TrainedModel
from ibisa_exporters.verification import (
    TOLERANCE,
    TOLERANCE_HALF,
    Pictures,
    ScoreAgreement,
    check,
    check_answers,
    verify,
)
from ibisa_onnx import Explainer
from ibisa_onnx.errors import ExportError, IbisaError, ResultError, TargetError
from ibisa_onnx.io.atomic import check_not_given, staged_folder
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.ort import CPU
from ibisa_onnx.preprocessing.annotate import annotate
from ibisa_onnx.preprocessing.resolve import ResolvedPreprocessing
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.labels import check_labels

_NOT_KNOWN = (
    "the source does not say how pixels become its input, so the file does not either; say it with "
    "preprocessing="
)
_CONSTANT = (
    "the source gives the same scores to every input, so the check says little; are these weights "
    "trained?"
)

_OLD = "{} is left from before and no part of this export; take it away, or make it anew"


@dataclass(frozen=True)
class ExportOptions:
    """How the files shall be.

    Attributes
    ----------
    form
        Of the ONNX file.
    tolerance
        The largest relative difference from the source; None: as the dtype allows.
    preprocessing
        A preset or a spec file that goes before what the source says.
    resize
        How a picture is brought to the input, one of `RESIZES`, before what the source says.
    labels
        Names of the classes that go before the source's.
    surrogate
        Also write a differentiable counterpart.
    """

    form: Form = field(default_factory=Form)
    tolerance: float | None = None
    preprocessing: str | None = None
    resize: str | None = None
    labels: tuple[str, ...] | None = None
    surrogate: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written: the model first; how it agrees with its source, and what to know."""

    files: tuple[Path, ...]
    preprocessing: Preprocessing | None
    labels: int
    agreements: tuple[ScoreAgreement, ...]
    warnings: tuple[str, ...]


def export(
    source: str,
    path: Path,
    request: Request,
    options: ExportOptions,
    pictures: Pictures,
) -> Exported:
    """Export a source to an ONNX file that says how it is used, checked against the source.

    Parameters
    ----------
    source
        As `source.load_source` reads it.
    path
        The file to write; a surrogate goes beside it.
    pictures
        uint8 [H, W, 3] RGB, or read, on which the file is tried, beside random input.

    Raises
    ------
    ExportError
        The source cannot be loaded or exported, or the file differs from it; nothing is written.
    MissingDependencyError
        A framework is not installed.
    ResultError
        The files cannot be written.
    """
    for file in (path, surrogate_path(path)):
        _check_place(source_file(source), file)
    with importable(source):
        model = load_source(source, request)
        _check_batch(source, model.batch, options)
        check_answers(model, options.form.batch or 1)
        return _write(model, path, options, pictures)


def _write(
    model: TrainedModel,
    path: Path,
    options: ExportOptions,
    pictures: Pictures,
) -> Exported:
    """Write what was loaded, and keep it once it is seen to be right."""
    surrogate = surrogate_path(path)
    known, resolved = _preprocessing(model, options)
    proto = to_onnx(model, options.form)
    labels, warnings = _labels(model, options, proto)
    annotate(proto, known, labels)
    with staged_folder(path.parent) as stage:
        save(proto, stage / path.name)
        del proto
        found = verify(stage / path.name, model, options.form, resolved.spec, pictures)
        check(found, _tolerance(options))
        warnings += _unexplained(stage / path.name, resolved.spec, pictures)
        if options.surrogate:
            facts = _facts(stage / path.name)
            write_surrogate(model, stage / surrogate.name, facts, options.form.opset)
        written = {each.name for each in stage.iterdir()}
    files = [each for file in (path, surrogate) for each in (file, weights_path(file))]
    warnings += [_NOT_KNOWN] if resolved.values_are_guessed else resolved.warnings
    warnings += _guesses(resolved) if known else []
    warnings += [] if any(each.varies for each in found) else [_CONSTANT]
    warnings += [_OLD.format(each) for each in files if each.name not in written and each.exists()]
    return Exported(
        tuple(each for each in files if each.name in written),
        known,
        len(labels or ()),
        tuple(found),
        (*model.warnings, *warnings),
    )


def _unexplained(path: Path, spec: Preprocessing, pictures: Pictures) -> list[str]:
    """Say why `run` cannot explain a file, if it cannot: it is asked itself."""
    try:
        explainer = Explainer(path, providers=[CPU], preprocessing=spec)
        for picture in pictures[:1]:
            explainer.answers(picture)
    except IbisaError as error:
        return [f"`run` cannot explain this file: {error}"]
    return []


def _facts(path: Path) -> dict[str, Any]:
    """Return what a surrogate says of the model that it goes with."""
    file = ModelFile.at(path)
    digests = {"model_sha256": file.sha256(), "graph_sha256": file.graph_sha256()}
    return {"version": 1, "model": path.name, **digests}


def _check_place(given: Path | None, path: Path) -> None:
    """See that no source is written over, and no folder."""
    check_not_given(path, [given])
    if path.is_dir():
        raise ResultError(f"{path}: cannot write: it is a folder; name a file")


def _check_batch(source: str, batch: int | None, options: ExportOptions) -> None:
    """See that what takes a certain number of images is wanted so."""
    if batch is None:
        return
    if options.form.batch != batch:
        raise ExportError(f"{source} takes {batch} image(s) a call; say batch={batch}")
    if options.surrogate:
        raise ExportError(
            f"{source} takes {batch} image(s) a call, and a surrogate any number; export one with "
            "an open batch, or leave surrogate= out"
        )


def _tolerance(options: ExportOptions) -> float:
    if options.tolerance is not None:
        return options.tolerance
    return TOLERANCE_HALF if options.form.half else TOLERANCE


def _preprocessing(
    model: TrainedModel, options: ExportOptions
) -> tuple[Preprocessing | None, ResolvedPreprocessing]:
    """Return what is known of the preprocessing, and what the pictures are prepared by."""
    resolved = model.settle(options.preprocessing, options.form.dtype, options.resize)
    said = (options.preprocessing, options.resize, model.preprocessing)
    known = any(each is not None for each in said)
    return (resolved.spec if known else None), resolved


def _guesses(resolved: ResolvedPreprocessing) -> list[str]:
    """Tell what the file holds as a guess: how a picture is brought to the input's size."""
    if not resolved.spec.is_guess("resize", "shorter_side"):
        return []
    return [
        f"nothing says how pictures are resized; the file holds {resolved.spec.resize!r} as a "
        "guess; say it with resize="
    ]


def _labels(
    model: TrainedModel, options: ExportOptions, proto: onnx.ModelProto
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return the names of the classes; those that do not fit are an error if the user gave them."""
    labels = options.labels or model.labels
    shape = proto.graph.output[0].type.tensor_type.shape.dim
    classes = shape[1].dim_value if len(shape) > 1 else 0
    if labels is None or not classes:
        return labels, []
    try:
        check_labels(labels, classes)
    except TargetError as error:
        if options.labels:
            raise
        return None, [f"labels are left out: {error}"]
    return labels, []
