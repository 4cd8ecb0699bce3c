"""Preprocessing is found where a model was made for one: a model of colours, planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from ibisa_onnx.errors import OptionError, OutputError
from ibisa_onnx.io.images import Picture, read_picture
from ibisa_onnx.preprocessing.resolve import spell_out
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing, prepare
from ibisa_onnx.preprocessing.trial import CURRENT, rank_preprocessing

COLOURS = np.array(
    [(200, 60, 40), (60, 200, 60), (50, 70, 190), (190, 180, 60), (60, 180, 190), (180, 70, 170)],
    np.float32,
)


def _spec(channels: int = 3, **fields) -> Preprocessing:
    values = spell_out("imagenet", None, channels)
    guessed = ("channel_order", "scale", "mean", "std")
    return Preprocessing((8, 8), "stretch", **(values | {"guessed": guessed} | fields))


def _pictures(rng: np.random.Generator, colours=COLOURS) -> list[Picture]:
    noise = rng.normal(0, 8, (len(colours), 8, 8, 3))
    pixels = np.clip(np.rint(colours[:, None, None] + noise), 0, 255).astype(np.uint8)
    return [read_picture(each) for each in pixels]


def _made_for(preset: str, order: str) -> Callable[[np.ndarray], np.ndarray]:
    """A model that knows colours by their hue, of pixels prepared by one preset."""
    fields = spell_out(preset, order, 3)
    known = COLOURS - COLOURS.mean(1, keepdims=True)
    known /= np.linalg.norm(known, axis=1, keepdims=True)

    def answer(tensors: np.ndarray) -> np.ndarray:
        values = tensors.mean((2, 3)) * np.array(fields["std"]) + np.array(fields["mean"])
        rgb = (values / fields["scale"])[:, :: 1 if order == "RGB" else -1]
        seen = np.exp(-(np.maximum(np.abs(rgb - 127.5) - 127.5, 0) ** 2).sum(1) / 1e3)
        hue = (rgb - rgb.mean(1, keepdims=True)) / 60
        logits = 6 * seen[:, None] * hue @ known.T
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    return answer


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("preset", ["caffe", "tf", "unit", "raw"])
def test_labels_find_the_preset_that_a_model_was_made_for(rng, preset, order):
    found = rank_preprocessing(
        _spec(), _pictures(rng), _made_for(preset, order), classes=range(len(COLOURS))
    )
    first = found.trials[0]
    assert first.agreement == 1
    level = {(each.preset, each.channel_order) for each in found.level}
    assert (preset, order) in level


@pytest.mark.parametrize("preset", ["tf", "unit", "raw"])
def test_without_labels_wrong_ranges_say_little(rng, preset):
    found = rank_preprocessing(_spec(), _pictures(rng), _made_for(preset, "RGB"))
    assert preset in {each.preset for each in found.level}
    worst = found.trials[-1]
    assert worst.information < 0.5 * found.trials[0].information
    assert not worst.level
    assert 6 * 10 < found.passes < 6 * 50  # those behind are not asked again


def test_a_model_that_does_not_look_leaves_all_level(rng):
    found = rank_preprocessing(_spec(), _pictures(rng), lambda x: np.full((len(x), 4), 0.25))
    assert len(found.level) == 10
    assert not found.is_sure


def test_one_picture_is_never_sure(rng):
    found = rank_preprocessing(_spec(), _pictures(rng)[:1], _made_for("tf", "RGB"))
    assert not found.is_sure


def test_a_single_score_is_a_class_and_its_complement(rng):
    pair = COLOURS[[0, 1] * 4]
    model = _made_for("unit", "RGB")

    def binary(tensors):
        p = model(tensors)
        return p[:, :1] / (p[:, :1] + p[:, 1:2])

    found = rank_preprocessing(_spec(), _pictures(rng, pair), binary)
    best = next(each for each in found.trials if each.preset == "unit")
    assert best.level
    assert best.sharpness > 0.9


def test_an_order_that_was_said_is_kept(rng):
    said = _spec(guessed=("mean", "std", "scale"), channel_order="BGR")
    found = rank_preprocessing(said, _pictures(rng), _made_for("tf", "BGR"))
    assert {each.channel_order for each in found.trials} == {"BGR"}
    assert len(found.trials) == len(PRESETS)


def test_what_is_in_use_is_tried_too_where_it_is_known(rng):
    known = _spec(guessed=(), mean=(0.48,), std=(0.26,))
    found = rank_preprocessing(known, _pictures(rng), _made_for("tf", "RGB"))
    assert CURRENT in {each.preset for each in found.trials}


def test_bytes_have_no_presets_but_raw(rng):
    raw = spell_out("raw", None, 3)
    spec = _spec(dtype="uint8", **raw)
    found = rank_preprocessing(spec, _pictures(rng), _made_for("raw", "RGB"))
    assert [each.preset for each in found.trials] == ["raw", "raw"]


def test_candidates_that_make_no_numbers_are_left_out(rng):
    model = _made_for("tf", "RGB")

    def fragile(tensors):
        if tensors.max() > 100:
            raise OutputError("NaN")
        return model(tensors)

    found = rank_preprocessing(_spec(), _pictures(rng), fragile)
    assert {each.preset for each in found.trials} == {"imagenet", "tf", "unit"}

    def broken(tensors):
        raise OutputError("NaN")

    with pytest.raises(OutputError):
        rank_preprocessing(_spec(), _pictures(rng), broken)


def test_nothing_is_resized_for_the_answer_but_once(rng):
    """A picture of another size gives each candidate the very bytes that `run` would give it."""
    large = read_picture(rng.integers(0, 256, (31, 50, 3), dtype=np.uint8))
    seen = []

    def watch(tensors):
        seen.append(tensors[0])
        return np.full((len(tensors), 3), 1 / 3)

    spec = dataclasses.replace(_spec(), resize="shortest", shorter_side=10)
    rank_preprocessing(spec, [large], watch)
    np.testing.assert_array_equal(seen[0], prepare(large, spec).tensor[0])


def test_what_is_missing_is_said(rng):
    with pytest.raises(OptionError, match="no images"):
        rank_preprocessing(_spec(), [], _made_for("tf", "RGB"))
    with pytest.raises(OptionError, match="2 classes for 6 images"):
        rank_preprocessing(_spec(), _pictures(rng), _made_for("tf", "RGB"), [1, 2])
