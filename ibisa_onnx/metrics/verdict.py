"""Whether a map may be trusted: held against random maps as smooth, under several imputations.

No baseline decides alone: what is neutral to one model is evidence to the next, and what hides one
picture leaves another as it was. The rules are few, and docs/reference/metrics.md has them in words.
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
"""Zeros are not among them, which are black, and evidence, to some models; noisy linear imputation
takes as long as the model does."""

DECIDES = 0.05
"""An imputation decides where hiding pixels changes the score by so much, as a share of it."""
MARGIN = 0.05
"""LeRF - MoRF, as a share of the score, that is worth anything."""
STABLE = 0.5
"""The least stability of a map that may be trusted."""

# Fine at both ends, where a small object is found or missed; all of them are among the even steps.
_SHARES = tuple(step / STEPS for step in (0, 1, 2, 4, 8, 14, 20, 24, 26, 27, 28))
_SEED = (1806, 7421)


@dataclass(frozen=True)
class Comparison:
    """A map beside random ones as smooth, under one imputation.

    Attributes
    ----------
    imputation
        Its name.
    area
        LeRF - MoRF of the map, as a share of the whole picture's score.
    random
        The same of the random maps.
    change
        By how much of the whole picture's score hiding pixels in the map's order changed it at
        most, as a share.
    """

    imputation: str
    area: float
    random: tuple[float, ...]
    change: float

    @property
    def beaten(self) -> int:
        """How many of the random maps are worse."""
        return sum(self.area > each for each in self.random)

    @property
    def decides(self) -> bool:
        """Whether hiding pixels in this way changes the answer at all."""
        return self.change >= DECIDES

    @property
    def better(self) -> bool:
        """Whether the map is clearly better than all random ones."""
        return self.decides and self.area >= MARGIN and self.beaten == len(self.random)

    @property
    def worse(self) -> bool:
        """Whether the map is clearly worse than all random ones."""
        return self.decides and self.area <= -MARGIN and self.area < min(self.random)


def compare(
    subject: Subject,
    saliency: Saliency,
    *,
    imputations: Sequence[Imputation] = JUDGES,
    draws: int = 10,
    seed: int = 0,
) -> list[Comparison]:
    """Hold a map against random ones as smooth as it, under several imputations.

    A random map turned upside down is a random map whose LeRF - MoRF is the same with the other
    sign, so each draw counts twice.

    Parameters
    ----------
    subject
        What the map is of.
    saliency
        [H, W], any real type.
    imputations
        What hidden pixels become, in turn.
    draws
        Random maps, for 18 forward passes each under each imputation.
    seed
        Draws the random maps.
    """
    if draws < 1:
        raise OptionError(f"there are {draws} draws; give 1 or more")
    values, rng = checked_map(saliency, subject.size), np.random.default_rng((*_SEED, seed))
    maps = [values, *(smooth_random(values, rng) for _ in range(draws))]
    asked = remembering(subject)
    return [_compared(asked, maps, each) for each in imputations]


def _compared(subject: Subject, maps: Sequence[Map], imputation: Imputation) -> Comparison:
    """Compare the first of several maps with the others."""
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
    """Whether a map may be trusted, and why.

    Attributes
    ----------
    trusted
        None where that cannot be told.
    text
        The same as one sentence.
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
    """Say whether a map may be trusted.

    Parameters
    ----------
    comparisons
        Of the map, under several imputations.
    flat
        Whether the map singles nothing out.
    fidelity
        Whether its gradient is that of the deployed model; None: not known, or there is none.
    stability
        Of the method on this picture (`metrics.stability`), -1 to 1; None: not known.
    """
    deciding = [each for each in comparisons if each.decides]
    if flat:
        return Verdict(False, "do not trust this map: it is flat")
    if not deciding:
        return Verdict(
            None,
            "this map cannot be judged: the answer stays the same however pixels are hidden, so "
            "the model may not look at this picture at all",
        )
    if worse := [each for each in deciding if each.worse]:
        return Verdict(
            False, f"do not trust this map: it is worse than smooth random maps {_under(worse)}"
        )
    better = [each for each in deciding if each.better]
    if len(deciding) == 1:
        return Verdict(
            None,
            "this map cannot be judged: pixels hidden otherwise than by "
            f"{deciding[0].imputation} do not change the answer",
        )
    if len(better) < 2 or 2 * len(better) <= len(deciding):
        found = _under(better) if better else "under no imputation"
        return Verdict(
            False,
            f"do not trust this map: it is clearly better than smooth random maps {found}"
            + (f" alone, of {len(deciding)} imputations" if better else ""),
        )
    if fidelity is False:
        return Verdict(False, "do not trust this map: its gradient is not the deployed model's")
    if stability is not None and stability < STABLE:
        return Verdict(
            False,
            "do not trust this map: changes of the picture that nobody sees move it (stability "
            f"{stability:.2f}, at least {STABLE:g} is wanted)",
        )
    known = "" if stability is None else f", and stable ({stability:.2f})"
    return Verdict(
        True,
        f"this map may be trusted: it is better than each of {len(better[0].random)} smooth random "
        f"maps under {len(better)} of {len(deciding)} imputations{known}",
    )


def _under(comparisons: Sequence[Comparison]) -> str:
    return f"under {' and '.join(each.imputation for each in comparisons)}"
