"""Where each pixel of a picture fell in the model's input, and maps brought there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.preprocessing.resampling import resample


@dataclass(frozen=True)
class Placement:
    """Where the resized picture lies in the model's input.

    `resized` is its height and width; `top` and `left` are where its corner falls: negative where
    it is cropped, positive where there is a margin, which is filled with `fill` (0..255).
    """

    resized: tuple[int, int]
    top: int
    left: int
    fill: int


@dataclass(frozen=True)
class Geometry:
    """Where each pixel of the picture fell in the model's input.

    Attributes
    ----------
    picture, model
        Height and width of each.
    scale
        Pixels of the model's input for each pixel of the picture: down, across.
    offset
        Where the picture's top left corner falls in the model's input: down, across.
    reduction
        By what the picture was reduced as it was read, and maps of it are.
    """

    picture: tuple[int, int]
    model: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]
    reduction: int = 1

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of the maps that `restore` returns."""
        height, width = (-(-side // self.reduction) for side in self.picture)
        return height, width

    @property
    def cell(self) -> tuple[float, float]:
        """Pixels of the model's input for each of a map that `restore` returns: down, across."""
        return self.scale[0] * self.reduction, self.scale[1] * self.reduction

    @property
    def whole(self) -> Geometry:
        """The same, with maps of the size of the picture though it was reduced."""
        return replace(self, reduction=1)

    @property
    def seen_share(self) -> float:
        """The share of the picture's area that the model sees, 0..1."""
        share = 1.0
        for start, scale, has, want in zip(
            self.offset, self.scale, self.picture, self.model, strict=True
        ):
            share *= (min(want, start + has * scale) - max(0.0, start)) / (has * scale)
        return share

    @property
    def filled_share(self) -> float:
        """The share of the model's input that shows the picture, 0..1."""
        area = (have * scale for have, scale in zip(self.picture, self.scale, strict=True))
        return self.seen_share * math.prod(area) / math.prod(self.model)

    def restore(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Bring a map of the model's input back to the picture.

        Parameters
        ----------
        values
            [h, w], the size of the model's input.

        Returns
        -------
        ndarray
            float32 [H, W], the size of the picture, or of what was read of it: bilinear, and 0
            where the model never saw it.

        Raises
        ------
        PreprocessingError
            The map does not have the size of the model's input.
        """
        if values.shape != self.model:
            raise PreprocessingError(f"map is {list(values.shape)}, expected {list(self.model)}")
        (top, left), (high, wide) = self.offset, self.cell
        height, width = self.shown
        box = (top, left, top + height * high, left + width * wide)
        restored = resample(values, self.shown, box=box)
        rows, columns = (self._seen(axis, self.shown) for axis in (0, 1))
        return restored * (rows[:, None] & columns)

    def project(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Bring a map of the picture to the model's input, the other way than `restore`.

        Parameters
        ----------
        values
            [H, W], the size of the picture, or of what was read of it.

        Returns
        -------
        ndarray
            float32 [h, w], the size of the model's input; margins, which show nothing of the
            picture, have the map's least value.

        Raises
        ------
        PreprocessingError
            The map does not have the size of the picture.
        """
        if values.shape not in (self.picture, self.shown):
            raise PreprocessingError(f"map is {list(values.shape)}, expected {list(self.picture)}")
        own = values.shape[0], values.shape[1]
        (top, left), (high, wide) = self.offset, self.scale if own == self.picture else self.cell
        height, width = self.model
        box = (-top / high, -left / wide, (height - top) / high, (width - left) / wide)
        rows, columns = (self._covered(axis) for axis in (0, 1))
        seen = (self._seen(0, own)[:, None] & self._seen(1, own)).astype(np.float32)
        weights = resample(seen, self.model, box=box)  # what was cropped away says nothing
        projected = resample(values * seen, self.model, box=box) / np.maximum(weights, 1e-6)
        return np.where(rows[:, None] & columns, projected, np.float32(values.min()))

    def _covered(self, axis: int) -> npt.NDArray[np.bool_]:
        """Tell for each row or column of the model's input whether it shows the picture."""
        middles = (np.arange(self.model[axis]) + 0.5 - self.offset[axis]) / self.scale[axis]
        return (middles >= 0) & (middles <= self.picture[axis])

    def _seen(self, axis: int, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Tell for each row or column of the picture whether its middle is in the model's input."""
        step = self.scale[axis] if size == self.picture else self.cell[axis]
        middles = self.offset[axis] + (np.arange(size[axis]) + 0.5) * step
        return (middles >= 0) & (middles <= self.model[axis])
