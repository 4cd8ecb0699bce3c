"""What has been spent: passes through the model, counted where sessions run.

A pass is one image through the model once, in one direction. Padding of a fixed batch counts:
the model computed it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class PassCount:
    """Images pushed forward and backward, and the calls that took."""

    forward: int = 0
    backward: int = 0
    forward_calls: int = 0
    backward_calls: int = 0

    def __add__(self, other: PassCount) -> PassCount:
        return PassCount(
            self.forward + other.forward,
            self.backward + other.backward,
            self.forward_calls + other.forward_calls,
            self.backward_calls + other.backward_calls,
        )


class PassCounter(threading.local):
    """Counts for each thread by itself, so that explanations side by side count only their own."""

    forward = backward = forward_calls = backward_calls = 0

    def count_forward(self, images: int) -> None:
        """Record one call that pushed `images` images forward."""
        self.forward += images
        self.forward_calls += 1

    def count_backward(self, images: int) -> None:
        """Record one call that pulled gradients back for `images` images."""
        self.backward += images
        self.backward_calls += 1

    def snapshot(self) -> PassCount:
        """Return what this thread has spent so far."""
        return PassCount(self.forward, self.backward, self.forward_calls, self.backward_calls)

    def since(self, earlier: PassCount) -> PassCount:
        """Return what this thread spent after `earlier`, a snapshot."""
        return PassCount(
            self.forward - earlier.forward,
            self.backward - earlier.backward,
            self.forward_calls - earlier.forward_calls,
            self.backward_calls - earlier.backward_calls,
        )
