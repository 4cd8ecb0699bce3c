"""The models and routes of the server, on KServe's: `NAME` predicts, `NAME-explainer` explains."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

import fastapi
import orjson
from fastapi.responses import Response
from kserve import Model
from kserve.errors import (
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerNotLive,
    ServerNotReady,
)
from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import InferRequest, InferResponse
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from opentelemetry.trace import Span
from starlette.exceptions import HTTPException

from ibisa_onnx import __version__
from ibisa_onnx.errors import IbisaError
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.serving import metrics, oip
from ibisa_onnx.serving.failures import failure
from ibisa_onnx.serving.http_guard import received
from ibisa_onnx.serving.inference import (
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    EXPLAINER_SUFFIX,
    PREDICT_INPUTS,
    Request,
    ServedModel,
    Tensors,
    blamed,
)
from ibisa_onnx.serving.request_log import log
from ibisa_onnx.serving.status import RETRY_AFTER
from ibisa_onnx.serving.tracing import add_stages, request_span, stage_span, trace_id

_T = TypeVar("_T")
Headers = Mapping[str, str] | None
_RELOAD = (
    "models are served as they were read at the start, and cannot be loaded or unloaded; restart "
    "the server to serve another file"
)


class Predictor(Model):  # type: ignore[misc]
    """`NAME`: predicts; its v1 verb `:explain` explains."""

    verb, explains = "predict", False

    def __init__(self, name: str, served: ServedModel, threads: Executor) -> None:
        super().__init__(name)
        self.served, self._threads, self.ready = served, threads, True

    def load(self) -> bool:
        """Return whether the model is ready; it is never loaded again."""
        return bool(self.ready)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the metadata of the inputs."""
        return [each.declared() for each in PREDICT_INPUTS]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the metadata of the outputs."""
        return [each.declared() for each in self.served.predict_outputs]

    async def predict(
        self, payload: Any, headers: Headers = None, response_headers: Any = None
    ) -> InferResponse | bytes:
        """Answer a request of the v2 protocol, or a v1 body."""
        with self._request(self.verb, headers):
            return await self._answered(payload, self._tensors, explains=self.explains)

    async def explain(self, payload: Any, headers: Headers = None) -> InferResponse | bytes:
        """Answer the v1 verb `:explain`."""
        with self._request("explain", headers):
            return await self._answered(payload, self._explained, explains=True)

    async def _answered(
        self, payload: Any, answer: Callable[[Request], Any], *, explains: bool
    ) -> InferResponse | bytes:
        """Parse a payload, answer its requests, and return the response."""
        at = received.get()
        if isinstance(payload, InferRequest):
            with stage_span("decode"):
                request = await self._run(
                    lambda: oip.request_of(payload, explains=explains, received=at)
                )
            tensors = await answer(request)
            with stage_span("encode"), self._timed([request], "v2", explains=explains):
                return await self._run(oip.response_of, tensors, payload, self.name)
        with stage_span("decode"):
            requests, _ = await self._run(
                lambda: oip.v1_requests(payload, explains=explains, received=at)
            )
        results = await _all(answer, requests)
        with stage_span("encode"), self._timed(requests, "v1", explains=explains):
            key = "explanations" if explains else "predictions"
            return await self._run(oip.v1_body, key, results)

    async def _tensors(self, request: Request) -> Tensors:
        """Answer one request of this model."""
        with stage_span("predict"):
            return await self._run(self.served.predict, request)

    async def _explained(self, request: Request) -> Tensors:
        """Explain one image; if the client is gone, drop it from the queue, or stop it."""
        with stage_span("explain") as span:
            future = self.served.submit(request)
            try:
                explanation = await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                self.served.cancel(future)
                raise
            except IbisaError as error:
                raise blamed(request, error) from error
            add_stages(explanation.timings)
        name = self.name.removesuffix(EXPLAINER_SUFFIX)
        metrics.count(name, explanation)
        _log_explanation(name, explanation, span)
        with stage_span("encode"):
            return await self._run(self.served.encode, request, explanation)

    @contextmanager
    def _timed(self, requests: Sequence[Request], stage: str, *, explains: bool) -> Iterator[None]:
        """Note how long the results of requests take to encode."""
        begin = time.perf_counter()
        yield
        for each in requests if explains else ():
            self.served.encoding.note(each, stage, time.perf_counter() - begin)

    @contextmanager
    def _request(self, verb: str, headers: Headers) -> Iterator[None]:
        """Trace and time a request."""
        name, begin = self.name.removesuffix(EXPLAINER_SUFFIX), time.perf_counter()
        with request_span(verb, name, headers):
            try:
                yield
            except asyncio.CancelledError:
                metrics.CANCELLATIONS.labels(name).inc()
                raise
            else:
                metrics.SECONDS.labels(name, verb).observe(time.perf_counter() - begin)

    async def _run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Run a function in a thread, so that health checks are answered meanwhile."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, context.run, function, *args)


class ExplainerModel(Predictor):
    """`NAME-explainer`: explains, in the v2 protocol and by both verbs of v1."""

    verb, explains = "explain", True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the metadata of the inputs."""
        return [each.declared() for each in EXPLAIN_INPUTS]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the metadata of the outputs."""
        return [each.declared() for each in EXPLAIN_OUTPUTS]

    async def _tensors(self, request: Request) -> Tensors:
        return await self._explained(request)


async def _all(answer: Callable[[Request], Any], requests: list[Request]) -> list[Tensors]:
    """Answer several requests; if one fails, the others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(each)) for each in requests]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _log_explanation(name: str, explanation: Explanation, span: Span) -> None:
    log(
        "explained",
        model=name,
        target=explanation.target.caption,
        gradient=explanation.certificate.gradient,
        forward=explanation.passes.forward,
        backward=explanation.passes.backward,
        cut_short=explanation.completion.cut_short,
        together=explanation.together,
        seconds=round(explanation.timings.get("total", 0.0), 4),
        trace_id=trace_id(span),
    )


class Repository(ModelRepositoryExtension):  # type: ignore[misc]
    """Rejects loading and unloading."""

    async def load(self, model_name: str) -> None:
        """Raise `NotImplementedError`."""
        raise NotImplementedError(_RELOAD)

    async def unload(self, model_name: str) -> None:
        """Raise `NotImplementedError`."""
        raise NotImplementedError(_RELOAD)


class Plane(DataPlane):  # type: ignore[misc]
    """KServe's data plane: readiness ends with `stopping`, and v1 bodies need no Content-Type."""

    def __init__(self, models: ModelRepository) -> None:
        super().__init__(models)
        self.stopping = False

    def metadata(self) -> dict[str, Any]:
        """Return the server's metadata."""
        extensions = ["binary_tensor_data"]
        return {"name": "ibisa-onnx", "version": __version__, "extensions": extensions}

    async def ready(self) -> bool:
        """Return whether the server accepts requests."""
        return not self.stopping

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False
    ) -> bool:
        """Return whether a model accepts requests; `ModelNotFound` if there is none."""
        ready = await super().model_ready(model_name, disable_predictor_health_check)
        return bool(ready and not self.stopping)

    def decode(
        self, body: Any, headers: Any, protocol_version: str = "v1", model_name: str | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Parse a v1 body."""
        if isinstance(body, bytes):
            return oip.parse_object(body), {}
        decoded: tuple[Any, dict[str, Any]] = super().decode(
            body, headers, protocol_version, model_name
        )
        return decoded

    async def infer(self, model_name: str, request: Any, headers: Any = None) -> tuple[Any, Any]:
        """Predict, or explain in the v2 protocol."""
        response, _ = await super().infer(model_name, request, headers)
        return response, _content_type(response)

    async def explain(self, model_name: str, request: Any, headers: Any = None) -> tuple[Any, Any]:
        """Explain in the v1 protocol; KServe's would return the request's headers."""
        response, _ = await super().explain(model_name, request, dict(headers or {}))
        return response, _content_type(response)


def _content_type(response: Any) -> dict[str, str]:
    return {"content-type": "application/json"} if isinstance(response, bytes) else {}


def application(plane: Plane, repository: Repository, threads: Executor) -> fastapi.FastAPI:
    """Return the HTTP application: KServe's routes, with v2 inference as in `oip`."""
    app = fastapi.FastAPI(title="ibisa-onnx", docs_url=None, redoc_url=None, openapi_url=None)
    infer = _Inference(plane, threads).infer
    for path in ("", "/versions/{model_version}"):  # before KServe's, as the first one counts
        app.add_api_route(f"/v2/models/{{model_name}}{path}/infer", infer, methods=["POST"])
    app.add_api_route("/", plane.live)
    app.add_api_route("/metrics", metrics_handler, methods=["GET"])
    register_v1_endpoints(app, plane, repository)
    register_v2_endpoints(app, plane, repository)
    errors = _Errors(plane)
    for kind in _FAILURES:
        app.add_exception_handler(kind, errors.failed)
    app.add_exception_handler(HTTPException, errors.rejected)
    return app


class _Inference:
    """The route of v2 inference: bodies are parsed and written in threads."""

    def __init__(self, plane: Plane, threads: Executor) -> None:
        self._plane, self._threads = plane, threads

    async def infer(
        self, request: fastapi.Request, model_name: str, model_version: str | None = None
    ) -> Response:
        """Answer a request."""
        if model_version:
            raise NotImplementedError("models have no versions; omit /versions/…")
        if not await self._plane.model_ready(model_name):
            raise ModelNotReady(model_name)
        run, headers = asyncio.get_running_loop().run_in_executor, dict(request.headers)
        length = headers.get(oip.LENGTH_HEADER)
        given = await run(self._threads, oip.read_body, await request.body(), length, model_name)
        response, _ = await self._plane.infer(model_name, given, headers)
        body, more = await run(self._threads, oip.write_body, response)
        return Response(body, headers=more)


_FAILURES: tuple[type[Exception], ...] = (
    *(IbisaError, InvalidInput, InferenceError, ModelNotFound, ModelNotReady),
    *(ServerNotReady, ServerNotLive, NotImplementedError, Exception),
)
"""Each by itself, as Starlette logs, and raises again, what only `Exception` handles."""


class _Errors:
    """Handlers of exceptions, which answer with the protocol's error."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def failed(self, request: fastapi.Request, error: Exception) -> Response:
        """Report an error of a request."""
        name = str(request.path_params.get("model_name", "")).removesuffix(EXPLAINER_SUFFIX)
        known = name if name in self._plane.model_registry.get_models() else ""
        status, message = failure(error, known)
        return _error(status.http, message)

    async def rejected(self, _: fastapi.Request, error: Any) -> Response:
        """Report a path or a method that does not exist."""
        return _error(error.status_code, str(error.detail))


def _error(code: int, message: str) -> Response:
    """Return the protocol's error."""
    headers = {"retry-after": str(RETRY_AFTER)} if code in (429, 503) else None
    body = orjson.dumps({"error": message})
    return Response(body, code, headers, "application/json")
