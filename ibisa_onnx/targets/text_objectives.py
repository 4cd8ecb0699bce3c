"""Objectives of text: the probability that it, or one of its characters, is still read.

`sequence` decodes the text and locates it.
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

_LEAST_DOUBT = 1e-6  # of 1 - p in single precision
_SHOWN = 40  # characters of a text, in captions and errors


@dataclass(frozen=True)
class Place:
    """Where a character may be read: its class and its steps.

    Attributes
    ----------
    column
        Class index.
    steps
        Steps at which it was read, and one more on either side: masking may shift a character that
        is still read.
    """

    column: int
    steps: tuple[int, ...]

    def best(self, scores: npt.NDArray[Any]) -> tuple[Doubles, npt.NDArray[np.intp]]:
        """Return the largest log-probability, [N], in scores [N, T, K], and its step."""
        values = np.asarray(scores[:, list(self.steps), self.column], np.float64)
        return values.max(1), np.asarray(self.steps)[values.argmax(1)]

    def write(self, head: Head) -> str:
        """Append nodes that compute it, [N, 1]."""
        rows = head.op("Gather", STEPS, head.constant(list(self.steps), np.int64), axis=1)
        values = head.op("Gather", rows, head.constant([self.column], np.int64), axis=2)
        return head.largest(values)


def mean_log_odds(places: Sequence[Place], scores: npt.NDArray[Any]) -> Doubles:
    """Return the mean log-odds over characters, [N] in nats, from log-probabilities [N, T, K].

    1 - p is at least 1e-6, below which it is rounding.
    """
    values = np.stack([each.best(scores)[0] for each in places])
    odds = values - np.log(np.maximum(-np.expm1(values), _LEAST_DOUBT))
    return np.asarray(odds.mean(0))


class _SomeSteps(Objective):
    """Objective read from the tensor of steps, at one part of the line."""

    within: Box
    writers: tuple[Nodes, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor of steps."""
        return (STEPS,)

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """Writers of the tensor of steps."""
        return self.writers

    @property
    def location(self) -> Box:
        """The part of the line."""
        return self.within


@dataclass(frozen=True)
class CharacterObjective(_SomeSteps):
    """Log-probability that a character is still read where it was: log p at its best step.

    Attributes
    ----------
    place
        Class and steps of the character.
    label
        The character; None if the charset is unknown.
    number
        Number of the character in the text, from 1.
    text
        The whole text.
    box
        Left, top, right, bottom, in pixels of the original image.
    within
        The same box as fractions 0..1 of the model input.
    writers
        Writers of the tensor of steps.
    """

    place: Place
    label: str | None
    number: int
    text: str
    box: Box
    within: Box
    writers: tuple[Nodes, ...] = field(default=(), repr=False)

    def score(self, raw: Raw) -> Doubles:
        """Return log p, float64 [N] in nats."""
        return self.place.best(raw[STEPS])[0]

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log p / d steps: 1 at the best step."""
        scores = raw[STEPS]
        cotangent = np.zeros(scores.shape, np.float32)
        cotangent[np.arange(len(scores)), self.place.best(scores)[1], self.place.column] = 1
        return {STEPS: cotangent}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Append nodes that compute log p."""
        return self.place.write(Head(graph))

    def describe(self) -> dict[str, Any]:
        """Return the character, its text, and its location."""
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
    """Probability that a text is still read: the geometric mean over its characters.

    The score is the retained log-odds, their mean minus that of the unmasked image: log p has no
    gradient for a character that is read with certainty, and a sum of log p is dominated by the
    character that is lost most. With the log-probability of the best path over all steps, maps
    showed only the one or two characters that are hardest to read. For 24 rendered lines (PP-OCRv6)
    and 12 captchas, the fraction of the text that is read from the pixels ranked highest by the map
    (insertion), and without them (deletion), is

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
        The text that they spell.
    box
        Left, top, right, bottom, in pixels of the original image.
    within
        The same box as fractions 0..1 of the model input.
    log_odds
        Mean log-odds of the characters in the unmasked image, in nats.
    whole
        The whole text, if `text` is a part of it; otherwise None.
    writers
        Writers of the tensor of steps.
    """

    places: tuple[Place, ...]
    text: str
    box: Box
    within: Box
    log_odds: float
    whole: str | None = None
    writers: tuple[Nodes, ...] = field(default=(), repr=False)

    def probability(self, raw: Raw) -> Doubles:
        """Return the geometric mean of the characters' probabilities, float64 [N] in 0..1."""
        return np.asarray(np.exp(np.mean([it.best(raw[STEPS])[0] for it in self.places], axis=0)))

    def score(self, raw: Raw) -> Doubles:
        """Return the mean log-odds minus that of the unmasked image, float64 [N] in nats."""
        return mean_log_odds(self.places, raw[STEPS]) - self.log_odds

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its gradient: 1 / (1 - p) / number of characters, at each one's best step."""
        scores, count = raw[STEPS], len(self.places)
        rows, cotangent = np.arange(len(scores)), np.zeros(scores.shape, np.float32)
        for place in self.places:
            value, step = place.best(scores)
            doubt = -np.expm1(value)
            slope = np.where(doubt > _LEAST_DOUBT, 1 / np.maximum(doubt, _LEAST_DOUBT), 1)
            cotangent[rows, step, place.column] += slope / count
        return {STEPS: cotangent}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Append nodes that compute the score."""
        head, count = Head(graph), len(self.places)
        each = head.op("Concat", *(place.write(head) for place in self.places), axis=1)
        doubt = head.op("Sub", head.constant(1), head.op("Exp", each))
        odds = head.op("Sub", each, head.log(doubt, _LEAST_DOUBT))
        mean = head.op("MatMul", odds, head.constant(np.full((count, 1), 1 / count)))
        return head.op("Sub", mean, head.constant(self.log_odds))

    def describe(self) -> dict[str, Any]:
        """Return the text and its location."""
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
    """Shorten a text for captions and errors."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
