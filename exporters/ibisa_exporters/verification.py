"""Verification of an exported file against its source: on random input, and on images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ibisa_exporters.onnx_export import Form
from ibisa_exporters.trained import TrainedModel
from ibisa_onnx.errors import ExportError
from ibisa_onnx.io.images import Picture
from ibisa_onnx.models.ort import CPU
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.session_options import create_session
from ibisa_onnx.models.signature import Layout
from ibisa_onnx.preprocessing.spec import Preprocessing, prepare

TOLERANCE, TOLERANCE_HALF = 1e-3, 3e-2
"""Largest accepted relative difference for float32 and float16 files."""
_RANDOM = 4
_TOP = 5
_ROUNDING = 1e-6  # fraction of the largest score below which differences are rounding errors
Values = npt.NDArray[np.float32]
Pictures = Sequence[npt.NDArray[np.uint8] | Picture]


@dataclass(frozen=True)
class ScoreAgreement:
    """Comparison of a file's scores with its source's, on one kind of input.

    Attributes
    ----------
    input
        "random" or "real".
    batch
        Images per call.
    images
        Number of different images.
    absolute
        Largest absolute difference of scores.
    relative
        `absolute` divided by the largest magnitude of the source's scores.
    top5
        Mean fraction of the source's top-5 classes that are in the file's top 5.
    varies
        Whether the source's scores differ between images; if not, the comparison is inconclusive.
    """

    input: str
    batch: int
    images: int
    absolute: float
    relative: float
    top5: float
    varies: bool


def verify(
    path: Path,
    model: TrainedModel,
    form: Form,
    spec: Preprocessing,
    pictures: Pictures,
) -> list[ScoreAgreement]:
    """Compare a file's scores with its source's.

    Parameters
    ----------
    path
        The file.
    model
        The source.
    form
        Form of the file.
    spec
        Preprocessing of images.
    pictures
        Images, uint8 [H, W, 3] RGB or already read.

    Raises
    ------
    ExportError
        The file does not run, or returns a different number of scores.
    """
    try:
        session = create_session(str(path), [CPU], None, path.name)
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot open the file written by torch: {essence(error)}"
        ) from error
    inputs = {"random": _random_images(model, max(_RANDOM, form.batch or 0))}
    if pictures:
        tensors = np.concatenate([prepare(each, spec).tensor for each in pictures])
        nhwc = model.layout is Layout.NHWC
        inputs["real"] = tensors.transpose(0, 2, 3, 1) if nhwc else tensors
    batches = (1, 2) if form.batch is None else (form.batch,)
    found = []
    for kind, images in inputs.items():
        for batch in batches:
            pairs = [
                (_source_scores(model, chunk), _file(session, chunk.astype(form.dtype)))
                for chunk in _chunks(images, batch)
            ]
            expected, given = (np.concatenate(each) for each in zip(*pairs, strict=True))
            count = len(images)  # the rest padded the last call
            found.append(_compare(kind, batch, expected[:count], given[:count]))
    return found


def check_answers(model: TrainedModel, batch: int) -> None:
    """Run a source before the export, so that its own faults are reported as such.

    Raises
    ------
    ExportError
        The source fails on a batch of images, or its scores are not finite or not deterministic.
    """
    images = _random_images(model, batch)
    first, again = _source_scores(model, images), _source_scores(model, images)
    if not np.abs(again - first).max() <= TOLERANCE * np.abs(first).max():
        raise ExportError(
            f"{model.name} returns different scores for the same images; disable randomness such "
            "as dropout in evaluation mode"
        )


def _random_images(model: TrainedModel, count: int) -> Values:
    """Draw images of a source's shape, with a fixed seed."""
    shape = (count, *model.example.shape[1:])
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def check(found: Sequence[ScoreAgreement], tolerance: float) -> None:
    """Raise `ExportError` if a difference exceeds the tolerance or is NaN."""
    worst = max(found, key=lambda each: math.inf if math.isnan(each.relative) else each.relative)
    if not worst.relative <= tolerance:
        raise ExportError(
            f"the exported file's scores differ from its source's by up to {worst.absolute:.1e} "
            f"({worst.relative:.1e} of the largest score) on {worst.input} input in batches of "
            f"{worst.batch}; tolerance= allows {tolerance:g}; nothing was written"
        )


def _chunks(images: Values, batch: int) -> Iterator[Values]:
    """Yield batches of images, the last one padded with its last image."""
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        yield np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])


def _source_scores(model: TrainedModel, images: Values) -> Values:
    """Return the scores of a source.

    Raises
    ------
    ExportError
        The source fails on these images, or does not return a tensor of finite scores.
    """
    try:
        with torch.no_grad():
            scores = model.module(torch.from_numpy(np.ascontiguousarray(images)))
    except Exception as error:
        raise ExportError(
            f"{model.name} fails on images {list(images.shape)}: {essence(error)}; use a network "
            "that accepts one tensor of images, or another size="
        ) from error
    if not isinstance(scores, torch.Tensor):
        raise ExportError(
            f"{model.name} returns a {type(scores).__name__}; wrap it in a module.py:factory that "
            "returns one tensor of class scores"
        )
    values: Values = scores.float().numpy()
    if not np.isfinite(values).all():
        raise ExportError(f"{model.name} returns NaN or infinite scores; check its weights")
    return values


def _file(session: object, images: npt.NDArray[np.floating]) -> Values:
    try:
        name = session.get_inputs()[0].name  # type: ignore[attr-defined]
        scores = session.run(None, {name: np.ascontiguousarray(images)})[0]  # type: ignore[attr-defined]
    except Exception as error:
        raise ExportError(
            f"the exported file fails on {len(images)} image(s): {essence(error)}; batch=1 may help"
        ) from error
    values: Values = np.asarray(scores, np.float32)
    return values


def _compare(kind: str, batch: int, expected: Values, given: Values) -> ScoreAgreement:
    if expected.shape != given.shape:
        raise ExportError(
            f"the exported file returns scores {list(given.shape)}, but its source returns "
            f"{list(expected.shape)}; batch={batch} may help"
        )
    with np.errstate(invalid="ignore"):
        absolute = float(np.abs(expected - given).max())
        relative = absolute / max(float(np.abs(expected).max()), 1e-30)
    varies = bool(np.ptp(expected, axis=0).max() > _ROUNDING * np.abs(expected).max())
    return ScoreAgreement(
        kind, batch, len(expected), absolute, relative, _top(expected, given), varies
    )


def _top(expected: Values, given: Values) -> float:
    """Return the mean fraction of top classes that both have in common."""
    ours, theirs = (
        np.argsort(-each.reshape(len(each), -1), axis=1, kind="stable")[:, :_TOP]
        for each in (expected, given)
    )
    both = [len(set(a) & set(b)) / len(a) for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean(both))
