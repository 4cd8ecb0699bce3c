"""What has been spent: passes through the model, counted where sessions run.

A pass is one image through the model once, in one direction. Padding of a fixed batch counts:
the model computed it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass
class PassCounter:
    """Images pushed forward and backward so far, and the calls that took."""

    forward: int = 0
    backward: int = 0
    forward_calls: int = 0
    backward_calls: int = 0

    def count_forward(self, images: int) -> None:
        """Record one call that pushed `images` images forward."""
        self.forward += images
        self.forward_calls += 1

    def count_backward(self, images: int) -> None:
        """Record one call that pulled gradients back for `images` images."""
        self.backward += images
        self.backward_calls += 1

    def snapshot(self) -> PassCounter:
        """Return a copy that later passes do not change."""
        return replace(self)

    def since(self, earlier: PassCounter) -> PassCounter:
        """Return what was spent after `earlier`, a snapshot of this counter."""
        return PassCounter(
            self.forward - earlier.forward,
            self.backward - earlier.backward,
            self.forward_calls - earlier.forward_calls,
            self.backward_calls - earlier.backward_calls,
        )
