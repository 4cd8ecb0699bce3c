"""The options that say what is explained; shared by the verbs that explain."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.explaining import parse_target
from ibisa_onnx.commands.model_options import FiniteRange, numbers, quoted
from ibisa_onnx.io.literals import parse_integer

if TYPE_CHECKING:
    from ibisa_onnx.targets.base import TargetSpec

REDUCTIONS = ("mean", "max", "sum")
_DIRECTIONS = {"raised": "raise", "lowered": "lower", "kept": "keep"}
_ALL = "all"
_NO_VALUES = ("--target", "--versus", "--box", "--region", "--text", "--char", "--like")
"""Flags that ask for something else than a value."""

_NO_BOXES = ("--region", "--text", "--char", "--like")
"""Flags that ask for something else than a box."""

Sides = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class _BoxNumber(click.ParamType[int | str]):
    """The number of a detection, or all of them."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == _ALL:
            return _ALL
        number = parse_integer(str(value))
        if number is None or not 0 < number < 10**6:
            self.fail(f"{quoted(value)} is not the number of a box: give 1, 2 ... or all")
        return number


class _Point(click.ParamType[tuple[float, float]]):
    """A point in pixels of the picture."""

    name = "point"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        found = numbers(value) or ()
        if len(found) != 2:
            self.fail(f"{quoted(value)} is not a point: give X,Y in pixels of the picture")
        return found


class Region(click.ParamType["Sides | str"]):
    """A box in pixels of the picture, or the file of a mask."""

    name = "region"

    def convert(self, value: Any, param: Any, ctx: Any) -> Sides | str:  # noqa: D102
        found = numbers(value) or ()
        if len(found) == 4:
            return found
        if not os.path.exists(value):  # noqa: PTH110 - it never raises
            self.fail(
                f"{quoted(value)} is neither a box in pixels (LEFT,TOP,RIGHT,BOTTOM) nor a file"
            )
        return str(value)


def _once(flag: str, **said: Any) -> Any:
    """Return an option that is refused where it is given twice: the last would silently win."""

    def check(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> str | None:
        if len(values) > 1:
            raise click.BadParameter(f"it is given {len(values)} times; give one")
        return values[0] if values else None

    return click.option(flag, multiple=True, callback=check, **said)


CONFIDENCE = click.option(
    "--confidence",
    type=FiniteRange(0, 1),
    metavar="SCORE",
    help="The least score of a detector's boxes, 0 to 1. Default: 0.25.",
)
_OPTIONS = (
    click.option(
        "-t",
        "--target",
        "words",
        multiple=True,
        metavar="CLASS",
        help='What to explain: 207, "golden retriever" or top:3. Repeatable. Default: what the '
        "model says first.",
    ),
    _once(
        "--versus",
        metavar="CLASS",
        help="Why the target rather than this class.",
    ),
    click.option(
        "--box",
        "boxes",
        type=_BoxNumber(),
        multiple=True,
        metavar="N|all",
        help="A detection by its number in `inspect MODEL IMAGE`. Repeatable.",
    ),
    CONFIDENCE,
    click.option(
        "--at",
        "points",
        type=_Point(),
        multiple=True,
        metavar="X,Y",
        help="The box or region at a point of the picture. Repeatable.",
    ),
    click.option(
        "--region",
        "regions",
        type=Region(),
        multiple=True,
        metavar="L,T,R,B|MASK",
        help="A region of a segmenter's answer: a box, or a mask's file. Repeatable.",
    ),
    click.option("--text", is_flag=True, help="The whole text that was read."),
    click.option(
        "--char",
        "characters",
        type=click.IntRange(1),
        multiple=True,
        metavar="N",
        help="One character of the text that was read, from 1. Repeatable.",
    ),
    _once("--like", metavar="FILE", help="Why it is like another picture, or .npy vector."),
    _once("--unlike", metavar="FILE", help="With --like: and not like this one."),
    click.option("--raise", "raised", is_flag=True, help="What makes a value high."),
    click.option("--lower", "lowered", is_flag=True, help="What makes a value low."),
    click.option("--keep", "kept", is_flag=True, help="What keeps a value as it is."),
    _once("--index", metavar="0,:,5", help="Which numbers of --output a value is, batch left out."),
    click.option(
        "--reduce",
        type=click.Choice(REDUCTIONS),
        help="How several numbers become one. Default: mean of those of --index.",
    ),
)


def target_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options on what is explained, and pass them to it as `asked`."""
    return _with(function, _OPTIONS)


def _with(function: Callable[..., None], options: Any) -> Callable[..., None]:
    names = [each.name for each in fields(AskedTargets)]

    @functools.wraps(function)
    def wrapped(*args: Any, **given: Any) -> None:
        directions = [word for flag, word in _DIRECTIONS.items() if given.pop(flag)]
        if len(directions) > 1:
            raise click.UsageError(
                f"--{' and --'.join(directions)} contradict each other; give one"
            )
        given["direction"] = next(iter(directions), None)
        asked = AskedTargets(**{name: given.pop(name) for name in names})
        asked.check()
        function(*args, asked=asked, **given)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


@dataclass(frozen=True)
class AskedTargets:
    """What was asked for on the command line."""

    words: tuple[str, ...] = ()
    versus: str | None = None
    boxes: tuple[int | str, ...] = ()
    confidence: float | None = None
    points: tuple[tuple[float, float], ...] = ()
    regions: tuple[Sides | str, ...] = ()
    text: bool = False
    characters: tuple[int, ...] = ()
    like: str | None = None
    unlike: str | None = None
    direction: str | None = None
    index: str | None = None
    reduce: str | None = None

    def check(self) -> None:
        """Raise `click.UsageError` where a flag is empty, or flags do not go together."""
        for flag, value in self._flags.items():
            if value == "" or (isinstance(value, tuple) and "" in value):
                raise click.UsageError(f"{flag} is empty; give it a value, or leave it out")
        self._check_value()
        if self.unlike is not None and self.like is None:
            raise click.UsageError("--unlike goes with --like: what separates the two")
        places = [*self.points, *self.regions]
        if places and len(self.words) > 1:
            raise click.UsageError("with --at or --region give one --target at most")
        if self.boxes and self.words and not self.versus:
            raise click.UsageError("give --box or --target, not both; --box N has a class already")
        if self.confidence is not None:
            others = [f"--{self.direction}"] if self.direction else []
            others += [flag for flag in _NO_BOXES if self._flags[flag]]
            if others:
                raise click.UsageError(
                    f"--confidence goes with a detector's boxes, and {others[0]} asks for "
                    "something else; give one"
                )
        if self.versus is not None and _ALL in self.boxes:
            raise click.UsageError("--versus takes one answer: give --box N, not all")

    def _check_value(self) -> None:
        """Raise `click.UsageError` where a value is asked for, and what is none."""
        if self.direction is None:
            for flag in ("--index", "--reduce"):
                if self._flags[flag] is not None:
                    raise click.UsageError(f"{flag} goes with --raise, --lower or --keep")
            return
        if len(self.points) > 1:
            raise click.UsageError(f"with --{self.direction} give one --at at most")
        others = (flag for flag in _NO_VALUES if self._flags[flag])
        other = next(others, None)
        if other is not None:
            raise click.UsageError(
                f"--{self.direction} asks for a value and {other} for something else; give one"
            )

    @property
    def _flags(self) -> dict[str, Any]:
        """What was given by flag; of what was not, None or nothing."""
        return {
            "--target": self.words,
            "--versus": self.versus,
            "--box": self.boxes,
            "--region": self.regions,
            "--text": self.text,
            "--char": self.characters,
            "--like": self.like,
            "--unlike": self.unlike,
            "--index": self.index,
            "--reduce": self.reduce,
        }

    @property
    def several(self) -> bool:
        """Whether there may be several explanations of a picture."""
        from ibisa_onnx.targets.classification import count

        points = () if self.direction is not None else self.points
        groups = (self.boxes, points, self.regions, self.characters, ("",) * self.text)
        more = sum(map(len, groups)) + (self.like is not None) + (self.direction is not None)
        words = 0 if self.points or self.regions else sum(map(count, self.words))
        return more + words > 1 or _ALL in (*self.boxes, *self.words)

    @property
    def _pointed(self) -> bool:
        """Whether anything but classes was asked for."""
        given = (self.boxes, self.points, self.regions, self.characters, self.text, self.like)
        return any(given) or self.direction is not None

    def targets(self, output: str | None = None) -> list[Any] | None:
        """Return the targets, None where nothing was asked for.

        Parameters
        ----------
        output
            The output that was named: what a value or a similarity is of.
        """
        found: list[Any] = [*self._places(), *self._others(output)] if self._pointed else []
        if not (self.points or self.regions):
            found = [*self._classes(), *found]
        if self.confidence is not None and not found:
            found = [self._box()]
        if self.versus is None:
            return found or None
        from ibisa_onnx.targets.contrast import ContrastTarget

        rival = parse_target(self.versus)
        return [ContrastTarget(each, rival) for each in found or [None]]

    @property
    def reads_output(self) -> bool:
        """Whether `--output` names what a target reads, and not class scores."""
        return self.direction is not None or self.like is not None

    def single(self, verb: str, output: str | None = None) -> Any:
        """Return the one target that a verb measures maps of; None where nothing was asked for.

        Raises
        ------
        click.UsageError
            Several were.
        """
        if self.several:
            raise click.UsageError(f"{verb} measures the maps of one answer to a picture; give one")
        targets = self.targets(output)
        return None if targets is None else targets[0]

    def _box(self, **given: Any) -> TargetSpec:
        from ibisa_onnx.targets.detection import BoxTarget

        if self.confidence is not None:
            given["confidence"] = self.confidence
        return BoxTarget(**given)

    def _classes(self) -> list[Any]:
        words = [parse_target(each) for each in self.words]
        if self.confidence is None:
            return words
        return [self._box(every=True) if each == _ALL else self._box(label=each) for each in words]

    def _places(self) -> list[TargetSpec]:
        from ibisa_onnx.targets.arguments import PointTarget
        from ibisa_onnx.targets.segmentation import RegionTarget

        word = parse_target(self.words[0]) if self.words else None
        points = () if self.direction is not None else self.points
        return [
            *(
                self._box(every=True) if each == _ALL else self._box(number=int(each))
                for each in self.boxes
            ),
            *(
                PointTarget(each, word)
                if self.confidence is None
                else self._box(at=each, label=word)
                for each in points
            ),
            *(RegionTarget(word, region=each) for each in self.regions),
        ]

    def _others(self, output: str | None) -> list[TargetSpec]:
        from ibisa_onnx.targets.embedding import SimilarityTarget
        from ibisa_onnx.targets.sequence import TextTarget
        from ibisa_onnx.targets.value import ValueTarget

        found: list[TargetSpec] = [TextTarget(each) for each in self.characters]
        if self.text:
            found.append(TextTarget())
        if self.like is not None:
            found.append(SimilarityTarget(self.like, self.unlike, output))
        if self.direction is not None:
            at = self.points[0] if self.points else None
            found.append(ValueTarget(self.direction, output, self.index, self.reduce, at=at))
        return found
