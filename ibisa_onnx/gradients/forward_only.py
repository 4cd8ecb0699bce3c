"""`forward-only`: what each cell does to the score, estimated from forward passes alone.

The model is asked about smooth random masks, each with its complement, and half the difference of
their scores is regressed on half the difference of the masks: `d = sum of w_i (m_i - 1/2)`, with a
Gaussian prior over w whose covariance falls off with distance (squared exponential). Length scale
and noise are those of the highest marginal likelihood (Rasmussen and Williams, Gaussian Processes
for Machine Learning, eq. 2.30). What a mask and its complement have in common says nothing about w,
and would count as noise.

Masks are drawn in ten rounds, from coarse to fine. From the second round on each leans towards a
draw from the posterior of w (Thompson sampling): where much is known, towards what matters, so that
a mask shows most of it and its complement most of the rest, and whether a part is needed is asked
where the others are there; where little is known, anywhere.

The fitted surrogate is differentiable, and linear, so that the minimum of IBISA's objective is
known in closed form:

    lambda_i = sigmoid(logit(prior) + w_i / beta)

which is where the gradient of E[-score] + beta KL(Bernoulli(lambda) || Bernoulli(prior)) is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ibisa_onnx.bottleneck import Bottleneck, Floats, grid_shape, sigmoid
from ibisa_onnx.gradients.masks import smooth_masks

Array = npt.NDArray[np.float64]
Query = Callable[[npt.NDArray[np.float32]], Array]
"""Images float32 [N, C, H, W] in model space to the target's probability [N]."""

_CELLS = 28  # on the longer side: the grid on which effects are estimated
_ROUNDS = 10
_FIRST = 0.15  # of the budget: before anything is known
_COARSEST, _FINEST = 5, 9  # cells of the masks' own grids, in the first and in the last round
_LEAN = (-2.0, 3.0)  # masks lean by standard deviations of the draw; beyond these no more
_ENOUGH = 200  # pairs that settle the length of the prior
_LENGTHS = (0.03, 0.05, 0.08, 0.12, 0.2)  # of the prior, as fractions of the longer side
_NOISES = np.geomspace(1e-3, 10, 17)  # variance of the noise over the mean variance of the signal
_NOTHING = 1e-4  # of the largest score: masks that change it by no more tell nothing
_PRIOR_LOGIT = -4.0  # keep-probability of a cell without effect: 0.018
_STRONGEST = 8.0  # effect over beta of the strongest cell: its keep-probability is 0.982


def keep_probability(
    query: Query,
    bottleneck: Bottleneck,
    budget: int,
    rng: np.random.Generator,
    progress: Callable[[], None],
    *,
    batch: int = 8,
    multiple: int = 1,
) -> Floats:
    """Estimate the keep-probability from an even number of forward passes.

    Parameters
    ----------
    query
        The model, as the target's probability.
    bottleneck
        Image and baseline.
    budget
        Forward passes to spend; rounded down to an even number, at least 4.
    rng
        Draws the masks.
    progress
        Called after each pass.
    batch
        Images in one query, an even number; it has no influence on the masks.
    multiple
        Pairs in a round are a multiple of it, for models that take no other number of images.

    Returns
    -------
    float32 [h, w]
        The keep-probability lambda, in 0..1.
    """
    size = bottleneck.size
    shape = grid_shape(*size, _CELLS)
    masks, scores = list[Array](), list[Array]()
    posterior: Posterior | None = None
    rounds = _rounds(max(2, budget // 2) // multiple)
    for place, units in enumerate(rounds):
        count, pairs = units * multiple, max(1, batch // 2)
        cells = round(_COARSEST + (_FINEST - _COARSEST) * place / max(1, len(rounds) - 1))
        tilts = None if posterior is None else _leaning(posterior.draw(rng, count))
        for mask in smooth_masks(rng, count, size, pairs, cells=cells, tilts=tilts):
            answers = query(bottleneck.through(np.concatenate([mask, 1 - mask])))
            scores.append(np.asarray(answers, np.float64).reshape(2, -1).T)
            masks += [_shrunk(each, shape) for each in mask[:, 0]]
            for _ in answers:
                progress()
        known = posterior.length if posterior and len(masks) > _ENOUGH else None
        posterior = regress(np.stack(masks), np.concatenate(scores), known)
    effect = np.zeros(shape) if posterior is None else posterior.mean
    logits = _PRIOR_LOGIT + _STRONGEST * effect / max(float(effect.max()), 1e-300)
    return sigmoid(logits.astype(np.float32))


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


def _shrunk(mask: Floats, shape: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_AREA), np.float64)


@dataclass(frozen=True)
class Posterior:
    """What scores tell about the effects of the cells: a Gaussian process, conditioned on them.

    With masks X (less 1/2, flattened), half differences of scores t, the prior's covariance K =
    `scale` (rows x columns) and the noise's, mean = K X' (X K X' + noise)^-1 t (Rasmussen and
    Williams, eq. 2.25).

    Attributes
    ----------
    masks, targets
        X, as [n, h, w], and t, [n].
    rows, columns
        The prior's correlations along each axis, [h, h] and [w, w].
    values, vectors
        Of X K X' / scale.
    noise
        Over `scale`.
    scale
        The prior's variance, the one of the highest likelihood (in closed form).
    length
        Of the prior, as a fraction of the longer side.
    likelihood
        The logarithm of the marginal likelihood, in nats, up to a constant.
    """

    masks: Array
    targets: Array
    rows: Array
    columns: Array
    values: Array
    vectors: Array
    noise: float
    scale: float
    length: float
    likelihood: float

    @property
    def mean(self) -> Array:
        """The mean effect of each cell, [h, w]."""
        return np.asarray(self._given(self.targets[None])[0])

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Effects as likely as any, [count, h, w]: draws from the prior, corrected by the scores.

        That is Matheron's rule (Wilson et al., arXiv 2002.09309).
        """
        white = rng.standard_normal((count, *self.masks.shape[1:]))
        prior = np.sqrt(self.scale) * (_root(self.rows) @ white @ _root(self.columns).T)
        noise = rng.standard_normal((count, len(self.masks))) * np.sqrt(self.scale * self.noise)
        seen = prior.reshape(count, -1) @ self.masks.reshape(len(self.masks), -1).T + noise
        return np.asarray(prior + self._given(self.targets - seen))

    def _given(self, targets: Array) -> Array:
        """The means for several targets [k, n]."""
        weights = targets @ self.vectors / (self.values + self.noise) @ self.vectors.T
        fields = np.tensordot(weights, self.masks, 1)
        return np.asarray(self.rows @ fields @ self.columns)


def regress(masks: Array, scores: Array, length: float | None = None) -> Posterior | None:
    """Regress scores on masks under the smoothness prior.

    Parameters
    ----------
    masks
        float64 [N, h, w] in 0..1.
    scores
        float64 [N, 2]: each mask's, and its complement's.
    length
        Of the prior, as a fraction of the longer side; None: the likeliest of a few.

    Returns
    -------
    Posterior or None
        None where the scores vary by hardly more than rounding.
    """
    if np.ptp(scores) <= _NOTHING * np.abs(scores).max():
        return None
    targets = (scores[:, 0] - scores[:, 1]) / 2
    lengths = _LENGTHS if length is None else (length,)
    fits = [_fit(masks - 0.5, targets, each) for each in lengths]
    return max(fits, key=lambda fit: fit.likelihood)


def _fit(masks: Array, targets: Array, length: float) -> Posterior:
    """Condition the prior of one length, at the likeliest noise."""
    shape = masks.shape[1:]
    rows, columns = (_covariance(side, length * max(shape)) for side in shape)
    spread = (rows @ masks @ columns).reshape(len(masks), -1)
    values, vectors = np.linalg.eigh(spread @ masks.reshape(len(masks), -1).T)
    values = np.clip(values, 0, None)
    projected = vectors.T @ targets
    noises = _NOISES * max(float(values.mean()), 1e-300)
    likelihoods = [_likelihood(values + noise, projected) for noise in noises]
    best = int(np.argmax(likelihoods))
    noise = float(noises[best])
    scale = _scale(values + noise, projected)
    found = rows, columns, values, vectors, noise, scale, length, likelihoods[best]
    return Posterior(masks, targets, *found)


def _likelihood(variances: Array, projected: Array) -> float:
    """Log marginal likelihood of the projected targets, its scale maximised out."""
    scale = _scale(variances, projected)
    return float(-0.5 * (len(projected) * np.log(scale) + np.log(variances).sum()))


def _scale(variances: Array, projected: Array) -> float:
    """The prior's variance of the highest likelihood."""
    return max(float((projected**2 / variances).mean()), 1e-300)


def _root(covariance: Array) -> Array:
    """A matrix whose product with its transpose is the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)))


def _covariance(side: int, length: float) -> Array:
    """Squared exponential over the cells of one axis, [side, side]."""
    distance = np.subtract.outer(np.arange(side), np.arange(side))
    return np.asarray(np.exp(-(distance**2) / (2 * length**2)))
