"""`ibisa-onnx inspect`: a model's kind, inputs, outputs and inferred preprocessing, with sources.

It also shows predictions for images, with that preprocessing or with candidates for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, Line, Styled, console_options, counted, rows
from ibisa_onnx.commands.deadlines import deadline_of_all
from ibisa_onnx.commands.explaining import parse_target
from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.commands.model_options import CLASSIFIER, ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, distinct_stems, expand
from ibisa_onnx.commands.rejection import rejection, rejection_of_model
from ibisa_onnx.commands.report import class_text
from ibisa_onnx.commands.resolved_fields import (
    field_rows,
    fields_data,
    label_rows,
    labels_data,
    sections_text,
)
from ibisa_onnx.commands.stdin import piped_picture
from ibisa_onnx.commands.target_options import CONFIDENCE
from ibisa_onnx.commands.usage import FILE
from ibisa_onnx.errors import IbisaError, ModelError, OutputError, TargetError
from ibisa_onnx.io.files import read_text
from ibisa_onnx.io.literals import parse_csv

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.io.images import Picture
    from ibisa_onnx.models.base import ImageModel
    from ibisa_onnx.pipeline import Pipeline
    from ibisa_onnx.preprocessing.resolve import ResolvedPreprocessing
    from ibisa_onnx.preprocessing.trial import Trial, TrialRanking
    from ibisa_onnx.targets.base import Answer, Box, Kind
    from ibisa_onnx.targets.labels import KnownLabels
    from ibisa_onnx.targets.reader import OutputReader

_MOST_OBSTACLES = 6
_SHOWN = 5  # classes
_RECOGNISER = "text recogniser"
_DRAWING = ".boxes.ibisa.png"


@dataclass(frozen=True)
class _Gradient:
    """Whether an output has an exact gradient, and the obstacles if not."""

    output: str
    exact: bool
    obstacles: tuple[str, ...]


@click.command("inspect", short_help="Show a model's inputs, outputs and inferred preprocessing.")
@click.argument("model")
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@click.option(
    "--try",
    "trying",
    is_flag=True,
    help="Rank preprocessing presets by the predictions for the images.",
)
@click.option(
    "--labels-csv",
    type=FILE,
    metavar="FILE",
    help="For --try: CSV file of image file name and class (index or label).",
)
@click.option(
    "--draw/--no-draw",
    "drawing",
    default=True,
    show_default=True,
    help="Write a copy of each image with numbered boxes, regions or characters.",
)
@CONFIDENCE
@model_options
@deadline_of_all
@console_options
def command(
    console: Console,
    images: tuple[str, ...],
    trying: bool,
    drawing: bool,
    labels_csv: str | None,
    confidence: float | None,
    choice: ModelChoice,
) -> None:
    """Show MODEL's inputs, outputs, kind, and each preprocessing setting with its source.

    With an IMAGE, also show the predictions: the top-5 classes, or numbered boxes, drawn in a copy
    of the image. Wrong predictions usually mean wrong preprocessing; --try ranks the alternatives,
    best with five or more images of different things.
    """
    from ibisa_onnx.pipeline import Pipeline

    if (choice.model, *images).count(STDIO) > 1:
        raise click.UsageError("only one of MODEL and IMAGE can be -; stdin is read once")
    if trying and not images:
        raise click.UsageError("--try requires images: ibisa-onnx inspect MODEL IMAGE... --try")
    if confidence is not None and not images:
        raise click.UsageError("--confidence requires images: ibisa-onnx inspect MODEL IMAGE...")
    if labels_csv is not None and not trying:
        raise click.UsageError("--labels-csv requires --try")
    pictures = expand(images)
    classes = None if labels_csv is None else _read_classes(labels_csv, pictures)
    try:
        model = choice.open()
    except ModelError:
        # The error may ask for one of these names.
        if choice.model != STDIO and not choice.is_remote:
            _list_tensors(console, choice.model)
        raise
    resolved, reader = choice.read(model)
    pipeline, asked = Pipeline(model, resolved.spec, reader), _Asked()
    if pictures:
        try:
            asked = _ask(*(pipeline, pictures, classes, confidence), trying=trying, drawing=drawing)
        except IbisaError as error:
            asked = _Asked(failure=error)
    elif not choice.is_remote:  # whose calls may cost money
        asked = _Asked(rejected=rejection_of_model(pipeline))
    kind = reader.kind  # of a model on a server, known after its first image
    labels, doubts = choice.find_labels(reader)
    labels = labels or reader.usual_labels
    gradients = _gradients(model, reader)
    warnings = [*model.warnings, *resolved.warnings, *kind.warnings, *doubts]
    warnings += [each for each in asked.warnings if each not in warnings]
    console.warn(warnings)
    found = _Findings(choice, model, resolved, kind, labels, gradients, asked)
    console.result(
        _text(found, verbose=console.verbose),
        _data(found) | {"warnings": warnings},
        bare=[kind.name],
    )
    if asked.failure:  # after the findings, which are still useful
        raise asked.failure


@dataclass(frozen=True)
class _Asked:
    """Predictions for images, or the ranking of presets.

    `drawn` maps images to the files with their boxes; `rejected` says why `run` rejects the model,
    and `images` which images, and why.
    """

    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    drawn: Mapping[str, str] = field(default_factory=dict)
    ranking: TrialRanking | None = None
    warnings: tuple[str, ...] = ()
    failure: IbisaError | None = None
    rejected: IbisaError | None = None
    images: Mapping[str, IbisaError] = field(default_factory=dict)

    @property
    def reason(self) -> str | None:
        """Why `run` rejects the model; None if it does not."""
        found = self.failure if isinstance(self.failure, OutputError) else self.rejected
        return None if found is None else with_flags(str(found))


def _ask(
    pipeline: Pipeline,
    names: Sequence[str],
    classes: Sequence[str | int] | None,
    confidence: float | None,
    *,
    trying: bool,
    drawing: bool,
) -> _Asked:
    """Run the model on images."""
    from ibisa_onnx.preprocessing.reading import read_for
    from ibisa_onnx.preprocessing.spec import prepare

    sources = [piped_picture() if name == STDIO else name for name in names]
    pictures = [read_for(each, pipeline.preprocessing) for each in sources]
    if trying:
        return _Asked(ranking=pipeline.try_preprocessing(pictures, classes))
    notes = [note for each in pictures for note in prepare(each, pipeline.preprocessing).warnings]
    predicted = {
        name: pipeline.answers(picture, confidence)
        for name, picture in zip(names, pictures, strict=True)
    }
    if pipeline.reader.kind.name == CLASSIFIER:
        predicted = {name: answers[:_SHOWN] for name, answers in predicted.items()}
        notes += [tie for each in predicted.values() for tie in _tie(each)]
    tried = {
        name: rejection(pipeline, picture, confidence)
        for name, picture in zip(names, pictures, strict=True)
    }
    rejected = {name: error for name, error in tried.items() if error is not None}
    notes += [f"{name}: {error}" for name, error in rejected.items()]
    drawn, failed = _draw(dict(zip(names, pictures, strict=True)), predicted if drawing else {})
    notes += [*pipeline.model.warnings, *pipeline.reader.warnings, *failed]
    return _Asked(predicted, drawn, warnings=tuple(dict.fromkeys(notes)), images=rejected)


def _draw(
    pictures: Mapping[str, Picture], predicted: Mapping[str, Sequence[Answer]]
) -> tuple[dict[str, str], list[str]]:
    """Draw boxes in copies of the images; return the files, and errors of those not written."""
    from ibisa_onnx.errors import ResultError
    from ibisa_onnx.io.atomic import check_not_given, write_files
    from ibisa_onnx.io.formats import encode_png
    from ibisa_onnx.io.overlay import tagged

    stems = distinct_stems(list(predicted))
    drawn, failed = dict[str, str](), list[str]()
    for name, answers in predicted.items():
        scale = 1 / pictures[name].reduction
        boxes = [(text, [scale * side for side in box]) for text, box in _tags(answers)]
        if not boxes or name == STDIO:
            continue
        path = stems[name].with_name(f"{stems[name].name}{_DRAWING}")
        try:
            check_not_given(path, list(predicted))
            write_files({path: encode_png(tagged(pictures[name].pixels, boxes))})
            drawn[name] = str(path)
        except ResultError as error:
            failed.append(f"boxes not drawn: {error}")
    return drawn, failed


def _tags(answers: Sequence[Answer]) -> list[tuple[str, Box]]:
    """Return the tags of predictions: their numbers, which targets accept, else their names.

    A recognised text has no tag if its characters have numbers.
    """
    from ibisa_onnx.io.overlay import ascii_fold

    numbers = any(each.number for each in answers)
    return [
        (str(each.number or ascii_fold(each.caption) or f"class {each.index}"), each.box)
        for each in answers
        if each.box and (each.number or not numbers)
    ]


def _read_rows(path: str) -> list[list[str]]:
    try:
        return parse_csv(read_text(path, "classes", TargetError))
    except ValueError as error:
        raise TargetError(f"{path} is not a CSV file of names and classes: {error}") from error


def _read_classes(path: str, pictures: Sequence[str]) -> list[str | int]:
    """Read the class of each image from rows of file name and class.

    Raises
    ------
    TargetError
        The file cannot be read, or has no row for an image.
    """
    rows = [row for row in _read_rows(path) if len(row) > 1]
    classes = {Path(row[0].strip()).name: row[1].strip() for row in rows}
    for picture in pictures:
        if Path(picture).name not in classes:
            raise TargetError(f"{path} has no class for {Path(picture).name}; add a row NAME,CLASS")
    return [parse_target(classes[Path(picture).name]) for picture in pictures]


def _list_tensors(console: Console, path: str) -> None:
    """Show the inputs and outputs of a file, if it can be opened."""
    from ibisa_onnx.models.onnx_session import DeployedModel

    try:
        inputs, outputs = DeployedModel.tensors(path)
    except ModelError:
        return  # the caller reports the same error
    sections = {
        "inputs": [f"  {each}" for each in inputs],
        "outputs": [f"  {each}" for each in outputs],
    }
    data = {"inputs": list(map(asdict, inputs)), "outputs": list(map(asdict, outputs))}
    console.result(sections_text(path, sections), data)


def _tie(predictions: Sequence[Answer]) -> tuple[str, ...]:
    """Return a warning if the most probable classes are tied."""
    import numpy as np

    from ibisa_onnx.targets.class_scores import tie

    probabilities = np.array([each.score for each in predictions])
    return tie(probabilities, "all" if len(predictions) < _SHOWN else "the top")


def _gradients(model: ImageModel, reader: OutputReader) -> list[_Gradient]:
    """Return for each tensor that targets read whether it has an exact gradient."""
    from ibisa_onnx.gradients.precision import refused_input

    try:
        names = reader.kind.outputs()
    except OutputError:
        names = tuple(each.name for each in model.signature.outputs)
    graph = model.proto()
    if graph is None:
        why = (model.why_no_graph,)
        return [_Gradient(name, False, why) for name in names]
    why_not = refused_input(model.image)
    if why_not is not None:
        return [_Gradient(name, False, (why_not,)) for name in names]
    for each in reader.kind.nodes:
        each.to_onnx(graph.graph)
    return [_gradient_of(graph, model.image.name, name) for name in names]


def _gradient_of(graph: onnx.ModelProto, image: str, output: str) -> _Gradient:
    """Return whether a tensor of a graph has an exact gradient."""
    from ibisa_onnx.autodiff import missing_rules

    try:
        missing = missing_rules(graph, image, output)
    except IbisaError as error:
        return _Gradient(output, False, (str(error),))
    obstacles = tuple(dict.fromkeys(f"{rule.op_type}: {rule.why}" for rule in missing))
    return _Gradient(output, not obstacles, obstacles)


@dataclass(frozen=True)
class _Findings:
    """All findings about a model."""

    choice: ModelChoice
    model: ImageModel
    resolved: ResolvedPreprocessing
    kind: Kind
    labels: KnownLabels | None
    gradients: Sequence[_Gradient]
    asked: _Asked


def _data(found: _Findings) -> dict[str, Any]:
    """Return all findings as plain data."""
    model, asked, kind = found.model, found.asked, found.kind
    pictures = {
        name: list(map(_answer_data, predicted)) for name, predicted in asked.answers.items()
    }
    classes = next(iter(pictures.values()), []) if kind.name == CLASSIFIER else []
    return {
        "model": model.name,
        "kind": {"name": kind.name, "reason": kind.reason, "asks": _asks(kind)},
        "inputs": [asdict(each) for each in model.signature.inputs],
        "outputs": [asdict(each) for each in model.signature.outputs],
        "image_input": model.image.name,
        "preprocessing": fields_data(found.resolved.resolved_fields),
        "labels": labels_data(found.labels),
        "gradients": [asdict(each) for each in found.gradients],
        "providers": list(model.providers),
        "server": None if model.origin is None else dict(model.origin),
        "predictions": classes,
        "pictures": pictures,
        "drawn": dict(asked.drawn),
        "run": {
            "rejected": asked.reason,
            "images": {name: with_flags(str(error)) for name, error in asked.images.items()},
        },
    } | ({} if asked.ranking is None else {"trial": _trial_data(asked.ranking)})


def _answer_data(answer: Answer) -> dict[str, Any]:
    """Return a prediction as plain data."""
    return {**asdict(answer), "probability": answer.score}


def _text(found: _Findings, *, verbose: bool) -> list[Line]:
    """Return the findings as text, in sections."""
    choice, model, asked = found.choice, found.model, found.asked
    inputs = [
        (str(each), f"image input, {model.image.layout}" if each == model.image.tensor else "")
        for each in model.signature.inputs
    ]
    sections: dict[str, list[Line]] = {
        "kind": _kind_rows(found.kind),
        "inputs": rows(inputs),
        "outputs": [f"  {each}" for each in model.signature.outputs],
        "preprocessing": field_rows(found.resolved.resolved_fields),
        "labels": label_rows(found.labels),
        "exact gradient": rows([pair for each in found.gradients for pair in _gradient_rows(each)]),
        **_runs_on(model),
    }
    if asked.reason is not None:
        sections["run"] = [Styled(f"  rejected: {asked.reason}", colour="yellow")]
    for name, answers in asked.answers.items():
        heading = "top-5 predictions" if found.kind.name == CLASSIFIER else "predictions"
        heading += f" for {name}" if len(asked.answers) > 1 else ""
        sections[heading] = _answer_rows(found.kind, answers)
        if name in asked.drawn:
            sections[heading].append(f"  drawn in {asked.drawn[name]}")
    if asked.ranking is not None:
        candidates = {"preprocessing candidates": _trial_rows(asked.ranking)}
        sections = sections | candidates if verbose else candidates
    title = "model from stdin" if choice.model == STDIO else choice.model
    return sections_text(title, sections)


def _runs_on(model: ImageModel) -> dict[str, list[Line]]:
    """Return the section on what runs the model: ONNX Runtime's providers, or a server."""
    if model.origin is not None:
        return {"server": rows(list(model.origin.items()))}
    return {"providers": [f"  {name}" for name in model.providers]}


def _asks(kind: Kind) -> list[str]:
    """Return the supported targets as flags."""
    return [with_flags(each) for each in kind.asks]


def _kind_rows(kind: Kind) -> list[Line]:
    """Return the kind, how it was inferred, and the supported targets."""
    pairs = [(kind.name, kind.reason)]
    if kind.asks:
        pairs.append(("targets", ", ".join(_asks(kind))))
    return rows(pairs)


def _answer_rows(kind: Kind, answers: Sequence[Answer]) -> list[Line]:
    """Return a row for each prediction: score, caption and place, with its number if any."""
    if not answers:
        return ["  nothing found in this image"]
    if kind.name == CLASSIFIER:
        return [
            f"  {100 * each.score:5.1f}%  {class_text(each.index or 0, each.label)}"
            for each in answers
        ]
    numbers = [str(each.number or "") for each in answers]
    width = max(map(len, numbers))
    margin = "  " if width else ""
    captions = [each.caption for each in answers]
    if kind.name == _RECOGNISER:  # makes spaces visible
        captions = [f'"{each}"' for each in captions]
    return [
        f"{margin}{number:>{width}}  {_score_text(each)}  {caption}{_where(each)}"
        for number, caption, each in zip(numbers, captions, answers, strict=True)
    ]


def _score_text(answer: Answer) -> str:
    if answer.details.get("unit") == "value":
        return f"{answer.score:8.4g}"
    return f"{100 * answer.score:5.1f}%"


def _where(answer: Answer) -> str:
    if answer.box is None:
        return ""
    return "  at " + ",".join(f"{side:.0f}" for side in answer.box)


def _gradient_rows(gradient: _Gradient) -> list[tuple[str, str]]:
    """Return whether there is an exact gradient; if not, a row for each obstacle."""
    if gradient.exact:
        return [(gradient.output, "yes: every operator on the path has a gradient rule")]
    more = len(gradient.obstacles) - _MOST_OBSTACLES
    texts = [f"no: {gradient.obstacles[0]}", *gradient.obstacles[1:_MOST_OBSTACLES]]
    texts += [f"and {more} more (use --json to show all)"] if more > 0 else []
    return [(gradient.output if row == 0 else "", text) for row, text in enumerate(texts)]


def _trial_rows(ranking: TrialRanking) -> list[Line]:
    """Return the ranked candidates, and which flags to pass."""
    known = ranking.trials[0].agreement is not None
    by = "right-class probability" if known else "information in nats"
    cells = [
        (
            _flags(trial),
            "=" if trial.level else " ",
            "excluded" if trial.score is None else f"{trial.score:.2f}",
            f"mean top probability {trial.sharpness:4.0%}"
            + (f"  accuracy {trial.agreement:4.0%}" if known else ""),
        )
        for trial in ranking.trials
    ]
    table = rows([(flags, f"{tie} {score:>8}  {rest}") for flags, tie, score, rest in cells])
    return [f"  ranked by {by}", *table, f"  {_verdict(ranking)}"]


def _verdict(ranking: TrialRanking) -> str:
    """Return whether the ranking is conclusive, and the best candidate."""
    cost = f"({counted(ranking.pictures, 'image')}, {ranking.passes} forward passes)"
    if ranking.is_sure:
        return f"conclusive: use {_flags(ranking.trials[0])} {cost}"
    return (
        f"inconclusive: {len(ranking.level)} candidates are tied (=); the first is "
        f"{_flags(ranking.trials[0])} {cost}; add images of different things"
    )


def _flags(trial: Trial) -> str:
    """Return the flags of a candidate; none for the current preprocessing."""
    from ibisa_onnx.preprocessing.trial import CURRENT, usual_order

    if trial.preset == CURRENT:
        return f"no flag ({CURRENT})"
    usual = trial.channel_order == usual_order(trial.preset, trial.spec)
    order = "" if usual else f" --channel-order {trial.channel_order}"
    return f"--preprocess {trial.preset}{order}"


def _trial_data(ranking: TrialRanking) -> dict[str, Any]:
    """Return a ranking as plain data."""
    return {
        "sure": ranking.is_sure,
        "pictures": ranking.pictures,
        "passes": ranking.passes,
        "ranks": [
            {**asdict(trial), "spec": trial.spec.to_dict(), "flags": _flags(trial)}
            for trial in ranking.trials
        ],
    }
