"""IBISA's settings and their presets; docs/explanation/method.md shows what each default was chosen against."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ibisa_onnx.errors import OptionError
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.baselines import AUTO

PENALTIES: Mapping[str, Callable[[Floats, float], Floats | float]] = MappingProxyType(
    {
        "mean": lambda logits, prior: 1.0,
        "kl": lambda logits, prior: logits - np.float32(math.log(prior / (1 - prior))),
    }
)
"""The derivative I' of each information term, from logits of lambda and the prior."""


@dataclass(frozen=True)
class Options:
    """IBISA's settings.

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
        Of the sampled masks (`masking.sample`).
    wave_amplitude, wave_frequency
        Of the plane waves, the fixed part of the masks' noise (`masking.plane_waves`): amplitude in
        logits at the last step, and the coarsest frequency.
    noise
        Scale of its random part, logistic (`masking.stratified_noise`).
    start
        The first logits: everything is let through, then squeezed.
    beta
        Weight of the information term at the last step, in nats for a mask that keeps everything.
    first_wave_amplitude, first_beta, first_learning_rate
        What `wave_amplitude`, `beta` and `learning_rate` are multiplied by at the first step; in
        between it changes evenly.
    penalty_exponent
        Power of the score ratio, p(target | z) / p(target | x) and at most 2, by which beta is
        multiplied; 0: always all of it.
    information, prior
        "mean" or "kl", and the keep-probability that costs nothing under "kl".
    learning_rate
        Step size, in logits.
    pooling
        Standard deviation, in cells, of the Gaussian over Adam's second moment. Pooled, a cell
        that the decision ignores is measured against its neighbours' gradients and not against
        its own noise, which plain Adam blows up to full steps.
    wave_angle
        Direction of the first of the waves, in radians (`masking.plane_waves`).
    evidence, evidence_smoothing
        Share of the geometric mean in the map, 0 to 1, the rest being lambda alone; and the
        Gaussian over the evidence, in cells.
    softness
        Of the evidence's positive part, in root mean squares of the steps' gradients at a cell; 0:
        all below zero is cut off.
    activation
        Power of the steps' class activation, by which the map is multiplied where the gradient
        comes with it: the gross map times the root of the net one; 0: none.
    rounds
        How often the steps are taken, side by side, each time with waves of other directions;
        lambda is the geometric mean of all rounds', the evidence their mean.
    check
        Whether the finished map is checked by the model itself: 8 forward passes with those that
        settle the baseline, without it 4 for "auto" and none for others.
    baseline
        What is seen where the image is masked: "auto" chooses for each answer what loses it; or
        "blur", one of `baselines.BASELINES`, a colour, or a picture's file
        (`baselines.baseline_named`).
    blur
        Standard deviation of the baseline's blur, as a fraction of the image's longer side.
    budget
        Forward passes where no gradient exists.
    """

    steps: int = 10
    grid: int = 56
    smoothing: float = 1.0
    first_smoothing: float = 3.0
    temperature: float = 1.0
    wave_amplitude: float = 1.0
    first_wave_amplitude: float = 2.0
    wave_frequency: float = 3.0
    wave_angle: float = 0.3
    noise: float = 0.0
    start: float = 2.0
    beta: float = 60.0
    first_beta: float = 0.25
    first_learning_rate: float = 0.25
    penalty_exponent: float = 1.0
    information: str = "mean"
    prior: float = 0.05
    learning_rate: float = 1.5
    pooling: float = 6.0
    evidence: float = 0.9
    evidence_smoothing: float = 0.3
    softness: float = 0.15
    activation: float = 1.0
    rounds: int = 1
    check: bool = True
    baseline: str = AUTO
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
            "wave_amplitude",
            "first_wave_amplitude",
            "wave_frequency",
            "noise",
            "beta",
            "first_beta",
            "first_learning_rate",
            "penalty_exponent",
            "pooling",
            "evidence_smoothing",
            "softness",
            "activation",
            "blur",
        ):
            self._check(name, "0 or more", lambda value: 0 <= value < math.inf)
        self._check("evidence", "0 to 1", lambda value: 0 <= value <= 1)
        self._check("prior", "a probability in 0..1", lambda value: 0 < value < 1)
        self._check_choice("information", PENALTIES)
        for name in ("start", "wave_angle"):
            self._check(name, "a number", math.isfinite)

        if not isinstance(self.baseline, str) or not self.baseline:
            raise OptionError(f"option baseline is {self.baseline!r}; give a name")

    def _check_choice(self, name: str, choices: Iterable[str]) -> None:
        if getattr(self, name) not in choices:
            value, wanted = getattr(self, name), ", ".join(choices)
            raise OptionError(f"option {name} is {value!r}; choose from: {wanted}")

    def _check(self, name: str, wanted: str, fits: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        if isinstance(value, int) and abs(value) > sys.float_info.max:  # Python may not print it
            raise OptionError(f"option {name} is an integer beyond all floats; give {wanted}")
        if not isinstance(value, numbers.Real) or not fits(float(value)):
            raise OptionError(f"option {name} is {value!r}; give {wanted}")


PRESETS: Mapping[str, Options] = MappingProxyType(
    {
        "paper": Options(),
        "fast": Options(steps=6, beta=90.0, learning_rate=2.0, check=False, budget=100),
        "quality": Options(
            rounds=9,
            beta=40.0,
            learning_rate=1.0,
            first_learning_rate=1.0,
            softness=0.2,
            budget=400,
        ),
    }
)
"""Settings by name: 20 + 10 passes (forward + backward) as in the paper, 12 + 6, and 100 + 90.

The check of the gradient adds one forward pass, or two where anything is rounded.
"""


def options_named(options: Options | str | None) -> Options:
    """Return settings that were given, by their preset's name, or not at all.

    Raises
    ------
    OptionError
        There is no such preset.
    """
    if isinstance(options, Options):
        return options
    name = "paper" if options is None else options
    if name not in PRESETS:
        raise OptionError(f"there is no preset {name!r}; choose from: {', '.join(PRESETS)}")
    return PRESETS[name]
