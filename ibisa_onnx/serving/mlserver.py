"""Explanations on MLServer: a runtime that a `model-settings.json` names as `implementation`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.errors import MLServerError
from mlserver.settings import ModelSettings
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    RequestInput,
    ResponseOutput,
)

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import IbisaError, OptionError
from ibisa_onnx.escaping import escaped
from ibisa_onnx.explainer import Explainer
from ibisa_onnx.io.literals import is_number
from ibisa_onnx.serving.inference import (
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    IMAGE,
    MAP,
    OVERLAY,
    TARGET,
    Request,
    ServedModel,
)
from ibisa_onnx.serving.scheduler import Scheduler
from ibisa_onnx.serving.status import status_of
from ibisa_onnx.serving.target_text import with_keys

_log = logging.getLogger(__name__)
_DEADLINES = {"deadline_ms": 30_000, "max_deadline_ms": 60_000}


class ExplainerRuntime(MLModel):  # type: ignore[misc]
    """Explains the ONNX file at `parameters.uri`.

    `parameters.extra` has keyword arguments of `Explainer`, and the server's own: `deadline_ms`
    (milliseconds, by default 30,000), `max_deadline_ms` (60,000), `max_queue` (64), `max_batch`
    (by default measured) and `seed` (0). Inputs and outputs are those of `ibisa-onnx serve`.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.inputs = [MetadataTensor(**each.declared()) for each in EXPLAIN_INPUTS]
        self.outputs = [MetadataTensor(**each.declared()) for each in EXPLAIN_OUTPUTS]

    async def load(self) -> bool:
        """Open the model and prepare it for its first request.

        Raises
        ------
        IbisaError
            As `Explainer`.
        """
        parameters = self.settings.parameters
        if parameters is None or parameters.uri is None:
            raise OptionError("model-settings.json has no parameters.uri; pass the ONNX file")
        extra = dict(parameters.extra or {})
        self._served = await asyncio.to_thread(_opened, parameters.uri, extra)
        return True

    async def unload(self) -> bool:
        """End the scheduler; requests in progress finish."""
        if (scheduler := self._served.scheduler) is not None:
            await asyncio.to_thread(scheduler.close)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Explain.

        Raises
        ------
        MLServerError
            The request cannot be answered; one line.
        """
        try:
            outputs = await self._explained(payload)
        except IbisaError as error:
            line = escaped(with_keys(" ".join(str(error).split())))
            raise MLServerError(line, status_of(error).http) from None
        except Exception as error:
            _log.exception("unexpected error")
            kind = type(error).__name__
            raise MLServerError(f"unexpected {kind}; the server's log has it", 500) from None
        return InferenceResponse(
            id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs
        )

    async def _explained(self, payload: InferenceRequest) -> list[ResponseOutput]:
        request = await asyncio.to_thread(_request, payload)
        future = self._served.submit(request)
        try:
            await asyncio.wait([asyncio.wrap_future(future)])
        except asyncio.CancelledError:
            self._served.cancel(future)
            raise
        explanation = self._served.wait(request, future)
        found = await asyncio.to_thread(self._served.encode, request, explanation)
        return [_output(name, value) for name, value in found.items()]


def _opened(path: str, extra: Mapping[str, Any]) -> ServedModel:
    """Open a model with the options of a `model-settings.json`."""
    options = dict(extra)
    deadline, most = (_seconds(name, options) for name in _DEADLINES)
    seed, queue = options.pop("seed", 0), options.pop("max_queue", 64)
    batch = options.pop("max_batch", None)
    try:
        explainer = Explainer(path, **options)
    except TypeError as error:  # an unknown keyword
        raise OptionError(f"parameters.extra: {error}") from None
    explainer.warm_up()
    for warning in explainer.warnings:
        _log.warning("%s: %s", path, warning)
    deadline = min(deadline, most)
    scheduler = Scheduler(explainer, max_batch=batch, max_queue=queue, deadline=deadline)
    return ServedModel(explainer, scheduler, deadline, most, seed)


def _seconds(name: str, options: dict[str, Any]) -> float:
    value = options.pop(name, _DEADLINES[name])
    if not is_number(value) or value <= 0:
        raise OptionError(f"{name} is {shown(value)}; pass milliseconds, above 0")
    return float(value) / 1000


def _request(payload: InferenceRequest) -> Request:
    given = {each.name: _value(each) for each in payload.inputs}
    unknown = next((name for name in given if name not in (IMAGE, TARGET)), None)
    if unknown is not None:
        raise OptionError(f"unknown input {unknown!r}; known: {IMAGE}, {TARGET}")
    parameters = {} if payload.parameters is None else payload.parameters.model_dump()
    said = {name: value for name, value in parameters.items() if value is not None}
    names = [each.name for each in payload.outputs or ()]
    return Request.of(given.get(IMAGE), given.get(TARGET), said, names)


def _value(given: RequestInput) -> Any:
    """Return an input's value: a list for BYTES, otherwise an array."""
    if given.datatype == "BYTES":
        return given.data.root
    try:
        return NumpyCodec.decode_input(given)
    except (TypeError, ValueError) as error:
        raise OptionError(f"input {given.name!r} has no values of its shape: {error}") from None


def _output(name: str, value: np.ndarray[Any, Any]) -> ResponseOutput:
    if name == MAP:
        return NumpyCodec.encode_output(name, value)
    if name == OVERLAY:  # JSON has no bytes, and MLServer no binary tensors over HTTP
        found = Base64Codec.encode_output(name, list(value))
    else:
        found = StringCodec.encode_output(name, [each.decode() for each in value])
    found.shape = [1]
    return found
