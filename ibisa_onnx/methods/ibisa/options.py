"""IBISA's settings and presets. docs/explanation/research-notes.md shows how each was chosen."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ibisa_onnx.errors import OptionError
from ibisa_onnx.methods.baselines import AUTO


@dataclass(frozen=True)
class Options:
    """IBISA's settings.

    Attributes
    ----------
    steps
        Number of optimisation steps, each of one forward and one backward pass.
    grid
        Number of mask cells along the longer side of the image.
    smoothing, first_smoothing
        Standard deviation of the Gaussian that smooths the logits, in cells, at the last and the
        first step. It shrinks geometrically in between.
    temperature
        Temperature of the relaxed Bernoulli masks (`masking.sample`).
    wave_amplitude, wave_frequency
        Amplitude, in logits at the last step, and coarsest frequency, in cycles along the longer
        side, of the plane waves that the masks are sampled with (`masking.plane_waves`).
    start
        Initial logits. At 2 almost everything is visible at first.
    beta
        Weight of the information term at the last step, in nats for a mask that keeps everything.
    first_wave_amplitude, first_beta, first_learning_rate
        Factors of `wave_amplitude`, `beta` and `learning_rate` at the first step. They approach 1
        linearly.
    penalty_exponent
        Adaptive regularisation: beta is multiplied by the score ratio p(target | z) /
        p(target | x), at most 2, to this power. 0 disables it.
    learning_rate
        Step size, in logits.
    pooling
        Standard deviation, in cells, of the Gaussian that pools Adam's second moment over
        neighbouring cells. Plain Adam (0) normalises each cell by its own RMS gradient, so cells
        irrelevant to the prediction take full-size steps driven only by noise.
    wave_angle
        Direction of the first plane wave, in radians.
    evidence, evidence_smoothing
        Weight, 0 to 1, of the geometric mean of lambda and evidence in the map, the remainder
        being lambda alone; and the Gaussian that smooths the evidence, in cells.
    softness
        Softness of the evidence's positive part, in units of the RMS gradient of a cell. 0 clips
        at zero.
    activation
        Exponent of the class activation that multiplies the map, if the gradient provides it: the
        gross map times the square root of the net one. 0 disables it.
    rounds
        Number of times the steps are run, side by side, each with waves of other directions. Lambda
        is the geometric mean over rounds, the evidence the arithmetic mean.
    check
        Whether to run the sufficiency check on the finished map: 8 forward passes, including those
        that choose the baseline. Without it, "auto" takes 4 and other baselines none.
    baseline
        What replaces hidden pixels: "auto" chooses a baseline per image and target; otherwise
        "blur", one of `baselines.BASELINES`, a colour, or the path of an image
        (`baselines.baseline_named`).
    blur
        Standard deviation of the blurred baseline, as a fraction of the image's longer side.
    budget
        Maximum number of forward passes without a gradient.

    Raises
    ------
    OptionError
        A value is out of its range.
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
    start: float = 2.0
    beta: float = 60.0
    first_beta: float = 0.25
    first_learning_rate: float = 0.25
    penalty_exponent: float = 1.0
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
        """Raise `OptionError` if a value is out of its range."""
        for name in ("steps", "grid", "rounds", "budget"):
            self._check(name, "1 or more", lambda value: value >= 1 and value.is_integer())
            object.__setattr__(self, name, int(getattr(self, name)))  # 200.0 and NumPy's are meant
        for name in ("temperature", "learning_rate", "smoothing", "first_smoothing"):
            self._check(name, "a number above 0", lambda value: 0 < value < math.inf)
        for name in (
            "wave_amplitude",
            "first_wave_amplitude",
            "wave_frequency",
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
        for name in ("start", "wave_angle"):
            self._check(name, "a number", math.isfinite)

        if not isinstance(self.baseline, str) or not self.baseline:
            raise OptionError(f"option baseline is {self.baseline!r}; pass a name")

    def _check(self, name: str, wanted: str, fits: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        if isinstance(value, int) and abs(value) > sys.float_info.max:  # Python may not print it
            raise OptionError(f"option {name} is an integer beyond all floats; pass {wanted}")
        if not isinstance(value, numbers.Real) or not fits(float(value)):
            raise OptionError(f"option {name} is {value!r}; pass {wanted}")


PresetName = Literal["standard", "fast", "quality"]
"""The names of `PRESETS`, for type checkers."""
PRESETS: Mapping[str, Options] = MappingProxyType(
    {
        "standard": Options(),
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
"""Settings by name: 20 + 10 passes (forward + backward), as many as in the paper, 12 + 6, and
100 + 90. The gradient check adds one forward pass, or two if the model rounds."""
ALIASES: Mapping[str, str] = MappingProxyType({"paper": "standard"})
"""Earlier names of presets. Of the paper's settings only the number of passes is known."""


def options_named(options: Options | str | None) -> Options:
    """Return options given as such, by a preset's name, or as None for the standard preset.

    Raises
    ------
    OptionError
        There is no such preset.
    """
    if isinstance(options, Options):
        return options
    name = "standard" if options is None else ALIASES.get(options, options)
    if name not in PRESETS:
        raise OptionError(f"there is no preset {name!r}; choose from: {', '.join(PRESETS)}")
    return PRESETS[name]
