"""Read text as objectives: the probability that it, or one of its characters, is still read.

What is read, and where, is in `sequence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Box, Doubles, Nodes, Objective, Raw
from ibisa_onnx.targets.ctc import STEPS

if TYPE_CHECKING:
    import onnx

_LEAST_DOUBT = 1e-6  # of a probability near 1, in single precision
_SHOWN = 40  # characters of a text, in captions and errors


@dataclass(frozen=True)
class Place:
    """Where a character may be read: a class, and the steps.

    Attributes
    ----------
    column
        Its class.
    steps
        Those at which it was read, and one more on either side: where pixels are hidden it may
        shift, and is read all the same.
    """

    column: int
    steps: tuple[int, ...]

    def best(self, scores: npt.NDArray[Any]) -> tuple[Doubles, npt.NDArray[np.intp]]:
        """Return the largest log-probability, [N], of scores [N, T, K], and its step."""
        values = np.asarray(scores[:, list(self.steps), self.column], np.float64)
        return values.max(1), np.asarray(self.steps)[values.argmax(1)]

    def write(self, head: Head) -> str:
        """Write it as nodes, [N, 1]."""
        rows = head.op("Gather", STEPS, head.constant(list(self.steps), np.int64), axis=1)
        values = head.op("Gather", rows, head.constant([self.column], np.int64), axis=2)
        return head.largest(values)


def mean_log_odds(places: Sequence[Place], scores: npt.NDArray[Any]) -> Doubles:
    """Return the mean of log p / (1 - p) over characters, [N], of log-probabilities [N, T, K].

    A doubt 1 - p of less than a millionth is rounding, and counts as one.
    """
    values = np.stack([each.best(scores)[0] for each in places])
    odds = values - np.log(np.maximum(-np.expm1(values), _LEAST_DOUBT))
    return np.asarray(odds.mean(0))


class _SomeSteps(Objective):
    """What is read off the tensor of steps, at one place of the line."""

    within: Box
    writers: tuple[Nodes, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor of steps."""
        return (STEPS,)

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """What makes it."""
        return self.writers

    @property
    def location(self) -> Box:
        """The part of the line."""
        return self.within


@dataclass(frozen=True)
class CharacterObjective(_SomeSteps):
    """The probability that a character is still read where it was: log p at its best step.

    Attributes
    ----------
    place
        Its class and steps.
    label
        What it is; None where the charset is not known.
    number
        Which character of the text it is, from 1.
    text
        The whole text.
    box
        Left, top, right, bottom in the picture's pixels.
    within
        The same in 0..1 of the sides of the model's input.
    writers
        What makes the tensor of steps.
    """

    place: Place
    label: str | None
    number: int
    text: str
    box: Box
    within: Box
    writers: tuple[Nodes, ...] = field(default=(), repr=False)

    def score(self, raw: Raw) -> Doubles:
        """Return log p, [N]."""
        return self.place.best(raw[STEPS])[0]

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log p / d steps: 1 at the best of them."""
        scores = raw[STEPS]
        cotangent = np.zeros(scores.shape, np.float32)
        cotangent[np.arange(len(scores)), self.place.best(scores)[1], self.place.column] = 1
        return {STEPS: cotangent}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Write log p behind the steps."""
        return self.place.write(Head(graph))

    def describe(self) -> dict[str, Any]:
        """Return what it is, of which text, and where."""
        name = self.label if self.label is not None else f"#{self.place.column}"
        return {
            "kind": "character",
            "caption": f'character {self.number} "{name}" of "{shortened(self.text)}"',
            "output": STEPS,
            "index": self.place.column,
            "label": self.label,
            "number": self.number,
            "text": self.text,
            "box": [round(side, 1) for side in self.box],
        }


@dataclass(frozen=True)
class TextObjective(_SomeSteps):
    """The probability that a text is still read: the geometric mean of its characters'.

    Its score is what is left of their log-odds, their mean less what it is for the picture: log p
    has no gradient for a character that is surely read, and its sum is ruled by the one that is
    lost most. With the logarithm of the path's probability over all steps the maps showed the one
    or two characters that are hardest to read. Of 24 drawn lines (PP-OCRv6) and 12 captchas, the
    share of the text that is read by the pixels that the map puts first (insertion), and without
    them (deletion), is

        the mean of                            lines        captchas
        log p, all steps of the path          .41  .60      .49  .56
        log p, each character's best step     .50  .55      .57  .44
        log p of the text, over all paths     .51  .54      .58  .43
        log-odds, each character's best step  .61  .53      .67  .39

    Attributes
    ----------
    places
        Class and steps of each character.
    text
        What they spell.
    box
        Left, top, right, bottom in the picture's pixels.
    within
        The same in 0..1 of the sides of the model's input.
    log_odds
        The mean of the characters' log-odds for the picture, in nats.
    whole
        The whole text where that is only a part of it.
    writers
        What makes the tensor of steps.
    """

    places: tuple[Place, ...]
    text: str
    box: Box
    within: Box
    log_odds: float
    whole: str | None = None
    writers: tuple[Nodes, ...] = field(default=(), repr=False)

    def probability(self, raw: Raw) -> Doubles:
        """Return the geometric mean of the characters' probabilities, [N] in 0..1."""
        return np.asarray(np.exp(np.mean([it.best(raw[STEPS])[0] for it in self.places], axis=0)))

    def score(self, raw: Raw) -> Doubles:
        """Return the mean log-odds less what it is for the picture, [N] in nats."""
        return mean_log_odds(self.places, raw[STEPS]) - self.log_odds

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its derivative, 1 / (1 - p) over their number at the best of each one's steps."""
        scores, count = raw[STEPS], len(self.places)
        rows, cotangent = np.arange(len(scores)), np.zeros(scores.shape, np.float32)
        for place in self.places:
            value, step = place.best(scores)
            doubt = -np.expm1(value)
            slope = np.where(doubt > _LEAST_DOUBT, 1 / np.maximum(doubt, _LEAST_DOUBT), 1)
            cotangent[rows, step, place.column] += slope / count
        return {STEPS: cotangent}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Write the score behind the steps."""
        head, count = Head(graph), len(self.places)
        each = head.op("Concat", *(place.write(head) for place in self.places), axis=1)
        doubt = head.op("Sub", head.constant(1), head.op("Exp", each))
        odds = head.op("Sub", each, head.log(doubt, _LEAST_DOUBT))
        mean = head.op("MatMul", odds, head.constant(np.full((count, 1), 1 / count)))
        return head.op("Sub", mean, head.constant(self.log_odds))

    def describe(self) -> dict[str, Any]:
        """Return what it spells, and where."""
        of = "" if self.whole is None else f' of "{shortened(self.whole)}"'
        said: dict[str, Any] = {
            "kind": "text",
            "caption": f'text "{shortened(self.text)}"{of}',
            "output": STEPS,
            "text": self.text,
            "box": [round(side, 1) for side in self.box],
        }
        return said if self.whole is None else said | {"whole": self.whole}


def shortened(text: str) -> str:
    """Return a text as captions and errors give it."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
