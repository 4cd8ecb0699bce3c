"""Where a map falls: the share of it inside a mask, and its centre."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from field_set.drawing import Box, Mask
from ibisa_onnx.metrics.localisation import ENERGY

Map = npt.NDArray[np.float32]


def inside(box: Box, shape: tuple[int, ...]) -> Mask:
    """Return the pixels that a box touches, bool [H, W]."""
    mask = np.zeros(shape[:2], bool)
    left, top, right, bottom = box
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return mask


def across(part: slice, shape: tuple[int, ...]) -> Mask:
    """Return the pixels of some columns, bool [H, W]."""
    mask = np.zeros(shape[:2], bool)
    mask[:, part] = True
    return mask


def sides(middle: float) -> dict[str, slice]:
    """Return the columns to the left and to the right of a middle."""
    return {"left": slice(round(middle)), "right": slice(round(middle), None)}


def share(saliency: Map, mask: Mask) -> str:
    """Say how much of a map lies inside a mask, and how much of the picture."""
    return f"{ENERGY(saliency, mask):.2f} (of the image {mask.mean():.2f})"


def centre(saliency: Map) -> float:
    """Return the centre of mass of a map across, x in pixels."""
    columns = saliency.sum(0, dtype=np.float64)
    return float((columns * (np.arange(len(columns)) + 0.5)).sum() / max(columns.sum(), 1e-9))
