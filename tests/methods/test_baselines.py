"""Baselines: what each shows, how it is named, and which is chosen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from ibisa_onnx.errors import OptionError
from ibisa_onnx.methods.baselines import BASELINES, baseline_named, blurred, choices
from ibisa_onnx.methods.masking import smooth
from ibisa_onnx.preprocessing.spec import Preprocessing, prepare

SPEC = Preprocessing(size=(20, 30), resize="stretch", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, 20, 30)).astype(np.float32)


def test_blurring_does_not_mix_channels() -> None:
    image = np.zeros((1, 3, 20, 16), np.float32)
    image[0, 0], image[0, 1, 10, 8], image[0, 2] = 5, 1, -1
    found = blurred(image, 2)
    assert found.shape == image.shape
    np.testing.assert_allclose(found[0, 0], image[0, 0], rtol=1e-6)
    np.testing.assert_allclose(found[0, 2], image[0, 2], rtol=1e-6)
    assert 0 < found[0, 1].max() < 0.1
    assert found[0, 1].sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["blur", *BASELINES])
@pytest.mark.parametrize("shape", [(1, 3, 20, 30), (1, 1, 33, 7), (1, 5, 1, 1), (1, 3, 2, 90)])
def test_baselines_are_images_in_range_and_the_same_each_time(
    name: str, shape: tuple[int, ...]
) -> None:
    image = (50 * np.random.default_rng(1).random(shape) - 20).astype(np.float32)
    baseline = baseline_named(name, 0.1, SPEC)
    found = baseline.of(image)
    assert found.shape == image.shape
    assert found.dtype == np.float32
    assert found.min() >= image.min() - 0.3
    assert found.max() <= image.max() + 0.3
    np.testing.assert_array_equal(found, baseline.of(image))


def test_each_baseline_shows_what_its_name_says(image: np.ndarray) -> None:
    mean, blur = BASELINES["mean"](image), baseline_named("blur", 0.1, SPEC).of(image)
    np.testing.assert_allclose(mean, image.mean((2, 3), keepdims=True) * np.ones_like(image), 1e-5)
    np.testing.assert_array_equal(blur, smooth(image, 3.0))
    image[:, :, 1:-1, 1:-1] = 7
    image[:, :, [0, -1]] = image[:, :, :, [0, -1]] = 2
    np.testing.assert_allclose(BASELINES["border"](image), np.full_like(image, 2), 1e-6)


def test_noise_has_the_spectrum_and_the_mean_of_the_image() -> None:
    y, x = np.mgrid[:64, :64] / 64
    wave = np.sin(2 * np.pi * 5 * x) + 0.1 * np.sin(2 * np.pi * 20 * y)
    image = np.stack([wave + 3, 2 * wave, 1 - wave])[None].astype(np.float32)
    noise = BASELINES["noise"](image)
    np.testing.assert_allclose(noise.mean((2, 3)), image.mean((2, 3)), atol=0.05)
    strongest = np.abs(np.fft.fft2(noise[0, 0] - noise[0, 0].mean())).argmax()
    assert strongest in (5, 59)
    one, two = noise[0, 0] - noise[0, 0].mean(), noise[0, 1] - noise[0, 1].mean()
    np.testing.assert_allclose(two, 2 * one, atol=0.2)  # colours go together
    assert abs(np.corrcoef(one.ravel(), wave.ravel())[0, 1]) < 0.95


def test_inpainting_takes_away_what_is_smaller_than_a_tile_and_keeps_the_ground() -> None:
    image = np.full((1, 1, 64, 64), 5.0, np.float32)
    image[0, 0, :, 32:] = 9  # two grounds, and a mark within a tile
    image[0, 0, 11:14, 11:14] = 0
    found = BASELINES["inpaint"](image)[0, 0]
    assert abs(found[12, 12] - 5) < 0.3
    assert abs(found[40, 50] - 9) < 0.3


@pytest.mark.parametrize(
    ("name", "colour"),
    [("#ff0080", (255, 0, 128)), ("white", (255, 255, 255)), ("grey", (128, 128, 128))],
)
def test_a_colour_is_a_baseline(name: str, colour: tuple[int, ...], image: np.ndarray) -> None:
    pixels = np.full((20, 30, 3), colour, np.uint8)
    found = baseline_named(name, 0.1, SPEC)
    np.testing.assert_array_equal(found.of(image), prepare(pixels, SPEC).tensor)
    assert found.sha256 is None


def test_a_picture_is_a_baseline(tmp_path: Path, image: np.ndarray) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (25, 35, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "empty.png"), pixels[..., ::-1])
    found = baseline_named(str(tmp_path / "empty.png"), 0.1, SPEC)
    np.testing.assert_array_equal(found.of(image), prepare(pixels, SPEC).tensor)
    assert found.sha256 == hashlib.sha256((tmp_path / "empty.png").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["blurr", "#12345", "no/such/file.png", "AUTO"])
def test_what_is_no_baseline_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(OptionError, match=r"baseline is .*blur, mean.*colour"):
        baseline_named(name, 0.1, SPEC)


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(OptionError, match=r"notes\.txt"):
        baseline_named(str(tmp_path / "notes.txt"), 0.1, SPEC)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([0.03, 0.0, 0.3], [0, 1, 2]),
        ([0.3, 0.2, 0.01], [1, 2]),
        ([0.3, 0.5, 0.3], [2]),
        ([0.9, 0.7, 0.8], [1]),
        ([0.8, 0.9, 0.95], [2]),
        ([0.85, 0.95, 0.9999], [1]),
        ([0.999, 0.995, 1.0], [1]),
    ],
)
def test_those_that_lose_the_answer_are_chosen_or_one_that_changes_it(
    scores: list[float], chosen: list[int]
) -> None:
    assert choices(("blur", "mean", "noise"), np.array(scores), 0.8) == chosen
