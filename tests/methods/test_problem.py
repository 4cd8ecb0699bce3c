"""A problem's rows: whose score is whose, what each has spent, and what a batch does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ibisa_onnx.errors import OutputError
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.io.images import Picture
from ibisa_onnx.methods.problem import Problem, Row
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.function import INPUT
from ibisa_onnx.models.passes import PassCount
from ibisa_onnx.models.signature import Signature, TensorInfo, find_image
from ibisa_onnx.preprocessing.geometry import Geometry
from ibisa_onnx.targets.base import Objective, Raw

SIDE = 4


class TwoOutputs(ImageModel):
    """`mean` [N, 3] and `largest` [N, 3]: of each channel. It notes what is asked for."""

    def __init__(self, *, batch: int | None = None, mixes: float = 0.0, **options: Any) -> None:
        images = (TensorInfo(INPUT, "float32", (batch, 3, SIDE, SIDE)),)
        outputs = tuple(TensorInfo(name, "float32", (batch, 3)) for name in ("mean", "largest"))
        super().__init__(Signature(images, outputs, find_image(images)), **options)
        self.mixes, self.asked = mixes, []

    def infer(self, feeds: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        images = feeds[INPUT]
        self.asked.append((len(images), tuple(outputs)))
        mean = images.mean((2, 3)) + np.float32(self.mixes * (len(images) - 1))
        values = {"mean": mean, "largest": images.max((2, 3))}
        return {name: values[name] for name in outputs}


@dataclass(frozen=True)
class Channel(Objective):
    """One channel of one output, a probability already."""

    output: str
    channel: int

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output,)

    def probability(self, raw: Raw) -> np.ndarray:
        return raw[self.output][:, self.channel].astype(np.float64)

    def score(self, raw: Raw) -> np.ndarray:
        return np.log(self.probability(raw))

    def describe(self) -> dict[str, Any]:
        return {"kind": "channel", "caption": f"{self.output} {self.channel}"}


OBJECTIVES = (Channel("mean", 0), Channel("largest", 2), Channel("mean", 1))
PICTURES = (0, 0, 1)
"""Of each row; the first two share one."""


@pytest.fixture
def images() -> np.ndarray:
    """Two pictures."""
    return np.random.default_rng(1).random((2, 3, SIDE, SIDE), np.float32)


def pose(
    model: ImageModel, images: np.ndarray, objectives: Sequence[Objective] = OBJECTIVES
) -> Problem:
    """Rows of two pictures; both were asked about once, which the first row of each counts."""
    shared = [model.passes.scope() for _ in images]
    answers = [
        model.run(image[None], passes=passes) for image, passes in zip(images, shared, strict=True)
    ]
    picture = Picture(np.zeros((SIDE, SIDE, 3), np.uint8), None, "")
    geometry = Geometry((SIDE, SIDE), (SIDE, SIDE), (1.0, 1.0), (0.0, 0.0))
    rows, places = [], PICTURES[: len(objectives)]
    for number, (objective, place) in enumerate(zip(objectives, places, strict=True)):
        first = places.index(place) == number
        passes = shared[place] if first else None
        rows.append(Row(objective, answers[place], picture, geometry, passes))
    masked = MaskedImages(images, images * 0).take(list(places))
    blank = np.zeros((3, 1, 1), np.float32)
    return Problem(model, masked, tuple(rows), blank, model.passes.scope())


# -- scores


def test_an_image_is_scored_by_the_objective_of_its_row(images: np.ndarray) -> None:
    model = TwoOutputs()
    problem = pose(model, images)
    asked = np.random.default_rng(2).random((7, 3, SIDE, SIDE), np.float32)
    rows = [2, 0, 1, 1, 0, 2, 2]
    found = problem.score(asked, rows)
    assert (found.shape, found.dtype) == ((7,), np.float64)
    expected = [
        image[1].mean() if row == 2 else image[0].mean() if row == 0 else image[2].max()
        for image, row in zip(asked, rows, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert model.asked[-1] == (7, ("mean", "largest"))  # one call, for what any row reads
    np.testing.assert_array_equal(problem.score(asked, np.array(rows)), found)


def test_the_only_row_need_not_be_named(images: np.ndarray) -> None:
    model = TwoOutputs()
    problem = pose(model, images).take([1])
    found = problem.score(images)
    np.testing.assert_array_equal(found, images[:, 2].max((1, 2)))
    assert model.asked[-1] == (2, ("largest",))  # what no row reads is not computed


def test_answers_are_those_of_the_untouched_pictures(images: np.ndarray) -> None:
    problem = pose(TwoOutputs(), images)
    expected = [images[0, 0].mean(), images[0, 2].max(), images[1, 1].mean()]
    np.testing.assert_allclose(problem.answers, expected, rtol=1e-6)
    np.testing.assert_allclose(problem.score(problem.masked.images, range(3)), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_beyond_numbers_are_refused(images: np.ndarray, value: float) -> None:
    problem = pose(TwoOutputs(), images)
    broken = images.copy()
    broken[1, 0, 0, 0] = value
    with pytest.raises(OutputError, match="output mean has NaN or infinite values") as caught:
        problem.score(broken, [0, 0])
    assert "\n" not in str(caught.value)


def test_only_what_the_rows_read_must_be_finite(images: np.ndarray) -> None:
    part = pose(TwoOutputs(), images).take([0])
    broken = images.copy()
    broken[1, 0, 0, 0] = np.inf
    with pytest.raises(OutputError, match="output mean"):
        part.score(broken)
    broken[1, 0, 0, 0] = -np.inf  # the largest is still a number, the mean is none
    assert np.isfinite(pose(TwoOutputs(), images).take([1]).score(broken)).all()


# -- passes


def spent(problem: Problem) -> PassCount:
    return sum(problem.spent(), PassCount())


def test_the_passes_of_rows_add_up_to_those_of_the_model(images: np.ndarray) -> None:
    """The first row of a picture has its prediction; what is asked together is shared."""
    model = TwoOutputs()
    problem = pose(model, images)
    one = PassCount(1, 0, 1, 0)
    assert problem.spent() == [one, PassCount(), one]
    problem.score(np.concatenate([images] * 2), [0, 1, 2, 0])
    assert problem.spent() == [
        PassCount(3, 0, 2, 0),
        PassCount(1, 0, 0, 0),
        PassCount(2, 0, 1, 0),
    ]
    assert spent(problem) == model.passes.count == PassCount(6, 0, 3, 0)


def test_passes_of_a_part_are_the_wholes_too(images: np.ndarray) -> None:
    model = TwoOutputs()
    problem = pose(model, images)
    part = problem.take([2, 1])
    assert [row.objective for row in part.rows] == [OBJECTIVES[2], OBJECTIVES[1]]
    np.testing.assert_array_equal(part.masked.images[0], images[1])
    part.score(np.concatenate([images, images[:1]]), [0, 1, 0])
    assert part.spent() == [PassCount(3, 0, 2, 0), PassCount(1, 0, 0, 0)]
    assert spent(problem) == model.passes.count == PassCount(5, 0, 3, 0)
    other = problem.take([0])
    other.score(images)
    assert other.spent() == [PassCount(3, 0, 2, 0)]
    assert part.spent() == [PassCount(3, 0, 2, 0), PassCount(1, 0, 0, 0)]
    assert spent(problem) == model.passes.count


def test_the_only_row_is_the_problem_itself(images: np.ndarray) -> None:
    problem = pose(TwoOutputs(), images).take([1])
    assert problem.take([0]) is problem
    assert problem.row is problem.rows[0]
    np.testing.assert_array_equal(problem.image, images[:1])


def test_of_several_rows_none_is_the_only_one(images: np.ndarray) -> None:
    problem = pose(TwoOutputs(), images)
    for ask in (lambda: problem.row, lambda: problem.image):
        with pytest.raises(ValueError, match="too many values"):
            ask()


# -- what a batch does


@pytest.mark.parametrize(
    ("batch", "pair", "filled"), [(None, 2, 5), (1, 2, 5), (3, 6, 6), (4, 4, 8)]
)
def test_what_a_fixed_batch_costs(
    images: np.ndarray, batch: int | None, pair: int, filled: int
) -> None:
    model = TwoOutputs(batch=batch)
    problem = pose(model, images)
    assert (problem.fixed, problem.pair, problem.filled(5)) == (batch or 1, pair, filled)
    before = model.passes.forward
    problem.score(np.repeat(images[:1], 5, 0), [0] * 5)
    assert model.passes.forward - before == filled


def test_a_row_tells_whether_the_images_of_a_batch_mix(images: np.ndarray) -> None:
    """Each has an answer of its own, by which it is seen."""
    model = TwoOutputs(mixes=0.02)
    problem = pose(model, images)
    assert not problem.mixes(problem.rows[2].probability + 0.005, 8, row=2)
    assert not problem.mixes(problem.rows[1].probability, 8, row=1)
    assert model.max_batch == 8
    assert not problem.mixes(problem.rows[1].probability, 1, row=2)  # it ran alone
    assert problem.mixes(problem.rows[1].probability, 8, row=2)
    assert model.max_batch == 1
    (warning,) = model.warnings
    assert "in a batch than alone" in warning


class Mixing(TwoOutputs):
    """Each image gains a part of the mean of its batch."""

    def infer(self, feeds: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        images = feeds[INPUT]
        return super().infer({INPUT: images + 0.1 * images.mean(0)}, outputs)


@pytest.mark.parametrize("of", [TwoOutputs, Mixing])
def test_whether_a_fixed_batch_mixes_is_found_out_once(
    images: np.ndarray, of: type[TwoOutputs]
) -> None:
    model = of(batch=4)
    problem = pose(model, images)
    before = model.passes.forward
    assert [problem.rows_mix() for _ in range(2)] == [of is Mixing] * 2
    assert model.passes.forward - before == 4
    assert [each for each in model.warnings if "copies of one image" in each] == model.warnings
    assert len(model.warnings) == (of is Mixing)


@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("of", [TwoOutputs, Mixing])
def test_images_of_a_picture_are_asked_about_without_mixing(
    images: np.ndarray, of: type[TwoOutputs], batch: int
) -> None:
    """Each answer is that of its image alone, which copies of it fill up."""
    model = of(batch=batch)
    problem = pose(model, images, OBJECTIVES[:2])
    shown = np.stack([images[0], images[0] * 0, images[1]])
    alone = np.concatenate([model.run(each[None])["mean"] for each in shown])
    before = model.passes.forward
    ((raw, taken),) = problem.ask_pictures([shown])
    np.testing.assert_allclose(raw["mean"], alone, rtol=1e-6)
    assert taken == model.passes.forward - before
    assert taken == 4 + (3 * batch if of is Mixing else 0)
    assert problem.check_batch_independence() == 0  # it is known
    np.testing.assert_allclose(problem.score(shown, [0] * 3), alone[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("mixes", "batch", "passes", "one_by_one"),
    [(0.0, None, 2, False), (0.02, None, 2, True), (0.0, 2, 2, False), (0.0, 3, 3, False)],
)
def test_seeing_whether_images_mix(
    images: np.ndarray, mixes: float, batch: int | None, passes: int, one_by_one: bool
) -> None:
    model = TwoOutputs(mixes=mixes, batch=batch)
    problem = pose(model, images)
    before = problem.passes.count.forward
    assert problem.check_batch_independence() == passes
    assert problem.passes.count.forward - before == passes
    assert (model.max_batch == 1) == one_by_one
