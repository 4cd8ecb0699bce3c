"""`forward-only`: what each cell does to the score, estimated from forward passes alone.

The model is asked about the whole picture and about none of it, and then about smooth random masks,
each with its complement; the scores are regressed on the masks (`gaussian_process.py`). Masks are
drawn in ten rounds, from coarse to fine. From the second round on each leans towards a draw from
the posterior of the effects w (Thompson sampling): where much is known, towards what matters, so
that a mask shows most of it and its complement most of the rest, and whether a part is needed is
asked where the others are there; where little is known, anywhere.
Where the answer lies somewhere in the picture (a box, a region, a character), effects are expected
to be larger there than far away.

The fitted surrogate is differentiable, and linear, so that the minimum of IBISA's objective is
known in closed form:

    lambda_i = sigmoid(logit(prior) + w_i / beta)

which is where the gradient of E[-score] + beta KL(Bernoulli(lambda) || Bernoulli(prior)) is zero.
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
"""Images float32 [N, C, H, W] in model space to the target's probability [N]."""

_CELLS = 28  # on the longer side: the grid on which effects are estimated
_ROUNDS = 10
_FIRST = 0.15  # of the budget: before anything is known
_COARSEST, _FINEST = 5, 9  # cells of the masks' own grids, in the first and in the last round
_LEAN = (-2.0, 3.0)  # masks lean by standard deviations of the draw; beyond these no more
_ENOUGH = 200  # pairs that settle the prior
_POOLED = 1.0  # standard deviation, in cells, of the Gaussian over the squared contrast
_FAINTEST = 0.1  # of the contrast's root mean square: no cell is taken for quite without effect
_FAR, _REACH = 0.3, 0.5  # of deviations expected far from the answer; of its sides: how near it is
_CAUTION = 1.4  # on deviations, for edges that no smooth prior expects: planted truths want it
_PRIOR_LOGIT = -4.0  # keep-probability of a cell without effect: 0.018
_LEAST = -10.0  # times the strongest: what speaks against the target is hidden, no more
_STRONGEST = 8.0  # effect over beta of the strongest cell: its keep-probability is 0.982


@dataclass(frozen=True)
class Estimate:
    """What the queries so far tell of the cells of a grid of `shape`.

    `posterior` is None where they tell nothing: the scores did not move.
    """

    posterior: Posterior | None
    shape: tuple[int, int]

    @cached_property
    def effect(self) -> Array:
        """What showing each cell adds to the score, float64 [h, w]."""
        return np.zeros(self.shape) if self.posterior is None else self.posterior.mean

    @cached_property
    def deviation(self) -> Array:
        """The standard deviation of the effect, float64 [h, w]."""
        if self.posterior is None:
            return np.zeros(self.shape)
        return np.asarray(_CAUTION * self.posterior.deviation)

    @cached_property
    def keep(self) -> Floats:
        """The keep-probability lambda, float32 [h, w] in 0..1."""
        relative = self.effect / max(float(self.effect.max()), 1e-300)
        logits = _PRIOR_LOGIT + _STRONGEST * np.maximum(relative, _LEAST)
        return sigmoid(logits.astype(np.float32))

    @cached_property
    def against(self) -> Floats:
        """What speaks against the target, float32 [h, w] in 0..1; 0 where showing a cell helps.

        That is lambda of the negative effect, less that of none; over the strongest effect of
        either sign, so that noise beside a strong cue is as faint here as in `keep`.
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
    """Estimate the keep-probability from an even number of forward passes, in rounds.

    Parameters
    ----------
    query
        The model, as the target's probability.
    masked
        Image and baseline.
    budget
        Forward passes to spend; rounded down to an even number, at least 4.
    rng
        Draws the masks.
    batch
        Images in one query, an even number; it has no influence on the masks.
    multiple
        Pairs in a round are a multiple of it, for models that take no other number of images.
    location
        Where the answer lies, in 0..1 of the image's sides; None: nothing says.
    over
        Asked after each query; what is known by then ends the rounds.

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
    """Masks and the scores that they got, `pairs` of them in one query."""

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
        """Ask about `count` pairs that lean towards what is known; False where it was cut short."""
        lean = None if self.posterior is None else _leaning(self.posterior.draw(rng, count))
        asked, size = 0, self.masked.size
        for mask in smooth_masks(rng, count, size, self.pairs, cells=cells, lean=lean):
            if not self.masks:
                mask[0] = 1  # the whole picture, and none of it: what all effects add up to
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
    """How much hiding each cell changes the image, [h, w] in 0..1.4, about 1 where as usual.

    That is the root mean square of image less baseline around it, over that of all cells, but
    levelled off: what stands out most is not needed most.
    """
    squared = ((masked.images - masked.baselines)[0] ** 2).mean(0)
    around = cv2.GaussianBlur(_shrunk(squared, shape).astype(np.float64), (0, 0), _POOLED)
    mean = float(around.mean())
    relative = np.sqrt(around / mean) + _FAINTEST if mean > 0 else np.ones(shape)
    return np.asarray(np.sqrt(2) * relative / np.sqrt(relative**2 + 1))


def _nearness(location: Box, shape: tuple[int, int]) -> Array:
    """How large an effect is expected of each cell by how near the answer is, [h, w] up to 1.

    Outside the answer's box that falls off as a Gaussian of half its sides, to a floor: an answer
    may rest on what is far away, and a cell there is found all the same, by more evidence.
    """
    left, top, right, bottom = location
    sides = zip(shape, (top, left), (bottom, right), strict=True)
    down, across = (_outside(*side) for side in sides)
    near = np.exp(-(down[:, None] ** 2 + across**2) / 2)
    return np.asarray(_FAR + (1 - _FAR) * near)


def _outside(cells: int, first: float, last: float) -> Array:
    """How far the middles of cells along a side are from an interval of it, over its reach."""
    middles = (np.arange(cells) + 0.5) / cells
    off = np.maximum(np.maximum(first - middles, middles - last), 0)
    return np.asarray(off / (_REACH * max(last - first, 1 / cells)))


def _rounds(units: int) -> list[int]:
    """How much of the budget each round spends; none is empty."""
    first = max(1, round(_FIRST * units))
    rest = [len(part) for part in np.array_split(np.arange(units - first), _ROUNDS - 1)]
    return [first, *(count for count in rest if count)]


def _leaning(fields: Array) -> Floats:
    """How far masks lean towards each cell of fields [N, h, w]."""
    centred = fields - fields.mean((1, 2), keepdims=True)
    scale = np.maximum(fields.std((1, 2), keepdims=True), 1e-300)
    return np.asarray(np.clip(centred / scale, *_LEAN), np.float32)


def _shrunk(field: Floats, shape: tuple[int, int]) -> Floats:
    return np.asarray(cv2.resize(field, shape[::-1], interpolation=cv2.INTER_AREA))
