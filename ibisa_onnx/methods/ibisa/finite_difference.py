"""IBISA's steps without a gradient: d log p / d logits, estimated from forward passes alone.

Three estimators, each on a coarse grid of cells that shift the logits beneath them; what they find
for a cell is spread evenly over it.

- `finite-difference`: along every one of the orthogonal directions of a grid, which is exact up to
  the size of the step. The grids go from coarse to fine, as far as the budget carries.
- `spsa`: simultaneous perturbation, the mean over pairs of random signs (Spall, IEEE Transactions
  on Automatic Control 37:332, 1992, eq. 2.2).
- `rloo`: the score function over Bernoulli masks, each answer less the mean of the others (Kool,
  van Hoof and Welling, Buy 4 REINFORCE samples, get a baseline for free, 2019).

They find derivatives at one point, where `forward-only` finds effects over many;
docs/explanation/forward-only.md holds them against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ibisa_onnx.gradients.masked_images import Floats, MaskedImages, enlarge
from ibisa_onnx.methods.ibisa.forward_only import Query
from ibisa_onnx.methods.ibisa.gaussian_process import Array
from ibisa_onnx.methods.ibisa.optimizer import LogitGradient, Step
from ibisa_onnx.methods.masking import grid_shape, sample, sigmoid

_BATCH = 8
_COARSEST = 2  # cells on the longer side of the first step's grid
_CELLS = 7  # of the grid for random directions and masks, as RISE's
_STEP, _COARSE_STEP = 0.05, 1.0  # of the logits, root mean square over the cells
_SMALLEST = 1e-12  # keeps the logarithm of a probability finite


@dataclass(frozen=True)
class MaskQueries:
    """A model that is asked for log p of masks of one image.

    Attributes
    ----------
    query
        The model, as the target's probability.
    masked
        Image and baseline.
    temperature
        Of the sampled masks.
    coarse
        Whether the model's rounding hides small changes: steps are then large and central.
    fixed
        Images in a call of the model, where it takes no other number; else 1.
    grid
        Cells on the longer side of the logits: shifts of finer ones would be lost.
    """

    query: Query
    masked: MaskedImages
    temperature: float
    coarse: bool = False
    fixed: int = 1
    grid: int = 56

    def shape(self, cells: int) -> tuple[int, int]:
        """Return rows and columns of a grid of so many cells on the longer side."""
        return grid_shape(*self.masked.size, cells)

    def cost(self, masks: int) -> int:
        """Return how many passes so many masks take, the last call filled up."""
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
        """Yield as many at once as are asked about in one query."""
        size = self.cost(_BATCH)
        yield from (masks[begin : begin + size] for begin in range(0, len(masks), size))


@dataclass(frozen=True)
class Estimator:
    """An estimator of the gradient.

    Attributes
    ----------
    plan
        From the queries there are and the steps wanted to what each step gets; the steps may be
        fewer where the queries are.
    queries
        How many queries a step makes of what it gets.
    step
        The step along it.
    """

    plan: Callable[[MaskQueries, int, int], list[int]]
    queries: Callable[[MaskQueries, int], int]
    step: Callable[[MaskQueries, Sequence[int], np.random.Generator], Step]


def _growing_sides(ask: MaskQueries, queries: int, steps: int) -> list[int]:
    """Return the cells on the longer side of each step's grid, from coarse to fine."""

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
    """Return how many queries a grid's gradient takes: central differences, or one-sided ones."""
    rows, columns = ask.shape(side)
    return 2 * rows * columns if ask.coarse else rows * columns + 1


def _finite_differences(ask: MaskQueries, plan: Sequence[int], rng: np.random.Generator) -> Step:
    """Differentiate along an orthogonal basis of each step's grid, turned at random.

    Turned, every direction moves all cells, and none is lost in rounding.
    """
    sides = iter(plan)

    def estimate(logits: Floats, noise: Floats) -> Floats:
        shape = ask.shape(next(sides))
        count = shape[0] * shape[1]
        turned = np.linalg.qr(rng.standard_normal((count, count)))[0] * np.sqrt(count)
        directions = turned.reshape(count, *shape)
        gradient = np.tensordot(_derivatives(ask, logits, noise, directions), directions, 1) / count
        return _shared(gradient, logits.shape)

    return _of_one(estimate)


def _derivatives(ask: MaskQueries, logits: Floats, noise: Floats, directions: Array) -> Array:
    """Return the derivatives of log p along directions [N, r, c], by differences."""
    if ask.coarse:
        return _central(ask, logits, noise, directions)
    shifts = np.concatenate([np.zeros_like(directions[:1]), _STEP * directions])
    answers = ask.at(logits, noise, shifts.astype(np.float32))
    return np.asarray((answers[1:] - answers[0]) / _STEP)


def _central(ask: MaskQueries, logits: Floats, noise: Floats, directions: Array) -> Array:
    """Return the derivatives of log p along directions [N, r, c], by central differences."""
    step = _COARSE_STEP if ask.coarse else _STEP
    shifts = np.concatenate([step * directions, -step * directions]).astype(np.float32)
    above, below = ask.at(logits, noise, shifts).reshape(2, -1)
    return np.asarray((above - below) / (2 * step))


def _even_shares(ask: MaskQueries, queries: int, steps: int) -> list[int]:
    """Return how many queries each step makes: as many as any other, in pairs."""
    pair = ask.cost(2)
    steps = max(1, min(steps, queries // pair))
    return [queries // steps // pair * pair] * steps


def _all_of_it(_: MaskQueries, share: int) -> int:
    return share


def _spsa(ask: MaskQueries, plan: Sequence[int], rng: np.random.Generator) -> Step:
    """Average the derivatives along random signs, each times its signs."""
    shares = iter(plan)

    def estimate(logits: Floats, noise: Floats) -> Floats:
        shape, pairs = ask.shape(_CELLS), next(shares) // 2
        signs = rng.choice([-1.0, 1.0], (pairs, *shape))
        derivatives = _central(ask, logits, noise, signs)
        return _shared(np.tensordot(derivatives, signs, 1) / pairs, logits.shape)

    return _of_one(estimate)


def _rloo(ask: MaskQueries, plan: Sequence[int], rng: np.random.Generator) -> Step:
    """Correlate log p with Bernoulli masks, whose log-likelihood has the derivative s - lambda."""
    shares = iter(plan)

    def estimate(logits: Floats, _: Floats) -> Floats:
        shape, count = ask.shape(_CELLS), next(shares)
        keep = sigmoid(cv2.resize(logits, shape[::-1], interpolation=cv2.INTER_AREA))
        masks = (rng.random((count, *shape)) < keep).astype(np.float32)
        answers = ask.log_p(masks)
        # a_i less the mean of the others is (a_i - mean) n / (n - 1)
        advantages = (answers - answers.mean()) / (count - 1)
        return _shared(np.tensordot(advantages, masks - keep, 1), logits.shape)

    return _of_one(estimate)


ESTIMATORS = {
    "finite-difference": Estimator(_growing_sides, _differences, _finite_differences),
    "spsa": Estimator(_even_shares, _all_of_it, _spsa),
    "rloo": Estimator(_even_shares, _all_of_it, _rloo),
}


def _spread(shift: Floats, shape: tuple[int, ...]) -> Floats:
    """Return shifts of coarse cells at each logit, [h, w]."""
    return np.asarray(enlarge(shift[None, None], (shape[0], shape[1]))[0, 0])


def _of_one(estimate: Callable[[Floats, Floats], Floats]) -> Step:
    """Return a step of one answer, from smoothed logits and noise [h, w] to a gradient [h, w]."""
    return lambda smoothed, noise: LogitGradient(estimate(smoothed[0], noise[0])[None], np.ones(1))


def _shared(gradient: Array, shape: tuple[int, ...]) -> Floats:
    """Return a gradient of coarse cells as one of the logits: each has its share."""
    share = gradient.size / (shape[0] * shape[1])
    return _spread((share * gradient).astype(np.float32), shape)
