"""One export from end to end: load, write, annotate and verify, then keep the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
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
from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import ExportError, IbisaError, ResultError, TargetError
from ibisa_onnx.io.atomic import check_not_given, staged_folder
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.ort import CPU
from ibisa_onnx.preprocessing.annotate import annotate
from ibisa_onnx.preprocessing.resolve import ResolvedPreprocessing
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.labels import check_labels

_NOT_KNOWN = (
    "no preprocessing information found in the source, so none is embedded in the file; specify it "
    "with preprocessing="
)
_CONSTANT = (
    "the source returns the same scores for every input, so verification is inconclusive; check "
    "that its weights are trained"
)

_OLD = "{} is from an earlier export and does not belong to this one; delete or recreate it"


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes
    ----------
    form
        Opset, dtype and batch size of the ONNX file.
    tolerance
        Largest accepted relative difference from the source's scores. Default: 1e-3 for float32,
        3e-2 for float16.
    preprocessing
        A preset or a spec file, which overrides the source's preprocessing.
    resize
        How images are resized to the input, one of `RESIZES`; overrides the source's.
    labels
        Names of the classes; override the source's.
    surrogate
        Also write a differentiable counterpart beside the file.
    """

    form: Form = field(default_factory=Form)
    tolerance: float | None = None
    preprocessing: str | None = None
    resize: str | None = None
    labels: tuple[str, ...] | None = None
    surrogate: bool = False

    def __post_init__(self) -> None:
        check_type("form", self.form, Form, "a Form", ExportError)
        check_type("tolerance", self.tolerance, (int, float, NoneType), "a number", ExportError)
        check_type("labels", self.labels, (list, tuple, NoneType), "a list of names", ExportError)


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes
    ----------
    files
        The files written, the model first.
    preprocessing
        The embedded preprocessing; None if it is unknown.
    labels
        Number of embedded labels; 0 if there are none.
    agreements
        Comparisons of the file's scores with its source's.
    warnings
        Warnings for the user, one line each.
    """

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
    """Export a network to an ONNX file with embedded preprocessing and labels, and verify it.

    Parameters
    ----------
    source
        The network, such as "torchvision:resnet50", "timm:NAME", "hf:NAME",
        "path/module.py:factory", "model.pt2" or "model.keras".
    path
        The file to write; a surrogate is written beside it.
    request
        Weights, number of classes and input size of the network.
    options
        Form and metadata of the file.
    pictures
        Images, uint8 [H, W, 3] RGB or already read, on which the file is verified in addition to
        random input.

    Returns
    -------
    Exported
        The files written, and how they agree with the source.

    Raises
    ------
    ExportError
        The source cannot be loaded or exported, or the file's scores differ from it; nothing is
        written.
    MissingDependencyError
        A framework is not installed.
    ResultError
        The files cannot be written.
    """
    check_type("source", source, str, "a source", ExportError)
    check_type("path", path, Path, "a Path", ExportError)
    check_type("request", request, Request, "a Request", ExportError)
    check_type("options", options, ExportOptions, "an ExportOptions", ExportError)
    check_type("pictures", pictures, (list, tuple), "a list of images", ExportError)
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
    """Write a loaded network to temporary files, and keep them if verification passes."""
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
    """Return a warning if `run` cannot explain the file, by trying it."""
    try:
        explainer = Explainer(path, providers=[CPU], preprocessing=spec)
        for picture in pictures[:1]:
            explainer.answers(picture)
    except IbisaError as error:
        return [f"`run` cannot explain this file: {error}"]
    return []


def _facts(path: Path) -> dict[str, Any]:
    """Return a surrogate's metadata about its model."""
    file = ModelFile.at(path)
    digests = {"model_sha256": file.sha256(), "graph_sha256": file.graph_sha256()}
    return {"version": 1, "model": path.name, **digests}


def _check_place(given: Path | None, path: Path) -> None:
    """Check that neither the source nor a folder would be overwritten."""
    check_not_given(path, [given])
    if path.is_dir():
        raise ResultError(f"{path}: cannot write: it is a folder; pass a file name")


def _check_batch(source: str, batch: int | None, options: ExportOptions) -> None:
    """Check that the options match a source with a fixed batch size."""
    if batch is None:
        return
    if options.form.batch != batch:
        raise ExportError(f"{source} has a fixed batch size of {batch}; pass batch={batch}")
    if options.surrogate:
        raise ExportError(
            f"{source} has a fixed batch size of {batch}, but a surrogate requires a dynamic one; "
            "export a program with a dynamic batch, or omit surrogate="
        )


def _tolerance(options: ExportOptions) -> float:
    if options.tolerance is not None:
        return options.tolerance
    return TOLERANCE_HALF if options.form.half else TOLERANCE


def _preprocessing(
    model: TrainedModel, options: ExportOptions
) -> tuple[Preprocessing | None, ResolvedPreprocessing]:
    """Return the known preprocessing, if any, and the resolved one that prepares images."""
    resolved = model.settle(options.preprocessing, options.form.dtype, options.resize)
    said = (options.preprocessing, options.resize, model.preprocessing)
    known = any(each is not None for each in said)
    return (resolved.spec if known else None), resolved


def _guesses(resolved: ResolvedPreprocessing) -> list[str]:
    """Return a warning if the resize mode in the file is a guess."""
    if not resolved.spec.is_guess("resize", "shorter_side"):
        return []
    return [
        f"no information on how images are resized; the file assumes {resolved.spec.resize!r}; "
        "specify it with resize="
    ]


def _labels(
    model: TrainedModel, options: ExportOptions, proto: onnx.ModelProto
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return the names of the classes, and warnings; raise if the user's own do not fit."""
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
        return None, [f"labels are omitted: {error}"]
    return labels, []
