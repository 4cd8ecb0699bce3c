"""IBISA's steps along a gradient that finite differences estimate from forward passes.

The derivatives of log p are taken along an orthogonal basis of a coarse grid of cells, each of
which shifts the logits below it, and are spread evenly over a cell's logits. That is exact up to
the size of the step. The grids go from coarse to fine, as far as the budget allows.

This is the derivative at one point, where `forward-only` estimates effects over many masks;
docs/explanation/forward-only.md compares the two, and benchmarks/estimators.py adds others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.gradients.masked_images import Floats, MaskedImages, enlarge
from ibisa_onnx.methods.ibisa.forward_only import Query
from ibisa_onnx.methods.ibisa.gaussian_process import Array
from ibisa_onnx.methods.ibisa.optimizer import LogitGradient, Step
from ibisa_onnx.methods.masking import grid_shape, sample

_BATCH = 8
_COARSEST = 2  # cells on the longer side of the first step's grid
_STEP, _COARSE_STEP = 0.05, 1.0  # of the logits, root mean square over the cells
_SMALLEST = 1e-12  # keeps the logarithm of a probability finite


@dataclass(frozen=True)
class MaskQueries:
    """Queries of a model for log p of masks of one image.

    Attributes
    ----------
    query
        The model, as the target's probability.
    masked
        Image and baseline.
    temperature
        Temperature of the sampled masks.
    coarse
        Whether rounding in the model hides small changes. Steps are then larger and central.
    fixed
        Batch size of the model if it is fixed, else 1.
    grid
        Cells along the longer side of the logits, the finest that can be shifted.
    """

    query: Query
    masked: MaskedImages
    temperature: float
    coarse: bool = False
    fixed: int = 1
    grid: int = 56

    def shape(self, cells: int) -> tuple[int, int]:
        """Return rows and columns of a grid with this many cells along the longer side."""
        return grid_shape(*self.masked.size, cells)

    def cost(self, masks: int) -> int:
        """Return the number of passes for this many masks, with the last batch padded."""
        return -(-masks // self.fixed) * self.fixed

    def log_p(self, masks: Floats) -> Array:
        """Return log p [N] of masks [N, h, w]."""
        through = self.masked.through
        answers = [self.query(through(block[:, None])) for block in self._blocks(masks)]
        return np.asarray(np.log(np.maximum(np.concatenate(answers), _SMALLEST)))

    def at(self, logits: Floats, noise: Floats, shifts: Floats) -> Array:
        """Return log p [N] of the mask sampled at the logits [h, w], each shifted by [N, r, c]."""
        answers = []
        for block in self._blocks(shifts):
            moved = logits + np.stack([_spread(shift, logits.shape) for shift in block])
            answers.append(self.log_p(sample(moved, noise, self.temperature)))
        return np.concatenate(answers)

    def _blocks(self, masks: Floats) -> Iterator[Floats]:
        """Yield the masks of one query each."""
        size = self.cost(_BATCH)
        yield from (masks[begin : begin + size] for begin in range(0, len(masks), size))


@dataclass(frozen=True)
class Estimator:
    """An estimator of the gradient.

    Attributes
    ----------
    plan
        Divides a number of queries among a number of steps: what each step gets, in a unit of the
        estimator's own. There are fewer steps if the queries do not suffice.
    queries
        Number of queries that a step makes of what it gets.
    step
        Opens the step along the estimate.
    """

    plan: Callable[[MaskQueries, int, int], list[int]]
    queries: Callable[[MaskQueries, int], int]
    step: Callable[[MaskQueries, Sequence[int], np.random.Generator], Step]


def _growing_sides(ask: MaskQueries, queries: int, steps: int) -> list[int]:
    """Return the cells along the longer side of each step's grid, from coarse to fine."""

    def sides(finest: int) -> list[int]:
        return [round(float(side)) for side in np.linspace(_COARSEST, finest, steps)]

    def passes(side: int) -> int:
        return ask.cost(_differences(ask, side))

    steps = max(1, min(steps, queries // passes(_COARSEST)))
    if passes(_COARSEST) > queries:
        return [1]
    finest = _COARSEST
    most = min(ask.grid, max(ask.masked.size))
    while finest < most and sum(map(passes, sides(finest + 1))) <= queries:
        finest += 1
    return sides(finest)


def _differences(ask: MaskQueries, side: int) -> int:
    """Return the number of queries for a grid's gradient, by central or one-sided differences."""
    rows, columns = ask.shape(side)
    return 2 * rows * columns if ask.coarse else rows * columns + 1


def _finite_differences(ask: MaskQueries, plan: Sequence[int], rng: np.random.Generator) -> Step:
    """Differentiate along a randomly rotated orthogonal basis of each step's grid.

    After the rotation every direction moves all cells, so none is lost in rounding.
    """
    sides = iter(plan)

    def estimate(logits: Floats, noise: Floats) -> Floats:
        shape = ask.shape(next(sides))
        count = shape[0] * shape[1]
        turned = np.linalg.qr(rng.standard_normal((count, count)))[0] * np.sqrt(count)
        directions = turned.reshape(count, *shape)
        gradient = np.tensordot(_derivatives(ask, logits, noise, directions), directions, 1) / count
        return spread_evenly(gradient, logits.shape)

    return step_of(estimate)


def _derivatives(ask: MaskQueries, logits: Floats, noise: Floats, directions: Array) -> Array:
    """Return the derivatives of log p along directions [N, r, c], by differences."""
    if ask.coarse:
        return central_differences(ask, logits, noise, directions)
    shifts = np.concatenate([np.zeros_like(directions[:1]), _STEP * directions])
    answers = ask.at(logits, noise, shifts.astype(np.float32))
    return np.asarray((answers[1:] - answers[0]) / _STEP)


def central_differences(
    ask: MaskQueries, logits: Floats, noise: Floats, directions: Array
) -> Array:
    """Return the derivatives of log p along directions [N, r, c], by central differences."""
    step = _COARSE_STEP if ask.coarse else _STEP
    shifts = np.concatenate([step * directions, -step * directions]).astype(np.float32)
    above, below = ask.at(logits, noise, shifts).reshape(2, -1)
    return np.asarray((above - below) / (2 * step))


FINITE_DIFFERENCE = Estimator(_growing_sides, _differences, _finite_differences)
"""The estimator that `gradient="finite-difference"` uses."""


def _spread(shift: Floats, shape: tuple[int, ...]) -> Floats:
    """Return shifts of cells interpolated to the logits, [h, w]."""
    return np.asarray(enlarge(shift[None, None], (shape[0], shape[1]))[0, 0])


def step_of(estimate: Callable[[Floats, Floats], Floats]) -> Step:
    """Return the step of a function from smoothed logits and noise [h, w] to a gradient [h, w]."""
    return lambda smoothed, noise: LogitGradient(estimate(smoothed[0], noise[0])[None], np.ones(1))


def spread_evenly(gradient: Array, shape: tuple[int, ...]) -> Floats:
    """Return a gradient by cells as one by logits [h, w]: a cell's is divided among its logits."""
    fraction = gradient.size / (shape[0] * shape[1])
    return _spread((fraction * gradient).astype(np.float32), shape)
