"""How sure an estimate is, against effects that are known: neither bold nor timid."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.methods.baselines import blurred
from ibisa_onnx.methods.ibisa.forward_only import estimates

pytestmark = pytest.mark.slow  # statistics over many estimates
SIDE, GRID = 112, 28
BAND = 1.645
"""Standard deviations to each side that hold 90% of a normal distribution."""


class Masks(MaskedImages):
    """Masked images that show the masks themselves, whatever the image is."""

    def through(self, masks: np.ndarray) -> np.ndarray:
        return masks


def boxes(rng: np.random.Generator) -> np.ndarray:
    field = np.zeros((SIDE, SIDE))
    for _ in range(rng.integers(1, 4)):
        (row, column), (height, width) = rng.integers(0, 80, 2), rng.integers(10, 40, 2)
        field[row : row + height, column : column + width] += rng.normal()
    return field


def blobs(rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return sum(
        (
            rng.normal() * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
            for row, column, size in rng.integers((10, 10, 5), (100, 100, 20), (3, 3))
        ),
        np.zeros((SIDE, SIDE)),
    )


def clouds(rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal((SIDE, SIDE))
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), float(rng.uniform(3, 15))))


def plain(rng: np.random.Generator) -> np.ndarray:
    return np.ones((1, 3, SIDE, SIDE), np.float32)


def textured(rng: np.random.Generator) -> np.ndarray:
    """Details of all sizes."""
    octaves = (
        3 * size * cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE, 3)), (0, 0), size)
        for size in (1, 3, 8, 20)
    )
    return sum(octaves, np.zeros(())).transpose(2, 0, 1)[None].astype(np.float32)


def planted() -> Iterator[tuple[MaskedImages, np.ndarray, float, np.random.Generator]]:
    """Yield what is seen, each pixel's effect in it, and the noise of the scores."""
    for seed in range(10, 14):
        for effect in (boxes, blobs, clouds):
            for picture in (plain, textured):
                for noise in (0.0, 0.005):
                    rng = np.random.default_rng(seed)
                    image = picture(rng)
                    baseline = np.zeros_like(image) if picture is plain else blurred(image, 5.0)
                    weights = effect(rng) * np.abs(image - baseline)[0].mean(0)
                    yield Masks(image, baseline), weights / np.abs(weights).sum(), noise, rng


def within(
    seen: MaskedImages, weights: np.ndarray, noise: float, rng: np.random.Generator
) -> float:
    """The share of cells whose true effect lies in the 90% band."""

    def ask(masks: np.ndarray) -> np.ndarray:
        disturbance = noise * rng.standard_normal(len(masks))
        return 0.5 + (masks[:, 0] * weights).sum((1, 2)) / 2 + disturbance

    *_, found = estimates(ask, seen, 190, np.random.default_rng(0))
    truth = weights.reshape(GRID, 4, GRID, 4).sum((1, 3)) / 2
    return float((np.abs(found.effect - truth) <= BAND * found.deviation).mean())


def test_nine_of_ten_true_effects_lie_in_the_band() -> None:
    shares = [within(*each) for each in planted()]
    assert 0.85 <= np.mean(shares) <= 0.95
    assert min(shares) > 0.5
