"""What an explanation states beside its maps: target, prediction, checks, cost and provenance.

All are data of the record; `explanation.py` has the maps, and draws, saves and loads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.io.record import Amount, Between, Count, Share
from ibisa_onnx.targets.base import is_point
from ibisa_onnx.targets.retention import KEPT

HALF = 0.5
"""Largest fraction of the image for which `Sufficiency` states what it adds."""
_FLAT = 0.01  # a map with a smaller range keeps next to nothing
_RESTORED = 0.5  # of what the baseline loses: a map whose top half restores that is not flat


@dataclass(frozen=True)
class Passes:
    """What an explanation cost.

    Attributes
    ----------
    forward
        Images pushed forward through the model.
    backward
        Images whose gradient was computed.
    forward_calls
        Model calls for the forward passes; one call may hold several images.
    backward_calls
        Model calls for the backward passes.
    """

    forward: Count
    backward: Count
    forward_calls: Count
    backward_calls: Count


@dataclass(frozen=True)
class ExplainedTarget:
    """The target that was explained.

    Attributes
    ----------
    kind
        "class", or another kind of objective: "box", "region", "text", "value" ...
    caption
        Display name: "bloodhound (164)".
    output
        Names of the model outputs the target reads, separated by commas.
    probability
        The model's prediction for the unmasked image, in 0..1.
    index
        Class index, or for a value the selected elements of the output; else None.
    label
        Class label, if known; else None.
    activation
        How a class's raw output was interpreted, one of `targets.class_scores.Activation`; else
        None.
    details
        Further fields of the objective, as JSON data.
    """

    kind: str
    caption: str
    output: str
    probability: Amount
    index: int | str | None = None
    label: str | None = None
    activation: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The label, or the caption if there is no label."""
        return self.label or self.caption

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom in pixels of the image; None if the target has no box."""
        sides = self.details.get("box")
        if sides is None or len(sides) != 4:
            return None
        left, top, right, bottom = (float(side) for side in sides)
        return left, top, right, bottom

    @property
    def at(self) -> tuple[float, float] | None:
        """The target's point, x and y in pixels of the image; None if it has no point."""
        at = self.details.get("at")
        if not is_point(at):
            return None
        x, y = (float(each) for each in at or ())
        return x, y

    @property
    def value(self) -> float | None:
        """The predicted value, for targets that are not probabilities; else None.

        For a value, `probability` is the fraction of it that remains when pixels are masked.
        """
        value = self.details.get("value")
        return None if value is None else float(value)

    @property
    def reading(self) -> str:
        """The probability in percent, or the value, as text."""
        return f"{100 * self.probability:.1f}%" if self.value is None else f"{self.value:.4g}"


@dataclass(frozen=True)
class Prediction:
    """One class of a prediction.

    Attributes
    ----------
    index
        Class index.
    label
        Class label; None if unknown.
    probability
        The class's probability, in 0..1.
    """

    index: Count
    label: str | None
    probability: Share


@dataclass(frozen=True)
class Sufficiency:
    """The model's prediction when only the highest-ranked pixels are shown over the baseline.

    Attributes
    ----------
    areas
        Fractions of the image shown, ascending from 0 (the baseline alone).
    probabilities
        The target's probability at each area.
    """

    areas: tuple[Share, ...]
    probabilities: tuple[Amount, ...]

    def share_added(self, probability: float) -> float:
        """Return how much at most half of the image adds to the baseline, as a fraction in 0..1.

        Parameters
        ----------
        probability
            The target's probability for the whole image.

        Returns
        -------
        float
            The added probability, as a fraction of `probability`.
        """
        return float(np.clip(self._added / probability, 0, 1)) if probability > 0 else 0.0

    def share_restored(self, probability: float) -> float:
        """Return the fraction of the baseline's loss that at most half of the image restores.

        Parameters
        ----------
        probability
            The target's probability for the whole image.

        Returns
        -------
        float
            The fraction, in 0..1; 0 if the baseline retains the prediction.
        """
        if self.probabilities[0] >= KEPT * probability:
            return 0.0
        return float(np.clip(self._added / (probability - self.probabilities[0]), 0, 1))

    @property
    def _added(self) -> float:
        shown = [p for area, p in zip(self.areas, self.probabilities, strict=True) if area <= HALF]
        return max(shown) - self.probabilities[0]

    def area_for(self, probability: float) -> float | None:
        """Return the smallest tested area that reaches a probability, or None if none does.

        Parameters
        ----------
        probability
            The probability to reach.

        Returns
        -------
        float or None
            A fraction of the image.
        """
        pairs = zip(self.areas, self.probabilities, strict=True)
        return next((area for area, given in pairs if given >= probability), None)


@dataclass(frozen=True)
class Completion:
    """How much of the planned work went into a map.

    Attributes
    ----------
    done
        Steps or queries done.
    planned
        Steps or queries planned.
    unit
        "steps" with a gradient, "queries" without.
    cut_short
        "deadline" or "stop" if the run ended early, else None.
    """

    done: Count
    planned: Count
    unit: str
    cut_short: str | None = None

    @property
    def ended(self) -> bool:
        """Whether no more work follows."""
        return self.cut_short is not None or self.done == self.planned


def is_flat(
    map: npt.NDArray[np.float32], sufficiency: Sufficiency | None, probability: float
) -> bool:
    """Return whether a map singles out no region.

    A map is flat if its range is below 0.01 and no tested half of the image restores half of what
    the baseline loses. A map that retains little can still be meaningful if a faint view of a small
    area is enough for the model.
    """
    height = float(np.ptp(map))
    restored = sufficiency.share_restored(probability) if sufficiency and height > 0 else 0.0
    return height < _FLAT and restored < _RESTORED


@dataclass(frozen=True)
class Certificate:
    """How the gradient was obtained and how closely its path reproduces the deployed model.

    Attributes
    ----------
    gradient
        One of `gradients.selection.GRADIENTS` (never "auto"), or "none" for methods without
        gradients.
    reason
        Why this gradient was used.
    difference
        Largest absolute difference in probability between the differentiable path and the deployed
        model on this image. None for forward-only methods, whose path is the model itself.
    tolerance
        Largest difference that passes.
    holds
        Whether the checks passed: `difference` and `gradient_error` are within tolerance. True for
        forward-only methods.
    gradient_error
        Relative error of the gradient's directional derivative, in 0..2, measured against the
        deployed model one step further. None for methods other than IBISA, or if the prediction
        hardly changes.
    gradient_tolerance
        Largest gradient error that passes.
    fallback
        Whether "auto" fell back to forward passes because a gradient is not available, does not
        match the model or failed. False for models that have none by nature, such as functions.
    """

    gradient: str
    reason: str
    difference: Amount | None
    tolerance: Amount
    holds: bool
    gradient_error: Amount | None = None
    gradient_tolerance: Amount = 0.0
    fallback: bool = False


@dataclass(frozen=True)
class Provenance:
    """What is needed to reproduce an explanation: hashes, settings, versions and the seed.

    Attributes
    ----------
    model
        File name of the model, or its URL without credentials; None for bytes.
    model_sha256
        SHA-256 of the model file and its external weights; None if unknown.
    image
        File name of the image; None for bytes and arrays.
    image_sha256
        SHA-256 of the image file, or of an array's dtype, shape and values.
    preprocessing
        All preprocessing settings, as `Preprocessing.to_dict` returns them.
    providers
        ONNX Runtime execution providers in use, highest priority first.
    versions
        Versions of Python and of the packages involved, by name.
    seed
        Random seed.
    options
        Settings of the method.
    baseline_sha256
        SHA-256 of the baseline's file if the baseline is an image, else None.
    reduction
        Factor by which both sides of a very large image were reduced on reading: 1, 2, 4 or 8.
    server
        Of a model on a server, which cannot be hashed: the server, the protocol and the model's
        version. None for other models.
    """

    model: str | None
    model_sha256: str | None
    image: str | None
    image_sha256: str | None
    preprocessing: dict[str, Any]
    providers: tuple[str, ...]
    versions: dict[str, str]
    seed: int
    options: dict[str, Any]
    baseline_sha256: str | None = None
    reduction: Annotated[int, Between(1, 64)] = 1
    server: dict[str, str] | None = None
