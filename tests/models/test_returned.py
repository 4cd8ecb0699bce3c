"""What a function returns, read as what it declares: its forms, and what each fault gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import ibisa_onnx as ibisa
from ibisa_onnx.errors import ModelError, OutputError
from ibisa_onnx.models.function import FunctionModel, InputSpec

SIDES = (3, 5, 6)
ROWS = {"boxes": (None, None, 4), "scores": (None, None)}
TWO = {"boxes": [[[1, 2, 3, 4]], [[5, 6, 7, 8], [1, 1, 2, 2]]], "scores": [[0.5], [0.75, 0.25]]}
"""One row of the first image, two of the second."""
PADDED = {
    "boxes": np.array([[[1, 2, 3, 4], [0] * 4], [[5, 6, 7, 8], [1, 1, 2, 2]]], np.float32),
    "scores": np.array([[0.5, 0], [0.75, 0.25]], np.float32),
}


def run(
    returned: Any, outputs: Mapping[str, Any] = ROWS, images: int = 2, batch: int | None = None
) -> dict[str, np.ndarray]:
    model = FunctionModel(lambda _: returned, InputSpec((batch, *SIDES), outputs=outputs))
    return model.run(np.ones((images, *SIDES), np.float32))


def arrays(rows: list[Any]) -> list[np.ndarray]:
    return [np.array(each) for each in rows]


@pytest.mark.parametrize(
    "returned",
    [
        TWO,
        {name: arrays(rows) for name, rows in TWO.items()},
        {name: tuple(map(torch.tensor, rows)) for name, rows in TWO.items()},
        [{name: rows[n] for name, rows in TWO.items()} for n in range(2)],
        PADDED,
        {**PADDED, "masks": "not declared"},
        {name: torch.tensor(each) for name, each in PADDED.items()},
        {name: each.tolist() for name, each in PADDED.items()},
    ],
    ids=["lists", "arrays", "torch", "by image", "padded", "more", "a tensor", "nested lists"],
)
def test_rows_that_differ_are_filled_up(returned: Any):
    found = run(returned)
    for name, expected in PADDED.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_one_image_needs_no_axis_of_its_own(rows: int):
    boxes = np.arange(4 * rows).reshape(rows, 4).tolist()
    scores = [1] * rows
    for with_axis in (False, True):
        returned = {"boxes": boxes, "scores": scores}
        returned = {name: [each] for name, each in returned.items()} if with_axis else returned
        found = run(returned, images=1)
        assert found["boxes"].shape == (1, rows, 4)
        assert found["scores"].shape == (1, rows)
        np.testing.assert_array_equal(found["boxes"][0], np.reshape(boxes, (-1, 4)))


def test_images_without_rows_have_rows_of_zeros():
    found = run({"boxes": [[], [[5, 6, 7, 8]]], "scores": [[], [0.5]]})
    np.testing.assert_array_equal(found["boxes"], [[[0] * 4], [[5, 6, 7, 8]]])
    np.testing.assert_array_equal(found["scores"], [[0], [0.5]])
    assert run({"boxes": [[], []], "scores": [[], []]})["boxes"].shape == (2, 0, 4)


def test_calls_with_other_numbers_of_rows_are_put_together():
    def count(images: np.ndarray) -> dict[str, Any]:
        rows = int(images[0, 0, 0, 0])
        return {"boxes": [[1, 2, 3, 4]] * rows, "scores": [0.5] * rows}

    model = FunctionModel(count, InputSpec((1, *SIDES), outputs=ROWS))
    images = np.zeros((3, *SIDES), np.float32) + np.array([2, 0, 1]).reshape(3, 1, 1, 1)
    found = model.run(images.astype(np.float32))
    np.testing.assert_array_equal(found["scores"], [[0.5, 0.5], [0, 0], [0.5, 0]])
    assert found["boxes"].shape == (3, 2, 4)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (np.zeros((2, 8)), (None, 8)),
        (np.zeros((2, 8), np.float16), (None, None)),
        (np.zeros((2, 8), bool), ("n", "d")),
        ([[1] * 8, [2] * 8], (None, 8)),
        ([1.5, 2.5], (None, 1)),
        (np.zeros((2, 3, 4, 4), np.int64), (None, 3, None, None)),
    ],
)
def test_a_single_output_may_come_without_its_name(value: Any, shape: Any):
    found = run(value, {"x": shape})["x"]
    np.testing.assert_array_equal(found, np.reshape(value, (2, -1)).reshape(found.shape))
    assert found.ndim == len(shape)
    assert found.dtype == np.float32


def test_one_number_of_one_image_may_be_just_that():
    np.testing.assert_array_equal(run({"age": 31.5}, {"age": (None, 1)}, images=1)["age"], [[31.5]])


def test_its_buffer_may_be_used_again():
    buffer = np.empty((1, 2), np.float32)

    def fill(images: np.ndarray) -> np.ndarray:
        buffer[:] = images[0, 0, 0, 0]
        return buffer

    model = FunctionModel(fill, InputSpec((1, *SIDES), outputs={"x": (None, 2)}))
    images = np.zeros((2, *SIDES), np.float32)
    images[1] = 7
    np.testing.assert_array_equal(model.run(images)["x"], [[0, 0], [7, 7]])


FAULTS: dict[str, tuple[Any, str]] = {
    "nothing": (None, r"returned None for 2 image\(s\); return boxes, scores, as a mapping"),
    "a tuple": ((PADDED["boxes"], PADDED["scores"]), "returned a tuple for 2 image"),
    "an array": (PADDED["boxes"], "returned a ndarray for 2 image"),
    "one missing": (
        {"boxes": PADDED["boxes"], "conf": 1},
        "returned no 'scores', only boxes, conf; return boxes, scores",
    ),
    "an empty mapping": ({}, "returned no 'boxes', only nothing"),
    "a wrong rank": (
        {**PADDED, "scores": PADDED["scores"][..., None]},
        r"returned scores float32 \[2, 2, 1\] for 2 image\(s\), but declares scores \[N, \?\]",
    ),
    "wrong columns": (
        {**PADDED, "boxes": PADDED["boxes"][..., :3]},
        r"returned boxes float32 \[2, 2, 3\] .*, but declares boxes \[N, \?, 4\]",
    ),
    "wrong columns of one": (
        {**TWO, "boxes": [np.zeros((1, 3)), np.zeros((2, 4))]},
        r"returned boxes \[1, 3\], \[2, 4\] for 2 image\(s\), but declares boxes \[N, \?, 4\]",
    ),
    "too few images": (
        {name: each[:1] for name, each in PADDED.items()},
        r"boxes float32 \[1, 2, 4\] for 2 image\(s\), but declares .*; .* a batch of 1",
    ),
    "other rows": (
        {**PADDED, "scores": PADDED["scores"][:, :1]},
        "returned 2 boxes, 1 scores for one image; these numbers must be equal",
    ),
    "other rows of one": (
        {**TWO, "scores": [[0.5, 0.5], [0.75]]},
        "returned 1 boxes, 2 scores for one image",
    ),
    "NaN": (
        {**TWO, "scores": [[np.nan], [0.75, 0.25]]},
        r"returned scores float64 \[2, 2\] for 2 image\(s\) with NaN or infinite values",
    ),
    "infinity": ({**PADDED, "boxes": PADDED["boxes"] * np.float64(1e300)}, "NaN or infinite"),
    "words": ({**PADDED, "scores": [["a", "b"]] * 2}, "not numeric; return a class as its index"),
    "objects": ({**PADDED, "scores": [0.5, [0.75, 0.25]]}, "not numeric"),
    "nested": ({**PADDED, "boxes": [[[1, 2], [3]], [[1]]]}, "a list that NumPy cannot convert"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_in_one_line(fault: str):
    returned, said = FAULTS[fault]
    with pytest.raises(OutputError, match=said) as caught:
        run(returned)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("<lambda> returned")


def test_a_side_that_holds_no_rows_stays_as_it_was():
    lengths = iter((8, 9))
    model = FunctionModel(
        lambda images: np.zeros((len(images), next(lengths))),
        InputSpec((None, *SIDES), outputs={"embedding": (None, None)}),
    )
    images = np.ones((1, *SIDES), np.float32)
    model.run(images)
    with pytest.raises(
        OutputError, match=r"\[1, 9\] for 1 image\(s\), but \[8\] for an earlier image"
    ):
        model.run(images)


def test_an_image_without_a_row_does_not_say_how_long_rows_are():
    outputs = {**ROWS, "masks": (None, None, None, None)}
    scores = iter(([], [0.5], [], [0.25]))

    def one(images: np.ndarray) -> dict[str, Any]:
        found = next(scores)
        masks = np.ones((len(found), 7, 5)) if found else []
        return {"boxes": [[1, 2, 3, 4]] * len(found), "scores": found, "masks": masks}

    model = FunctionModel(one, InputSpec((1, *SIDES), outputs=outputs))
    assert model.run(np.ones((1, *SIDES), np.float32))["masks"].size == 0
    found = model.run(np.ones((3, *SIDES), np.float32))
    assert found["masks"].shape == (3, 1, 7, 5)
    np.testing.assert_array_equal(found["scores"], [[0.5], [0], [0.25]])


def test_what_is_wrong_once_does_not_say_how_long_rows_are():
    lengths = iter((8, 9))
    model = FunctionModel(
        lambda images: np.full((1, length := next(lengths)), np.nan if length == 8 else 1),
        InputSpec((1, *SIDES), outputs={"embedding": (None, None)}),
    )
    images = np.ones((1, *SIDES), np.float32)
    with pytest.raises(OutputError, match="NaN"):
        model.run(images)
    assert model.run(images)["embedding"].shape == (1, 9)


def test_what_is_no_table_may_not_be_empty():
    given = iter(([], [[1.0, 2.0]], []))
    model = FunctionModel(
        lambda images: next(given), InputSpec((1, *SIDES), outputs={"x": (None, None)})
    )
    for empty in (True, False, True):
        if empty:
            with pytest.raises(OutputError, match=r"returned x .* 1 image\(s\), which is empty"):
                model.run(np.ones((1, *SIDES), np.float32))
        else:
            assert model.run(np.ones((1, *SIDES), np.float32))["x"].shape == (1, 2)


def test_sides_of_another_name_may_have_other_rows():
    outputs = {**ROWS, "proposals": (None, "p", 4)}
    found = run({**PADDED, "proposals": np.zeros((2, 7, 4))}, outputs)
    assert found["proposals"].shape == (2, 7, 4)


def test_a_mapping_that_nobody_declared_is_told_how_to_be():
    model = FunctionModel(lambda images: PADDED, InputSpec((None, *SIDES)))
    with pytest.raises(OutputError, match=r"returned dict .*; declare other outputs, as Inp"):
        model.run(np.ones((2, *SIDES), np.float32))


REFUSED = [
    ({}, "outputs is empty; pass shapes by name"),
    (["boxes"], r"outputs is \['boxes'\]; pass shapes by name"),
    (3, "outputs is 3; pass shapes"),
    ({"boxes": 4}, "outputs has 'boxes': 4; pass shapes"),
    ({"boxes": "n4"}, "outputs has 'boxes': 'n4'"),
    ({3: (None, 4)}, "outputs has 3: "),
    ({"boxes": (None,)}, r"the shape of boxes is \[None\]; it requires the batch axis"),
    ({"boxes": (7, None, 4)}, r"the shape of boxes is \[7, None, 4\]; it requires the batch"),
    ({"boxes": (None, 0, 4)}, "the shape of boxes, .* has an axis of 0"),
]


class TestInputSpec:
    @pytest.mark.parametrize(("outputs", "said"), REFUSED)
    def test_refuses_outputs_that_are_none(self, outputs: Any, said: str):
        with pytest.raises(ModelError, match=said):
            InputSpec((None, *SIDES), outputs=outputs)

    def test_is_a_value(self):
        first = InputSpec((2, *SIDES), outputs={"boxes": [2, None, np.int64(4)]})
        second = InputSpec((2, *SIDES), outputs={"boxes": (2, None, 4)})
        assert len({first, second}) == 1
        assert InputSpec((2, *SIDES), outputs=first.outputs) == first
        assert dict(first.outputs or ()) == {"boxes": (2, None, 4)}

    def test_makes_a_signature(self):
        model = FunctionModel(lambda images: None, InputSpec(("n", *SIDES), outputs=ROWS))
        said = [(each.name, each.dtype, each.shape) for each in model.signature.outputs]
        assert said == [
            ("boxes", "float32", ("n", None, 4)),
            ("scores", "float32", ("n", None)),
        ]

    def test_an_output_may_be_named_where_several_are_declared(self):
        with pytest.raises(ModelError, match="output cannot be passed with a function"):
            ibisa.Explainer(lambda images: None, InputSpec((None, *SIDES)), output="scores")
