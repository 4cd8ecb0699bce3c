"""The generator of planted truth: what it promises must hold before other tests lean on it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ibisa_onnx.demo import LABELS
from ibisa_onnx.demo.scenes import Scene, draw_scene
from ibisa_onnx.demo.shapes import KINDS
from ibisa_onnx.errors import ImageError, TargetError

SIZES = [(64, 64), (128, 128), (96, 160), (301, 257)]


def scene(seed: int, **options: object) -> Scene:
    return draw_scene(np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def test_the_kinds_are_the_labels_in_their_order() -> None:
    assert tuple(KINDS) == LABELS


def test_one_seed_is_one_scene() -> None:
    one, same, other = scene(3), scene(3), scene(4)
    np.testing.assert_array_equal(one.image, same.image)
    for mine, its in zip(one.objects, same.objects, strict=True):
        np.testing.assert_array_equal(mine.mask, its.mask)
    assert np.abs(one.image.astype(int) - other.image).mean() > 5


def test_the_generator_leaves_the_global_random_state_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    scene(0)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_shapes_and_types(size: tuple[int, int], seed: int) -> None:
    drawn = scene(seed, size=size)
    for picture in (drawn.image, drawn.background):
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.uint8
    for item in drawn.objects:
        assert item.mask.shape == size
        assert item.mask.dtype == np.bool_
        assert LABELS[item.index] == item.label


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_count_is_obeyed_with_different_kinds(count: int) -> None:
    for seed in range(10):
        drawn = scene(seed, size=(64, 64), count=count)
        assert len({item.label for item in drawn.objects}) == len(drawn.objects) == count


def test_one_to_three_objects_of_every_kind_come_by_chance() -> None:
    drawn = [scene(seed, size=(32, 32)) for seed in range(60)]
    assert {len(each.objects) for each in drawn} == {1, 2, 3}
    assert {item.label for each in drawn for item in each.objects} == set(LABELS)


def test_kinds_are_drawn_as_named() -> None:
    wanted = ("ring", "arrow", "star")
    assert tuple(item.label for item in scene(1, kinds=wanted).objects) == wanted


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(8))
def test_masks_are_where_the_objects_are(size: tuple[int, int], seed: int) -> None:
    drawn = scene(seed, size=size, count=2)
    change = np.abs(drawn.image.astype(int) - drawn.background).max(axis=2)
    anywhere = np.zeros(size, int)
    for item in drawn.objects:
        assert np.mean(change[item.mask] > 8) > 0.85
        anywhere += item.mask
    assert anywhere.max() == 1
    # A shadow only darkens, so what became lighter outside the masks can be edge pixels at most.
    near = cv2.dilate((anywhere > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    lighter = (drawn.image.astype(int) - drawn.background).max(axis=2) > 1
    assert not np.any(lighter & ~near)


@pytest.mark.parametrize("label", LABELS)
def test_every_object_is_whole_and_of_a_fair_size(label: str) -> None:
    for seed in range(10):
        mask = scene(seed, size=(128, 128), kinds=[label]).objects[0].mask
        assert 0.015 < mask.mean() < 0.16
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()


def test_three_objects_hardly_hide_each_other() -> None:
    for seed in range(20):
        drawn = scene(seed, count=3)
        assert min(item.mask.sum() for item in drawn.objects) > 0.01 * 128 * 128


@pytest.mark.parametrize("seed", range(4))
def test_a_scene_is_the_same_at_every_size(seed: int) -> None:
    small = scene(seed, size=(96, 96), count=2)
    large = scene(seed, size=(288, 288), count=2)
    shrunk = cv2.resize(large.image, (96, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small.image).mean() < 6
    for one, other in zip(small.objects, large.objects, strict=True):
        mask = cv2.resize(other.mask.astype(np.float32), (96, 96), interpolation=cv2.INTER_AREA)
        assert one.label == other.label
        assert np.mean((mask > 0.5) != one.mask) < 0.005


def test_a_scene_without_objects_is_its_background() -> None:
    drawn = scene(5, count=0)
    np.testing.assert_array_equal(drawn.image, drawn.background)
    assert drawn.image.std() > 5


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"count": 4}, ImageError, "0 to 3"),
        ({"count": -1}, ImageError, "0 to 3"),
        ({"count": 1, "kinds": ["star", "ring"]}, ImageError, "pass only one of them"),
        ({"kinds": ["teapot"]}, TargetError, "teapot"),
        ({"size": (8, 128)}, ImageError, "16 x 16"),
    ],
)
def test_wrong_wishes_are_refused(
    options: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        scene(0, **options)
