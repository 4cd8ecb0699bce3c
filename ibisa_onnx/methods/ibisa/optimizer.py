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
and the last which parts of it. beta is paid only as far as the answer stands: it is multiplied by
p(target | z) / p(target | x) of the step's mask, up to 2. Finer than that is the evidence: the
mean of all steps' gradients, each over its own root mean square, smoothed, and of it what is above
zero, brought to lambda's scale. The map is their geometric mean, with a little of lambda alone:
high where both are, and in order where the evidence is silent.

All but the model is simple enough to be differentiated by hand, with S for the smoothing, which is
its own transpose, and g for the model's part, d log p / d s:

    d loss / d a = S (beta lambda (1 - lambda) I' / cells - g s (1 - s) / temperature)

where I' is 1, or logit(lambda) - logit(prior).

Here are the steps alone, which know nothing but masks; where z and the gradients come from is in
`gradients`, what is done with the map in `attribution.py`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ibisa_onnx.errors import OptionError
from ibisa_onnx.methods.ibisa.step import Ascent
from ibisa_onnx.methods.masking import (
    BASELINES,
    Floats,
    grid_shape,
    plane_waves,
    sigmoid,
    smooth,
    stratified_noise,
)

_MOST_KEPT = 2.0  # times the image's own probability; a rare target may gain a thousandfold
_PRICES: dict[str, Callable[[Floats, float], Floats | float]] = {
    "mean": lambda logits, prior: 1.0,
    "kl": lambda logits, prior: logits - np.float32(math.log(prior / (1 - prior))),
}
"""The derivative I' of each information term, from logits of lambda and the prior."""


@dataclass(frozen=True)
class Options:
    """IBISA's settings; docs/method.md shows what each default was chosen against.

    Attributes
    ----------
    steps
        Optimisation steps, each of one forward and one backward pass.
    grid
        Cells on the longer side of the image.
    smoothing, first_smoothing
        Standard deviation of the Gaussian over the logits, in cells, at the last and at the first
        step; in between it shrinks geometrically.
    temperature
        Of the sampled masks (`bottleneck.sample`).
    waves, frequency
        Amplitude, in logits, at the last step, and coarsest frequency of the fixed part of the
        masks' noise (`bottleneck.plane_waves`).
    noise
        Scale of its random part, logistic (`bottleneck.stratified_noise`).
    start
        The first logits: everything is let through, then squeezed.
    beta
        Weight of the information term at the last step, in nats for a mask that keeps everything.
    first_waves, first_beta
        What `waves` and `beta` are multiplied by at the first step; in between it changes evenly.
    relief
        Power of the kept share of the answer, p(target | z) / p(target | x) and at most 2, by which
        beta is multiplied; 0: always all of it.
    information, prior
        "mean" or "kl", and the keep-probability that costs nothing under "kl".
    learning_rate
        Step size, in logits.
    pooling
        Standard deviation, in cells, of the Gaussian over Adam's second moment. Pooled, a cell
        that the decision ignores is measured against its neighbours' gradients and not against
        its own noise, which plain Adam blows up to full steps.
    tilt
        Direction of the first of the waves, in radians (`bottleneck.plane_waves`).
    evidence, evidence_smoothing
        Share of the geometric mean in the map, 0 to 1, the rest being lambda alone; and the
        Gaussian over the evidence, in cells.
    rounds
        How often the steps are taken, each time with waves of other directions; lambda and evidence
        are those of all rounds, averaged.
    check
        Whether the finished map is checked by the model itself, for 8 forward passes.
    baseline
        What is seen where the image is masked, one of `bottleneck.BASELINES`: the image "blur"red,
        its "mean" colour, or that with "noise" as strong as the image varies.
    blur
        Standard deviation of the baseline's blur, as a fraction of the image's longer side.
    budget
        Forward passes where no gradient exists.
    """

    steps: int = 10
    grid: int = 56
    smoothing: float = 1.0
    first_smoothing: float = 6.0
    temperature: float = 1.0
    waves: float = 1.0
    first_waves: float = 2.0
    frequency: float = 3.0
    tilt: float = 0.3
    noise: float = 0.0
    start: float = 2.0
    beta: float = 40.0
    first_beta: float = 0.25
    relief: float = 1.0
    information: str = "mean"
    prior: float = 0.05
    learning_rate: float = 1.0
    pooling: float = 4.0
    evidence: float = 0.9
    evidence_smoothing: float = 1.0
    rounds: int = 1
    check: bool = True
    baseline: str = "blur"
    blur: float = 10 / 224
    budget: int = 200

    def __post_init__(self) -> None:
        """Raise `OptionError` where a value is out of its range."""
        for name in ("steps", "grid", "rounds", "budget"):
            self._check(name, "1 or more", lambda value: value >= 1 and value.is_integer())
            object.__setattr__(self, name, int(getattr(self, name)))  # 200.0 and NumPy's are meant
        for name in ("temperature", "learning_rate", "smoothing", "first_smoothing"):
            self._check(name, "a number above 0", lambda value: 0 < value < math.inf)
        for name in (
            "waves",
            "first_waves",
            "frequency",
            "noise",
            "beta",
            "first_beta",
            "relief",
            "pooling",
            "evidence_smoothing",
            "blur",
        ):
            self._check(name, "0 or more", lambda value: 0 <= value < math.inf)
        self._check("evidence", "0 to 1", lambda value: 0 <= value <= 1)
        self._check("prior", "a probability in 0..1", lambda value: 0 < value < 1)
        self._check_choice("information", _PRICES)
        self._check_choice("baseline", BASELINES)
        for name in ("start", "tilt"):
            self._check(name, "a number", math.isfinite)

    def _check_choice(self, name: str, choices: Iterable[str]) -> None:
        if getattr(self, name) not in choices:
            value, wanted = getattr(self, name), ", ".join(choices)
            raise OptionError(f"option {name} is {value!r}; choose from: {wanted}")

    def _check(self, name: str, wanted: str, fits: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        if not isinstance(value, numbers.Real) or not fits(float(value)):
            raise OptionError(f"option {name} is {value!r}; give {wanted}")


PRESETS: Mapping[str, Options] = MappingProxyType(
    {
        "paper": Options(),
        "fast": Options(steps=6, beta=60.0, check=False, budget=100),
        "quality": Options(rounds=9, budget=400),
    }
)
"""Settings by name: 20 + 10 passes (forward + backward) as in the paper, 8 + 6, and 100 + 90."""


def optimise(
    ascent: Ascent, size: tuple[int, int], options: Options, rng: np.random.Generator
) -> Iterator[Floats]:
    """Take IBISA's steps.

    Parameters
    ----------
    ascent
        Called once a step; `gradients.ascent.pathwise` makes one of a gradient.
    size
        Height and width of the model's input, which give the grid its shape.
    rng
        Draws the masks.

    Yields
    ------
    float32 [h, w]
        The map after each step, in 0..1; NaN where a slope was not finite.
    """
    shape = grid_shape(*size, options.grid)
    finished = np.zeros(shape, np.float32)
    pulls: list[Floats] = []
    for number in range(options.rounds):
        steps = _steps(ascent, _noises(options, shape, number, rng), options)
        for keep, pull in steps:
            pulls.append(_over_its_size(pull))
            yield _map((finished + keep) / np.float32(number + 1), np.mean(pulls, 0), options)
        finished = finished + keep


def _steps(ascent: Ascent, noises: Floats, options: Options) -> Iterator[tuple[Floats, Floats]]:
    """Yield lambda after each step of a round, and d log p / d logits at that step, [h, w]."""
    logits = np.full(noises.shape[1:], options.start, np.float32)
    adam = PooledAdam(options.learning_rate, options.pooling)
    for noise, smoothing, beta in zip(noises, smoothings(options), betas(options), strict=True):
        with np.errstate(invalid="ignore", over="ignore"):  # of slopes that are not finite
            pull = ascent(smooth(logits, smoothing), noise)
            price = beta * _relieved(pull.kept, options.relief)
            logits = logits - adam.step(_gradient(pull.gradient, logits, smoothing, price, options))
        yield sigmoid(smooth(logits, options.smoothing)), pull.gradient


def _relieved(kept: float, relief: float) -> float:
    """Return what beta is multiplied by; a target that gains by the mask pays at most twice."""
    return float(np.clip(kept, 0, _MOST_KEPT) ** relief) if math.isfinite(kept) else 1.0


def _noises(
    options: Options, shape: tuple[int, int], number: int, rng: np.random.Generator
) -> Floats:
    """Return the noise of each step of a round, [steps, h, w]."""
    turn = math.pi * number / (options.rounds * max(1, options.steps // 2))
    noises = np.float32(options.noise) * stratified_noise(rng, options.steps, shape)
    waves = plane_waves(options.steps, shape, options.frequency, options.tilt + turn)
    return np.asarray(noises + wave_amplitudes(options)[:, None, None] * waves)


def _over_its_size(gradient: Floats) -> Floats:
    """Return it over its root mean square, so that each step counts alike."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.sqrt(np.mean(gradient * gradient))
        return np.asarray(gradient / size if size != 0 else gradient)


def _map(keep: Floats, gathered: Floats, options: Options) -> Floats:
    """Return lambda, and its geometric mean with the evidence, mixed, [h, w]."""
    if not options.evidence:
        return keep
    above = np.maximum(smooth(gathered, options.evidence_smoothing), 0)
    evidence = keep.max() * above / max(float(above.max()), 1e-30)
    share = np.float32(options.evidence)
    return np.asarray((1 - share) * keep + share * np.sqrt(keep * evidence), np.float32)


def _gradient(
    pull: Floats, logits: Floats, smoothing: float, beta: float, options: Options
) -> Floats:
    """Return d loss / d a, [h, w], by the equation at the head of this module.

    `pull` is d log p / d of the smoothed logits.
    """
    smoothed = smooth(logits, smoothing)
    keep = sigmoid(smoothed)
    price = np.float32(beta / keep.size) * keep * (1 - keep)
    price = price * _PRICES[options.information](smoothed, options.prior)
    return smooth(price - pull, smoothing)


def smoothings(options: Options) -> list[float]:
    """Return the smoothing of each step, in cells, from coarse to fine."""
    logs = _ramp(math.log(options.first_smoothing), math.log(options.smoothing), options.steps)
    return [math.exp(each) for each in logs]


def betas(options: Options) -> list[float]:
    """Return the information term's weight at each step."""
    return [options.beta * each for each in _ramp(options.first_beta, 1, options.steps)]


def wave_amplitudes(options: Options) -> Floats:
    """Return the amplitude of the waves at each step, in logits, [steps]."""
    growth = _ramp(options.first_waves, 1, options.steps)
    return np.float32(options.waves) * np.array(growth, np.float32)


def _ramp(first: float, last: float, steps: int) -> list[float]:
    """Return evenly spaced values; of one step the last."""
    return [float(each) for each in np.linspace(last, first, steps)[::-1]]


class PooledAdam:
    """Adam (Kingma and Ba, arXiv 1412.6980) with its second moment pooled over neighbouring cells.

    Parameters
    ----------
    learning_rate
        Step size.
    pooling
        Standard deviation of the Gaussian over the squared gradient, in cells; 0 is plain Adam.
    """

    def __init__(self, learning_rate: float, pooling: float) -> None:
        self._rate, self._pooling = learning_rate, pooling
        self._steps = 0
        self._first = self._second = np.zeros((), np.float32)

    def step(self, gradient: Floats) -> Floats:
        """Return what to subtract from the parameters, in the gradient's shape [h, w]."""
        beta1, beta2 = 0.9, 0.999
        self._steps += 1
        squared = smooth(gradient * gradient, self._pooling)
        self._first = beta1 * self._first + (1 - beta1) * gradient
        self._second = beta2 * self._second + (1 - beta2) * squared
        spread = np.sqrt(self._second / (1 - beta2**self._steps))
        return np.asarray(self._rate / (1 - beta1**self._steps) * self._first / (spread + 1e-8))
