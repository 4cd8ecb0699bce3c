"""Text recognisers: what they read in a picture, and how it is pointed at.

What is read is the likeliest class of each step along the line, a run of the same counted once,
without the blanks. Steps lie evenly across the picture, so a character's steps say where it is.
Where the scores come from is in `ctc`, and what is kept of them in `text_objectives`. Decoders that
write one character after the other by attention have no such steps, and are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.targets.base import (
    Answer,
    Box,
    Context,
    Doubles,
    Kind,
    Nodes,
    Objective,
    Raw,
    Reader,
    TargetSpec,
    check_numbers,
    wrong_kind,
)
from ibisa_onnx.targets.class_scores import SMALLEST
from ibisa_onnx.targets.ctc import STEPS, Blank, StepScores, find_scores, fit_charset
from ibisa_onnx.targets.detection import in_picture
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.labels import check_labels, known_labels
from ibisa_onnx.targets.text_objectives import (
    CharacterObjective,
    Place,
    TextObjective,
    mean_log_odds,
    shortened,
)

if TYPE_CHECKING:
    from ibisa_onnx.preprocessing.geometry import Geometry

_SHIFT = 1  # steps by which a character may move where pixels are hidden
_WIDEST = 1.5  # of a character, in distances from one to the next
_ALONE = 3.0  # steps that a character alone is taken to be wide


@dataclass(frozen=True)
class Character:
    """A character that was read.

    Attributes
    ----------
    text, column
        What it is, and its class.
    start, stop
        Its first step, and the one behind its last.
    score
        Its probability at the best of them, in 0..1.
    sides
        Where it lies across the model's input, left and right, as shares of the width.
    """

    text: str
    column: int
    start: int
    stop: int
    score: float
    sides: tuple[float, float] = (0.0, 1.0)


def decode(
    scores: npt.NDArray[Any], blank: int, names: Sequence[str] | None
) -> tuple[Character, ...]:
    """Return what is read: the likeliest class of each step, runs once, without blanks.

    Parameters
    ----------
    scores
        Log-probabilities, [T, K].
    blank
        The class that stands for no character.
    names
        What the classes are called; None: "#12" is the twelfth.
    """
    best = scores.argmax(1)
    turns = np.flatnonzero(np.diff(best, prepend=-1, append=-1))
    found = []
    for start, stop in zip(turns[:-1].tolist(), turns[1:].tolist(), strict=True):
        column = int(best[start])
        if column != blank:
            name = names[column] if names else f"#{column}"
            score = float(np.exp(scores[start:stop, column].max()))
            found.append(Character(name, column, start, stop, score))
    places = _sides([(each.start + each.stop) / 2 for each in found], len(scores))
    return tuple(replace(each, sides=sides) for each, sides in zip(found, places, strict=True))


def _sides(middles: Sequence[float], steps: int) -> list[tuple[float, float]]:
    """Return where characters begin and end, as shares of all steps, from their middles.

    Each reaches halfway to the next, but not further than the usual distance allows, for where a
    space was not read there is a gap. A character alone is taken to be three steps wide.
    """
    gaps = np.diff(middles)
    usual = float(np.median(gaps)) if len(gaps) else _ALONE
    reach = [usual / 2, *(np.minimum(gaps, _WIDEST * usual) / 2).tolist(), usual / 2]
    ends = [
        (middle - before, middle + behind)
        for middle, before, behind in zip(middles, reach[:-1], reach[1:], strict=False)
    ]
    return [(max(0.0, a / steps), min(1.0, b / steps)) for a, b in ends]


@dataclass(frozen=True)
class TextTarget:
    """What was read, or some of it.

    Attributes
    ----------
    char
        A character by its number in the text, from 1; None: whichever the rest leaves.
    at
        A point, x and y in the picture's pixels: the character there.
    part
        A part of the text as it is spelt, where that comes first: one character, or several.
    every
        Each of the characters that are left, and not the whole.
    """

    char: int | None = None
    at: tuple[float, float] | None = None
    part: str | None = None
    every: bool = False

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the tensor of steps."""
        return _recogniser_of(reader).outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the text, or the characters, that it means.

        Raises
        ------
        TargetError
            Nothing was read, or not that.
        """
        reading = _recogniser_of(context.reader).read(raw, context)
        if not reading.characters:
            raise AbsentTargetError(
                f"no text was read: all {reading.steps} steps are blank; check the "
                "preprocessing, or give another picture"
            )
        if self.part is not None:
            start, stop = reading.find(self.part)
        elif self.char is not None:
            start, stop = reading.numbered(self.char)
        elif self.at is not None:
            start, stop = reading.at(context.check_point(self.at))
        else:
            start, stop = 0, len(reading.characters)
        if self.every or (stop - start == 1 and self != TextTarget()):
            return [reading.character(each) for each in range(start, stop)]
        return [reading.span(start, stop)]


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read in one picture.

    Attributes
    ----------
    characters
        In the order of the text.
    scores
        Log-probabilities of the classes at each step, [T, K].
    geometry
        Where the picture lies in the model's input.
    named
        Whether it is known what the classes are called.
    writers
        What makes the tensor of steps.
    """

    characters: tuple[Character, ...]
    scores: Doubles
    geometry: Geometry
    named: bool
    writers: tuple[Nodes, ...] = ()

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.scores)

    @property
    def text(self) -> str:
        """What the characters spell."""
        return "".join(each.text for each in self.characters)

    @property
    def score(self) -> float:
        """The geometric mean of the characters' probabilities; 0 where nothing was read."""
        scores = [max(each.score, SMALLEST) for each in self.characters]
        return float(np.exp(np.mean(np.log(scores)))) if scores else 0.0

    @property
    def summary(self) -> str:
        """Say what was read."""
        count = len(self.characters)
        return f'the text is "{shortened(self.text)}", {count} character{"s" * (count != 1)}'

    def numbered(self, number: int) -> tuple[int, int]:
        """Return where a character begins and ends by its number, from 1; TargetError."""
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole or not 1 <= number <= len(self.characters):
            raise AbsentTargetError(f"there is no character {number}; {self.summary}")
        return int(number) - 1, int(number)

    def find(self, part: str) -> tuple[int, int]:
        """Return where a part of the text begins and ends, as characters; TargetError."""
        ends = np.cumsum([0, *(len(each.text) for each in self.characters)]).tolist()
        place = self.text.find(part) if part else -1
        if place < 0:
            raise AbsentTargetError(f'"{shortened(part)}" was not read; {self.summary}')
        start, stop = np.searchsorted(ends, [place + 1, place + len(part)]).tolist()
        return start - 1, stop

    def at(self, point: tuple[float, float]) -> tuple[int, int]:
        """Return where the character at a point begins and ends; TargetError."""
        x, y = point
        for number in range(len(self.characters)):
            left, top, right, bottom = self.box(number, number + 1)
            if left <= x <= right and top <= y <= bottom:
                return number, number + 1
        raise AbsentTargetError(f"no character was read at {x:g},{y:g}; {self.summary}")

    def box(self, start: int, stop: int) -> Box:
        """Return left, top, right, bottom of characters in the picture's pixels."""
        height, width = self.geometry.model
        left, right = self._sides(start, stop)
        return in_picture((left * width, 0, right * width, height), self.geometry)

    def character(self, number: int) -> CharacterObjective:
        """Return the objective of a character, numbered from 0."""
        found = self.characters[number]
        return CharacterObjective(
            self._place(found),
            found.text if self.named else None,
            number + 1,
            self.text,
            self.box(number, number + 1),
            self._within(number, number + 1),
            self.writers,
        )

    def span(self, start: int, stop: int) -> TextObjective:
        """Return the objective of some characters that follow each other."""
        chosen = self.characters[start:stop]
        places = tuple(map(self._place, chosen))
        return TextObjective(
            places,
            "".join(each.text for each in chosen),
            self.box(start, stop),
            self._within(start, stop),
            float(mean_log_odds(places, self.scores[None])[0]),
            self.text if len(chosen) < len(self.characters) else None,
            self.writers,
        )

    def answers(self) -> list[Answer]:
        """Return the text, and then each of its characters."""
        if not self.characters:
            return []
        count = len(self.characters)
        whole = Answer(self.text, self.score, box=self.box(0, count), details={"characters": count})
        return [whole, *map(self._answer, range(count))]

    def _answer(self, number: int) -> Answer:
        found = self.characters[number]
        return Answer(
            found.text,
            found.score,
            found.column,
            found.text if self.named else None,
            self.box(number, number + 1),
            {"steps": [found.start, found.stop]},
            number + 1,
        )

    def _place(self, character: Character) -> Place:
        first, last = max(0, character.start - _SHIFT), min(self.steps, character.stop + _SHIFT)
        return Place(character.column, tuple(range(first, last)))

    def _sides(self, start: int, stop: int) -> tuple[float, float]:
        return self.characters[start].sides[0], self.characters[stop - 1].sides[1]

    def _within(self, start: int, stop: int) -> Box:
        left, right = self._sides(start, stop)
        return left, 0.0, right, 1.0


class RecogniserKind(Kind):
    """A text recogniser that gives scores for each step.

    Parameters
    ----------
    scores
        Its tensor of scores.
    blank
        The class that stands for no character, unless the charset says otherwise.
    charsets
        The names of the classes that its file gives, the most trusted first.
    """

    name = "text recogniser"
    asks = ("TextTarget()", "TextTarget(3)", "PointTarget((120, 20))", "target=WORD")

    def __init__(
        self, scores: StepScores, blank: Blank, charsets: Sequence[tuple[str, ...]] = ()
    ) -> None:
        self.scores, self.blank, self._own = scores, blank, tuple(charsets)
        self.family = scores.family
        self.reason = (
            f"{scores.source} holds scores of {scores.classes} classes for each step along a line; "
            f"{blank.reason}"
        )
        self.preprocessing = scores.preprocessing
        self.warnings = tuple(filter(None, (blank.warning, self._mismatch())))

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """What makes the tensor of steps."""
        return (self.scores,)

    def outputs(self) -> tuple[str, ...]:
        """Name the tensor of steps."""
        return self.scores.outputs

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the text, a character by its number, or a part of the text as it is spelt."""
        if wanted is None:
            return TextTarget()
        return TextTarget(part=wanted) if isinstance(wanted, str) else TextTarget(char=wanted)

    def at(self, point: tuple[float, float], wanted: str | int | None = None) -> TargetSpec:
        """Return the character at a point."""
        if wanted is not None:
            raise TargetError(
                f"a point means the character there, and target {wanted!r} is given too; give one"
            )
        return TextTarget(at=point)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return the text, and then its characters in their order."""
        return self.read(raw, context).answers()

    def read(self, raw: Raw, context: Context) -> Reading:
        """Return what is read in one picture.

        Raises
        ------
        TargetError
            The user's labels do not fit.
        OutputError
            The scores are NaN.
        """
        check_numbers(raw[STEPS], self.scores.source)
        names, blank = self.charset(context.reader)
        scores = np.asarray(raw[STEPS][0], np.float64)
        found = decode(scores, blank, names)
        return Reading(found, scores, context.geometry, names is not None, self.nodes)

    def charset(self, reader: Reader) -> tuple[tuple[str, ...] | None, int]:
        """Return what the classes are called, None where that is not known, and the blank.

        Raises
        ------
        TargetError
            The user's labels do not fit.
        """
        labels, classes = reader.labels, self.scores.classes
        for each in self._own if labels in self._own else filter(None, (labels,)):
            found = fit_charset(each, classes, self.blank.index)
            if found is not None:
                return found
        if labels is not None and labels not in self._own:
            check_labels(labels, classes)
        return None, self.blank.index

    def column(self, wanted: str | int, reader: Reader) -> tuple[int, str | None]:
        """Return the class of a character, and what it is; without a charset, of its number.

        Raises
        ------
        TargetError
            There is none.
        """
        names, _ = self.charset(reader)
        if names is not None and str(wanted) in names:
            return names.index(str(wanted)), str(wanted)
        classes = self.scores.classes
        if names is None and not isinstance(wanted, str) and 0 <= wanted < classes:
            return int(wanted), None
        why = (
            f"the charset is not known, so give a class, 0 to {classes - 1}, or labels="
            if names is None
            else "it is not one character of the charset"
        )
        raise TargetError(f"there is no character {wanted!r}: {why}")

    def _mismatch(self) -> str:
        """Say where the file's own charset does not fit."""
        classes = self.scores.classes
        if not self._own or any(fit_charset(each, classes, self.blank.index) for each in self._own):
            return ""
        return (
            f"the {len(self._own[0])} characters that the file names do not fit its {classes} "
            "classes, so that characters are shown by number; give labels="
        )


def find(facts: ModelFacts, *, said: bool = False) -> RecogniserKind | None:
    """Recognise a text recogniser by scores for each step along a line; `said`: a user says so."""
    found = find_scores(facts, said=said)
    if found is None:
        return None
    known = known_labels(facts.metadata, facts.model.folder)
    return RecogniserKind(*found, [each.labels for each in known if each.labels])


def _recogniser_of(reader: Reader) -> RecogniserKind:
    kind = reader.kind
    if not isinstance(kind, RecogniserKind):
        raise wrong_kind(kind, "text")
    return kind
