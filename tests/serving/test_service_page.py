"""The programs of docs/how-to/service.md, as they stand there, against real frameworks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from documentation.snippets import ROOT, blocks
from documentation.stand_ins import write_all

import ibisa_onnx as ibisa

SECONDS = 120
BLOCKS = [
    each
    for each in blocks((ROOT / "docs/how-to/service.md").read_text())
    if each.language == "python"
]


def program(part: str) -> str:
    """The block of the page that contains a text."""
    (code,) = (each.code for each in BLOCKS if part in each.code)
    return code + "\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    write_all(folder)
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "IBISA_ONNX_CACHE": "off", "PYTHONPATH": str(ROOT)}


def run(home: Path, *words: str) -> str:
    """Run Python in the folder; return what it prints."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_worker_processes(home: Path, method: str) -> None:
    code = program("get_context").replace('"spawn"', f'"{method}"', 1)
    (home / "workers.py").write_text(code)
    sizes = eval(run(home, "workers.py"))
    assert len(sizes) == 2
    assert min(sizes) > 1000


def test_celery(home: Path) -> None:
    """A prefork worker of Celery's own, over a broker of files."""
    pytest.importorskip("celery")
    (home / "tasks.py").write_text(program("worker_process_init"))
    (home / "celeryconfig.py").write_text(
        "broker_url = 'filesystem://'\n"
        "result_backend = 'file://results'\n"
        "broker_transport_options = "
        "{'data_folder_in': 'queue', 'data_folder_out': 'queue', 'processed_folder': 'done'}\n"
    )
    for name in ("queue", "done", "results"):
        (home / name).mkdir()
    (home / "broken.jpg").write_bytes(b"no image")
    asking = (
        "import json, tasks\n"
        "good, bad = tasks.explain.delay('photo.jpg'), tasks.explain.delay('broken.jpg')\n"
        "record = good.get(timeout=60)['record']\n"
        "try:\n    bad.get(timeout=60)\nexcept Exception as error:\n    failure = str(error)\n"
        "print(json.dumps([record['target']['caption'], failure]))\n"
    )
    with (home / "celery.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "2", "-P", "prefork"],
            cwd=home,
            env=environment(),
            stdout=log,
            stderr=log,
        )
    try:
        found = eval(run(home, "-c", asking))
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(SECONDS)
        finally:
            worker.kill()
    expected = ibisa.Explainer(home / "mobilenetv2.onnx", preprocessing="tf", cache=False)
    assert found[0] == expected.explain(home / "photo.jpg").target.caption
    assert "broken.jpg is damaged" in found[1]


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "service.py").write_text(program("FastAPI(lifespan"))
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port)],
        cwd=home,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            threading.Event().wait(0.05)
    yield f"http://127.0.0.1:{port}/explain"
    server.send_signal(signal.SIGTERM)
    try:
        assert server.wait(SECONDS) in (0, -signal.SIGTERM)
    finally:
        server.kill()


class TestFastApi:
    @staticmethod
    def post(url: str, data: bytes) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(url, data, timeout=SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def test_an_image_gets_its_overlay(self, url: str, home: Path) -> None:
        status, body = self.post(url, (home / "photo.jpg").read_bytes())
        assert status == 200
        explainer = ibisa.Explainer(
            home / "mobilenetv2.onnx", preprocessing="tf", threads=1, cache=False
        )
        expected = explainer.explain((home / "photo.jpg").read_bytes()).encode(".png")
        assert body == expected

    def test_bad_requests_get_one_line(self, url: str) -> None:
        assert self.post(url, b"no image")[0] == 400
        assert self.post(url, b"") == (
            400,
            b'{"error":"the image is empty (0 bytes); pass an image file"}',
        )
        assert self.post(url, bytes(10_000_001))[0] == 413

    def test_more_than_the_slots_are_turned_away_and_it_stays_up(
        self, url: str, home: Path
    ) -> None:
        image, codes = (home / "photo.jpg").read_bytes(), list[int]()

        def ask() -> None:
            codes.append(self.post(url, image)[0])

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert set(codes) <= {200, 429, 504}
        assert 200 in codes
        # Clients that leave at once free their slots.
        for _ in range(6):
            host, port = url.split("/")[2].split(":")
            with socket.create_connection((host, int(port))) as client:
                head = f"POST /explain HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n"
                client.sendall(head.encode() + image)
        until = time.monotonic() + SECONDS
        while (status := self.post(url, image)[0]) == 429 and time.monotonic() < until:
            threading.Event().wait(0.05)
        assert status == 200


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the block defines, without the example at its end."""
    code = program("class Sample").partition("\nserved = ")[0]
    names: dict[str, Any] = {"ibisa": ibisa}
    exec(code, names)
    return names


class TestSample:
    """One in a thousand requests."""

    class Queue:
        """Stands for a scheduler."""

        def __init__(self) -> None:
            self.futures: list[Future[Any]] = []
            self.full = False

        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            if self.full:
                raise ibisa.OverloadError("the queue is full", "try again later")
            self.futures.append(Future())
            return self.futures[-1]

    def test_the_same_requests_are_chosen_everywhere(self, page: dict[str, Any]) -> None:
        chosen = []
        for _ in range(2):
            queue, seen = self.Queue(), []
            sample = page["Sample"](queue, every=100, seconds=1e9)
            for number in range(20_000):
                before = len(queue.futures)
                sample.offer(number, b"", None, print)
                seen += [number] * (len(queue.futures) - before)
            chosen.append(seen)
        assert chosen[0] == chosen[1]
        assert 150 < len(chosen[0]) < 250

    def test_the_budget_is_not_exceeded(
        self, page: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(page["time"], "monotonic", lambda: now[0])
        queue, ended = self.Queue(), list[Any]()
        sample = page["Sample"](queue, every=1, seconds=60.0)
        for number in range(3600):  # each takes .5 s
            now[0] = float(number)
            sample.offer(number, b"", None, ended.append)
            if queue.futures and not queue.futures[-1].done():
                queue.futures[-1].set_result(types.SimpleNamespace(timings={"total": 0.5}))
        assert 0.5 * len(ended) == pytest.approx(60, abs=2)
        assert sample.dropped == 3600 - len(ended)

    def test_a_full_queue_and_failures_are_counted(self, page: dict[str, Any]) -> None:
        queue = self.Queue()
        sample = page["Sample"](queue, every=1, seconds=1e9)
        sample.offer(1, b"", None, print)
        queue.futures[0].set_exception(ibisa.PredictionMismatchError("another class"))
        queue.full = True
        sample.offer(2, b"", None, print)
        assert sample.dropped == 2
