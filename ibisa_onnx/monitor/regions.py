"""Regions of interest, specified so that they apply to images of any size.

A region is a box in fractions of the image, a mask that is scaled to images of its aspect ratio,
or a function that returns either for an explanation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import OptionError
from ibisa_onnx.escaping import escaped, shortened
from ibisa_onnx.io.literals import is_number

if TYPE_CHECKING:
    from ibisa_onnx.explanation import Explanation

Box: TypeAlias = tuple[float, float, float, float]
Area: TypeAlias = npt.NDArray[np.bool_] | Sequence[float]
Region: TypeAlias = "Area | Callable[[Explanation], Area | None]"

_USE = (
    "a boolean mask [H, W], a box (left, top, right, bottom) in fractions of the image, "
    "or a function that returns either"
)
_LONGEST = 100  # characters of a function's name


def checked_region(region: Any) -> Any:
    """Return a region as a read-only mask, a box or a function; None remains None.

    Raises
    ------
    OptionError
        It is none of these.
    """
    return region if region is None or callable(region) else _area(region, "region")


def name_of_region(region: Any) -> str | None:
    """Return a name that is equal for equal regions; functions go by their own name."""
    if region is None:
        return None
    if isinstance(region, tuple):
        return "box " + ", ".join(f"{side:.9g}" for side in region)
    if isinstance(region, np.ndarray):
        height, width = region.shape
        return f"mask {height}x{width} {hashlib.sha256(region.tobytes()).hexdigest()[:16]}"
    name = getattr(region, "__qualname__", type(region).__qualname__)
    return f"function {shortened(escaped(str(name)), _LONGEST)}"


def fraction_outside(explanation: Explanation, region: Any) -> float | None:
    """Return the fraction of a map's weight outside a region, in 0..1.

    None if there is no region, if a region's function returns None, or if the map is flat and
    therefore singles out nothing.

    Raises
    ------
    OptionError
        The region does not fit the image, or its function fails.
    """
    area = _called(region, explanation) if callable(region) else region
    if area is None or explanation.flat:
        return None
    total = float(explanation.map.sum(dtype=np.float64))
    if not total > 0:
        return None
    return float(np.clip(1 - _weight_inside(explanation.map, area) / total, 0, 1))


def _called(region: Callable[[Explanation], Any], explanation: Explanation) -> Any:
    """Return the mask or box that a region's function returns for an explanation."""
    try:
        area = region(explanation)
    except Exception as error:
        raise OptionError(
            f"the region's function raised {type(error).__name__}: {error}"
        ) from error
    return None if area is None else _area(area, "the result of the region's function")


def _area(area: Any, what: str) -> Any:
    """Return a mask or a box; `OptionError` if it is neither."""
    if isinstance(area, np.ndarray) and area.dtype == np.bool_ and area.ndim == 2:
        if not area.any():
            raise OptionError(f"{what} contains no pixel; mark the pixels of interest as True")
        mask = area.copy()
        mask.flags.writeable = False
        return mask
    sides = list(area) if isinstance(area, Sequence) and not isinstance(area, str) else []
    if len(sides) != 4 or not all(is_number(each) for each in sides):
        raise OptionError(f"{what} is {shown(area)}; pass {_USE}")
    left, top, right, bottom = (float(each) for each in sides)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise OptionError(
            f"{what} is the box {shown(area)}; pass (left, top, right, bottom) in fractions of the "
            "image, 0 to 1, not in pixels"
        )
    return left, top, right, bottom


def _weight_inside(map: npt.NDArray[np.float32], area: Any) -> float:
    """Return the sum of a map over a mask or a box; pixels on a box's edge count in part."""
    height, width = map.shape
    if isinstance(area, tuple):
        left, top, right, bottom = area
        rows, columns = _covered(top, bottom, height), _covered(left, right, width)
        return float(rows @ (map @ columns))
    return float(map[_scaled(area, height, width)].sum(dtype=np.float64))


def _covered(start: float, end: float, length: int) -> npt.NDArray[np.float64]:
    """Return which fraction of each pixel of a side lies between two fractions of the side."""
    pixels = np.arange(length)
    overlap = np.minimum(pixels + 1, end * length) - np.maximum(pixels, start * length)
    return np.asarray(np.clip(overlap, 0, 1), np.float64)


def _scaled(mask: npt.NDArray[np.bool_], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return a mask at another size of the same aspect ratio, within a pixel.

    Raises
    ------
    OptionError
        The image has another aspect ratio.
    """
    if mask.shape == (height, width):
        return mask
    rows, columns = mask.shape
    # the larger of both sizes decides: the smaller one was rounded to whole pixels
    if abs(rows * width - columns * height) > max(rows, columns, height, width):
        raise OptionError(
            f"the region's mask is {rows} x {columns}, but the map is {height} x {width} (height x "
            "width), which has another aspect ratio; pass a box in fractions of the image, or a "
            "function that returns a region for each explanation"
        )
    down = (np.arange(height) * 2 + 1) * rows // (2 * height)
    right = (np.arange(width) * 2 + 1) * columns // (2 * width)
    return np.asarray(mask[np.ix_(down, right)])
