"""Counts passes through the model, from any thread.

A pass is one image through the model in one direction. Padding of a fixed batch counts, since the
model computes it. Each run has its own counter, which adds to the model's total.
"""

from __future__ import annotations

import threading
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class PassCount:
    """Numbers of images pushed forward and backward, and of the calls this took."""

    forward: int = 0
    backward: int = 0
    forward_calls: int = 0
    backward_calls: int = 0

    def __add__(self, other: PassCount) -> PassCount:
        return PassCount(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def split(self, parts: int) -> list[PassCount]:
        """Divide it among the rows of a batch: parts that add up, the first ones one larger."""
        shares = (
            [whole // parts + (part < whole % parts) for part in range(parts)]
            for whole in astuple(self)
        )
        return [PassCount(*each) for each in zip(*shares, strict=True)]


class PassCounter:
    """Thread-safe counter of passes.

    Parameters
    ----------
    total
        A counter to which all passes are added too: the model's, for a run's.
    """

    def __init__(self, total: PassCounter | None = None) -> None:
        self._total, self._lock = total, threading.Lock()
        self._count = PassCount()

    def scope(self) -> PassCounter:
        """Return a new counter for one run, whose passes are counted here as well."""
        return PassCounter(self)

    @property
    def count(self) -> PassCount:
        """Passes so far."""
        return self._count

    @property
    def forward(self) -> int:
        """Images pushed forward."""
        return self._count.forward

    @property
    def backward(self) -> int:
        """Images whose gradient was computed."""
        return self._count.backward

    @property
    def forward_calls(self) -> int:
        """Calls of the forward pass."""
        return self._count.forward_calls

    @property
    def backward_calls(self) -> int:
        """Calls of the backward pass."""
        return self._count.backward_calls

    def count_forward(self, images: int) -> None:
        """Record one call that pushed `images` images forward."""
        self.add(PassCount(forward=images, forward_calls=1))

    def count_backward(self, images: int) -> None:
        """Record one call that computed gradients for `images` images."""
        self.add(PassCount(backward=images, backward_calls=1))

    def add(self, count: PassCount) -> None:
        """Add passes."""
        with self._lock:
            self._count += count
        if self._total is not None:
            self._total.add(count)
