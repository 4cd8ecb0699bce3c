"""`ibisa-onnx inspect`: a model's inputs, outputs and inferred preprocessing, with sources."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import Console, console_options, rows
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.report import class_text
from ibisa_onnx.commands.resolved_fields import (
    field_rows,
    fields_data,
    label_rows,
    labels_data,
    sections_text,
)
from ibisa_onnx.errors import IbisaError, ModelError, OutputError

if TYPE_CHECKING:
    from ibisa_onnx import Prediction
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.preprocessing.resolve import ResolvedPreprocessing
    from ibisa_onnx.targets.labels import KnownLabels
    from ibisa_onnx.targets.reader import OutputReader

_MOST_OBSTACLES = 6
_SHOWN = 5  # predictions


@dataclass(frozen=True)
class _Gradient:
    """Whether an output has an exact gradient, and what stands in its way."""

    output: str
    exact: bool
    obstacles: tuple[str, ...]


@click.command("inspect", short_help="Show a model's inputs, outputs and inferred preprocessing.")
@click.argument("model")
@click.argument("image", required=False)
@model_options
@console_options
def command(console: Console, image: str | None, choice: ModelChoice) -> None:
    """Show the inputs and outputs of MODEL and each setting of its preprocessing with its source.

    With an IMAGE, the top five classes too: where they are wrong, so is the preprocessing.
    """
    if choice.model == image == STDIO:
        raise click.UsageError("only one of MODEL and IMAGE can be -, stdin is read once")
    try:
        model = choice.open()
    except ModelError:
        if choice.model != STDIO:  # names are what is wanted where a name is missing
            _list_tensors(console, choice.model)
        raise
    resolved = choice.resolve(model)
    reader = choice.reader(model)
    labels, doubts = choice.find_labels(reader)
    labels = labels or reader.usual_labels
    gradients = [_gradient_of(model, output) for output in _tensors_of_interest(reader, model)]
    warnings = [*model.warnings, *resolved.warnings, *doubts]
    console.warn(warnings)
    predictions: Sequence[Prediction] = ()
    failure: IbisaError | None = None
    if image is not None:
        picture = sys.stdin.buffer.read() if image == STDIO else image
        try:
            explainer = choice.explainer(model)
            predictions = explainer.predict(picture, top=_SHOWN)
            found = [each for each in explainer.warnings if each not in warnings]
            found += _tie(predictions)
            console.warn(found)
            warnings += found
        except IbisaError as error:
            failure = error
    data = _data(model, resolved, labels, gradients, predictions) | {"warnings": warnings}
    console.result(_text(choice, model, resolved, labels, gradients, predictions), data)
    if failure:  # all that is known is worth saying first
        raise failure


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


def _tensors_of_interest(reader: OutputReader, model: DeployedModel) -> list[str]:
    """Name all outputs, and the tensors inside the model that are read in place of one."""
    names = [each.name for each in model.signature.outputs]
    try:
        return list(dict.fromkeys([*names, *reader.candidates()]))
    except OutputError:
        return names


def _tie(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """Say where the likeliest classes are equally likely."""
    import numpy as np

    from ibisa_onnx.targets.class_scores import tie

    probabilities = np.array([each.probability for each in predictions])
    return tie(probabilities, "all" if len(predictions) < _SHOWN else "the likeliest")


def _gradient_of(model: DeployedModel, output: str) -> _Gradient:
    """Tell whether an exact gradient of a tensor can be had."""
    from ibisa_onnx.autodiff import missing_rules

    graph = model.proto()
    if graph is None:
        return _Gradient(output, False, ("the graph cannot be read from this source",))
    try:
        missing = missing_rules(graph, model.image.name, output)
    except IbisaError as error:
        return _Gradient(output, False, (str(error),))
    obstacles = tuple(dict.fromkeys(f"{rule.op_type}: {rule.why}" for rule in missing))
    return _Gradient(output, not obstacles, obstacles)


def _data(
    model: DeployedModel,
    resolved: ResolvedPreprocessing,
    labels: KnownLabels | None,
    gradients: Sequence[_Gradient],
    predictions: Sequence[Prediction],
) -> dict[str, Any]:
    """Return all findings as plain data."""
    return {
        "model": model.name,
        "inputs": [asdict(each) for each in model.signature.inputs],
        "outputs": [asdict(each) for each in model.signature.outputs],
        "image_input": model.image.name,
        "preprocessing": fields_data(resolved.resolved_fields),
        "labels": labels_data(labels),
        "gradients": [asdict(each) for each in gradients],
        "providers": list(model.providers),
        "predictions": [asdict(each) for each in predictions],
    }


def _text(
    choice: ModelChoice,
    model: DeployedModel,
    resolved: ResolvedPreprocessing,
    labels: KnownLabels | None,
    gradients: Sequence[_Gradient],
    predictions: Sequence[Prediction],
) -> str:
    """Say all findings, a section each."""
    inputs = [
        (str(each), f"takes the image, {model.image.layout}" if each == model.image.tensor else "")
        for each in model.signature.inputs
    ]
    sections = {
        "inputs": rows(inputs),
        "outputs": [f"  {each}" for each in model.signature.outputs],
        "preprocessing": field_rows(resolved.resolved_fields),
        "labels": label_rows(labels),
        "exact gradient": rows([pair for each in gradients for pair in _gradient_rows(each)]),
        "providers": [f"  {name}" for name in model.providers],
    }
    if predictions:
        sections["top five"] = [_prediction_text(each) for each in predictions]
    title = "model from stdin" if choice.model == STDIO else choice.model
    return sections_text(title, sections)


def _gradient_rows(gradient: _Gradient) -> list[tuple[str, str]]:
    """Say whether there is an exact gradient; where not, one row for each obstacle."""
    if gradient.exact:
        return [(gradient.output, "yes: every operator on the path has a rule")]
    more = len(gradient.obstacles) - _MOST_OBSTACLES
    said = [f"no: {gradient.obstacles[0]}", *gradient.obstacles[1:_MOST_OBSTACLES]]
    said += [f"and {more} more (--json shows all)"] if more > 0 else []
    return [(gradient.output if row == 0 else "", text) for row, text in enumerate(said)]


def _prediction_text(prediction: Prediction) -> str:
    name = class_text(prediction.index, prediction.label)
    return f"  {100 * prediction.probability:5.1f}%  {name}"
