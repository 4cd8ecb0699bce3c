"""IBISA: information bottleneck with input sampling for attribution.

After B. Coelho and J. S. Cardoso, Neurocomputing 638:130112 (2025), reconstructed from its open
abstract. A mask right after the image is optimised until it lets through what the decision needs,
in as few bits as possible:

    lambda = sigmoid(smooth(a))                     keep-probability of each cell
    s ~ relaxed Bernoulli(lambda)                   a sampled mask
    z = m x + (1 - m) b,  m = upsample(s)           the bottleneck, right after the image
    loss = -log p(target | z) + beta I(lambda)      the decision kept, information squeezed
    I = mean(lambda), or mean KL(Bernoulli(lambda) || Bernoulli(prior))

The steps go from coarse to fine: from one to the next the smoothing shrinks, beta grows and the
masks differ less, so that the first settle which object is needed, while nearly all is let through,
and the last which parts of it. beta is adaptive: it is multiplied by the score ratio
p(target | z) / p(target | x) of the step's mask, up to 2. A target that covers little of the image
pays more (`price`), for what it needs is little, too. Finer than that is the evidence: the
mean e of all steps' gradients, each over its own root mean square, smoothed, and of it the positive
part, brought to lambda's scale. Near zero e is noise, whose sign a shift by one pixel turns, so the
positive part is a soft one, (e + sqrt(e^2 + (k q)^2)) / 2, where q is the root of the steps' mean
square: squareplus (Barron, arXiv 2112.11687), as soft as the gradients are large there. The map is
the geometric mean of both, with a little of lambda alone: high where both are, and in order where
the evidence is silent. Where the gradient brings class activation maps of the steps' masked images,
net and gross, the map is multiplied by the mean gross map and the root of the mean net one.

All but the model is simple enough to be differentiated by hand, with S for the smoothing, which is
its own transpose, and g for the model's part, d log p / d s:

    d loss / d a = S (beta lambda (1 - lambda) I' / cells - g s (1 - s) / temperature)

where I' is 1, or logit(lambda) - logit(prior).

Here are the steps alone, of N answers side by side; they know nothing but masks. Where z and the
gradients come from is in `gradients`, what is done with the map in `method.py`.
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
from ibisa_onnx.methods.ibisa.options import PENALTIES, Options
from ibisa_onnx.methods.masking import (
    grid_shape,
    plane_waves,
    sample,
    sigmoid,
    smooth,
    stratified_noise,
)
from ibisa_onnx.methods.problem import MaskGradient

_LARGEST_RATIO = 2.0  # a rare target may gain a thousandfold by a mask
_USUAL_EXTENT, _HIGHEST_PRICE = 0.08, 4.0
_LONG, _LOUDER = 2.0, 1.5
_TINY = 1e-30
_LEAST = 1e-5  # of a map's largest value: where it is 0 the activation alone gives the order
_SPREAD = 0.5  # cells, over the steps' mean square
_FLOOR = 0.02  # of a class activation map's: coarse maps are not trusted with less


@dataclass(frozen=True, eq=False)
class LogitGradient:
    """What was learnt at sampled masks.

    Attributes
    ----------
    values
        d log p(target | z) / d logits, in nats, float32 [M, h, w].
    ratio
        p(target | z) over p(target | x), [M]; 1 where the source of the gradient does not tell.
    activation
        Class activation maps of z, net and gross, float32 [M, 2, r, c], where the gradient comes
        with them (`gradients.class_activation`).
    """

    values: Floats
    ratio: npt.NDArray[np.float64]
    activation: Floats | None = None

    @cached_property
    def relative(self) -> Floats:
        """Each of `values` over its root mean square, so that each step counts alike, [M, h, w]."""
        with np.errstate(invalid="ignore", over="ignore"):
            sizes = (np.sqrt(np.mean(each * each)) for each in self.values)
            scaled = [g / s if s != 0 else g for g, s in zip(self.values, sizes, strict=True)]
        return np.stack(scaled)


Step = Callable[[Floats, Floats], LogitGradient]
"""Smoothed logits and the masks' noise, [M, h, w] each, to the gradient at the logits."""


def pathwise(gradient: Callable[[Floats], MaskGradient], temperature: float) -> Step:
    """Return the step along the gradient at one sampled mask each."""

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
    rng: np.random.Generator,
    *,
    prices: Sequence[float] | None = None,
    together: bool = True,
) -> Iterator[Floats]:
    """Take IBISA's steps for several answers side by side.

    Parameters
    ----------
    open_step
        Asked for a step of some rounds of each answer: M is all of these of the first answer, then
        of the next. `pathwise` makes a step of a gradient.
    count
        How many answers, N; each meets the same masks.
    size
        Height and width of the model's input, which give the grid its shape.
    options
        The settings.
    rng
        Draws the masks.
    prices
        What beta is multiplied by for each answer, [N] (`price`); None: by 1.
    together
        Whether all rounds are taken side by side too, or one after the other, which gives the same
        map in the end and better ones on the way.

    Yields
    ------
    float32 [N, h, w]
        The maps after each step, in 0..1; NaN where a gradient was not finite.
    """
    options = suited(options, size)
    shape, rounds = grid_shape(*size, options.grid), options.rounds
    noises = np.stack([_noises(options, shape, number, rng) for number in range(rounds)])
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
    """Yield lambda after each step, [M, h, w], and what was learnt at that step.

    `noises` are those of each round and step, [rounds, steps, h, w]; `prices` are [M].
    """
    logits = np.full((len(prices), *noises.shape[2:]), options.start, np.float32)
    adam = PooledAdam(options.pooling)
    schedule = zip(smoothings(options), betas(options), learning_rates(options), strict=True)
    for number, (smoothing, beta, rate) in enumerate(schedule):
        noise = np.tile(noises[:, number], (len(prices) // len(noises), 1, 1))
        with np.errstate(invalid="ignore", over="ignore"):  # of gradients that are not finite
            found = step(smooth(logits, smoothing), noise)
            weight = beta * prices * _adapted(found.ratio, options.penalty_exponent)
            gradient = _loss_gradient(found.values, logits, smoothing, weight, options)
            logits = logits - adam.step(gradient, rate)
        yield sigmoid(smooth(logits, options.smoothing)), found


def suited(options: Options, size: tuple[int, int]) -> Options:
    """Return settings for an input of a height and a width, as wide or high as it is.

    The cells and waves of a line of text, 48 x 320, would be far too coarse for its characters: of
    inputs more than twice as long as short there are as many cells as in a square one, the waves
    are finer by as much, and larger. docs/explanation/method.md has the characters by which that was chosen.
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
    """Return what beta is multiplied by for a target that covers a share of the image, 0 to 1.

    That is the root of 8% over the share, from 1 to 4: beta was chosen on photographs of one large
    object, and docs/explanation/method.md has the planted objects of 0.2% to 50% by which this was.
    """
    if extent is None:
        return 1.0
    return float(np.clip(math.sqrt(_USUAL_EXTENT / max(extent, _TINY)), 1, _HIGHEST_PRICE))


def _adapted(ratio: npt.NDArray[np.float64], exponent: float) -> npt.NDArray[np.float64]:
    """Return what beta is multiplied by, [M]: at most 2 where a target gains by the mask."""
    adapted = np.clip(ratio, 0, _LARGEST_RATIO) ** exponent
    return np.where(np.isfinite(ratio), adapted, 1.0)


def _noises(
    options: Options, shape: tuple[int, int], number: int, rng: np.random.Generator
) -> Floats:
    """Return the noise of each step of a round, [steps, h, w]."""
    turn = math.pi * number / (options.rounds * max(1, options.steps // 2))
    noises = np.float32(options.noise) * stratified_noise(rng, options.steps, shape)
    angle = options.wave_angle + turn
    waves = plane_waves(options.steps, shape, options.wave_frequency, angle)
    return np.asarray(noises + amplitudes(options)[:, None, None] * waves)


def _by_rows(steps: list[Floats], count: int) -> Floats:
    """Return what each step has of all masks, [M, ...], by answer: [N, M / N steps, ...]."""
    first, rest = len(steps[0]) // count, steps[0].shape[1:]
    apart = [each.reshape(count, first, *rest) for each in steps]
    return np.stack(apart, 2).reshape(count, -1, *rest)


def _share_of_largest(activation: Floats | None, shape: tuple[int, int], count: int) -> Floats:
    """Return the positive parts of class activation maps on the grid, [M, 2, h, w], each up to 1.

    Zeros where there is none.
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
    """Return lambda, and its geometric mean with the evidence, mixed, [h, w].

    Lambda is the geometric mean of all rounds': what one of them does without is not needed.

    Parameters
    ----------
    keeps
        Lambda of each round, [rounds, h, w].
    gradients
        Of each round and step, over their sizes, [rounds steps, h, w].
    activations
        Class activation maps of each round and step, [rounds steps, 2, h, w] in 0..1.
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
    """Return the soft positive part of the gradients' mean, [h, w], of [rounds steps, h, w]."""
    mean = smooth(np.mean(gradients, 0), smoothing)
    spread = np.float32(softness) * np.sqrt(smooth(np.mean(gradients * gradients, 0), _SPREAD))
    return np.asarray((mean + np.hypot(mean, spread)) / 2)


def _with_activation(map: Floats, activation: Floats, weight: float) -> Floats:
    """Return a map times powers of both class activation maps, net and gross, [2, h, w].

    It keeps the map's largest value; the map alone where nothing is activated.
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
    options: Options,
) -> Floats:
    """Return d loss / d a, [M, h, w], by the equation at the head of this module.

    `gradient` is d log p / d of the smoothed logits, `weight` the adapted beta of each, [M].
    """
    smoothed = smooth(logits, smoothing)
    keep = sigmoid(smoothed)
    cells = keep.shape[-2] * keep.shape[-1]
    penalty = (weight / cells).astype(np.float32)[:, None, None] * keep * (1 - keep)
    penalty = penalty * PENALTIES[options.information](smoothed, options.prior)
    return smooth(penalty - gradient, smoothing)


def smoothings(options: Options) -> list[float]:
    """Return the smoothing of each step, in cells, from coarse to fine."""
    logs = _ramp(math.log(options.first_smoothing), math.log(options.smoothing), options.steps)
    return [math.exp(each) for each in logs]


def betas(options: Options) -> list[float]:
    """Return the information term's weight at each step."""
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
    """Return evenly spaced values; of one step the last."""
    return [float(each) for each in np.linspace(last, first, steps)[::-1]]


class PooledAdam:
    """Adam (Kingma and Ba, arXiv 1412.6980) with its second moment pooled over neighbouring cells.

    Parameters
    ----------
    pooling
        Standard deviation of the Gaussian over the squared gradient, in cells; 0 is plain Adam.
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
