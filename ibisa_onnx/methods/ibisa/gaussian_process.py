"""Gaussian process of the cells' effects, conditioned on the scores of masked images.

Half the difference between the scores of a mask and its complement is regressed on half the
difference between the masks: `d = sum of w_i (m_i - 1/2)`, with a Gaussian prior over the effects
w. What a mask and its complement have in common says nothing about w, and would act as noise.

The prior's covariance is a squared exponential of distance, and its standard deviation a power of
the contrast between image and baseline: where these agree, masking a cell changes nothing. Noise
and variance maximise the marginal likelihood (Rasmussen and Williams, Gaussian Processes for
Machine Learning, eq. 2.30); lengths and powers are averaged, weighted by their likelihoods, because
few scores hardly tell them apart.

`forward_only.py` chooses the masks; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Fields = npt.NDArray[np.floating]
"""Arrays in either precision."""

_LENGTHS = (0.03, 0.05, 0.08, 0.12, 0.2)
_POWERS = (0.0, 0.5, 1.0)
_NOISES = np.geomspace(1e-3, 10, 17)  # noise variance over mean signal variance
_UNLIKELY = 0.01  # of the largest likelihood: priors below are dropped
_NOTHING = 1e-4  # of the largest score: smaller changes tell nothing


@dataclass(frozen=True, order=True)
class Prior:
    """Prior of the effects.

    `length` is their correlation length, as a fraction of the longer side; `power` is the power of
    the contrast to which they are proportional.
    """

    length: float
    power: float


PRIORS = tuple(Prior(*each) for each in product(_LENGTHS, _POWERS))


class Posterior:
    """Posterior of the cells' effects w: a mixture over priors.

    Parameters
    ----------
    fits
        One per prior, for the same masks and scores.
    """

    def __init__(self, fits: Sequence[Fit]) -> None:
        fits = sorted(fits, key=lambda fit: fit.prior)
        likelihoods = np.array([fit.likelihood for fit in fits])
        weights = np.exp(likelihoods - likelihoods.max())
        likely = weights > _UNLIKELY
        self.fits = [fit for fit, kept in zip(fits, likely, strict=True) if kept]
        self.weights = weights[likely] / weights[likely].sum()

    @property
    def priors(self) -> tuple[Prior, ...]:
        """Priors that were kept, most likely first."""
        return tuple(self.fits[place].prior for place in np.argsort(-self.weights))

    @cached_property
    def mean(self) -> Array:
        """Mean effect of each cell, [h, w]."""
        return np.asarray(np.tensordot(self.weights, [fit.mean for fit in self.fits], 1))

    @cached_property
    def deviation(self) -> Array:
        """Standard deviation of each cell's effect, [h, w]."""
        squares = [fit.variance + (fit.mean - self.mean) ** 2 for fit in self.fits]
        return np.asarray(np.sqrt(np.tensordot(self.weights, squares, 1)))

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Draw samples of the effects, [count, h, w].

        The same random numbers are used for all scores, so if these differ slightly, as between
        batch sizes or from an 8-bit counterpart, so do the samples.
        """
        shares, white = rng.random(count), rng.standard_normal((count, *self.mean.shape))
        noise = rng.standard_normal((count, len(self.fits[0].masks)))
        places, draws = np.searchsorted(np.cumsum(self.weights[:-1]), shares), np.empty_like(white)
        for place, fit in enumerate(self.fits):
            drawn = places == place
            draws[drawn] = fit.draw(white[drawn], noise[drawn])
        return draws


@dataclass(frozen=True)
class Fit:
    """Effects w = contrast v of the cells under one prior.

    With masks X (minus 1/2, times the contrast, flattened), half differences of scores t, and
    covariances K = `scale` (rows x columns) of v and of the noise, the mean of v is
    K X' (X K X' + noise)^-1 t, and its covariance K - K X' (X K X' + noise)^-1 X K (Rasmussen
    and Williams, eq. 2.25 and 2.26).

    Attributes
    ----------
    masks, targets
        X, as [n, h, w], and t, [n]; n is at most the number of cells (`_condensed`).
    contrast
        [h, w], raised to the prior's power.
    rows, columns
        The prior's correlations along each axis, [h, h] and [w, w].
    values, vectors
        Eigenvalues and eigenvectors of X K X' / scale.
    noise
        Noise variance over `scale`.
    scale
        Variance of the prior that maximises the likelihood (in closed form).
    prior
        The prior.
    likelihood
        Log marginal likelihood, in nats, up to a constant.
    """

    masks: Fields
    targets: Array
    contrast: Array
    rows: Array
    columns: Array
    values: Array
    vectors: Array
    noise: float
    scale: float
    prior: Prior
    likelihood: float

    @cached_property
    def mean(self) -> Array:
        """Mean effect of each cell, [h, w]."""
        return np.asarray(self.contrast * self._given(self.targets[None])[0])

    @property
    def variance(self) -> Array:
        """Variance of each cell's effect, [h, w]."""
        fields = _both_ways(self.masks, self.rows, self.columns)
        seen = np.tensordot(self.vectors.T, fields, 1) ** 2
        known = np.tensordot(1 / (self.values + self.noise), seen, 1)
        return np.asarray(self.contrast**2 * self.scale * np.clip(1 - known, 0, None))

    def draw(self, white: Array, noise: Array) -> Array:
        """Turn standard normal numbers, [k, h, w] and [k, n] for noise, into samples of effects.

        Samples from the prior, corrected by the scores: Matheron's rule (Wilson et al., arXiv
        2002.09309).
        """
        rows, columns = _roots(self.contrast.shape, self.prior)
        prior = np.sqrt(self.scale) * (rows @ white @ columns.T)
        seen = np.tensordot(prior, self.masks, ([1, 2], [1, 2]))
        seen += noise * np.sqrt(self.scale * self.noise)
        return np.asarray(self.contrast * (prior + self._given(self.targets - seen)))

    def _given(self, targets: Array) -> Array:
        """Return the means of v for several targets [k, n]."""
        weights = targets @ self.vectors / (self.values + self.noise) @ self.vectors.T
        fields = np.tensordot(weights, self.masks, 1)
        return np.asarray(self.rows @ fields @ self.columns)


def regress(
    masks: Fields, scores: Array, contrast: Array, priors: Sequence[Prior] = PRIORS
) -> Posterior | None:
    """Regress scores on masks.

    Parameters
    ----------
    masks
        [N, h, w] in 0..1; float64, or float32 at half the time, which is accurate enough for noisy
        scores.
    scores
        float64 [N, 2]: of each mask, and of its complement.
    contrast
        float64 [h, w], positive, about 1 on average: how much masking each cell changes the image.
    priors
        Priors to average.

    Returns
    -------
    Posterior or None
        None if the scores vary by little more than rounding.
    """
    if np.ptp(scores) <= _NOTHING * np.abs(scores).max():
        return None
    data = _condensed(masks - 0.5, (scores[:, 0] - scores[:, 1]) / 2)
    return Posterior([_fit(*data, contrast**each.power, each) for each in priors])


def _condensed(masks: Fields, targets: Array) -> tuple[Fields, Array, Array]:
    """Return at most as many masks as there are cells, without loss, and the residuals.

    Replaces X and t by R and Q' t with X = Q R: the part of t outside the columns of X is pure
    noise, returned as equal values.
    """
    count, *shape = masks.shape
    cells = shape[0] * shape[1]
    if count <= cells:
        return masks, targets, np.empty(0)
    basis, condensed = np.linalg.qr(masks.reshape(count, cells))
    projected = basis.T @ targets
    left = max(float(targets @ targets - projected @ projected), 0.0) / (count - cells)
    return condensed.reshape(cells, *shape), projected, np.full(count - cells, np.sqrt(left))


def _fit(masks: Fields, targets: Array, left: Array, contrast: Array, prior: Prior) -> Fit:
    """Condition one prior, at the noise of maximum likelihood."""
    shape, precision = contrast.shape, masks.dtype
    masks = masks * contrast.astype(precision)
    rows, columns = (_covariance(side, prior.length * max(shape)) for side in shape)
    roots = (root.astype(precision) for root in _roots(shape, prior))
    white = _both_ways(masks, *roots).reshape(len(masks), -1)
    values, vectors = np.linalg.eigh((white @ white.T).astype(np.float64))
    values = np.clip(values, 0, None)
    signal = np.append(values, np.zeros_like(left))
    projected = np.append(vectors.T @ targets, left)
    noises = _NOISES * max(float(signal.mean()), 1e-300)
    likelihoods = [_likelihood(signal + noise, projected) for noise in noises]
    best = int(np.argmax(likelihoods))
    noise = float(noises[best])
    scale = _scale(signal + noise, projected)
    found = rows, columns, values, vectors, noise, scale, prior, likelihoods[best]
    return Fit(masks, targets, contrast, *found)


def _likelihood(variances: Array, projected: Array) -> float:
    """Return the log marginal likelihood of the projected targets, at the best scale."""
    scale = _scale(variances, projected)
    return float(-0.5 * (len(projected) * np.log(scale) + np.log(variances).sum()))


def _scale(variances: Array, projected: Array) -> float:
    """Return the prior's variance that maximises the likelihood."""
    return max(float((projected**2 / variances).mean()), 1e-300)


def _both_ways(fields: Fields, rows: Fields, columns: Fields) -> Fields:
    """Return rows' f columns for each of the fields [n, h, w], as two large products."""
    across = (fields.reshape(-1, len(columns)) @ columns).reshape(fields.shape)
    return np.asarray((across.transpose(0, 2, 1) @ rows).transpose(0, 2, 1))


def _roots(shape: tuple[int, ...], prior: Prior) -> list[Array]:
    """Return, for each axis, a matrix whose product with its transpose is the covariance."""
    return [_root(side, prior.length * max(shape)) for side in shape]


@lru_cache(maxsize=64)  # pure, and called in every round
def _root(side: int, length: float) -> Array:
    values, vectors = np.linalg.eigh(_covariance(side, length))
    return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)))


@lru_cache(maxsize=64)
def _covariance(side: int, length: float) -> Array:
    """Return the squared exponential covariance along one axis, [side, side]."""
    distance = np.subtract.outer(np.arange(side), np.arange(side))
    return np.asarray(np.exp(-(distance**2) / (2 * length**2)))
