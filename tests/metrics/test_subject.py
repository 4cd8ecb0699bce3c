"""Models are asked in batches, about each picture once, and their answers are checked."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError, OutputError
from ibisa_onnx.metrics import Subject
from ibisa_onnx.metrics.subject import remembering

IMAGE = np.arange(12, dtype=np.float32).reshape(3, 2, 2)


def mean(images: np.ndarray) -> np.ndarray:
    return images.mean((1, 2, 3))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_no_call_has_more_than_a_batch(batch: int) -> None:
    calls: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return mean(images)

    subject = Subject(count, IMAGE, batch=batch)
    given = subject.scores(IMAGE * k for k in range(7))
    np.testing.assert_allclose(given, IMAGE.mean() * np.arange(7))
    assert max(calls) <= batch
    assert sum(calls) == 7


def test_a_batch_is_of_eight_unless_given() -> None:
    assert Subject(mean, IMAGE).batch == 8


def test_what_is_taken_away_is_zero_unless_given() -> None:
    np.testing.assert_array_equal(Subject(mean, IMAGE).masked(np.zeros((2, 2))), 0)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_each_picture_is_asked_about_once(batch: int) -> None:
    asked: list[float] = []

    def count(images: np.ndarray) -> np.ndarray:
        asked.extend(mean(images))
        return mean(images)

    subject = remembering(Subject(count, IMAGE, batch=batch))
    pictures = [IMAGE, IMAGE + 1, IMAGE, IMAGE + 2, IMAGE + 1]
    for _ in range(2):
        np.testing.assert_allclose(subject.scores(pictures), [mean(p[None])[0] for p in pictures])
    assert sorted(asked) == [5.5, 6.5, 7.5]


def test_a_mask_mixes_image_and_blank() -> None:
    blank = np.array([1, 2, 3], np.float32)[:, None, None]
    subject = Subject(mean, IMAGE, blank)
    mask = np.array([[1, 0], [0.5, 0.25]])
    mixed = subject.masked(mask)
    assert mixed.dtype == np.float32
    for channel in range(3):
        there, gone = IMAGE[channel], channel + 1
        expected = [[there[0, 0], gone], [(there[1, 0] + gone) / 2, (there[1, 1] + 3 * gone) / 4]]
        np.testing.assert_allclose(mixed[channel], expected)


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (lambda images: np.full(len(images), np.nan), "score is nan"),
        (lambda images: np.full(len(images), np.inf), "score is inf"),
        (lambda images: np.zeros((len(images), 2)), "\\(2,\\) is required"),
        (lambda images: np.zeros(1), "\\(2,\\) is required"),
    ],
)
def test_answers_without_sense_are_refused(score: object, says: str) -> None:
    with pytest.raises(OutputError, match=says):
        Subject(score, IMAGE).scores([IMAGE, IMAGE])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "blank", "says"),
    [
        (IMAGE[0], 0.0, "pass one image"),
        (IMAGE[None], 0.0, "pass one image"),
        (IMAGE, np.zeros((2, 2, 2)), "blank has shape"),
        (IMAGE, np.nan, "NaN or infinite"),
        (IMAGE + np.inf, 0.0, "NaN or infinite"),
    ],
)
def test_pictures_without_sense_are_refused(image: np.ndarray, blank: object, says: str) -> None:
    with pytest.raises(IbisaError, match=says):
        Subject(mean, image, blank)  # type: ignore[arg-type]


def test_a_batch_holds_something() -> None:
    with pytest.raises(IbisaError, match="batch is 0; pass 1 image or more"):
        Subject(mean, IMAGE, batch=0).scores([IMAGE])


def test_what_only_metrics_need_is_not_loaded_before() -> None:
    program = (
        "import sys, ibisa_onnx, ibisa_onnx.metrics;"
        "print([m for m in ('scipy', 'cv2', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
