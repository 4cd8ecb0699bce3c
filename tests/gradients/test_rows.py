"""A problem's gradient: rows of several pictures and objectives, in calls of any size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.onnx_backward import ExactGradient
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.io.images import Picture
from ibisa_onnx.methods.problem import Problem, Row
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCount
from ibisa_onnx.preprocessing.geometry import Geometry
from ibisa_onnx.targets.base import Objective, Raw
from ibisa_onnx.targets.class_scores import Activation, ClassScores
from ibisa_onnx.targets.classification import ClassObjective

SIDE, CLASSES, ROWS = 9, 5, 7
Deploy = Callable[..., DeployedModel]

SOFTMAX = ClassScores("scores", CLASSES, Activation.SOFTMAX)
SIGMOID = ClassScores("scores", CLASSES, Activation.SIGMOID_LOGIT)


@dataclass(frozen=True)
class Margin(Objective):
    """By how much the score of one class is above another's, as a logarithm."""

    one: int
    other: int

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("scores",)

    def score(self, raw: Raw) -> np.ndarray:
        values = raw["scores"].astype(np.float64)
        return values[:, self.one] - values[:, self.other]

    def vjp(self, raw: Raw) -> dict[str, np.ndarray]:
        cotangent = np.zeros_like(raw["scores"], np.float32)
        cotangent[:, self.one], cotangent[:, self.other] = 1, -1
        return {"scores": cotangent}

    def describe(self) -> dict[str, Any]:
        return {"kind": "margin", "caption": f"{self.one} over {self.other}"}


OBJECTIVES: tuple[Objective, ...] = (
    ClassObjective(SOFTMAX, 1),
    Margin(0, 4),
    ClassObjective(SOFTMAX, 3),
    ClassObjective(SIGMOID, 2),
    Margin(3, 1),
    ClassObjective(SOFTMAX, 1),
    ClassObjective(SIGMOID, 4),
)


@pytest.fixture
def pictures() -> MaskedImages:
    """Seven, and a baseline of its own for each."""
    rng = np.random.default_rng(11)
    return MaskedImages(*rng.normal(size=(2, ROWS, 3, SIDE, SIDE)).astype(np.float32))


@pytest.fixture
def masks() -> np.ndarray:
    """One for each row, float32 [7, 4, 6]."""
    return np.random.default_rng(12).random((ROWS, 4, 6), np.float32)


def pose(
    model: DeployedModel,
    pictures: MaskedImages,
    objectives: Sequence[Objective] = OBJECTIVES,
) -> Problem:
    """The problem of these pictures; the passes of the predictions are counted in its rows."""
    rows = []
    for place, objective in enumerate(objectives):
        image, shared = pictures.images[place : place + 1], model.passes.scope()
        answer = model.run(image, objective.outputs, shared)
        picture = Picture(np.zeros((SIDE, SIDE, 3), np.uint8), None, "")
        geometry = Geometry((SIDE, SIDE), (SIDE, SIDE), (1.0, 1.0), (0.0, 0.0))
        rows.append(Row(objective, answer, picture, geometry, shared))
    blank = np.zeros((3, 1, 1), np.float32)
    masked = pictures.take(range(len(rows)))
    return Problem(model, masked, tuple(rows), blank, model.passes.scope())


def exact(model: DeployedModel) -> ExactGradient:
    return ExactGradient(model, ("scores",))


@pytest.fixture
def score(network: torch.nn.Module, pictures: MaskedImages) -> Callable[..., float]:
    """The score of a row at a mask [h, w], all of it in float64."""
    double = copy.deepcopy(network).double()

    def of(row: int, mask: np.ndarray) -> float:
        image, baseline = (
            torch.from_numpy(each[row : row + 1]).double()
            for each in (pictures.images, pictures.baselines)
        )
        large = F.interpolate(torch.from_numpy(mask)[None, None], (SIDE, SIDE), mode="bilinear")
        with torch.no_grad():
            raw = double(torch.lerp(baseline, image, large)).numpy()
        return float(OBJECTIVES[row].score({"scores": raw})[0])

    return of


def by_differences(score: Callable[[np.ndarray], float], mask: np.ndarray) -> np.ndarray:
    """The gradient at a mask [h, w], by central differences of every cell."""
    at, step = mask.astype(np.float64), 1e-5
    found = np.zeros_like(at)
    for cell in np.ndindex(*at.shape):
        ends = []
        for sign in (1, -1):
            moved = at.copy()
            moved[cell] += sign * step
            ends.append(score(moved))
        found[cell] = (ends[0] - ends[1]) / (2 * step)
    return found


@dataclass(frozen=True)
class Calls:
    """How a model is called, and what seven rows then take."""

    batch: int | str
    rows: int | None = None
    """Images in a call where many are worth it; None: what a model on the CPU says."""
    concurrency: int = 1
    passes: int = ROWS
    calls: int = ROWS


CALLS = {
    "open, one by one": Calls("n"),
    "open, at once": Calls("n", concurrency=ROWS),
    "open, some at once": Calls("n", concurrency=3),
    "open, in even calls": Calls("n", rows=4, calls=2),
    "open, in one call": Calls("n", rows=8, calls=1),
    "fixed, filled with rows": Calls(4, passes=8, calls=2),
    "fixed, at once": Calls(4, concurrency=2, passes=8, calls=2),
    "fixed, larger than all": Calls(8, passes=8, calls=1),
    "fixed at one": Calls(1),
}


@pytest.fixture(params=CALLS.values(), ids=CALLS)
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Calls:
    if request.param.rows is not None:  # as on a GPU
        monkeypatch.setattr(DeployedModel, "preferred_batch", request.param.rows)
    return request.param


@pytest.fixture
def model(deployed: Deploy, calls: Calls) -> DeployedModel:
    opened = deployed(batch=calls.batch)
    opened.max_concurrency = calls.concurrency
    return opened


def test_each_row_has_the_gradient_of_its_own_objective_at_its_own_picture(
    model: DeployedModel, pictures: MaskedImages, masks: np.ndarray, score: Callable[..., float]
) -> None:
    problem = pose(model, pictures)
    found = problem.gradient(exact(model))(masks)
    assert (found.values.shape, found.values.dtype) == (masks.shape, np.float32)
    assert (found.ratio.shape, found.ratio.dtype) == ((ROWS,), np.float64)
    whole = np.ones((1, 1))
    for row, mask in enumerate(masks):
        expected = by_differences(lambda at, row=row: score(row, at), mask)
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found.values[row], expected, atol=2e-5 * largest)
        left = np.exp(score(row, mask.astype(np.float64)) - score(row, whole))
        assert found.ratio[row] == pytest.approx(left, rel=1e-4)


def test_rows_together_are_what_each_is_alone(
    model: DeployedModel, pictures: MaskedImages, masks: np.ndarray
) -> None:
    """Also at the next masks, for which what is open is used again."""
    problem, source = pose(model, pictures), exact(model)
    together = problem.gradient(source)
    alone = [problem.take([row]).gradient(source) for row in range(ROWS)]
    for masks_ in (masks, 1 - masks, masks):
        found = together(masks_)
        each = [one(masks_[row : row + 1]) for row, one in enumerate(alone)]
        values = np.concatenate([one.values for one in each])
        largest = np.abs(values).max((1, 2), keepdims=True)
        np.testing.assert_allclose(found.values / largest, values / largest, atol=1e-5)
        ratio = np.concatenate([one.ratio for one in each])
        np.testing.assert_allclose(found.ratio, ratio, rtol=1e-5)


def test_passes_of_rows_together(
    model: DeployedModel, pictures: MaskedImages, masks: np.ndarray, calls: Calls
) -> None:
    """A fixed batch is filled with other rows as far as there are any."""
    problem = pose(model, pictures)
    model.batch_mixes = False  # known, so that no call goes into finding it out
    before = model.passes.count
    gradient = problem.gradient(exact(model))
    assert problem.passes.count == PassCount()
    gradient(masks)
    once = PassCount(calls.passes, calls.passes, calls.calls, calls.calls)
    assert problem.passes.count == once
    gradient(masks)
    assert problem.passes.count == once + once
    assert model.passes.count == before + once + once


@pytest.mark.parametrize("rows", [4, 8])
def test_a_fixed_batch_has_no_padding_where_rows_suffice(
    deployed: Deploy, pictures: MaskedImages, masks: np.ndarray, rows: int
) -> None:
    model = deployed(batch=4)
    model.batch_mixes = False
    problem = pose(model, pictures, OBJECTIVES[:4])
    numbers = np.arange(rows) % 4
    problem.gradient(exact(model), numbers)(masks[numbers])
    calls = rows // 4
    assert problem.passes.count == PassCount(rows, rows, calls, calls)


def test_a_fixed_batch_that_mixes_is_filled_with_one_row(
    deployed: Deploy, pictures: MaskedImages, masks: np.ndarray
) -> None:
    model = deployed(batch=4)
    problem, source = pose(model, pictures), exact(model)
    expected = problem.gradient(source)(masks)
    before = problem.passes.count
    model.batch_mixes = True
    found = problem.gradient(source)(masks)
    assert problem.passes.count == before + PassCount(4 * ROWS, 4 * ROWS, ROWS, ROWS)
    largest = np.abs(expected.values).max()
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5 * largest)
    np.testing.assert_allclose(found.ratio, expected.ratio, rtol=1e-5)


def test_several_masks_of_a_row(
    model: DeployedModel, pictures: MaskedImages, masks: np.ndarray
) -> None:
    """In any order: as rounds of an answer side by side are."""
    problem, source = pose(model, pictures), exact(model)
    rows = [2, 2, 0, 4, 2, 0]
    found = problem.gradient(source, rows)(masks[:6])
    for place, row in enumerate(rows):
        one = problem.take([row]).gradient(source)(masks[place : place + 1])
        largest = np.abs(one.values).max()
        np.testing.assert_allclose(found.values[place], one.values[0], atol=1e-5 * largest)
        assert found.ratio[place] == pytest.approx(one.ratio[0], rel=1e-5)


def test_rows_of_a_surrogate(
    model: DeployedModel, pictures: MaskedImages, masks: np.ndarray, network: torch.nn.Module
) -> None:
    problem = pose(model, pictures)
    found = problem.gradient(SurrogateGradient(network, "scores"))(masks)
    expected = problem.gradient(exact(model))(masks)
    largest = np.abs(expected.values).max((1, 2), keepdims=True)
    np.testing.assert_allclose(found.values / largest, expected.values / largest, atol=1e-4)
    np.testing.assert_allclose(found.ratio, expected.ratio, rtol=1e-4)


@dataclass(frozen=True)
class Both(Margin):
    """The margin, and the mean of what is before the scores, of two tensors."""

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("scores", "p")

    def score(self, raw: Raw) -> np.ndarray:
        return super().score(raw) + raw["p"].astype(np.float64).mean((1, 2, 3))

    def vjp(self, raw: Raw) -> dict[str, np.ndarray]:
        shape = raw["p"].shape
        mean = np.full(shape, 1 / np.prod(shape[1:]), np.float32)
        return {**super().vjp(raw), "p": mean}


def test_an_objective_of_two_tensors(
    deployed: Deploy, network: torch.nn.Module, pictures: MaskedImages, masks: np.ndarray
) -> None:
    """Held against torch; that the second one is no output of the file is no obstacle."""
    model, objectives = deployed(), [Both(1, 2), Both(4, 0)]
    problem = pose(model, pictures, [Margin(1, 2), Margin(4, 0)])
    # The rows' own answers do not hold the inner tensor; of the gradient they give the ratio alone.
    rows = tuple(
        Row(objective, {**row.answer, "p": np.zeros((1, 4, 3, 3))}, row.picture, row.geometry)
        for objective, row in zip(objectives, problem.rows, strict=True)
    )
    problem = Problem(model, problem.masked, rows, problem.blank, problem.passes)
    found = problem.gradient(ExactGradient(model, ("scores", "p")))(masks[:2])
    double = copy.deepcopy(network).double()
    for row, (one, other) in enumerate(((1, 2), (4, 0))):
        leaf = torch.from_numpy(masks[row : row + 1, None]).double().requires_grad_()
        large = F.interpolate(leaf, (SIDE, SIDE), mode="bilinear")
        image, baseline = (
            torch.from_numpy(each[row : row + 1]).double()
            for each in (pictures.images, pictures.baselines)
        )
        z = torch.lerp(baseline, image, large)
        hidden = F.softplus(F.conv2d(z, double.kernel, double.bias, padding=1))
        pooled = F.avg_pool2d(hidden, 3)
        scores = pooled.flatten(1) @ double.matrix
        value = scores[0, one] - scores[0, other] + pooled.mean()
        (expected,) = torch.autograd.grad(value, leaf)
        largest = float(expected.abs().max())
        np.testing.assert_allclose(found.values[row], expected[0, 0], atol=2e-5 * largest)


def test_a_source_is_opened_once_and_buffers_are_as_many_as_calls_at_once(
    model: DeployedModel, pictures: MaskedImages, masks: np.ndarray, calls: Calls
) -> None:
    """Activations are held for what runs at once, not for all rows."""
    problem, source = pose(model, pictures), exact(model)
    opened: list[Any] = []

    def watched(masked: MaskedImages, passes: Any) -> Any:
        opened.append(source(masked, passes))
        return opened[-1]

    gradient = problem.gradient(watched)
    first = gradient(masks)
    second = gradient(masks)
    np.testing.assert_array_equal(first.values, second.values)
    assert len(opened) == 1
    held = sum(len(free) for free in opened[0]._free.values())
    shapes = len(opened[0]._free)
    assert 1 <= held <= shapes * min(calls.calls, calls.concurrency)


def test_a_probability_of_nothing_leaves_the_ratio_at_one(
    deployed: Deploy, pictures: MaskedImages, masks: np.ndarray
) -> None:
    """It is not known by how much nothing has grown."""

    @dataclass(frozen=True)
    class Impossible(Margin):
        def score(self, raw: Raw) -> np.ndarray:
            return np.full(len(raw["scores"]), -np.inf)

    model = deployed()
    problem = pose(model, pictures, [Impossible(0, 1), Margin(0, 1)])
    found = problem.gradient(exact(model))(masks[:2])
    assert found.ratio[0] == 1
    assert found.ratio[1] != 1
    assert np.isfinite(found.values).all()
