"""The map's colours: ramps of uniform lightness, computed from their formulas.

Only colours; `overlay` applies them to images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.float64]

# Björn Ottosson, "A perceptual color space for image processing" (2020): OKLab to linear sRGB.
_OKLAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def colormap(levels: int = 256, *, against: bool = False) -> npt.NDArray[np.uint8]:
    """Return the colour ramp of a map: dark indigo, crimson, orange, light yellow.

    Lightness rises evenly from 0.25 to 0.93 (OKLab), so that equal steps of the map look equal,
    also in greyscale print; the hue runs from blue to yellow, the axis that red-green colour
    blindness preserves. The chroma is the largest simple arch inside sRGB, so that no colour is
    clipped.

    Parameters
    ----------
    levels
        Number of colours, at least 2.
    against
        Return the ramp for negative evidence, equally light at each level: dark blue, blue, light
        cyan. Its blue hues are distinguishable from the other ramp's crimson to yellow with both
        kinds of red-green colour blindness.

    Returns
    -------
    ndarray
        uint8 [levels, 3], RGB.
    """
    t = np.linspace(0.0, 1.0, levels)
    arch = np.sin(np.pi * t)
    chroma, degrees = 0.10 + 0.09 * arch, 290.0 + 175.0 * t
    if against:
        chroma, degrees = 0.145 + 0.06 * arch - 0.105 * t, 268.0 - 36.0 * t
    return _rgb(0.25 + 0.68 * t, chroma, degrees)


def _rgb(lightness: Levels, chroma: Levels, degrees: Levels) -> npt.NDArray[np.uint8]:
    """Convert OKLab colours to sRGB, uint8 [levels, 3]."""
    hue = np.deg2rad(degrees)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = (lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb: npt.NDArray[np.uint8] = np.rint(255.0 * encoded).astype(np.uint8)
    return rgb
