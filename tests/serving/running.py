"""Starts `ibisa-onnx serve` for tests, and speaks to it without knowing KServe."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SECONDS = 120.0
"""After which a process that hangs is killed."""


def require(*packages: str) -> None:
    """Skip a module of tests without these packages; importing them here could clash."""
    for each in packages:
        if importlib.util.find_spec(each) is None:
            pytest.skip(f"{each} is not installed", allow_module_level=True)


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    http: str
    grpc: str | None
    models: Sequence[str]
    log: Path

    def post(
        self, path: str, body: bytes | dict[str, Any], headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.http}{path}", data, headers or {})
        return _answer(request)

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body of the answer."""
        return _answer(urllib.request.Request(f"{self.http}{path}"))

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        lines = self.get("/metrics")[2].decode().splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def peak(self) -> int:
        """Return the largest resident memory so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


def _answer(request: urllib.request.Request) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, _lower(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, _lower(error.headers), error.read()


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@contextmanager
def serving(
    folder: Path,
    *words: str,
    command: Sequence[str] = (sys.executable, "-m", "ibisa_onnx"),
    port: int = 0,
) -> Iterator[Server]:
    """Run a server in a folder until the block ends."""
    log = folder.parent / f"{folder.name}.serve.log"
    environment = {**os.environ, "IBISA_ONNX_CACHE": "off", "PYTHONUNBUFFERED": "1"}
    ports = ("--http-port", str(port), "--grpc-port", "0", "--json", "--log-format", "json")
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "serve", *words, *ports],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    hung = threading.Timer(5 * SECONDS, process.kill)
    hung.start()
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Server(process, log=log, **json.loads(line))
    finally:
        hung.cancel()
        process.kill()
        process.wait(SECONDS)
        process.stdout.close()


def image_input(data: bytes) -> dict[str, Any]:
    """Return the input of an image file, as JSON."""
    text = base64.b64encode(data).decode()
    return {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}


def infer(model: str) -> str:
    """Return the path of a model's inference."""
    return f"/v2/models/{model}/infer"
