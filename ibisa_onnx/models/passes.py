"""What has been spent: passes through the model, counted from any thread.

A pass is one image through the model once, in one direction. Padding of a fixed batch counts:
the model computed it. Each run has a counter of its own, which adds to the model's total.
"""

from __future__ import annotations

import threading
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class PassCount:
    """Images pushed forward and backward, and the calls that took."""

    forward: int = 0
    backward: int = 0
    forward_calls: int = 0
    backward_calls: int = 0

    def __add__(self, other: PassCount) -> PassCount:
        return PassCount(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def split(self, parts: int) -> list[PassCount]:
        """Divide it among the rows of a batch: shares that add up, the first ones one larger."""
        shares = (
            [whole // parts + (part < whole % parts) for part in range(parts)]
            for whole in astuple(self)
        )
        return [PassCount(*each) for each in zip(*shares, strict=True)]


class PassCounter:
    """Counts passes, safe under threads.

    Parameters
    ----------
    total
        A counter that is told of each pass too: the model's, of a run's.
    """

    def __init__(self, total: PassCounter | None = None) -> None:
        self._total, self._lock = total, threading.Lock()
        self._count = PassCount()

    def scope(self) -> PassCounter:
        """Return a counter for one run, from 0, whose passes are counted here as well."""
        return PassCounter(self)

    @property
    def count(self) -> PassCount:
        """What has been spent so far."""
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
        """Calls that pushed images forward."""
        return self._count.forward_calls

    @property
    def backward_calls(self) -> int:
        """Calls that computed gradients."""
        return self._count.backward_calls

    def count_forward(self, images: int) -> None:
        """Record one call that pushed `images` images forward."""
        self.add(PassCount(forward=images, forward_calls=1))

    def count_backward(self, images: int) -> None:
        """Record one call that computed gradients for `images` images."""
        self.add(PassCount(backward=images, backward_calls=1))

    def add(self, count: PassCount) -> None:
        """Record what has been spent."""
        with self._lock:
            self._count += count
        if self._total is not None:
            self._total.add(count)
