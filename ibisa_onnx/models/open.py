"""What is to be explained, in whichever form it is given: a file, a session, or a function."""

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
    """Open what is to be explained: a file or a session, a function, or nothing more to open.

    `opening` are the other arguments of `DeployedModel.open`.

    Raises
    ------
    ModelError
        It is none of these, cannot be opened, or arguments are given that belong to another form.
    """
    given = [name for name, value in opening.items() if value]
    if isinstance(model, ImageModel):
        given += ["input_spec"] if input_spec is not None else []
        given += ["limits"] if limits is not None else []
        if given:
            raise ModelError(
                f"{', '.join(given)} cannot be given with an open model; say it where it is opened"
            )
        return model
    function = callable(model) and not hasattr(model, "get_providers")
    if input_spec is None and not function:
        return DeployedModel.open(model, layout=layout, limits=limits, **opening)
    if input_spec is None:
        raise ModelError(
            f"{name_of(model)} is a function; say what it takes, as in "
            "Explainer(function, InputSpec((None, 3, 224, 224)))"
        )
    declares = isinstance(input_spec, InputSpec) and input_spec.outputs is not None
    given += ["output"] if output and not declares else []
    if function and given:
        raise ModelError(f"{', '.join(given)} cannot be given with a function; leave it out")
    return FunctionModel(model, input_spec, limits=limits)
