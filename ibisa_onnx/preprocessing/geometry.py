"""The geometry of preprocessing: where each pixel of an image lies in the model's input."""

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
    """Where the resized image lies in the model's input.

    Attributes
    ----------
    resized
        Height and width of the resized image.
    top
        Row of its top-left corner: negative if it is cropped, positive if there is a margin.
    left
        Column of its top-left corner.
    fill
        Value of the margin, 0..255.
    """

    resized: tuple[int, int]
    top: int
    left: int
    fill: int


@dataclass(frozen=True)
class Geometry:
    """Where each pixel of an image lies in the model's input.

    Attributes
    ----------
    picture
        Height and width of the image.
    model
        Height and width of the model's input.
    scale
        Pixels of the model's input per pixel of the image: vertical, horizontal.
    offset
        Position of the image's top-left corner in the model's input: down, across.
    reduction
        Factor by which the image was reduced on reading, as are maps of it.
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
        """Pixels of the model's input per pixel of a map from `restore`: vertical, horizontal."""
        return self.scale[0] * self.reduction, self.scale[1] * self.reduction

    @property
    def whole(self) -> Geometry:
        """The same geometry, with maps at the full size of an image that was reduced."""
        return replace(self, reduction=1)

    @property
    def seen_share(self) -> float:
        """The fraction of the image's area that the model sees, 0..1."""
        share = 1.0
        for start, scale, has, want in zip(
            self.offset, self.scale, self.picture, self.model, strict=True
        ):
            share *= (min(want, start + has * scale) - max(0.0, start)) / (has * scale)
        return share

    @property
    def filled_share(self) -> float:
        """The fraction of the model's input that shows the image, 0..1."""
        area = (have * scale for have, scale in zip(self.picture, self.scale, strict=True))
        return self.seen_share * math.prod(area) / math.prod(self.model)

    def restore(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Map an array of the model's input's size back to the image.

        Parameters
        ----------
        values
            [h, w], the size of the model's input.

        Returns
        -------
        ndarray
            float32 [H, W], the size of the image, or its reduced size: bilinear, and 0 where the
            model did not see the image.

        Raises
        ------
        PreprocessingError
            The array does not have the size of the model's input.
        """
        if values.shape != self.model:
            raise PreprocessingError(f"map is {list(values.shape)}, expected {list(self.model)}")
        (top, left), (high, wide) = self.offset, self.cell
        height, width = self.shown
        box = (top, left, top + height * high, left + width * wide)
        if not values.any():
            return np.zeros(self.shown, np.float32)
        restored = resample(values, self.shown, box=box)
        rows, columns = (self._seen(axis, self.shown) for axis in (0, 1))
        restored[~rows] = 0
        restored[:, ~columns] = 0
        return restored

    def project(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Map an array of the image's size to the model's input; the inverse of `restore`.

        Parameters
        ----------
        values
            [H, W], the size of the image, or its reduced size.

        Returns
        -------
        ndarray
            float32 [h, w], the size of the model's input; margins, which show none of the image,
            have the smallest value.

        Raises
        ------
        PreprocessingError
            The array does not have the size of the image.
        """
        if values.shape not in (self.picture, self.shown):
            raise PreprocessingError(f"map is {list(values.shape)}, expected {list(self.picture)}")
        own = values.shape[0], values.shape[1]
        (top, left), (high, wide) = self.offset, self.scale if own == self.picture else self.cell
        height, width = self.model
        box = (-top / high, -left / wide, (height - top) / high, (width - left) / wide)
        rows, columns = (self._covered(axis) for axis in (0, 1))
        seen = (self._seen(0, own)[:, None] & self._seen(1, own)).astype(np.float32)
        weights = resample(seen, self.model, box=box)  # cropped pixels do not count
        projected = resample(values * seen, self.model, box=box) / np.maximum(weights, 1e-6)
        return np.where(rows[:, None] & columns, projected, np.float32(values.min()))

    def _covered(self, axis: int) -> npt.NDArray[np.bool_]:
        """Return for each row or column of the model's input whether it shows the image."""
        middles = (np.arange(self.model[axis]) + 0.5 - self.offset[axis]) / self.scale[axis]
        return (middles >= 0) & (middles <= self.picture[axis])

    def _seen(self, axis: int, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return for each row or column of the image whether its centre is in the model's input."""
        step = self.scale[axis] if size == self.picture else self.cell[axis]
        middles = self.offset[axis] + (np.arange(size[axis]) + 0.5) * step
        return (middles >= 0) & (middles <= self.model[axis])
