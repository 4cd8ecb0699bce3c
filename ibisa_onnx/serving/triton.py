"""Explanations on Triton Inference Server, bound by pytriton to its Python backend.

Images are files (BYTES); Triton declares one datatype per input. pytriton adds a traceback of its
own to the line of an error, and its status is always 500.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.escaping import escaped
from ibisa_onnx.imports import import_extra
from ibisa_onnx.serving.inference import (
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    EXPLAINER_SUFFIX,
    IMAGE,
    PREDICT_INPUTS,
    TARGET,
    Request,
    ServedModel,
    Tensor,
    Tensors,
)
from ibisa_onnx.serving.target_text import with_keys

if TYPE_CHECKING:
    from pytriton.triton import Triton

    from ibisa_onnx.explainer import Explainer

_log = logging.getLogger(__name__)


def bind(triton: Triton, name: str, model: Explainer | ServedModel, *, workers: int = 1) -> None:
    """Serve a model on Triton: `NAME` predicts, `NAME-explainer` explains.

    Parameters
    ----------
    triton
        A `pytriton.triton.Triton`.
    name
        Name of the model.
    model
        An `Explainer`, or a `ServedModel` for limits on deadlines and a scheduler.
    workers
        Requests of each of the two that run at a time; Triton queues the others.

    Raises
    ------
    MissingDependencyError
        pytriton is not installed.
    """
    config = import_extra("pytriton.model_config", "triton").ModelConfig
    served = model if isinstance(model, ServedModel) else ServedModel(model)
    parts = {
        name: (served.predict, PREDICT_INPUTS, served.predict_outputs),
        f"{name}{EXPLAINER_SUFFIX}": (served.answer, EXPLAIN_INPUTS, EXPLAIN_OUTPUTS),
    }
    for each, (answer, inputs, outputs) in parts.items():
        triton.bind(
            model_name=each,
            infer_func=[_function(answer)] * workers,
            inputs=_tensors(inputs),
            outputs=_tensors(outputs),
            config=config(batching=False),
        )


class RequestFailedError(Exception):
    """An error of a request, as one line: pytriton returns an exception with its traceback."""

    __traceback__ = property(lambda _: None, lambda *_: None)


def _function(answer: Callable[[Request], Tensors]) -> Callable[[Sequence[Any]], list[Tensors]]:
    """Return pytriton's inference function."""

    def infer(requests: Sequence[Any]) -> list[Tensors]:
        try:
            return [answer(_request(each)) for each in requests]
        except IbisaError as error:
            raise RequestFailedError(escaped(with_keys(" ".join(str(error).split())))) from None
        except Exception as error:
            _log.exception("unexpected error")
            kind = type(error).__name__
            raise RequestFailedError(f"unexpected {kind}; the server's log has it") from None

    return infer


def _request(given: Any) -> Request:
    return Request.of(given.data.get(IMAGE), given.data.get(TARGET), given.parameters)


def _tensors(declared: Sequence[Tensor]) -> list[Any]:
    """Return pytriton's declarations."""
    import numpy as np
    from pytriton.model_config import Tensor as Declared

    dtypes = {"BYTES": bytes, "FP32": np.float32}
    return [
        Declared(
            name=each.name, dtype=dtypes[each.datatype], shape=each.shape, optional=each.optional
        )
        for each in declared
    ]
