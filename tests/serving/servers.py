"""Starts real model servers for tests, each by the interpreter of its own environment.

Triton's is the environment variable IBISA_TRITON_PYTHON, MLServer's IBISA_MLSERVER_PYTHON; KServe
is in the environment of the tests. Without one, tests that need it are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

KINDS = ("triton", "kserve", "mlserver")
_HOSTS = Path(__file__).with_name("model_hosts.py")
_LONGEST = 120.0  # seconds until a server is ready
_POLL = 0.25


@dataclass(frozen=True)
class Served:
    """A running server: its ports, and the file of what it printed."""

    http: int
    grpc: int
    log: Path

    def url(self, name: str, protocol: str = "http") -> str:
        """Return the address of a model."""
        if protocol == "http":
            return f"http://127.0.0.1:{self.http}/v2/models/{name}"
        return f"grpc://127.0.0.1:{self.grpc}/{name}"


def interpreter(kind: str) -> str:
    """Return the interpreter of a server's environment, or skip the test."""
    if kind == "kserve":
        if importlib.util.find_spec("kserve") is None:
            pytest.skip("kserve is not installed")
        return sys.executable
    variable = f"IBISA_{kind.upper()}_PYTHON"
    found = os.environ.get(variable, "")
    if not Path(found).is_file():
        pytest.skip(f"{variable} does not point to the interpreter of {kind}'s environment")
    return found


@contextmanager
def hosted(kind: str, models: Mapping[str, str | Path], folder: Path) -> Iterator[Served]:
    """Serve plain ONNX models, by name, on a server of a kind; see `model_hosts.py`."""
    python = interpreter(kind)
    served = Served(free_port(), free_port(), folder / f"{kind}.log")
    pairs = [f"{name}={path}" for name, path in models.items()]
    command = [python, str(_HOSTS), kind, str(served.http), str(served.grpc), *pairs]
    more = library_path(python)
    if kind == "mlserver":  # whose settings are written to a temporary folder
        more["TMPDIR"] = str(folder)
    with started(command, served, list(models), more):
        yield served


@contextmanager
def started(
    command: list[str], served: Served, models: list[str], more: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a session of its own until it is left; wait until its models are ready."""
    with served.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(more or {})},
            start_new_session=True,
        )
    try:
        for name in models:
            _wait(process, f"http://127.0.0.1:{served.http}/v2/models/{name}/ready", served.log)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):  # a tritonserver may ignore SIGTERM
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def library_path(python: str) -> dict[str, str]:
    """Return the variable by which Triton's Python backend finds its interpreter's library."""
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return {"LD_LIBRARY_PATH": found.stdout.strip()}


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until a URL returns success."""
    for _ in range(int(_LONGEST / _POLL)):
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            pass
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL)
            break
    end = log.read_text(errors="replace")[-2000:]
    pytest.fail(f"the server did not start: {end}")
