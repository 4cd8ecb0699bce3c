"""Load test of `ibisa-onnx serve`: many clients, by locust, against a server that it starts.

    pip install 'ibisa-onnx[cpu,serve]' locust
    python benchmarks/load.py model.onnx images/*.jpg --clients 50 -- --preprocess caffe

Everything after `--` is passed to `serve`, and the options on the model to `run` too. Prints the
answers by status, p50 and p99 of the successful ones against the deadline, the server's memory, and
how many maps equal the command line's bit for bit. Exits with 1 if an answer is neither 200 nor
429, p99 exceeds the deadline by more than 20 %, a complete map differs, or memory grew by more than
20 % after the first tenth of the time.

Clients send the next request as soon as they have an answer; after a 429 they wait as long as its
`Retry-After` says. The file is also the locust file: locust runs it in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = "IBISA_LOAD_FOLDER"
SERVE_ONLY = ("--max-queue", "--max-batch", "--workers", "--grace", "--max-body", "--max-pixels")
LENGTH = "Inference-Header-Content-Length"

if FOLDER in os.environ:  # read by locust
    from locust import FastHttpUser, events, task

    _folder = Path(os.environ[FOLDER])
    _cases = [
        (each.read_bytes(), each.with_suffix(".map").read_bytes())
        for each in sorted(_folder.glob("*.request"))
    ]
    _answers: list[dict[str, Any]] = []

    class Client(FastHttpUser):
        """Sends one image after the other."""

        network_timeout = connection_timeout = 300.0

        @task
        def explain(self) -> None:
            body, expected = random.choice(_cases)
            length = (_folder / "length").read_text()
            begin = time.perf_counter()
            with self.client.post(
                (_folder / "path").read_text(),
                data=body,
                headers={LENGTH: length},
                catch_response=True,
            ) as answer:
                seconds = time.perf_counter() - begin
                found = {"status": answer.status_code, "seconds": seconds}
                if answer.status_code == 200:
                    found |= _compared(answer.content, answer.headers[LENGTH], expected)
                    answer.success()
                _answers.append(found)
            if answer.status_code == 429:
                time.sleep(float(answer.headers["Retry-After"]))

    def _compared(content: bytes, length: str, expected: bytes) -> dict[str, Any]:
        """Return whether the map equals the expected one, and whether it was cut short."""
        head, rest = json.loads(content[: int(length)]), content[int(length) :]
        sizes = [each["parameters"]["binary_data_size"] for each in head["outputs"]]
        record = json.loads(rest[sizes[0] + 4 :])
        return {
            "same": rest[: sizes[0]] == expected,
            "cut_short": record["completion"]["cut_short"] is not None,
        }

    @events.quitting.add_listener
    def _save(**_: Any) -> None:
        (_folder / "answers.json").write_text(json.dumps(_answers))


def main() -> int:
    """Run the load test; return the exit code."""
    words = sys.argv[1:]
    more = words[words.index("--") + 1 :] if "--" in words else []
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--deadline-ms", type=int, default=10_000)
    given = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(folder, given, _for_run(more))
        server, data = _serve(given, more)
        try:
            memory = _load(folder, given, data["http"], server.pid)
        finally:
            server.terminate()
            code = server.wait(120)
        return _report(json.loads((folder / "answers.json").read_text()), memory, given, code)


def _prepare(folder: Path, given: argparse.Namespace, options: Sequence[str]) -> None:
    """Write the requests, and the maps that the command line computes."""
    import numpy as np

    out = folder / "out"
    command = [sys.executable, "-m", "ibisa_onnx", "run", given.model, *given.images, *options]
    subprocess.run(
        [*command, "-o", f"{out}{os.sep}", "--with-data", "-q"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    outputs = [
        {"name": name, "parameters": {"binary_data": True}} for name in ("map", "explanation")
    ]
    for number, image in enumerate(given.images):
        (file,) = out.glob(f"{Path(image).stem}*.npy")
        data = Path(image).read_bytes()
        size = {"binary_data_size": 4 + len(data)}
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": size}
        head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode().ljust(512)
        body = head + len(data).to_bytes(4, "little") + data
        (folder / f"{number}.request").write_bytes(body)
        (folder / f"{number}.map").write_bytes(np.load(file).tobytes())
    (folder / "length").write_text("512")
    (folder / "path").write_text(f"/v2/models/{Path(given.model).stem}-explainer/infer")


def _for_run(options: Sequence[str]) -> list[str]:
    """Return the options without those that only `serve` has."""
    left = list(options)
    for flag in SERVE_ONLY:
        if flag in left:
            place = left.index(flag)
            del left[place : place + 2]
    return left


def _serve(
    given: argparse.Namespace, options: Sequence[str]
) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    command = [sys.executable, "-m", "ibisa_onnx", "serve", given.model, *options, "--json"]
    command += ["--http-port", "0", "--grpc-port", "0", "--deadline-ms", str(given.deadline_ms)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = server.stdout.readline() if server.stdout else ""
    if not line:
        raise SystemExit(f"the server did not start: {' '.join(command)}")
    return server, json.loads(line)


def _load(folder: Path, given: argparse.Namespace, url: str, pid: int) -> list[int]:
    """Run locust; return the server's resident memory in bytes, sampled along the way."""
    clients, seconds = str(given.clients), f"{given.seconds}s"
    command = [sys.executable, "-m", "locust", "-f", __file__, "--headless", "--host", url]
    command += ["-u", clients, "-r", clients, "-t", seconds, "--stop-timeout", "120"]
    environment = {**os.environ, FOLDER: str(folder)}
    memory = [_resident(pid)]
    with (folder / "locust.log").open("w") as log:
        locust = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while locust.poll() is None:
            time.sleep(given.seconds / 100)
            memory.append(_resident(pid))
    if not (folder / "answers.json").exists():
        raise SystemExit((folder / "locust.log").read_text())
    return memory


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def _report(
    answers: Sequence[dict[str, Any]], memory: Sequence[int], given: argparse.Namespace, code: int
) -> int:
    """Print the figures; return 1 if they are not as promised."""
    codes = Counter(each["status"] for each in answers)
    done = [each for each in answers if each["status"] == 200]
    whole = [each for each in done if not each["cut_short"]]
    same = sum(each["same"] for each in whole)
    deadline = given.deadline_ms / 1000
    seconds = sorted(each["seconds"] for each in done) or [0.0]
    p50, p99 = statistics.median(seconds), seconds[int(0.99 * (len(seconds) - 1))]
    begin, end = max(memory[: len(memory) // 10 + 1]), memory[-1]
    print(f"{given.clients} clients, {given.seconds} s, deadline {deadline:g} s")
    print(f"answers    {len(answers)}: " + ", ".join(f"{n} x {c}" for c, n in codes.items()))
    print(f"per second {len(done) / given.seconds:.2f} explanations")
    print(f"latency    p50 {p50:.2f} s, p99 {p99:.2f} s ({p99 / deadline:.0%} of the deadline)")
    print(f"maps       {same} of {len(whole)} complete ones identical to the command line's")
    print(f"           {len(done) - len(whole)} more cut short by the deadline")
    print(
        f"memory     {memory[0] >> 20} MB at the start, {begin >> 20} MB after a tenth, "
        f"{max(memory) >> 20} MB at most, {end >> 20} MB at the end"
    )
    print(f"exit code  {code} after SIGTERM")
    good = set(codes) <= {200, 429} and done and p99 <= 1.2 * deadline and same == len(whole)
    return 0 if good and code == 0 and max(memory) <= 1.2 * begin else 1


if __name__ == "__main__":
    sys.exit(main())
