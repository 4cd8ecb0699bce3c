"""IBISA: information bottleneck with input sampling for attribution.

After B. Coelho and J. S. Cardoso, Neurocomputing 638:130112 (2025), reconstructed from its open
abstract. A mask right after the image is optimised until it retains what the prediction depends on,
in as few bits as possible:

    lambda = sigmoid(smooth(a))                     keep probability of each cell
    s ~ relaxed Bernoulli(lambda)                   a sampled mask
    z = m x + (1 - m) b,  m = upsample(s)           the bottleneck, right after the image
    loss = -log p(target | z) + beta I(lambda)      prediction retained, information penalised
    I = mean(lambda)

Steps go from coarse to fine: the smoothing shrinks, beta grows, and the masks vary less, so that
the first steps find the object that matters while almost everything is retained, and the last its
parts. beta is adaptive: it is multiplied by the score ratio p(target | z) / p(target | x) of the
step's mask, up to 2. For targets that cover little of the image beta is larger (`price`), because
the evidence for them is small too.

The evidence is finer than lambda: the mean e of all steps' gradients, each divided by its root mean
square, smoothed, of which the positive part is scaled to lambda's range. Near zero, e is noise
whose sign changes with a shift by one pixel, so the positive part is a soft one,
(e + sqrt(e^2 + (k q)^2)) / 2, where q is the root of the steps' mean square: squareplus (Barron,
arXiv 2112.11687), as soft as the gradients there are large. The map is the geometric mean of both,
plus a little of lambda alone: high where both are, and ordered where there is no evidence. If the
gradient provides class activation maps of the steps' masked images, net and gross, the map is
multiplied by the mean gross map and by the root of the mean net map.

Everything but the model is differentiated by hand, with S for the smoothing, which is its own
transpose, and g = d log p / d s for the model's part:

    d loss / d a = S (beta lambda (1 - lambda) / cells - g s (1 - s) / temperature)

This file contains the steps for N rows together, in terms of masks alone. `gradients` provides z
and the gradients; `method.py` processes the map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.masking import grid_shape, plane_waves, sample, sigmoid, smooth
from ibisa_onnx.methods.problem import MaskGradient

_LARGEST_RATIO = 2.0  # masking may raise a low probability a thousandfold
_USUAL_EXTENT, _HIGHEST_PRICE = 0.08, 4.0
_LONG, _LOUDER = 2.0, 1.5
_TINY = 1e-30
_LEAST = 1e-5  # of a map's maximum: where the map is 0, the activation alone ranks cells
_SPREAD = 0.5  # cells: smoothing of the steps' mean square
_FLOOR = 0.02  # of a class activation map: floor of the coarse maps


@dataclass(frozen=True, eq=False)
class LogitGradient:
    """Gradient and scores at sampled masks.

    Attributes
    ----------
    values
        d log p(target | z) / d logits, in nats, float32 [M, h, w].
    ratio
        p(target | z) / p(target | x), [M]; 1 if the source of the gradient does not provide it.
    activation
        Class activation maps of z, net and gross, float32 [M, 2, r, c], if the gradient source
        provides them (`gradients.class_activation`).
    """

    values: Floats
    ratio: npt.NDArray[np.float64]
    activation: Floats | None = None

    @cached_property
    def relative(self) -> Floats:
        """`values` over their root mean squares, so that each step counts equally, [M, h, w]."""
        with np.errstate(invalid="ignore", over="ignore"):
            sizes = (np.sqrt(np.mean(each * each)) for each in self.values)
            scaled = [g / s if s != 0 else g for g, s in zip(self.values, sizes, strict=True)]
        return np.stack(scaled)


Step = Callable[[Floats, Floats], LogitGradient]
"""Maps smoothed logits and mask noise, [M, h, w] each, to the gradient at the logits."""


def pathwise(gradient: Callable[[Floats], MaskGradient], temperature: float) -> Step:
    """Return the step along the gradient at one sampled mask per row."""

    def step(smoothed: Floats, noise: Floats) -> LogitGradient:
        masks = sample(smoothed, noise, temperature)
        found = gradient(masks)
        inner = np.float32(1 / temperature) * masks * (1 - masks)
        return LogitGradient(np.asarray(inner * found.values), found.ratio, found.activation)

    return step


def optimise(
    open_step: Callable[[Sequence[int]], Step],
    count: int,
    size: tuple[int, int],
    options: Options,
    *,
    prices: Sequence[float] | None = None,
    together: bool = True,
) -> Iterator[Floats]:
    """Run IBISA's steps for several rows together.

    Parameters
    ----------
    open_step
        Returns the step for some rounds of each row; the M masks are all rounds of the first row,
        then of the next. `pathwise` makes a step of a gradient.
    count
        Number of rows, N; all use the same masks.
    size
        Height and width of the model input, which determine the grid's shape.
    options
        Settings.
    prices
        Factor on beta for each row, [N] (`price`); None for 1.
    together
        Whether all rounds run together, too, or one after the other, which yields the same final
        map and better intermediate ones.

    Yields
    ------
    ndarray
        float32 [N, h, w] in 0..1, the maps after each step; NaN if a gradient was not finite.
    """
    options = suited(options, size)
    shape, rounds = grid_shape(*size, options.grid), options.rounds
    noises = np.stack([_noises(options, shape, number) for number in range(rounds)])
    keeps = gradients = np.empty((count, 0, *shape), np.float32)
    activations = np.empty((count, 0, 2, *shape), np.float32)
    for group in np.split(np.arange(rounds), 1 if together else rounds):
        side, taken, activated = len(group), [], []
        own = np.repeat(np.ones(count) if prices is None else prices, side)
        for keep, found in _steps(open_step(group.tolist()), own, noises[group], options):
            taken.append(found.relative)
            activated.append(_share_of_largest(found.activation, shape, len(found.values)))
            seen, active = (
                np.concatenate([before, _by_rows(new, count)], 1)
                for before, new in ((gradients, taken), (activations, activated))
            )
            kept = np.concatenate([keeps, keep.reshape(count, side, *shape)], 1)
            rows = zip(kept, seen, active, strict=True)
            yield np.stack([_map(*each, options) for each in rows])
        keeps, gradients, activations = kept, seen, active


def _steps(
    step: Step, prices: npt.NDArray[np.float64], noises: Floats, options: Options
) -> Iterator[tuple[Floats, LogitGradient]]:
    """Yield lambda after each step, [M, h, w], and the gradients of that step.

    `noises` are those of each round and step, [rounds, steps, h, w]; `prices` are [M].
    """
    logits = np.full((len(prices), *noises.shape[2:]), options.start, np.float32)
    adam = PooledAdam(options.pooling)
    schedule = zip(smoothings(options), betas(options), learning_rates(options), strict=True)
    for number, (smoothing, beta, rate) in enumerate(schedule):
        noise = np.tile(noises[:, number], (len(prices) // len(noises), 1, 1))
        with np.errstate(invalid="ignore", over="ignore"):  # gradients may not be finite
            found = step(smooth(logits, smoothing), noise)
            weight = beta * prices * _adapted(found.ratio, options.penalty_exponent)
            gradient = _loss_gradient(found.values, logits, smoothing, weight)
            logits = logits - adam.step(gradient, rate)
        yield sigmoid(smooth(logits, options.smoothing)), found


def suited(options: Options, size: tuple[int, int]) -> Options:
    """Adapt settings to the aspect ratio of an input of this height and width.

    The cells and waves of a text line, 48 x 320, would be far too coarse for its characters: inputs
    more than twice as long as wide get as many cells as a square, and finer and larger waves in
    proportion. docs/explanation/research-notes.md has the characters on which this was calibrated.
    """
    aspect = max(size) / min(size)
    if aspect <= _LONG:
        return options
    finer = math.sqrt(aspect)
    return replace(
        options,
        grid=round(options.grid * finer),
        wave_frequency=options.wave_frequency * finer,
        wave_amplitude=options.wave_amplitude * _LOUDER,
    )


def price(extent: float | None) -> float:
    """Return the factor on beta for a target that covers a fraction of the image, 0..1.

    sqrt(8% / fraction), clipped to 1..4: beta was calibrated on photographs of one large object,
    this factor on planted objects of 0.2% to 50% (docs/explanation/research-notes.md).
    """
    if extent is None:
        return 1.0
    return float(np.clip(math.sqrt(_USUAL_EXTENT / max(extent, _TINY)), 1, _HIGHEST_PRICE))


def _adapted(ratio: npt.NDArray[np.float64], exponent: float) -> npt.NDArray[np.float64]:
    """Return the factor on beta, [M]: at most 2 where masking raises the target."""
    adapted = np.clip(ratio, 0, _LARGEST_RATIO) ** exponent
    return np.where(np.isfinite(ratio), adapted, 1.0)


def _noises(options: Options, shape: tuple[int, int], number: int) -> Floats:
    """Return the noise of each step of a round, [steps, h, w]."""
    turn = math.pi * number / (options.rounds * max(1, options.steps // 2))
    angle = options.wave_angle + turn
    waves = plane_waves(options.steps, shape, options.wave_frequency, angle)
    return np.asarray(amplitudes(options)[:, None, None] * waves)


def _by_rows(steps: list[Floats], count: int) -> Floats:
    """Regroup the steps' masks, [M, ...], by row: [N, M / N steps, ...]."""
    first, rest = len(steps[0]) // count, steps[0].shape[1:]
    apart = [each.reshape(count, first, *rest) for each in steps]
    return np.stack(apart, 2).reshape(count, -1, *rest)


def _share_of_largest(activation: Floats | None, shape: tuple[int, int], count: int) -> Floats:
    """Return the positive parts of class activation maps on the grid, [M, 2, h, w], scaled to 1.

    Zeros if there are none.
    """
    shares = np.zeros((count, 2, *shape), np.float32)
    for share, both in zip(shares, () if activation is None else activation, strict=False):
        for place, each in zip(share, both, strict=True):
            above = np.where(np.isfinite(each), np.maximum(each, 0), 0)
            largest = float(above.max())
            if largest > 0:
                place[:] = cv2.resize(above / largest, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return shares


def _map(keeps: Floats, gradients: Floats, activations: Floats, options: Options) -> Floats:
    """Return the map: a mix of lambda and its geometric mean with the evidence, [h, w].

    Lambda is the geometric mean over rounds: what one of them does without is not needed.

    Parameters
    ----------
    keeps
        Lambda of each round, [rounds, h, w].
    gradients
        Relative gradients of each round and step, [rounds steps, h, w].
    activations
        Class activation maps of each round and step, [rounds steps, 2, h, w] in 0..1.
    options
        Settings.
    """
    keep = np.asarray(np.exp(np.log(np.maximum(keeps, _TINY)).mean(0)), np.float32)
    if not options.evidence:
        return keep
    above = _soft_positive(gradients, options.evidence_smoothing, options.softness)
    evidence = keep.max() * above / max(float(above.max()), _TINY)
    share = np.float32(options.evidence)
    map = np.asarray((1 - share) * keep + share * np.sqrt(keep * evidence), np.float32)
    return _with_activation(map, activations.mean(0), options.activation)


def _soft_positive(gradients: Floats, smoothing: float, softness: float) -> Floats:
    """Return the soft positive part, [h, w], of the mean gradient of [rounds steps, h, w]."""
    mean = smooth(np.mean(gradients, 0), smoothing)
    spread = np.float32(softness) * np.sqrt(smooth(np.mean(gradients * gradients, 0), _SPREAD))
    return np.asarray((mean + np.hypot(mean, spread)) / 2)


def _with_activation(map: Floats, activation: Floats, weight: float) -> Floats:
    """Multiply a map by powers of both class activation maps, net and gross, [2, h, w].

    Preserves the map's maximum; returns the map unchanged if nothing is activated.
    """
    highest, largest = float(map.max()), activation.max((1, 2), keepdims=True)
    if not (weight and highest > 0 and (largest > 0).all()):
        return map
    net, gross = activation / largest + np.float32(_FLOOR)
    product = (np.sqrt(net) * gross) ** np.float32(weight)
    joined = (map / highest + _LEAST) * product
    return np.asarray(highest / joined.max() * joined, np.float32)


def _loss_gradient(
    gradient: Floats,
    logits: Floats,
    smoothing: float,
    weight: npt.NDArray[np.float64],
) -> Floats:
    """Return d loss / d a, [M, h, w], by the equation in the module docstring.

    `gradient` is d log p / d smoothed logits, `weight` the adapted beta of each mask, [M].
    """
    keep = sigmoid(smooth(logits, smoothing))
    cells = keep.shape[-2] * keep.shape[-1]
    penalty = (weight / cells).astype(np.float32)[:, None, None] * keep * (1 - keep)
    return smooth(penalty - gradient, smoothing)


def smoothings(options: Options) -> list[float]:
    """Return the smoothing of each step, in cells, from coarse to fine."""
    logs = _ramp(math.log(options.first_smoothing), math.log(options.smoothing), options.steps)
    return [math.exp(each) for each in logs]


def betas(options: Options) -> list[float]:
    """Return the weight of the information term at each step."""
    return [options.beta * each for each in _ramp(options.first_beta, 1, options.steps)]


def learning_rates(options: Options) -> list[float]:
    """Return the step size of each step, in logits."""
    growth = _ramp(options.first_learning_rate, 1, options.steps)
    return [options.learning_rate * each for each in growth]


def amplitudes(options: Options) -> Floats:
    """Return the amplitude of the plane waves at each step, in logits, [steps]."""
    growth = _ramp(options.first_wave_amplitude, 1, options.steps)
    return np.float32(options.wave_amplitude) * np.array(growth, np.float32)


def _ramp(first: float, last: float, steps: int) -> list[float]:
    """Return evenly spaced values; for a single step, the last."""
    return [float(each) for each in np.linspace(last, first, steps)[::-1]]


class PooledAdam:
    """Adam (Kingma and Ba, arXiv 1412.6980) with its second moment pooled over neighbouring cells.

    Parameters
    ----------
    pooling
        Standard deviation of the Gaussian over the squared gradient, in cells; 0 for plain Adam.
    """

    def __init__(self, pooling: float) -> None:
        self._pooling = pooling
        self._steps = 0
        self._first = self._second = np.zeros((), np.float32)

    def step(self, gradient: Floats, learning_rate: float) -> Floats:
        """Return what to subtract from the parameters, in the gradient's shape [..., h, w]."""
        beta1, beta2 = 0.9, 0.999
        self._steps += 1
        squared = smooth(gradient * gradient, self._pooling)
        self._first = beta1 * self._first + (1 - beta1) * gradient
        self._second = beta2 * self._second + (1 - beta2) * squared
        spread = np.sqrt(self._second / (1 - beta2**self._steps))
        return np.asarray(learning_rate / (1 - beta1**self._steps) * self._first / (spread + 1e-8))
