"""A planted opening for jobs: notes all work in a file, and dies of some images.

Workers in other processes import this module.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibisa_onnx.errors import ImageError, ModelError, ResultError
from ibisa_onnx.serving.jobs import Item, Outcome, message_of

ROW = {"target_label": "star", "target_probability": 0.5}


@dataclass(frozen=True)
class Planted:
    """Opens a "model" that notes what it does; images are chosen by a part of their name.

    `deadly` images kill the worker, `bad` ones raise, `full` ones find the disk full; `dies` kills
    the worker while it opens. Work takes `rounds` of hashing, so that kills hit it.
    """

    log: Path
    deadly: str = ""
    bad: str = ""
    full: str = ""
    dies: bool = False
    unsound: bool = False
    rounds: int = 0
    forever: bool = False

    def __call__(self, stop: Callable[[], bool]) -> Callable[[Item], Outcome]:
        """Open it."""
        self._note("open", "-")
        if self.unsound:
            raise ModelError("m.onnx is damaged; export it again")
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return lambda item: self._work(item, stop)

    def _work(self, item: Item, stop: Callable[[], bool]) -> Outcome:
        self._note("begin", item.source)
        name = item.source.rpartition("/")[2]
        if self.deadly and self.deadly in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.full and self.full in name:
            raise ResultError("out/a.png: cannot write: No space left on device")
        if self.bad and self.bad in name:
            return Outcome(message_of(ImageError(f"{item.source} is damaged"), item.source))
        data = b""
        for _ in range(self.rounds):
            data = hashlib.pbkdf2_hmac("sha256", data, b"salt", 10_000)
        while self.forever and not stop():
            data = hashlib.pbkdf2_hmac("sha256", data, b"salt", 1000)
        self._note("end", item.source)
        row: dict[str, Any] = {**ROW, "image_sha256": item.source, "target_caption": item.target}
        return Outcome(sha256=item.source, rows=[row], finished=not stop())

    def _note(self, what: str, source: str) -> None:
        """Append a line at once, whatever other processes do."""
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{what} {os.getpid()} {source}\n".encode())
        os.close(descriptor)

    @property
    def lines(self) -> list[tuple[str, int, str]]:
        """What was noted: begin, end or open; the process; the image."""
        text = self.log.read_text() if self.log.exists() else ""
        parts = [line.split(" ", 2) for line in text.splitlines()]
        return [(what, int(pid), source) for what, pid, source in parts]

    def count(self, what: str) -> Counter[str]:
        """Return how often something was noted of each image."""
        return Counter(source for kind, _, source in self.lines if kind == what)
