"""Feeds cases to servers, as many as there are cores, and gathers what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from hostile.cases import cases


@dataclass(frozen=True)
class Report:
    """What came of a case."""

    label: str
    violations: tuple[str, ...]
    code: int
    seconds: float
    memory: int
    err: str


def run_cases(numbers: Sequence[int], servers: int | None = None) -> list[Report]:
    """Run cases by their numbers, and return what came of each, in the order of the numbers."""
    waiting: SimpleQueue[int] = SimpleQueue()
    for number in numbers:
        waiting.put(number)
    servers = servers or min(len(numbers), len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(servers) as pool:
        found = [each for part in pool.map(_serve, [waiting] * servers) for each in part.items()]
    return [report for _, report in sorted(found, key=lambda each: numbers.index(each[0]))]


def _serve(waiting: SimpleQueue[int]) -> dict[int, Report]:
    known, found = cases(), {}
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent)))}
    environment["PYTHONPATH"] += os.pathsep + str(tests.parent / "exporters")
    with subprocess.Popen(
        [sys.executable, "-m", "hostile.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        while True:
            try:
                number = waiting.get_nowait()
            except Empty:
                break
            server.stdin.write(f"{number}\n")
            server.stdin.flush()
            said = json.loads(server.stdout.readline())
            found[number] = Report(
                known[number].label,
                tuple(said["violations"]),
                said["code"],
                said["seconds"],
                said["memory"],
                said["err"],
            )
        server.stdin.close()
    return found
