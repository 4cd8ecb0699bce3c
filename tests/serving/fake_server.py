"""A server of the Open Inference Protocol v2 from the standard library, which can be made to fail.

It serves one planted classifier: the mean brightness of three squares, so the right map is known.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

SIDE = 32
SQUARES = {"red": (16, 4, 26, 14), "green": (2, 18, 12, 28), "blue": (20, 20, 30, 30)}
"""Left, top, right, bottom in pixels; a channel and a class each."""
LABELS = tuple(SQUARES)
_HEADER = "Inference-Header-Content-Length"

Reply = tuple[int, dict[str, str], bytes]
Outputs = np.ndarray | Mapping[str, np.ndarray]


def scores(images: np.ndarray) -> np.ndarray:
    """Return logits [N, 3] of images [N, 3, H, W] in 0..1."""
    means = [
        images[:, channel, top:bottom, left:right].mean((1, 2))
        for channel, (left, top, right, bottom) in enumerate(SQUARES.values())
    ]
    return (6 * np.stack(means, 1)).astype(np.float32)


def scene(**levels: int) -> np.ndarray:
    """Return an image, uint8 [H, W, 3], with squares of these levels on black."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, (name, (left, top, right, bottom)) in enumerate(SQUARES.items()):
        pixels[top:bottom, left:right, channel] = levels.get(name, 0)
    return pixels


@dataclass
class Fake:
    """What the server does, and what it was asked.

    `reply` replaces the response to an inference; it receives the images and the usual reply.
    """

    binary: bool = True
    ready: bool = True
    metadata: dict[str, Any] = field(
        default_factory=lambda: {
            "name": "squares",
            "versions": ["3"],
            "platform": "planted",
            "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}],
        }
    )
    predict: Callable[[np.ndarray], Outputs] = scores
    reply: Callable[[np.ndarray, Reply], Reply | None] | None = None
    most: int | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    sockets: list[socket.socket] = field(default_factory=list)
    port: int = 0

    @property
    def connections(self) -> int:
        """The number of connections so far."""
        return len(self.sockets)

    def hang_up(self) -> None:
        """Close all connections, as a server does after some idle seconds."""
        for each in self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2/models/squares"


def encoded(values: Outputs, *, binary: bool) -> Reply:
    """Return a successful response."""
    named = values if isinstance(values, Mapping) else {"scores": values}
    outputs: list[dict[str, Any]] = [
        {
            "name": name,
            "datatype": {"f4": "FP32", "i8": "INT64"}[each.dtype.str[1:]],
            "shape": list(each.shape),
        }
        for name, each in named.items()
    ]
    for tensor, each in zip(outputs, named.values(), strict=True):
        if binary:
            tensor["parameters"] = {"binary_data_size": each.nbytes}
        else:
            tensor["data"] = each.ravel().tolist()
    text = json.dumps({"model_name": "squares", "outputs": outputs}).encode()
    if not binary:
        return 200, {}, text
    return 200, {_HEADER: str(len(text))}, text + b"".join(e.tobytes() for e in named.values())


@contextmanager
def fake_server(fake: Fake, context: ssl.SSLContext | None = None) -> Iterator[Fake]:
    """Run a server on a free port of the loopback, with TLS if there is a context."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with lock:
                fake.sockets.append(self.connection)

        def do_GET(self) -> None:
            self._note()
            extensions = ["binary_tensor_data", "model_configuration"] if fake.binary else []
            pages: dict[str, Any] = {
                "/v2": {"name": "fake", "version": "1.0", "extensions": extensions},
                "/v2/models/squares": fake.metadata,
                "/v2/models/squares/config": {"max_batch_size": fake.most or 0},
            }
            if self.path == "/v2/models/squares/ready":
                self._send((200 if fake.ready else 503, {}, b""))
            elif self.path in pages:
                self._send((200, {}, json.dumps(pages[self.path]).encode()))
            else:
                self._send((404, {}, b'{"error": "no model called that"}'))

        def do_POST(self) -> None:
            self._note()
            body = self.rfile.read(int(self.headers["Content-Length"]))
            images = _decoded(body, self.headers.get(_HEADER))
            with lock:
                fake.batches.append(len(images))
                fake.running += 1
                fake.most_running = max(fake.most_running, fake.running)
            try:
                usual = encoded(fake.predict(images), binary=fake.binary)
                reply = fake.reply(images, usual) if fake.reply else usual
            finally:
                with lock:
                    fake.running -= 1
            if reply is None:  # drop the connection
                self.close_connection = True
                self.connection.close()
            else:
                self._send(reply)

        def _note(self) -> None:
            with lock:
                fake.requests.append((self.command, self.path))
                fake.headers.append({name.lower(): each for name, each in self.headers.items()})

        def _send(self, reply: Reply) -> None:
            status, headers, body = reply
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            with suppress(OSError):  # the client may have given up
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.block_on_close = False
    fake.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _decoded(body: bytes, header: str | None) -> np.ndarray:
    """Return the first input of a request."""
    length = int(header or len(body))
    tensor = json.loads(body[:length])["inputs"][0]
    dtype = {"FP32": np.float32, "UINT8": np.uint8}[tensor["datatype"]]
    if "data" in tensor:
        return np.array(tensor["data"], dtype).reshape(tensor["shape"])
    size = tensor["parameters"]["binary_data_size"]
    return np.frombuffer(body[length : length + size], dtype).reshape(tensor["shape"])
