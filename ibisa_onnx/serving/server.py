"""The model server: KServe's protocols over HTTP and gRPC, in one process, until a signal.

`ibisa-onnx serve` runs it. One process serves all models with threads; to use more cores than one
model can, run several servers behind a load balancer.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ibisa_onnx.errors import OptionError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.serving.inference import EXPLAINER_SUFFIX, ServedModel

_SPARE = 8  # requests beyond the queues: predictions, and what is about to be rejected
_BODY_SECONDS = 30.0
_FORCED = 2.0  # seconds, for what is cancelled to end
_HALT = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Settings:
    """How the server listens, and its limits.

    Attributes
    ----------
    host
        Address to listen on.
    http_port, grpc_port
        Ports; 0 for a free one. `grpc_port` None: no gRPC.
    max_bytes
        Size of a request's body or message.
    max_queue
        Explanations that wait, per model.
    concurrency
        Requests whose parsing, prediction or encoding runs at a time.
    grace
        Seconds that requests have to finish in after a signal.
    """

    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int | None = 8081
    max_bytes: int = 32 << 20
    max_queue: int = 64
    concurrency: int = 4
    grace: float = 30.0


@dataclass(frozen=True)
class Addresses:
    """Where the server listens: `HOST:PORT`; `grpc` is None without gRPC."""

    http: str
    grpc: str | None


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """Bind the HTTP port, so that a taken one is reported before the models are read.

    Raises
    ------
    OptionError
        The address is not available.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((settings.host, settings.http_port))
        except (OSError, UnicodeError) as error:
            raise OptionError(
                f"cannot listen on {settings.host}:{settings.http_port}: "
                f"{getattr(error, 'strerror', None) or error}; choose another --host or --http-port"
            ) from error
        yield bound


def import_server() -> None:
    """Import KServe, which reads the command line of the process on import.

    Raises
    ------
    MissingDependencyError
        The extra `serve` is not installed.
    """
    words = sys.argv
    sys.argv = words[:1]  # its flags are not ours, and it exits on a value it does not like
    try:
        import_extra("kserve", "serve")
        import_extra("opentelemetry", "serve")
    finally:
        sys.argv = words


def serve(
    models: Mapping[str, ServedModel],
    bound: socket.socket,
    settings: Settings,
    on_ready: Callable[[Addresses], None],
) -> bool:
    """Serve models until SIGTERM or SIGINT, and let the requests in progress finish.

    Parameters
    ----------
    models
        The models by name, each with a scheduler.
    bound
        The bound HTTP socket.
    settings
        Ports and limits.
    on_ready
        Called once requests are accepted.

    Returns
    -------
    bool
        Whether all requests finished within the grace period.

    Raises
    ------
    OptionError
        The gRPC address is not available.
    """
    return asyncio.run(_Server(models, settings).run(bound, on_ready))


class _Server:
    """The running server."""

    def __init__(self, models: Mapping[str, ServedModel], settings: Settings) -> None:
        import_server()
        from kserve.model_repository import ModelRepository

        from ibisa_onnx.serving import metrics
        from ibisa_onnx.serving.endpoints import ExplainerModel, Plane, Predictor, Repository

        self._settings, self._models = settings, models
        self._threads = ThreadPoolExecutor(settings.concurrency, "ibisa-onnx request")
        registry = ModelRepository()
        for name, served in models.items():
            registry.update(Predictor(name, served, self._threads))
            registry.update(ExplainerModel(f"{name}{EXPLAINER_SUFFIX}", served, self._threads))
            if served.scheduler is not None:
                metrics.watch(name, served.scheduler)
        self._plane, self._repository = Plane(registry), Repository(registry)
        self._halt = asyncio.Event()
        self._forced = False

    async def run(self, bound: socket.socket, on_ready: Callable[[Addresses], None]) -> bool:
        """Serve until a signal; return whether all requests finished."""
        loop = asyncio.get_running_loop()
        for number in _HALT:
            loop.add_signal_handler(number, self._stop)
        http = self._http()
        serving = asyncio.create_task(http.serve(sockets=[bound]))
        try:
            grpc, port = await self._grpc()
        except BaseException:
            http.should_exit = True
            await serving
            raise
        while not http.started and not serving.done():
            await asyncio.sleep(0.01)
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = None if port is None else f"{host}:{port}"
        on_ready(Addresses(f"{host}:{bound.getsockname()[1]}", address))
        halted = asyncio.create_task(self._halt.wait())
        await asyncio.wait({halted, serving}, return_when=asyncio.FIRST_COMPLETED)
        return await self._drain(http, serving, grpc)

    def _stop(self) -> None:
        """Begin to end; a second signal cancels the requests in progress."""
        self._forced = self._halt.is_set()
        self._plane.stopping = True
        self._halt.set()

    async def _drain(self, http: Any, serving: asyncio.Task[None], grpc: Any) -> bool:
        """Let the requests in progress finish within the grace period, then cancel them."""
        from ibisa_onnx.serving.request_log import log

        log("stopping", grace=self._settings.grace)
        http.should_exit = True
        ends = [serving]
        if grpc is not None:
            ends.append(asyncio.create_task(grpc.stop(self._settings.grace)))
        whole = asyncio.gather(*ends)
        limit = asyncio.get_running_loop().time() + self._settings.grace + _FORCED
        while not whole.done() and not self._forced and asyncio.get_running_loop().time() < limit:
            await asyncio.wait([whole], timeout=0.1)
        finished = whole.done() and not http.cancelled
        for served in self._models.values():
            if served.scheduler is not None:
                served.scheduler.close(drain=finished)
        self._threads.shutdown(wait=False, cancel_futures=True)
        log("stopped", unfinished=None if finished else "cancelled")
        return finished

    def _http(self) -> Any:
        """Return the HTTP server."""
        import uvicorn

        from ibisa_onnx.serving.endpoints import application
        from ibisa_onnx.serving.http_guard import BodyLimits, HttpGuard

        settings = self._settings
        app = application(self._plane, self._repository, self._threads)
        limits = BodyLimits(settings.max_bytes, _BODY_SECONDS, self._most)

        class Http(uvicorn.Server):  # type: ignore[misc]
            cancelled = False

            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # they are this module's

            async def shutdown(self, sockets: Any = None) -> None:
                await super().shutdown(sockets)
                self.cancelled = bool(self.server_state.tasks)

        return Http(
            uvicorn.Config(
                HttpGuard(app, limits),
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=round(settings.grace) or 1,
                server_header=False,
            )
        )

    async def _grpc(self) -> tuple[Any, int | None]:
        """Start the gRPC server; return it and its port, or None twice."""
        settings = self._settings
        if settings.grpc_port is None:
            return None, None
        from ibisa_onnx.serving.grpc_server import start

        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return await start(
            self._plane,
            self._repository,
            f"{host}:{settings.grpc_port}",
            max_bytes=settings.max_bytes,
            max_requests=self._most,
        )

    @property
    def _most(self) -> int:
        """Requests with a body at a time, for which there is memory."""
        settings = self._settings
        return len(self._models) * 2 * settings.max_queue + settings.concurrency + _SPARE


def check_names(names: list[str]) -> None:
    """Raise `OptionError` if a model's name is empty, doubled, or cannot be part of a URL."""
    for name in names:
        if not name or any(not (each.isalnum() or each in "-_.") for each in name):
            raise OptionError(
                f"model name {name!r} cannot be part of a URL; pass NAME=FILE with letters, "
                "digits, -, _ and ."
            )
        if names.count(name) > 1:
            raise OptionError(f"two models are named {name!r}; pass NAME=FILE")
        if f"{name}{EXPLAINER_SUFFIX}" in names:
            raise OptionError(
                f"{name}{EXPLAINER_SUFFIX} is the explainer of {name!r}; choose another name"
            )
