"""The gRPC side of the server: KServe's service, on one address and within limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from grpc import aio
from grpc_interceptor import AsyncExceptionToStatusInterceptor
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service
from kserve.protocol.grpc.servicer import InferenceServicer

from ibisa_onnx.errors import OptionError
from ibisa_onnx.serving.endpoints import Plane, Repository
from ibisa_onnx.serving.failures import failure
from ibisa_onnx.serving.http_guard import received
from ibisa_onnx.serving.inference import EXPLAINER_SUFFIX
from ibisa_onnx.serving.request_log import log
from ibisa_onnx.serving.status import RETRY_AFTER

_INFER = "ModelInfer"


class _Guard(AsyncExceptionToStatusInterceptor):  # type: ignore[misc]
    """Turns errors into statuses, and logs inference requests."""

    def __init__(self, plane: Plane) -> None:
        super().__init__()
        self._plane = plane

    async def intercept(
        self, method: Callable[..., Any], request: Any, context: Any, method_name: str
    ) -> Any:
        """Handle one call."""
        begin, code = time.perf_counter(), "CANCELLED"
        received.set(begin)
        try:
            response = await super().intercept(method, request, context, method_name)
            code = "OK"
            return response
        except Exception:
            code = getattr(context.code(), "name", None) or "UNKNOWN"
            raise
        finally:
            if method_name.endswith(_INFER):
                log(
                    "request",
                    protocol="grpc",
                    model=request.model_name,
                    status=code,
                    seconds=round(time.perf_counter() - begin, 4),
                )

    async def handle_exception(
        self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str
    ) -> NoReturn:
        """End the call with the error's status and message."""
        name = str(getattr(request_or_iterator, "model_name", "")).removesuffix(EXPLAINER_SUFFIX)
        known = name if name in self._plane.model_registry.get_models() else ""
        status, message = failure(ex, known)
        if status.http in (429, 503):
            context.set_trailing_metadata((("retry-after", str(RETRY_AFTER)),))
        await context.abort(grpc.StatusCode[status.grpc], message)
        raise ex  # `abort` raised already


class _Service(InferenceServicer):  # type: ignore[misc]
    """KServe's service; models have no versions."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Answer an inference request."""
        if request.model_version:
            raise NotImplementedError("models have no versions; omit model_version")
        return await super().ModelInfer(request, context)


async def start(
    plane: Plane,
    repository: Repository,
    address: str,
    *,
    max_bytes: int,
    max_requests: int,
) -> tuple[aio.Server, int]:
    """Start serving on an address, HOST:PORT; port 0 is a free one.

    Parameters
    ----------
    plane, repository
        The models.
    address
        Where to listen.
    max_bytes
        Largest message that is accepted.
    max_requests
        Most calls at a time; more end with RESOURCE_EXHAUSTED.

    Returns
    -------
    tuple
        The server, and its port.

    Raises
    ------
    OptionError
        The address is not available.
    """
    server = aio.server(
        interceptors=(_Guard(plane),),
        maximum_concurrent_rpcs=max_requests,
        options=[
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # else two servers share a port without a word
        ],
    )
    service.add_GRPCInferenceServiceServicer_to_server(_Service(plane, repository), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise OptionError(f"cannot listen on {address} for gRPC; choose another --grpc-port")
    await server.start()
    return server, port
