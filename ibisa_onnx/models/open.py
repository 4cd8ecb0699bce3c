"""Opens a model, whichever form it has: a file, a session, a function, or a server's URL."""

from __future__ import annotations

import os
from typing import Any

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.endpoint import is_server_url
from ibisa_onnx.models.function import FunctionModel, InputSpec, name_of
from ibisa_onnx.models.onnx_session import DeployedModel

_OF_REMOTE = ("input", "extra_inputs", "max_batch")


def open_model(
    model: Any,
    input_spec: InputSpec | None,
    *,
    layout: str | None,
    output: str | None,
    limits: Limits | None = None,
    gradient_from: str | os.PathLike[str] | None = None,
    **opening: Any,
) -> ImageModel:
    """Open a file, a session, a function or a URL; return an `ImageModel` unchanged.

    `gradient_from` is the ONNX file that runs behind a function or a server. `opening` are the
    other arguments of `DeployedModel.open`.

    Raises
    ------
    ModelError
        It is none of these, cannot be opened, or an argument does not apply to this form of model.
    """
    given = [name for name, value in opening.items() if value]
    if isinstance(model, ImageModel):
        given += ["input_spec"] if input_spec is not None else []
        given += ["limits"] if limits is not None else []
        given += ["gradient_from"] if gradient_from is not None else []
        if given:
            raise ModelError(
                f"{', '.join(given)} cannot be passed with an open model; pass it where the model "
                "is opened"
            )
        return model
    if is_server_url(model):
        return _open_remote(model, input_spec, layout, limits, gradient_from, given, opening)
    function = callable(model) and not hasattr(model, "get_providers")
    if input_spec is None and not function:
        if gradient_from is not None:
            raise ModelError(
                "gradient_from applies to functions and models on a server; an ONNX file has a "
                "gradient of its own, or pass surrogate="
            )
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
    return FunctionModel(model, input_spec, gradient_from=gradient_from, limits=limits)


def _open_remote(
    url: str,
    input_spec: InputSpec | None,
    layout: str | None,
    limits: Limits | None,
    gradient_from: str | os.PathLike[str] | None,
    given: list[str],
    opening: dict[str, Any],
) -> ImageModel:
    """Open a model on a server; reject arguments on how ONNX Runtime runs a model."""
    from ibisa_onnx.models.remote import RemoteModel

    wrong = [name for name in given if name not in _OF_REMOTE]
    if wrong:
        raise ModelError(
            f"{', '.join(wrong)} cannot be passed with a model on a server; leave it out"
        )
    return RemoteModel(
        url,
        input_spec,
        layout=layout,
        limits=limits,
        gradient_from=gradient_from,
        **{name: opening[name] for name in given},
    )
