"""An image divided into square tiles, for metrics that hide more than one pixel at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OptionError
from ibisa_onnx.metrics.maps import Map


@dataclass(frozen=True, eq=False)
class Tiles:
    """Assignment of pixels to tiles.

    Attributes
    ----------
    labels
        int64 [H, W], the tile of each pixel, from 0, row by row. If the side of the image is not a
        multiple of the tile's, the last tiles are larger, as in the IBA paper's code.
    """

    labels: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return int(self.labels[-1, -1]) + 1

    def sums(self, values: Map) -> npt.NDArray[np.float64]:
        """Return the sum of a map over each tile, float64 [count]."""
        sums = np.bincount(self.labels.ravel(), values.ravel(), self.count)
        return np.asarray(sums, np.float64)

    def means(self, values: Map) -> npt.NDArray[np.float64]:
        """Return the mean of a map over each tile, float64 [count]."""
        return self.sums(values) / np.bincount(self.labels.ravel())


def cut(size: tuple[int, int], tile: int | None = None) -> Tiles:
    """Divide an image of (H, W) into square tiles with a side of `tile` pixels.

    The default is 1/16 of the shorter side: 14 pixels at 224, the IBA paper's larger tiles.
    """
    side = max(1, round(min(size) / 16)) if tile is None else tile
    if not 1 <= side <= min(size):
        raise OptionError(f"tile is {side}; pass 1 to {min(size)} pixels for an image of {size}")
    rows, columns = (np.minimum(np.arange(n) // side, n // side - 1) for n in size)
    return Tiles(rows[:, None] * (size[1] // side) + columns[None, :])
