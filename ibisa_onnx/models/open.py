"""Opens a model, whichever form it has: a file, a session, or a function."""

from __future__ import annotations

from typing import Any

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.function import FunctionModel, InputSpec, name_of
from ibisa_onnx.models.onnx_session import DeployedModel


def open_model(
    model: Any,
    input_spec: InputSpec | None,
    *,
    layout: str | None,
    output: str | None,
    limits: Limits | None = None,
    **opening: Any,
) -> ImageModel:
    """Open a file, a session or a function as an `ImageModel`; return an `ImageModel` unchanged.

    `opening` are the other arguments of `DeployedModel.open`.

    Raises
    ------
    ModelError
        It is none of these, cannot be opened, or an argument does not apply to this form of model.
    """
    given = [name for name, value in opening.items() if value]
    if isinstance(model, ImageModel):
        given += ["input_spec"] if input_spec is not None else []
        given += ["limits"] if limits is not None else []
        if given:
            raise ModelError(
                f"{', '.join(given)} cannot be passed with an open model; pass it where the model "
                "is opened"
            )
        return model
    function = callable(model) and not hasattr(model, "get_providers")
    if input_spec is None and not function:
        return DeployedModel.open(model, layout=layout, limits=limits, **opening)
    if input_spec is None:
        raise ModelError(
            f"{name_of(model)} is a function; describe its input: "
            "Explainer(function, InputSpec((None, 3, 224, 224)))"
        )
    declares = isinstance(input_spec, InputSpec) and input_spec.outputs is not None
    given += ["output"] if output and not declares else []
    if function and given:
        raise ModelError(f"{', '.join(given)} cannot be passed with a function; leave it out")
    return FunctionModel(model, input_spec, limits=limits)
