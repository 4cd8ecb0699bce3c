"""Text recognisers: what they read, and the probability that it is still read.

What is read is the likeliest class of each step along the line, a run of the same counted once,
without the blanks. Steps lie evenly across the picture, so a character's steps say where it is.
Where the scores come from is in `ctc`. Decoders that write one character after the other by
attention have no such steps, and are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    Doubles,
    Kind,
    Nodes,
    Objective,
    Raw,
    Reader,
    TargetSpec,
)
from ibisa_onnx.targets.boxes import Box
from ibisa_onnx.targets.class_scores import SMALLEST
from ibisa_onnx.targets.ctc import STEPS, Blank, StepScores, find_scores, fit_charset
from ibisa_onnx.targets.detection import in_picture
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.labels import check_labels, known_labels

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.preprocessing.geometry import Geometry

_SHIFT = 1  # steps by which a character may move where pixels are hidden
_WIDEST = 1.5  # of a character, in distances from one to the next
_ALONE = 3.0  # steps that a character alone is taken to be wide
_LEAST_DOUBT = 1e-6  # of a probability near 1, in single precision
_SHOWN = 40  # characters of a text, in captions and errors


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


@dataclass(frozen=True)
class CharacterObjective(Objective):
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
    share
        The share of the model's input that it covers, in 0..1.
    writers
        What makes the tensor of steps.
    """

    place: Place
    label: str | None
    number: int
    text: str
    box: Box
    share: float
    writers: tuple[Nodes, ...] = field(default=(), repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor of steps."""
        return (STEPS,)

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """What makes it."""
        return self.writers

    @property
    def extent(self) -> float:
        """The character's share of the model's input."""
        return self.share

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
            "caption": f'character {self.number} "{name}" of "{_short(self.text)}"',
            "output": STEPS,
            "index": self.place.column,
            "label": self.label,
            "number": self.number,
            "text": self.text,
            "box": [round(side, 1) for side in self.box],
        }


@dataclass(frozen=True)
class TextObjective(Objective):
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
    share
        The share of the model's input that it covers, in 0..1.
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
    share: float
    log_odds: float
    whole: str | None = None
    writers: tuple[Nodes, ...] = field(default=(), repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor of steps."""
        return (STEPS,)

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """What makes it."""
        return self.writers

    @property
    def extent(self) -> float:
        """The text's share of the model's input."""
        return self.share

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
        of = "" if self.whole is None else f' of "{_short(self.whole)}"'
        said: dict[str, Any] = {
            "kind": "text",
            "caption": f'text "{_short(self.text)}"{of}',
            "output": STEPS,
            "text": self.text,
            "box": [round(side, 1) for side in self.box],
        }
        return said if self.whole is None else said | {"whole": self.whole}


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
                f"no character is read: all {reading.steps} steps are blank; check the "
                "preprocessing, or give another picture"
            )
        if self.part is not None:
            start, stop = reading.find(self.part)
        elif self.char is not None:
            start, stop = reading.numbered(self.char)
        elif self.at is not None:
            start, stop = reading.at(self.at)
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
        return f'what is read is "{_short(self.text)}", {count} character{"s" * (count != 1)}'

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
            raise AbsentTargetError(f'"{_short(part)}" was not read; {self.summary}')
        start, stop = np.searchsorted(ends, [place + 1, place + len(part)]).tolist()
        return start - 1, stop

    def at(self, point: tuple[float, float]) -> tuple[int, int]:
        """Return where the character at a point begins and ends; TargetError."""
        x, y = point
        for number in range(len(self.characters)):
            left, top, right, bottom = self.box(number, number + 1)
            if left <= x <= right and top <= y <= bottom:
                return number, number + 1
        raise TargetError(f"no character was read at {x:g},{y:g}; {self.summary}")

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
            self._share(number, number + 1),
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
            self._share(start, stop),
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
            {"number": number + 1, "steps": [found.start, found.stop]},
        )

    def _place(self, character: Character) -> Place:
        first, last = max(0, character.start - _SHIFT), min(self.steps, character.stop + _SHIFT)
        return Place(character.column, tuple(range(first, last)))

    def _sides(self, start: int, stop: int) -> tuple[float, float]:
        return self.characters[start].sides[0], self.characters[stop - 1].sides[1]

    def _share(self, start: int, stop: int) -> float:
        left, right = self._sides(start, stop)
        return right - left


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
    asks = ("--text", "--char 3", "--at 120,20", "-t WORD")

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
            raise TargetError(f"give a point or {wanted!r}, not both; one character is at a point")
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
        """
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

    def column(self, wanted: str, reader: Reader) -> int:
        """Return the class of a character.

        Raises
        ------
        TargetError
            There is none.
        """
        names, _ = self.charset(reader)
        if names is None or wanted not in names:
            why = "the charset is not known" if names is None else "it is not in the charset"
            raise TargetError(f"there is no class for {wanted!r}: {why}")
        return names.index(wanted)

    def _mismatch(self) -> str:
        """Say where the file's own charset does not fit."""
        classes = self.scores.classes
        if not self._own or any(fit_charset(each, classes, self.blank.index) for each in self._own):
            return ""
        return (
            f"the {len(self._own[0])} characters that the file names do not fit its {classes} "
            "classes, so that characters are shown by number; give labels="
        )


def find(facts: ModelFacts) -> RecogniserKind | None:
    """Recognise a text recogniser by scores for each step along a line."""
    found = find_scores(facts)
    if found is None:
        return None
    known = known_labels(facts.metadata, facts.model.folder)
    return RecogniserKind(*found, [each.labels for each in known if each.labels])


def _recogniser_of(reader: Reader) -> RecogniserKind:
    kind = reader.kind
    if not isinstance(kind, RecogniserKind):
        raise TargetError(f"the model's kind is {kind.name}, without text ({kind.reason})")
    return kind


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
