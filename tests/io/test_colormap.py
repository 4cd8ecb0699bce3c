"""The colours: even in lightness, and told apart without the red-green axis."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.io.colormap import colormap

# Linear sRGB as someone without M or L cones sees it (Machado, Oliveira and Fernandes 2009).
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)

USUAL = np.eye(3)


def cielab(seen_as=USUAL, *, against=False):
    """CIELAB [256, 3] of a colormap: another space than the one it is computed in."""
    encoded = colormap(against=against) / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ seen_as.T, 0, 1) @ TO_XYZ.T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1
    )


@pytest.mark.parametrize(
    ("seen_as", "even"), [(USUAL, 0.85), (DEUTERANOPIA, 0.8), (PROTANOPIA, 0.5)]
)
def test_lightness_rises_evenly_for_every_eye(seen_as, even):
    lightness = cielab(seen_as)[:, 0]
    steps = np.diff(lightness[::15])
    assert lightness[-1] - lightness[0] > 70
    assert steps.min() > even * steps.mean()
    assert steps.max() < (2 - even) * steps.mean()


def test_lightness_never_falls_between_neighbours():
    assert np.diff(cielab()[:, 0]).min() > -0.15  # the rounding to 8 bits


@pytest.mark.parametrize("seen_as", [DEUTERANOPIA, PROTANOPIA])
def test_hue_still_turns_from_blue_to_yellow_without_the_red_green_axis(seen_as):
    lab = cielab(seen_as)
    assert lab[0, 2] < -15
    assert lab[-1, 2] > 25


def test_equal_length_and_ends_for_any_number_of_levels():
    assert colormap(7).shape == (7, 3)
    np.testing.assert_array_equal(colormap(7)[[0, -1]], colormap()[[0, -1]])


@pytest.mark.parametrize("seen_as", [USUAL, DEUTERANOPIA, PROTANOPIA])
def test_against_is_told_from_for_by_every_eye(seen_as):
    """From three tenths of the scale on; below it both are dark and faint."""
    above, below = cielab(seen_as), cielab(seen_as, against=True)
    apart = np.linalg.norm(above - below, axis=1)
    assert apart[77:].min() > 20
    assert below[51:230, 2].max() < -15  # blue


def test_against_is_as_light_as_for():
    np.testing.assert_allclose(cielab(against=True)[:, 0], cielab()[:, 0], atol=8)
