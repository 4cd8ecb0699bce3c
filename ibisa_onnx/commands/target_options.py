"""Options on what is explained, shared by the verbs that explain."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.explaining import parse_target
from ibisa_onnx.commands.model_options import FiniteRange, numbers, quoted
from ibisa_onnx.commands.usage import FILE, usage_errors
from ibisa_onnx.errors import TargetError
from ibisa_onnx.io.literals import parse_integer

if TYPE_CHECKING:
    from ibisa_onnx.targets.base import TargetSpec

REDUCTIONS = ("mean", "max", "sum")
_DIRECTIONS = {"raised": "raise", "lowered": "lower", "kept": "keep"}
_ALL = "all"
_NO_VALUES = ("--target", "--versus", "--box", "--region", "--text", "--char", "--like")
"""Flags that cannot be combined with a value."""

_OWNERS = {
    "--box": "detector",
    "--region": "segmenter",
    "--text": "text recogniser",
    "--char": "text recogniser",
}
"""Kinds of models that flags require."""
_TOP = re.compile(r"top:0*[1-9][0-9]*")

_NO_BOXES = ("--region", "--text", "--char", "--like")
"""Flags that cannot be combined with a box."""

Sides = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class _BoxNumber(click.ParamType[int | str]):
    """The number of a detection, or all."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == _ALL:
            return _ALL
        number = parse_integer(str(value))
        if number is None or not 0 < number < 10**6:
            self.fail(f"{quoted(value)} is not a box number; use 1, 2 ... or all")
        return number


class _Point(click.ParamType[tuple[float, float]]):
    """A point in pixels of the image."""

    name = "point"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        found = numbers(value) or ()
        if len(found) != 2:
            self.fail(f"{quoted(value)} is not a point; use X,Y in pixels of the image")
        return found


class Region(click.ParamType["Sides | str"]):
    """A box in pixels of the image, or a mask file."""

    name = "region"

    def convert(self, value: Any, param: Any, ctx: Any) -> Sides | str:  # noqa: D102
        found = numbers(value) or ()
        if len(found) == 4:
            if found[0] >= found[2] or found[1] >= found[3]:
                self.fail(f"{quoted(value)} is empty: LEFT < RIGHT and TOP < BOTTOM are required")
            return found
        if not os.path.exists(value):  # noqa: PTH110 - it never raises
            self.fail(f"{quoted(value)} is not a box in pixels (LEFT,TOP,RIGHT,BOTTOM) or a file")
        return str(value)


def _once(flag: str, **settings: Any) -> Any:
    """Return an option that may be passed once only, since the last would silently win."""

    def check(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> str | None:
        if len(values) > 1:
            raise click.BadParameter(f"passed {len(values)} times; pass it once")
        return values[0] if values else None

    return click.option(flag, multiple=True, callback=check, **settings)


CONFIDENCE = click.option(
    "--confidence",
    type=FiniteRange(0, 1),
    metavar="SCORE",
    help="Minimum score of a detector's boxes. Default: 0.25.",
)
_OPTIONS = (
    click.option(
        "-t",
        "--target",
        "words",
        multiple=True,
        metavar="CLASS",
        help='Class to explain: 207, "golden retriever" or top:3. Repeatable. Default: the top '
        "prediction.",
    ),
    _once(
        "--versus",
        metavar="CLASS",
        help="Contrast the target with this class.",
    ),
    click.option(
        "--box",
        "boxes",
        type=_BoxNumber(),
        multiple=True,
        metavar="N|all",
        help="Explain a detection, by its number in `inspect MODEL IMAGE`. Repeatable.",
    ),
    CONFIDENCE,
    click.option(
        "--at",
        "points",
        type=_Point(),
        multiple=True,
        metavar="X,Y",
        help="Explain the box or region at a point, in pixels of the image. Repeatable.",
    ),
    click.option(
        "--region",
        "regions",
        type=Region(),
        multiple=True,
        metavar="L,T,R,B|MASK",
        help="Explain a region of a segmentation: a box in pixels, or a mask file. Repeatable.",
    ),
    click.option("--text", is_flag=True, help="Explain the whole recognised text."),
    click.option(
        "--char",
        "characters",
        type=click.IntRange(1),
        multiple=True,
        metavar="N",
        help="Explain one recognised character, counted from 1. Repeatable.",
    ),
    _once(
        "--like",
        type=FILE,
        metavar="FILE",
        help="Explain the similarity to another image or an embedding (.npy).",
    ),
    _once(
        "--unlike",
        type=FILE,
        metavar="FILE",
        help="With --like: explain what separates it from this image or embedding (.npy).",
    ),
    click.option("--raise", "raised", is_flag=True, help="Explain what raises an output value."),
    click.option("--lower", "lowered", is_flag=True, help="Explain what lowers an output value."),
    click.option(
        "--keep", "kept", is_flag=True, help="Explain what keeps an output value as it is."
    ),
    _once(
        "--index",
        metavar="0,:,5",
        help="Elements of --output that form the value, without the batch axis.",
    ),
    click.option(
        "--reduce",
        type=click.Choice(REDUCTIONS),
        help="How to reduce several elements to one value. Default with --index: mean.",
    ),
)


def target_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options on what is explained to a verb, passed on as `asked`."""
    return _with(function, _OPTIONS)


def _with(function: Callable[..., None], options: Any) -> Callable[..., None]:
    names = [each.name for each in fields(AskedTargets)]

    @functools.wraps(function)
    def wrapped(*args: Any, **given: Any) -> None:
        directions = [word for flag, word in _DIRECTIONS.items() if given.pop(flag)]
        if len(directions) > 1:
            raise click.UsageError(
                f"--{' and --'.join(directions)} cannot be combined; pass only one"
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
    """Targets from the command line."""

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
        """Raise `click.UsageError` if a flag is empty or flags cannot be combined."""
        self._check_value()
        self._check_words()
        context = click.get_current_context(silent=True)
        self._check_kind(context.params.get("kind") if context else None)
        if self.unlike is not None and self.like is None:
            raise click.UsageError("--unlike requires --like")
        if self.unlike is not None and self.unlike == self.like:
            raise click.UsageError("--like and --unlike are the same file; pass another --unlike")
        places = [*self.points, *self.regions]
        if places and len(self.words) > 1:
            raise click.UsageError("--at and --region accept one --target at most")
        if self.boxes and self.words and not self.versus:
            raise click.UsageError(
                "--box and --target cannot be combined; a box already has a class"
            )
        if self.confidence is not None:
            others = [f"--{self.direction}"] if self.direction else []
            others += [flag for flag in _NO_BOXES if self._flags[flag]]
            if others:
                raise click.UsageError(
                    f"--confidence applies to a detector's boxes; it cannot be combined with "
                    f"{others[0]}"
                )
        if self.versus is not None and _ALL in self.boxes:
            raise click.UsageError(
                "--versus requires a single box; pass --box N instead of --box all"
            )

    def _check_words(self) -> None:
        """Raise `click.UsageError` for a malformed top:N, or one that cannot be contrasted."""
        for flag, words in (("--target", self.words), ("--versus", (self.versus or "",))):
            for word in (each.strip().lower() for each in words):
                several = word.startswith("top:")
                if several and not _TOP.fullmatch(word):
                    raise click.UsageError(f"{flag} {word} must be like top:3")
                if several and self.versus is not None:
                    raise click.UsageError(
                        f"{flag} {word}: --versus requires one class on each side"
                    )
        if self.versus is not None and self.versus in self.words:
            raise click.UsageError("--target and --versus are the same; pass another --versus")

    def _check_kind(self, kind: str | None) -> None:
        """Raise `click.UsageError` for flags that the kind of model, as specified, cannot have."""
        for flag, owner in _OWNERS.items():
            if kind not in (None, owner) and self._flags[flag]:
                raise click.UsageError(f"{flag} requires a {owner}; --kind is {kind}")

    def _check_value(self) -> None:
        """Raise `click.UsageError` for flags that conflict with a value, or require one."""
        if self.direction is None:
            for flag in ("--index", "--reduce"):
                if self._flags[flag] is not None:
                    raise click.UsageError(f"{flag} requires --raise, --lower or --keep")
            return
        if self.index:
            from ibisa_onnx.targets.window import check_index

            with usage_errors(TargetError):
                check_index(self.index)
        if len(self.points) > 1:
            raise click.UsageError(f"--{self.direction} accepts one --at at most")
        others = (flag for flag in _NO_VALUES if self._flags[flag])
        other = next(others, None)
        if other is not None:
            raise click.UsageError(
                f"--{self.direction} and {other} cannot be combined; pass only one"
            )

    @property
    def _flags(self) -> dict[str, Any]:
        """The value of each flag; None or empty if it was not passed."""
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
        """Whether an image may have several explanations."""
        from ibisa_onnx.targets.classification import count

        points = () if self.direction is not None else self.points
        groups = (self.boxes, points, self.regions, self.characters, ("",) * self.text)
        more = sum(map(len, groups)) + (self.like is not None) + (self.direction is not None)
        words = 0 if self.points or self.regions else sum(map(count, self.words))
        return more + words > 1 or _ALL in (*self.boxes, *self.words)

    @property
    def _pointed(self) -> bool:
        """Whether a target other than a class was passed."""
        given = (self.boxes, self.points, self.regions, self.characters, self.text, self.like)
        return any(given) or self.direction is not None

    def targets(self, output: str | None = None) -> list[Any] | None:
        """Return the targets; None if none was passed.

        Parameters
        ----------
        output
            Name of the output that a value or a similarity is read from.
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
        """Whether `--output` names the tensor of a value or similarity, not class scores."""
        return self.direction is not None or self.like is not None

    def single(self, verb: str, output: str | None = None) -> Any:
        """Return the single target of a verb that measures maps; None if none was passed.

        Raises
        ------
        click.UsageError
            Several were passed.
        """
        if self.several:
            raise click.UsageError(f"{verb} accepts a single target per image; pass only one")
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
