"""Gradient `forward-only`: the effect of each cell on the score, from forward passes alone.

The model scores the whole image, the baseline, and smooth random masks, each with its complement;
the scores are regressed on the masks (`gaussian_process.py`). Masks are drawn in ten rounds, from
coarse to fine. From the second round on, each mask is biased towards a sample from the posterior
over the effects w (Thompson sampling): where much is known, towards what matters, so that a mask
shows most of it and its complement most of the rest, and each part is tested in the presence of the
others; where little is known, anywhere. If the target is localised (a box, a region, a character),
larger effects are expected near it than far away.

The fitted surrogate is linear, so the minimum of IBISA's objective has a closed form,

    lambda_i = sigmoid(logit(prior) + w_i / beta)

where the gradient of E[-score] + beta KL(Bernoulli(lambda) || Bernoulli(prior)) is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.methods.ibisa.gaussian_process import PRIORS, Array, Posterior, regress
from ibisa_onnx.methods.ibisa.random_masks import smooth_masks
from ibisa_onnx.methods.masking import grid_shape, sigmoid
from ibisa_onnx.targets.base import Box

Query = Callable[[npt.NDArray[np.float32]], Array]
"""Maps images, float32 [N, C, H, W] in model space, to the target's probability [N]."""

_CELLS = 28  # on the longer side of the grid of effects
_ROUNDS = 10
_FIRST = 0.15  # of the budget, for the first round
_COARSEST, _FINEST = 5, 9  # cells of the masks' grids, in the first and last round
_LEAN = (-2.0, 3.0)  # bounds of the bias, in standard deviations of the sample
_ENOUGH = 200  # pairs after which the prior stays fixed
_POOLED = 1.0  # standard deviation, in cells, of the Gaussian over the squared contrast
_FAINTEST = 0.1  # of the contrast's root mean square: minimum for every cell
_FAR, _REACH = 0.3, 0.5  # expected deviation far from the target; decay length, in target sides
_CAUTION = 1.4  # on deviations: calibrated on planted truths, whose edges no smooth prior expects
_PRIOR_LOGIT = -4.0  # keep probability of a cell without effect: 0.018
_LEAST = -10.0  # lower bound, in strongest effects, for evidence against the target
_STRONGEST = 8.0  # effect over beta of the strongest cell: keep probability 0.982


@dataclass(frozen=True)
class Estimate:
    """Effects of the cells of a grid of `shape`, according to the queries so far.

    `posterior` is None if the scores did not vary.
    """

    posterior: Posterior | None
    shape: tuple[int, int]

    @cached_property
    def effect(self) -> Array:
        """Effect of showing each cell on the score, float64 [h, w]."""
        return np.zeros(self.shape) if self.posterior is None else self.posterior.mean

    @cached_property
    def deviation(self) -> Array:
        """Standard deviation of the effect, float64 [h, w]."""
        if self.posterior is None:
            return np.zeros(self.shape)
        return np.asarray(_CAUTION * self.posterior.deviation)

    @cached_property
    def keep(self) -> Floats:
        """Keep probability lambda, float32 [h, w] in 0..1."""
        relative = self.effect / max(float(self.effect.max()), 1e-300)
        logits = _PRIOR_LOGIT + _STRONGEST * np.maximum(relative, _LEAST)
        return sigmoid(logits.astype(np.float32))

    @cached_property
    def against(self) -> Floats:
        """Evidence against the target, float32 [h, w] in 0..1; 0 where showing a cell helps.

        Lambda of the negative effect, minus that of no effect, relative to the strongest effect of
        either sign, so that noise beside strong evidence is as faint as in `keep`.
        """
        relative = np.maximum(-self.effect, 0) / max(float(np.abs(self.effect).max()), 1e-300)
        logits = (_PRIOR_LOGIT + _STRONGEST * relative).astype(np.float32)
        return np.asarray(sigmoid(logits) - sigmoid(np.array(_PRIOR_LOGIT, np.float32)))


def estimates(
    query: Query,
    masked: MaskedImages,
    budget: int,
    rng: np.random.Generator,
    *,
    batch: int = 8,
    multiple: int = 1,
    location: Box | None = None,
    over: Callable[[], bool] = lambda: False,
) -> Iterator[Estimate]:
    """Estimate the keep probability from an even number of forward passes, in rounds.

    Parameters
    ----------
    query
        Maps images to the target's probability.
    masked
        Image and baseline.
    budget
        Number of forward passes; rounded down to an even number, at least 4.
    rng
        Draws the masks.
    batch
        Images per query, an even number; has no influence on the masks.
    multiple
        The number of pairs in a round is a multiple of this, for models with a fixed batch.
    location
        Box of the target, as fractions 0..1 of the image; None if unknown.
    over
        Called after each query; returning True ends the estimate early.

    Yields
    ------
    Estimate
        After each round.
    """
    evidence = _Evidence(query, masked, max(1, batch // 2), location)
    rounds = _rounds(max(2, budget // 2) // multiple)
    for place, units in enumerate(rounds):
        cells = round(_COARSEST + (_FINEST - _COARSEST) * place / max(1, len(rounds) - 1))
        whole = evidence.gather(rng, units * multiple, cells, over)
        yield Estimate(evidence.posterior, evidence.shape)
        if not whole:
            return


@dataclass
class _Evidence:
    """Masks and their scores, with `pairs` mask pairs per query."""

    query: Query
    masked: MaskedImages
    pairs: int
    location: Box | None = None
    masks: list[Floats] = field(default_factory=list)
    scores: list[Array] = field(default_factory=list)
    posterior: Posterior | None = None

    def __post_init__(self) -> None:
        self.shape = grid_shape(*self.masked.size, _CELLS)
        self.contrast = _contrast(self.masked, self.shape)
        if self.location is not None:
            self.contrast = self.contrast * _nearness(self.location, self.shape)

    def gather(
        self, rng: np.random.Generator, count: int, cells: int, over: Callable[[], bool]
    ) -> bool:
        """Query `count` pairs biased towards what is known; return False if interrupted."""
        lean = None if self.posterior is None else _leaning(self.posterior.draw(rng, count))
        asked, size = 0, self.masked.size
        for mask in smooth_masks(rng, count, size, self.pairs, cells=cells, lean=lean):
            if not self.masks:
                mask[0] = 1  # the whole image and the baseline: the sum of all effects
            answers = self.query(self.masked.through(np.concatenate([mask, 1 - mask])))
            self.scores.append(np.asarray(answers, np.float64).reshape(2, -1).T)
            self.masks += [_shrunk(each, self.shape) for each in mask[:, 0]]
            asked += len(mask)
            if asked < count and over():
                break
        priors = PRIORS if self.posterior is None else self.posterior.priors
        priors = priors[:1] if len(self.masks) > _ENOUGH else priors
        self.posterior = regress(
            np.stack(self.masks), np.concatenate(self.scores), self.contrast, priors
        )
        return asked == count


def _contrast(masked: MaskedImages, shape: tuple[int, int]) -> Array:
    """Return how much masking each cell changes the image, [h, w] in 0..1.4, typically about 1.

    The root mean square of image minus baseline around the cell, over that of all cells,
    compressed: the largest contrast is not what matters most.
    """
    squared = ((masked.images - masked.baselines)[0] ** 2).mean(0)
    around = cv2.GaussianBlur(_shrunk(squared, shape).astype(np.float64), (0, 0), _POOLED)
    mean = float(around.mean())
    relative = np.sqrt(around / mean) + _FAINTEST if mean > 0 else np.ones(shape)
    return np.asarray(np.sqrt(2) * relative / np.sqrt(relative**2 + 1))


def _nearness(location: Box, shape: tuple[int, int]) -> Array:
    """Return the expected size of each cell's effect, by distance to the target, [h, w] up to 1.

    Outside the target's box it decays as a Gaussian of half the box's sides, down to a floor: a
    prediction may rely on distant evidence, which is still found, but takes more queries.
    """
    left, top, right, bottom = location
    sides = zip(shape, (top, left), (bottom, right), strict=True)
    down, across = (_outside(*side) for side in sides)
    near = np.exp(-(down[:, None] ** 2 + across**2) / 2)
    return np.asarray(_FAR + (1 - _FAR) * near)


def _outside(cells: int, first: float, last: float) -> Array:
    """Return the distance of each cell's centre along a side from an interval, in decay lengths."""
    middles = (np.arange(cells) + 0.5) / cells
    off = np.maximum(np.maximum(first - middles, middles - last), 0)
    return np.asarray(off / (_REACH * max(last - first, 1 / cells)))


def _rounds(units: int) -> list[int]:
    """Split the budget into rounds, none of them empty."""
    first = max(1, round(_FIRST * units))
    rest = [len(part) for part in np.array_split(np.arange(units - first), _ROUNDS - 1)]
    return [first, *(count for count in rest if count)]


def _leaning(fields: Array) -> Floats:
    """Return the bias of masks towards each cell of fields [N, h, w]."""
    centred = fields - fields.mean((1, 2), keepdims=True)
    scale = np.maximum(fields.std((1, 2), keepdims=True), 1e-300)
    return np.asarray(np.clip(centred / scale, *_LEAN), np.float32)


def _shrunk(field: Floats, shape: tuple[int, int]) -> Floats:
    return np.asarray(cv2.resize(field, shape[::-1], interpolation=cv2.INTER_AREA))
