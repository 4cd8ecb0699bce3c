"""`ibisa-onnx inspect`: a model's kind, inputs, outputs and inferred preprocessing, with sources.

And what it makes of pictures, by that preprocessing or by others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, Line, console_options, rows
from ibisa_onnx.commands.deadlines import deadline_of_all
from ibisa_onnx.commands.explaining import parse_target
from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.commands.model_options import CLASSIFIER, ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, distinct_stems, expand
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
from ibisa_onnx.errors import IbisaError, ModelError, OutputError, TargetError
from ibisa_onnx.io.files import read_text
from ibisa_onnx.io.literals import parse_csv

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.io.images import Picture
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.pipeline import Pipeline
    from ibisa_onnx.preprocessing.resolve import ResolvedPreprocessing
    from ibisa_onnx.preprocessing.trial import Trial, TrialRanking
    from ibisa_onnx.targets.base import Answer, Box, Kind
    from ibisa_onnx.targets.labels import KnownLabels
    from ibisa_onnx.targets.reader import OutputReader

_MOST_OBSTACLES = 6
_SHOWN = 5  # classes
_DETECTOR, _RECOGNISER = "detector", "text recogniser"
_DRAWING = ".boxes.ibisa.png"


@dataclass(frozen=True)
class _Gradient:
    """Whether an output has an exact gradient, and what stands in its way."""

    output: str
    exact: bool
    obstacles: tuple[str, ...]


@click.command("inspect", short_help="Show what a model is, and what it says of pictures.")
@click.argument("model")
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@click.option(
    "--try",
    "trying",
    is_flag=True,
    help="Rank presets of preprocessing by what the model makes of the pictures.",
)
@click.option(
    "--labels-csv",
    metavar="FILE",
    help="For --try, the class of each picture: rows of file name and class (index or label).",
)
@click.option(
    "--draw/--no-draw",
    "drawing",
    default=True,
    show_default=True,
    help="Draw boxes, regions and characters beside each picture, with their numbers.",
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
    """Show the inputs and outputs of MODEL and each setting of its preprocessing with its source.

    And what kind of model it is, and what can be asked of it. With an IMAGE, what it says too: the
    top five classes, or boxes with their numbers, which are drawn beside the picture. Where that is
    wrong, so is the preprocessing. With --try, which preprocessing fits: five pictures of different
    things say more than one.
    """
    from ibisa_onnx.pipeline import Pipeline

    if (choice.model, *images).count(STDIO) > 1:
        raise click.UsageError("only one of MODEL and IMAGE can be -, stdin is read once")
    if trying and not images:
        raise click.UsageError("--try needs pictures: ibisa-onnx inspect MODEL IMAGE... --try")
    if labels_csv is not None and not trying:
        raise click.UsageError("--labels-csv goes with --try")
    pictures = expand(images)
    classes = None if labels_csv is None else _read_classes(labels_csv, pictures)
    try:
        model = choice.open()
    except ModelError:
        if choice.model != STDIO:  # names are what is wanted where a name is missing
            _list_tensors(console, choice.model)
        raise
    resolved, reader = choice.read(model)
    kind = reader.kind
    labels, doubts = choice.find_labels(reader)
    labels = labels or reader.usual_labels
    gradients = _gradients(model, reader)
    warnings = [*model.warnings, *resolved.warnings, *kind.warnings, *doubts]
    asked = _Asked()
    if pictures:
        try:
            pipeline = Pipeline(model, resolved.spec, reader)
            asked = _ask(*(pipeline, pictures, classes, confidence), trying=trying, drawing=drawing)
        except IbisaError as error:
            asked = _Asked(failure=error)
    warnings += [each for each in asked.warnings if each not in warnings]
    console.warn(warnings)
    found = _Findings(choice, model, resolved, kind, labels, gradients, asked)
    console.result(_text(found), _data(found) | {"warnings": warnings})
    if asked.failure:  # all that is known is worth saying first
        raise asked.failure


@dataclass(frozen=True)
class _Asked:
    """What the model said of pictures: the first answers to each, or how presets rank.

    `drawn` names the files in which boxes are drawn.
    """

    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    drawn: Mapping[str, str] = field(default_factory=dict)
    ranking: TrialRanking | None = None
    warnings: tuple[str, ...] = ()
    failure: IbisaError | None = None


def _ask(
    pipeline: Pipeline,
    names: Sequence[str],
    classes: Sequence[str | int] | None,
    confidence: float | None,
    *,
    trying: bool,
    drawing: bool,
) -> _Asked:
    """Ask the model about pictures."""
    from ibisa_onnx.preprocessing.reading import read_for
    from ibisa_onnx.preprocessing.spec import prepare

    sources = [piped_picture() if name == STDIO else name for name in names]
    pictures = [read_for(each, pipeline.preprocessing) for each in sources]
    if trying:
        return _Asked(ranking=pipeline.try_preprocessing(pictures, classes))
    notes = [note for each in pictures for note in prepare(each, pipeline.preprocessing).warnings]
    said = {
        name: pipeline.answers(picture, confidence)
        for name, picture in zip(names, pictures, strict=True)
    }
    if pipeline.reader.kind.name == CLASSIFIER:
        said = {name: answers[:_SHOWN] for name, answers in said.items()}
        notes += [tie for each in said.values() for tie in _tie(each)]
    if pipeline.reader.kind.name == _DETECTOR:
        empty = {name: each for name, each in zip(names, pictures, strict=True) if not said[name]}
        notes += [f"{name}: {_nothing(pipeline, each, confidence)}" for name, each in empty.items()]
    drawn, refused = _draw(dict(zip(names, pictures, strict=True)), said if drawing else {})
    notes += [*pipeline.model.warnings, *pipeline.reader.warnings, *refused]
    return _Asked(said, drawn, warnings=tuple(dict.fromkeys(notes)))


def _nothing(pipeline: Pipeline, picture: Picture, confidence: float | None) -> str:
    """Say that a detector found nothing, and what comes nearest."""
    from ibisa_onnx.targets.detection import CONFIDENCE, nothing_found

    nearest = next(iter(pipeline.answers(picture, 0.0)), None)
    best = None if nearest is None else (nearest.caption, nearest.score)
    return nothing_found(CONFIDENCE if confidence is None else confidence, best)


def _draw(
    pictures: Mapping[str, Picture], said: Mapping[str, Sequence[Answer]]
) -> tuple[dict[str, str], list[str]]:
    """Draw what lies in boxes beside each picture: the files, and why one could not be written."""
    from ibisa_onnx.errors import ResultError
    from ibisa_onnx.io.atomic import check_not_given, write_files
    from ibisa_onnx.io.formats import encode_png
    from ibisa_onnx.io.overlay import tagged

    stems = distinct_stems(list(said))
    drawn, refused = dict[str, str](), list[str]()
    for name, answers in said.items():
        scale = 1 / pictures[name].reduction
        boxes = [(text, [scale * side for side in box]) for text, box in _tags(answers)]
        if not boxes or name == STDIO:
            continue
        path = stems[name].with_name(f"{stems[name].name}{_DRAWING}")
        try:
            check_not_given(path, list(said))
            write_files({path: encode_png(tagged(pictures[name].pixels, boxes))})
            drawn[name] = str(path)
        except ResultError as error:
            refused.append(f"the boxes are not drawn: {error}")
    return drawn, refused


def _tags(answers: Sequence[Answer]) -> list[tuple[str, Box]]:
    """Return what is drawn of answers: a number where one can be asked by, or else a name.

    A text that was read lies where its characters are, which have the numbers.
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
        raise TargetError(f"{path} is no CSV of names and classes: {error}") from error


def _read_classes(path: str, pictures: Sequence[str]) -> list[str | int]:
    """Read the class of each picture from rows of file name and class.

    Raises
    ------
    TargetError
        The file cannot be read, or does not name a picture.
    """
    rows = [row for row in _read_rows(path) if len(row) > 1]
    said = {Path(row[0].strip()).name: row[1].strip() for row in rows}
    for picture in pictures:
        if Path(picture).name not in said:
            raise TargetError(
                f"{path} gives no class of {Path(picture).name}; add a row NAME,CLASS"
            )
    return [parse_target(said[Path(picture).name]) for picture in pictures]


def _list_tensors(console: Console, path: str) -> None:
    """Show the inputs and outputs of a file that can be opened, and nothing else."""
    from ibisa_onnx.models.onnx_session import DeployedModel

    try:
        inputs, outputs = DeployedModel.tensors(path)
    except ModelError:
        return  # the same error that is about to be told
    sections = {
        "inputs": [f"  {each}" for each in inputs],
        "outputs": [f"  {each}" for each in outputs],
    }
    data = {"inputs": list(map(asdict, inputs)), "outputs": list(map(asdict, outputs))}
    console.result(sections_text(path, sections), data)


def _tie(predictions: Sequence[Answer]) -> tuple[str, ...]:
    """Say where the likeliest classes are equally likely."""
    import numpy as np

    from ibisa_onnx.targets.class_scores import tie

    probabilities = np.array([each.score for each in predictions])
    return tie(probabilities, "all" if len(predictions) < _SHOWN else "the likeliest")


def _gradients(model: DeployedModel, reader: OutputReader) -> list[_Gradient]:
    """Tell of each tensor that answers are read from whether an exact gradient can be had."""
    from ibisa_onnx.gradients.selection import refused_input

    try:
        names = reader.kind.outputs()
    except OutputError:
        names = tuple(each.name for each in model.signature.outputs)
    graph = model.proto()
    if graph is None:
        why = (model.file.why_no_graph,)
        return [_Gradient(name, False, why) for name in names]
    why_not = refused_input(model.image)
    if why_not is not None:
        return [_Gradient(name, False, (why_not,)) for name in names]
    for each in reader.kind.nodes:
        each.to_onnx(graph.graph)
    return [_gradient_of(graph, model.image.name, name) for name in names]


def _gradient_of(graph: onnx.ModelProto, image: str, output: str) -> _Gradient:
    """Tell whether an exact gradient of a tensor of a graph can be had."""
    from ibisa_onnx.autodiff import missing_rules

    try:
        missing = missing_rules(graph, image, output)
    except IbisaError as error:
        return _Gradient(output, False, (str(error),))
    obstacles = tuple(dict.fromkeys(f"{rule.op_type}: {rule.why}" for rule in missing))
    return _Gradient(output, not obstacles, obstacles)


@dataclass(frozen=True)
class _Findings:
    """All that was found out."""

    choice: ModelChoice
    model: DeployedModel
    resolved: ResolvedPreprocessing
    kind: Kind
    labels: KnownLabels | None
    gradients: Sequence[_Gradient]
    asked: _Asked


def _data(found: _Findings) -> dict[str, Any]:
    """Return all findings as plain data."""
    model, asked, kind = found.model, found.asked, found.kind
    pictures = {name: list(map(_answer_data, said)) for name, said in asked.answers.items()}
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
        "predictions": classes,
        "pictures": pictures,
        "drawn": dict(asked.drawn),
    } | ({} if asked.ranking is None else {"trial": _trial_data(asked.ranking)})


def _answer_data(answer: Answer) -> dict[str, Any]:
    """Return an answer as plain data."""
    return {**asdict(answer), "probability": answer.score}


def _text(found: _Findings) -> list[Line]:
    """Say all findings, a section each."""
    choice, model, asked = found.choice, found.model, found.asked
    inputs = [
        (str(each), f"takes the image, {model.image.layout}" if each == model.image.tensor else "")
        for each in model.signature.inputs
    ]
    sections: dict[str, list[Line]] = {
        "kind": _kind_rows(found.kind),
        "inputs": rows(inputs),
        "outputs": [f"  {each}" for each in model.signature.outputs],
        "preprocessing": field_rows(found.resolved.resolved_fields),
        "labels": label_rows(found.labels),
        "exact gradient": rows([pair for each in found.gradients for pair in _gradient_rows(each)]),
        "providers": [f"  {name}" for name in model.providers],
    }
    for name, answers in asked.answers.items():
        heading = "top five" if found.kind.name == CLASSIFIER else "answers"
        heading += f" of {name}" if len(asked.answers) > 1 else ""
        sections[heading] = _answer_rows(found.kind, answers)
        if name in asked.drawn:
            sections[heading].append(f"  drawn in {asked.drawn[name]}")
    if asked.ranking is not None:
        sections["preprocessing tried"] = _trial_rows(asked.ranking)
    title = "model from stdin" if choice.model == STDIO else choice.model
    return sections_text(title, sections)


def _asks(kind: Kind) -> list[str]:
    """Return what can be asked, as flags."""
    return [with_flags(each) for each in kind.asks]


def _kind_rows(kind: Kind) -> list[Line]:
    """Say what the model is, how that is known, and what can be asked of it."""
    pairs = [(kind.name, kind.reason)]
    if kind.asks:
        pairs.append(("ask", ", ".join(_asks(kind))))
    return rows(pairs)


def _answer_rows(kind: Kind, answers: Sequence[Answer]) -> list[Line]:
    """Return a row for each answer: a class, or what it is and where; numbered where a flag is."""
    if not answers:
        return ["  nothing is found in this picture"]
    if kind.name == CLASSIFIER:
        return [
            f"  {100 * each.score:5.1f}%  {class_text(each.index or 0, each.label)}"
            for each in answers
        ]
    numbers = [str(each.number or "") for each in answers]
    width = max(map(len, numbers))
    margin = "  " if width else ""
    captions = [each.caption for each in answers]
    if kind.name == _RECOGNISER:  # a space must be seen
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
    """Say whether there is an exact gradient; where not, one row for each obstacle."""
    if gradient.exact:
        return [(gradient.output, "yes: every operator on the path has a rule")]
    more = len(gradient.obstacles) - _MOST_OBSTACLES
    said = [f"no: {gradient.obstacles[0]}", *gradient.obstacles[1:_MOST_OBSTACLES]]
    said += [f"and {more} more (--json shows all)"] if more > 0 else []
    return [(gradient.output if row == 0 else "", text) for row, text in enumerate(said)]


def _trial_rows(ranking: TrialRanking) -> list[Line]:
    """Show how candidates rank, and say how sure that is and which flags to give."""
    known = ranking.trials[0].agreement is not None
    table = rows(
        [
            (
                _flags(trial),
                f"{'=' if trial.level else ' '} {trial.information:5.2f} nats  "
                f"largest probability {trial.sharpness:4.0%}"
                + (f"  right {trial.agreement:4.0%}" if known else ""),
            )
            for trial in ranking.trials
        ]
    )
    return [*table, f"  {_verdict(ranking)}"]


def _verdict(ranking: TrialRanking) -> str:
    """Say how sure the first place is."""
    count = f"{ranking.pictures} picture{'' if ranking.pictures == 1 else 's'}"
    cost = f"({count}, {ranking.passes} forward passes)"
    if ranking.is_sure:
        return f"sure: give {_flags(ranking.trials[0])} {cost}"
    return (
        f"not sure: {len(ranking.level)} of these are level (=); the best is "
        f"{_flags(ranking.trials[0])} {cost}; try more pictures, of different things"
    )


def _flags(trial: Trial) -> str:
    """Return the flags that say a candidate; none for what is in use already."""
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
