"""That a classifier looks at its picture, and where: proved without any map, to hold maps against.

Windows of a quarter and of half of the picture's sides are hidden in turn by the median colour of
what surrounds them, and the whole picture by the median of its border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from planted import hull

from field_set.drawing import Mask
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics.localisation import ENERGY

LOOKS = 1e-4  # how far hiding must move the answer's probability; rounding moves it less
NEEDED = 0.05  # how much of it a window must cost to be needed
Image = npt.NDArray[np.float32]
Window = tuple[slice, slice]
"""Rows and columns."""


@dataclass(frozen=True)
class Proof:
    """What hiding parts of a picture does to the probability of its answer.

    Attributes
    ----------
    box
        The smallest window that costs nine tenths of what any costs; None: none costs much.
    hidden, blank
        The probability without that window, and without the picture.
    change
        The largest change that any of it made.
    """

    box: Window | None
    hidden: float
    blank: float
    change: float

    @property
    def looks(self) -> bool:
        """Whether the answer depends on the picture at all."""
        return self.change > LOOKS


def windows(height: int, width: int) -> Iterator[Window]:
    """Yield windows of a quarter and of half the sides, each half over the next."""
    for part in (4, 2):
        h, w = max(1, height // part), max(1, width // part)
        for top in range(0, height - h + 1, max(1, h // 2)):
            for left in range(0, width - w + 1, max(1, w // 2)):
                yield slice(top, top + h), slice(left, left + w)


def without(image: Image, box: Window) -> Image:
    """Fill a window of an image [C, H, W] with the median colour of what surrounds it."""
    (rows, columns), result = box, image.copy()
    reach = max(1, (rows.stop - rows.start) // 4)
    outer = np.zeros(image.shape[1:], bool)
    outer[max(0, rows.start - reach) : rows.stop + reach][
        :, max(0, columns.start - reach) : columns.stop + reach
    ] = True
    outer[box] = False
    result[:, *box] = np.median(image[:, outer], 1)[:, None, None]
    return result


def prove(problem: Problem) -> Proof:
    """Hide the windows of a picture in turn, then the whole."""
    image = problem.image[0]
    boxes = list(windows(*image.shape[1:]))
    border = np.pad(np.zeros(np.subtract(image.shape[1:], 2), bool), 1, constant_values=True)
    blank = np.broadcast_to(np.median(image[:, border], 1)[:, None, None], image.shape)
    scores = problem.score(np.stack([*(without(image, box) for box in boxes), blank]))
    change = float(np.abs(scores - problem.row.probability).max())
    costs = problem.row.probability - scores[:-1]
    enough = np.flatnonzero(costs >= 0.9 * costs.max())
    best = min(enough.tolist(), key=lambda each: (_area(boxes[each]), -costs[each]))
    box = boxes[best] if costs[best] > NEEDED else None
    return Proof(box, float(scores[best]), float(scores[-1]), change)


def _area(box: Window) -> int:
    rows, columns = box
    return int((rows.stop - rows.start) * (columns.stop - columns.start))


@dataclass(frozen=True)
class Measured:
    """What one map is worth.

    Attributes
    ----------
    peak
        The map's largest value.
    flat
        Whether it points at nothing.
    area
        The share of the picture that alone gives 90% of the answer; None: none of those tried.
    alone
        The probability of the baseline alone; None: the map was not checked.
    within
        The share of the map inside the planted truth's hull; None: nothing was planted.
    place
        Where the peak lies: "truth", "hull", "window" or "off"; empty where none of them is known.
    """

    peak: float
    flat: bool
    area: float | None
    alone: float | None
    within: float | None
    place: str


def measure(explanation: Explanation, proof: Proof, mask: Mask | None) -> Measured:
    """Hold a map against the proof and the planted truth."""
    saliency, checked = explanation.map, explanation.sufficiency
    places = {} if mask is None else {"truth": mask, "hull": hull(mask)}
    if proof.box:
        places["window"] = np.zeros(saliency.shape, bool)
        places["window"][proof.box] = True
    top = np.unravel_index(saliency.argmax(), saliency.shape)
    nowhere = "off" if places else ""
    return Measured(
        peak=float(saliency.max()),
        flat=explanation.flat,
        area=checked.area_for(0.9 * explanation.target.probability) if checked else None,
        alone=checked.probabilities[0] if checked else None,
        within=None if mask is None else ENERGY(saliency, places["hull"]),
        place=next((name for name, inside in places.items() if inside[top]), nowhere),
    )
