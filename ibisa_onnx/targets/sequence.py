"""Text recognisers: what they read in an image, and targets that point at it.

The text is the most likely class of each step along the line, with repeated classes merged and
blanks removed. Steps lie evenly across the image, so a character's steps locate it. `ctc` finds the
scores, `text_objectives` defines the objectives. Attention decoders, which predict one character
after the other, have no such steps and are not supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_flag, check_type
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

_SHIFT = 1  # steps by which a character may shift under masking
_WIDEST = 1.5  # maximum width of a character, in character distances
_ALONE = 3.0  # assumed width of a single character, in steps


@dataclass(frozen=True)
class Character:
    """Recognised character.

    Attributes
    ----------
    text, column
        The character, and its class index.
    start, stop
        First step, and the step after the last.
    score
        Probability at the best of these steps, 0..1.
    sides
        Left and right end, as fractions of the model input's width.
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
    """Decode scores greedily: the most likely class per step, merged, without blanks.

    Parameters
    ----------
    scores
        Log-probabilities, [T, K].
    blank
        Class index of the blank.
    names
        Names of the classes; None to write class 12 as "#12".
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
    """Return where characters begin and end, as fractions of all steps, from their centres.

    Each reaches halfway to its neighbours, limited by the usual distance: a space that was not read
    leaves a gap. A single character is assumed to be three steps wide.
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
    """Target the text that a recogniser reads, or characters of it.

    Without any argument, the whole text is the target.

    Attributes
    ----------
    char
        Number of a character in the text, from 1; None for any.
    at
        A point, x and y in pixels of the original image: the character there.
    part
        Substring of the text, one or more characters; its first occurrence is used.
    every
        Explain each chosen character separately, rather than the text as a whole.

    Raises
    ------
    TargetError
        When bound: no text was read, or it does not contain the target.

    Examples
    --------
    >>> TextTarget(part="42").part
    '42'
    """

    char: int | None = None
    at: tuple[float, float] | None = None
    part: str | None = None
    every: bool = False

    def __post_init__(self) -> None:
        check_type("part", self.part, (str, NoneType), "some of the text", TargetError)
        check_flag("every", self.every, TargetError)

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the name of the tensor of steps."""
        return _recogniser_of(reader).outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective of the text, or one per character, for one image.

        Raises
        ------
        TargetError
            No text was read, or it does not contain the target.
        """
        reading = _recogniser_of(context.reader).read(raw, context)
        if not reading.characters:
            raise AbsentTargetError(
                f"no text was read: all {reading.steps} steps are blank; check the "
                "preprocessing, or use another image"
            )
        if self.part is not None:
            start, stop = reading.find(self.part)
        elif self.char is not None:
            start, stop = reading.numbered(self.char)
        elif self.at is not None:
            start, stop = reading.at(context.check_point(self.at))
        else:
            start, stop = 0, len(reading.characters)
        whole = self.part is None and self.char is None and self.at is None
        if self.every or (stop - start == 1 and not whole):
            return [reading.character(each) for each in range(start, stop)]
        return [reading.span(start, stop)]


@dataclass(frozen=True, eq=False)
class Reading:
    """Text that was read in one image.

    Attributes
    ----------
    characters
        Characters in text order.
    scores
        Log-probabilities per step, [T, K].
    geometry
        Mapping between pixels of the original image and of the model input.
    named
        Whether the charset is known.
    writers
        Writers of the tensor of steps.
    """

    characters: tuple[Character, ...]
    scores: Doubles
    geometry: Geometry
    named: bool
    writers: tuple[Nodes, ...] = ()

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.scores)

    @property
    def text(self) -> str:
        """The text."""
        return "".join(each.text for each in self.characters)

    @property
    def score(self) -> float:
        """Geometric mean of the characters' probabilities; 0 if nothing was read."""
        scores = [max(each.score, SMALLEST) for each in self.characters]
        return float(np.exp(np.mean(np.log(scores)))) if scores else 0.0

    @property
    def summary(self) -> str:
        """Summary of what was read."""
        count = len(self.characters)
        return f'the text is "{shortened(self.text)}", {count} character{"s" * (count != 1)}'

    def numbered(self, number: int) -> tuple[int, int]:
        """Return start and stop of a character by number, from 1; or raise `TargetError`."""
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole or not 1 <= number <= len(self.characters):
            raise AbsentTargetError(f"there is no character {number}; {self.summary}")
        return int(number) - 1, int(number)

    def find(self, part: str) -> tuple[int, int]:
        """Return start and stop of a substring, in characters; or raise `TargetError`."""
        ends = np.cumsum([0, *(len(each.text) for each in self.characters)]).tolist()
        place = self.text.find(part) if part else -1
        if place < 0:
            raise AbsentTargetError(f'"{shortened(part)}" was not read; {self.summary}')
        start, stop = np.searchsorted(ends, [place + 1, place + len(part)]).tolist()
        return start - 1, stop

    def at(self, point: tuple[float, float]) -> tuple[int, int]:
        """Return start and stop of the character at a point; or raise `TargetError`."""
        x, y = point
        for number in range(len(self.characters)):
            left, top, right, bottom = self.box(number, number + 1)
            if left <= x <= right and top <= y <= bottom:
                return number, number + 1
        raise AbsentTargetError(f"no character was read at {x:g},{y:g}; {self.summary}")

    def box(self, start: int, stop: int) -> Box:
        """Return the bounding box of characters, in pixels of the original image."""
        height, width = self.geometry.model
        left, right = self._sides(start, stop)
        return in_picture((left * width, 0, right * width, height), self.geometry)

    def character(self, number: int) -> CharacterObjective:
        """Return the objective of a character, by its index from 0."""
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
        """Return the objective of consecutive characters."""
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
        """Return the text, followed by its characters."""
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
    """Text recogniser with scores per step (CTC).

    Parameters
    ----------
    scores
        The tensor of scores.
    blank
        The class of the blank, unless the charset contains one.
    charsets
        Class names from the model file, most trusted first.
    """

    name = "text recogniser"
    asks = ("TextTarget()", "TextTarget(3)", "PointTarget((120, 20))", "target=WORD")

    def __init__(
        self, scores: StepScores, blank: Blank, charsets: Sequence[tuple[str, ...]] = ()
    ) -> None:
        self.scores, self.blank, self._own = scores, blank, tuple(charsets)
        self.family = scores.family
        self.reason = (
            f"{scores.source} contains scores of {scores.classes} classes per step along a line; "
            f"{blank.reason}"
        )
        self.preprocessing = scores.preprocessing
        self.warnings = tuple(filter(None, (blank.warning, self._mismatch())))

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """The scores, which write the tensor of steps."""
        return (self.scores,)

    def outputs(self) -> tuple[str, ...]:
        """Return the name of the tensor of steps."""
        return self.scores.outputs

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target of the text, of a character by number, or of a substring."""
        if wanted is None:
            return TextTarget()
        return TextTarget(part=wanted) if isinstance(wanted, str) else TextTarget(char=wanted)

    def at(self, point: tuple[float, float], wanted: str | int | None = None) -> TargetSpec:
        """Return the target of the character at a point."""
        if wanted is not None:
            raise TargetError(
                f"a point already selects a character; pass either the point or target {wanted!r}"
            )
        return TextTarget(at=point)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return the text, followed by its characters."""
        return self.read(raw, context).answers()

    def read(self, raw: Raw, context: Context) -> Reading:
        """Return the text read in one image.

        Raises
        ------
        TargetError
            The caller's labels do not match.
        OutputError
            The scores are NaN.
        """
        check_numbers(raw[STEPS], self.scores.source)
        names, blank = self.charset(context.reader)
        scores = np.asarray(raw[STEPS][0], np.float64)
        found = decode(scores, blank, names)
        return Reading(found, scores, context.geometry, names is not None, self.nodes)

    def charset(self, reader: Reader) -> tuple[tuple[str, ...] | None, int]:
        """Return the names of the classes, None if unknown, and the index of the blank.

        Raises
        ------
        TargetError
            The caller's labels do not match.
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
        """Return class index and name of a character; without a charset, of a class number.

        Raises
        ------
        TargetError
            There is no such character.
        """
        names, _ = self.charset(reader)
        if names is not None and str(wanted) in names:
            return names.index(str(wanted)), str(wanted)
        classes = self.scores.classes
        if names is None and not isinstance(wanted, str) and 0 <= wanted < classes:
            return int(wanted), None
        why = (
            f"the charset is unknown; pass a class index (0 to {classes - 1}) or labels="
            if names is None
            else "the charset does not contain it"
        )
        raise TargetError(f"there is no character {wanted!r}: {why}")

    def _mismatch(self) -> str:
        """Return a warning if the file's own charset does not match."""
        classes = self.scores.classes
        if not self._own or any(fit_charset(each, classes, self.blank.index) for each in self._own):
            return ""
        return (
            f"the file names {len(self._own[0])} characters, which do not match its {classes} "
            "classes; characters are shown by number. Pass labels= to name them"
        )


def find(facts: ModelFacts, *, said: bool = False) -> RecogniserKind | None:
    """Recognise a text recogniser by its per-step scores; `said`: the caller specified the kind."""
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
