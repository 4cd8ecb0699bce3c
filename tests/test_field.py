"""The field set: the proof that a model looks holds by itself, and a failure stands in its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from field_exports import EXPORTS
from field_set.drawing import write
from field_set.exported import EXPORTED, explained
from field_set.proof import measure, prove, without
from field_set.rows import Row, table
from field_set.scenes import PLANTED

from ibisa_onnx import Explainer, Options

# Two classes: the first where the square of rows 8..16 and columns 16..24 is red.
LOOKING = """
<ir_version: 8, opset_import: ["" : 17]>
looking (float[N, 3, 32, 32] image) => (float[N, 2] scores)
<int64[3] starts = {0, 8, 16}, int64[3] ends = {1, 16, 24}, int64[3] axes = {1, 2, 3},
 float[1, 2] gain = {%s, 0.0}, float[1, 2] bias = {-4.0, 0.0}>
{
    red = Slice (image, starts, ends, axes)
    mean = ReduceMean <axes = [1, 2, 3], keepdims = 0> (red)
    one = Constant <value_ints = [1]> ()
    column = Unsqueeze (mean, one)
    scaled = Mul (column, gain)
    scores = Add (scaled, bias)
}
"""


def explainer(gain: str) -> Explainer:
    model = onnx.parser.parse_model(LOOKING % gain)
    options = Options(baseline="mean")  # a blur of so flat a square keeps the answer
    return Explainer(model.SerializeToString(), preprocessing="unit", options=options, cache=False)


def picture() -> np.ndarray:
    image = np.full((32, 32, 3), 20, np.uint8)
    image[8:16, 16:24, 0] = 255
    return image


def test_the_proof_finds_the_window_that_the_model_looks_at():
    proof = prove(explainer("8.0").problem(picture()))
    assert proof.looks
    assert proof.box == (slice(8, 16), slice(16, 24))
    assert max(proof.hidden, proof.blank) < 0.1


def test_a_model_that_ignores_the_picture_is_blind():
    proof = prove(explainer("0.0").problem(picture()))
    assert not proof.looks
    assert proof.box is None


def test_a_window_is_filled_with_what_surrounds_it():
    image = picture().transpose(2, 0, 1).astype(np.float32)
    assert (without(image, (slice(8, 16), slice(16, 24))) == 20).all()


def test_a_map_is_held_against_the_truth():
    found = explainer("8.0")
    mask = np.zeros((32, 32), bool)
    mask[8:16, 16:24] = True
    explanation = found.explain(picture())
    proof = prove(found.problem(picture()))
    here, elsewhere = (measure(explanation, proof, each) for each in (mask, mask[::-1, ::-1]))
    assert here.place == "truth"
    assert elsewhere.place == "window"
    assert here.within > 0.5 > elsewhere.within


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_truth_is_a_small_part_of_the_picture(name):
    rng = np.random.default_rng(3)
    drawn = [PLANTED[name].draw(rng) for _ in range(12)]
    masks = [each.mask for each in drawn if each.mask is not None]
    assert masks
    assert all(0 < mask.mean() < 0.5 for mask in masks)
    assert {each.label for each in drawn} <= set(range(len(PLANTED[name].labels)))


# 64 boxes; the score of one is how bright its square is, times a gain, and those of others are 0.
DETECTING = """
<ir_version: 8, opset_import: ["" : 17]>
detecting (float[1, 3, 32, 32] image) => (float[1, 64, 4] boxes, float[1, 64, 1] scores)
<int64[2] starts = {4, 4}, int64[2] ends = {8, 8}, int64[2] axes = {2, 3}>
{
    boxes = Identity (places)
    square = Slice (image, starts, ends, axes)
    mean = ReduceMean <axes = [1, 2, 3], keepdims = 1> (square)
    shape = Constant <value_ints = [1, 1, 1]> ()
    line = Reshape (mean, shape)
    scores = Mul (gains, line)
}
"""


def exported_row(tmp_path: Path, gain: float) -> Row:
    model = onnx.parser.parse_model(DETECTING)
    corners = np.stack(np.meshgrid(range(0, 32, 4), range(0, 32, 4)), 2).reshape(1, 64, 2)
    places, gains = np.concatenate([corners, corners + 4], 2), np.zeros((1, 64, 1))
    gains[0, 9] = gain
    for name, values in {"places": places, "gains": gains}.items():
        tensor = onnx.numpy_helper.from_array(values.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    path, image = tmp_path / "detecting.onnx", np.full((32, 32, 3), 10, np.uint8)
    onnx.save(model, path)
    image[4:8, 4:8] = 250
    photograph = write(tmp_path / "photograph.png", image)
    return explained(path, {"preprocessing": "unit"}, photograph)


def test_an_exported_file_without_detections_says_so_in_its_row(tmp_path):
    sure, unsure, none = (exported_row(tmp_path, gain) for gain in (0.9, 0.1, 0.001))
    assert (sure.answers, sure.passes, sure.where) == (1, "21 + 10", "")
    assert (unsure.answers, unsure.passes) == (0, "21 + 10")
    assert "no detection" in unsure.where
    assert (none.answers, none.passes, none.gradient) == (0, "", "")
    assert "nothing was detected" in none.where
    assert all(row.where in table([], [], [row]) for row in (unsure, none))


def test_an_exported_file_that_fails_says_so_in_its_row(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    row = explained(path, {}, tmp_path)
    assert row.kind == "not opened"
    assert f"| `broken.onnx` | not opened | 0 |  | {row.where} |" in table([], [], [row])
    assert "broken.onnx" in row.where


def test_every_exported_file_has_a_script_that_writes_it():
    assert set(EXPORTS) == set(EXPORTED)
