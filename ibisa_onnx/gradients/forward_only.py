"""`forward-only`: what each cell does to the score, estimated from forward passes alone.

The model is asked about smooth random masks, each with its complement, and the score is regressed
on the masks: `score = c + sum of w_i m_i`, with a Gaussian prior over w whose covariance falls off
with distance (squared exponential). Length scale and noise are those of the highest marginal
likelihood (Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 2.30). The fitted
surrogate is differentiable, and linear, so that the minimum of IBISA's objective is known in closed
form, and its ten steps are not needed:

    lambda_i = sigmoid(logit(prior) + w_i / beta)

which is where the gradient of E[-score] + beta KL(Bernoulli(lambda) || Bernoulli(prior)) is zero.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from ibisa_onnx.bottleneck import Bottleneck, Floats, grid_shape, sigmoid
from ibisa_onnx.gradients.masks import smooth_masks

Array = npt.NDArray[np.float64]
Query = Callable[[npt.NDArray[np.float32]], Array]
"""Images float32 [N, C, H, W] in model space to the target's probability [N]."""

_CELLS = 28  # on the longer side: the grid on which effects are estimated
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

    Returns
    -------
    float32 [h, w]
        The keep-probability lambda, in 0..1.
    """
    size = bottleneck.size
    shape = grid_shape(*size, _CELLS)
    masks, scores = [], []
    for mask in smooth_masks(rng, max(2, budget // 2), size, max(1, batch // 2)):
        both = np.concatenate([mask, 1 - mask])
        scores.append(query(bottleneck.through(both)))
        masks += [
            cv2.resize(each, shape[::-1], interpolation=cv2.INTER_AREA) for each in both[:, 0]
        ]
        for _ in range(len(both)):
            progress()
    seen = np.stack(masks).reshape(len(masks), -1).astype(np.float64)
    effect = regress(seen, np.concatenate(scores), shape)
    logits = _PRIOR_LOGIT + _STRONGEST * effect / max(float(effect.max()), 1e-300)
    return sigmoid(logits.astype(np.float32))


def regress(masks: Array, scores: Array, shape: tuple[int, int]) -> Array:
    """Regress scores on masks under the smoothness prior.

    Parameters
    ----------
    masks
        float64 [N, h * w].
    scores
        float64 [N].
    shape
        Rows and columns of the grid.

    Returns
    -------
    float64 [h, w]
        The posterior mean of each cell's effect on the score; 0 everywhere where the scores vary
        by hardly more than rounding.
    """
    if np.ptp(scores) <= _NOTHING * np.abs(scores).max():
        return np.zeros(shape)
    centred = masks - masks.mean(0)
    target = scores - scores.mean()
    fits = [_fit(centred, target, shape, length) for length in _LENGTHS]
    return max(fits, key=lambda fit: fit[0])[1].reshape(shape)


def _fit(masks: Array, target: Array, shape: tuple[int, int], length: float) -> tuple[float, Array]:
    """Return the log marginal likelihood (nats, up to a constant) and the posterior mean [h * w].

    The prior's variance is the one of the highest likelihood, in closed form.
    """
    rows, columns = (_covariance(side, length * max(shape)) for side in shape)
    spread = np.einsum("nij,ik,jl->nkl", masks.reshape(-1, *shape), rows, columns, optimize=True)
    spread = spread.reshape(masks.shape)
    values, vectors = np.linalg.eigh(spread @ masks.T)
    values = np.clip(values, 0, None)
    projected = vectors.T @ target
    noises = _NOISES * max(float(values.mean()), 1e-300)
    likelihoods = [_likelihood(values + noise, projected) for noise in noises]
    noise = noises[int(np.argmax(likelihoods))]
    weights = vectors @ (projected / (values + noise))
    return max(likelihoods), spread.T @ weights


def _likelihood(variances: Array, projected: Array) -> float:
    """Log marginal likelihood of the projected targets, its scale maximised out."""
    count = len(projected)
    scale = max(float((projected**2 / variances).mean()), 1e-300)
    return float(-0.5 * (count * np.log(scale) + np.log(variances).sum()))


def _covariance(side: int, length: float) -> Array:
    """Squared exponential over the cells of one axis, [side, side]."""
    distance = np.subtract.outer(np.arange(side), np.arange(side))
    return np.asarray(np.exp(-(distance**2) / (2 * length**2)))
