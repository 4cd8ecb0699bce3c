"""Whether a map can be trusted: comparison with random maps under several imputations.

No single imputation is conclusive: what is neutral to one model is evidence to another, and what
hides one object leaves another recognisable. docs/reference/metrics.md states the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.errors import OptionError
from ibisa_onnx.metrics.degradation import STEPS, Degradation, degradation
from ibisa_onnx.metrics.imputation import BLUR, BORDER, MEAN, NOISE, Imputation
from ibisa_onnx.metrics.maps import Map, Saliency, checked_map
from ibisa_onnx.metrics.random_maps import smooth_random
from ibisa_onnx.metrics.subject import Subject, remembering

JUDGES: tuple[Imputation, ...] = (BLUR, MEAN, NOISE, BORDER)
"""Imputations used for a verdict. Zeros are excluded: they are black, and evidence, to some models.
Noisy linear imputation is excluded: it takes as long as the model."""

DECIDES = 0.05
"""An imputation is informative if hiding pixels changes the score by at least this fraction."""
MARGIN = 0.05
"""Smallest LeRF - MoRF, as a fraction of the score, that counts."""
STABLE = 0.5
"""Smallest stability of a map that can be trusted."""

# Fine at both ends, where a small object is found or missed; a subset of the even steps.
_SHARES = tuple(step / STEPS for step in (0, 1, 2, 4, 8, 14, 20, 24, 26, 27, 28))
_SEED = (1806, 7421)


@dataclass(frozen=True)
class Comparison:
    """Comparison of a map with equally smooth random maps, under one imputation.

    Attributes
    ----------
    imputation
        Name of the imputation.
    area
        LeRF - MoRF of the map, as a fraction of the unmodified image's score.
    random
        LeRF - MoRF of the random maps, as a fraction of the unmodified image's score.
    change
        Largest change of the score as pixels are hidden in the map's order, as a fraction of the
        unmodified image's score.
    """

    imputation: str
    area: float
    random: tuple[float, ...]
    change: float

    @property
    def beaten(self) -> int:
        """Number of random maps that the map outperforms."""
        return sum(self.area > each for each in self.random)

    @property
    def decides(self) -> bool:
        """Whether the imputation is informative: hiding pixels changes the score."""
        return self.change >= DECIDES

    @property
    def better(self) -> bool:
        """Whether the map clearly outperforms all random maps."""
        return self.decides and self.area >= MARGIN and self.beaten == len(self.random)

    @property
    def worse(self) -> bool:
        """Whether the map is clearly worse than all random maps."""
        return self.decides and self.area <= -MARGIN and self.area < min(self.random)


def compare(
    subject: Subject,
    saliency: Saliency,
    *,
    imputations: Sequence[Imputation] = JUDGES,
    draws: int = 10,
    seed: int = 0,
) -> list[Comparison]:
    """Compare a map with equally smooth random maps, under several imputations.

    The negative of a random map is also a random map, with the opposite LeRF - MoRF, so each draw
    counts as two random maps.

    Parameters
    ----------
    subject
        Image and score function.
    saliency
        Map [H, W], any real dtype.
    imputations
        What replaces hidden pixels, in turn.
    draws
        Number of random maps to draw; each costs up to 18 forward passes per imputation.
    seed
        Seed of the random maps.

    Returns
    -------
    list of Comparison
        One per imputation, each with `2 * draws` random maps.

    Raises
    ------
    MetricError
        The map differs in shape from the image, or is not finite.
    OptionError
        `draws` is not positive.
    OutputError
        The model does not return one finite score per image.
    """
    if draws < 1:
        raise OptionError(f"draws is {draws}; pass 1 or more")
    values, rng = checked_map(saliency, subject.size), np.random.default_rng((*_SEED, seed))
    maps = [values, *(smooth_random(values, rng) for _ in range(draws))]
    asked = remembering(subject)
    return [_compared(asked, maps, each) for each in imputations]


def _compared(subject: Subject, maps: Sequence[Map], imputation: Imputation) -> Comparison:
    """Compare the first of several maps with the others, and with their negatives."""
    curves = [
        degradation(subject, each, tile=1, shares=_SHARES, imputation=imputation) for each in maps
    ]
    whole = abs(float(curves[0].morf[0])) or 1.0
    first, *random = (each.area / whole for each in curves)
    both = (*random, *(-area for area in random))
    return Comparison(imputation.name, first, both, _change(curves[0]) / whole)


def _change(curves: Degradation) -> float:
    return max(float(np.abs(each - each[0]).max()) for each in (curves.morf, curves.lerf))


@dataclass(frozen=True)
class Verdict:
    """Whether a map can be trusted, and why.

    Attributes
    ----------
    trusted
        None if the comparisons are inconclusive.
    text
        The verdict with its reason, in one sentence.
    """

    trusted: bool | None
    text: str


def judge(
    comparisons: Sequence[Comparison],
    *,
    flat: bool = False,
    fidelity: bool | None = None,
    stability: float | None = None,
) -> Verdict:
    """Decide whether a map can be trusted.

    Parameters
    ----------
    comparisons
        Results of `compare` for the map, one per imputation.
    flat
        Whether the map is flat, i.e. highlights nothing.
    fidelity
        Whether the gradient passed verification against the deployed model; None if unknown, or if
        no gradient was used.
    stability
        Stability of the method on this image (see `stability`), from -1 to 1; None if unknown.

    Returns
    -------
    Verdict
        The verdict and its reason.
    """
    deciding = [each for each in comparisons if each.decides]
    if flat:
        return Verdict(False, "do not trust this map: it is flat")
    if not deciding:
        return Verdict(
            None,
            "inconclusive: no way of hiding pixels changes the prediction, so it may not depend on "
            "this image at all",
        )
    if worse := [each for each in deciding if each.worse]:
        return Verdict(
            False, f"do not trust this map: it is worse than smooth random maps {_under(worse)}"
        )
    better = [each for each in deciding if each.better]
    if len(deciding) == 1:
        return Verdict(
            None,
            f"inconclusive: the prediction changes under one imputation only "
            f"({deciding[0].imputation}); a verdict requires at least two",
        )
    if len(better) < 2 or 2 * len(better) <= len(deciding):
        found = f" (only {_under(better)})" if better else ""
        return Verdict(
            False,
            "do not trust this map: it does not clearly outperform smooth random maps under most "
            f"of {len(deciding)} imputations{found}",
        )
    if fidelity is False:
        return Verdict(
            False, "do not trust this map: its gradient does not match the deployed model"
        )
    if stability is not None and stability < STABLE:
        return Verdict(
            False,
            "do not trust this map: imperceptible changes to the image alter it (stability "
            f"{stability:.2f}; at least {STABLE:g} is required)",
        )
    known = "" if stability is None else f", and is stable ({stability:.2f})"
    return Verdict(
        True,
        "this map shows better than chance what the prediction depends on: it outperforms all "
        f"{len(better[0].random)} smooth random maps under {len(better)} of {len(deciding)} "
        f"imputations{known}",
    )


def _under(comparisons: Sequence[Comparison]) -> str:
    return f"under {' and '.join(each.imputation for each in comparisons)}"
