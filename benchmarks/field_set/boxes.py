"""Maps of boxes: how many peak in the box, how much of each is in it, two faces told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

import ibisa_onnx as ibisa
from field_set.case import Finding, Work, say
from field_set.drawing import Box, Pixels, font, resized
from field_set.measures import across, inside, sides
from ibisa_onnx.io.images import read_image
from ibisa_onnx.methods.drise import DRise
from ibisa_onnx.metrics.localisation import ENERGY
from ibisa_onnx.targets.boxes import OVERLAP, overlaps

CROWDS = ("1.jpg", "11.jpg", "15.jpg")
LEAST = 0.005  # of the picture: a box that is smaller is not counted
MASKS, QUERIES = 1000, 200  # what D-RISE and forward passes alone may spend on a box


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


def draw_signs(assets: Path) -> Pixels:
    """Draw characters on a photograph, as captchas to be clicked have them."""
    path = assets / "images" / "n03781244_monastery.JPEG"
    image = Image.fromarray(resized(read_image(path), (416, 416), cv2.INTER_LINEAR))
    draw = ImageDraw.Draw(image)
    bold = font("DejaVuSans-Bold.ttf", 64)
    places = ((80, 90), (300, 110), (120, 290), (320, 320))
    colours = ("crimson", "gold", "deepskyblue", "white")
    for text, place, colour in zip("A8KR", places, colours, strict=True):
        draw.text(place, text, colour, bold, anchor="mm", stroke_width=2, stroke_fill="black")
    return np.asarray(image)


# -- measures


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
            rows.append((float(mask[top]), ENERGY(each.map, mask)))
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


def crowd(
    work: Work, parts: Sequence[int], by_drise: int, forward_only: int, every: int = 1
) -> Finding:
    """Explain the detections of the crowds, and some of them by other methods, too.

    Parameters
    ----------
    work
        Whose.
    parts
        Into how many parts the photographs are cut along a side.
    by_drise, forward_only
        How many boxes D-RISE gets, and forward passes alone.
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
    lines = [f"boxes: {BoxFigures.of(found)}"]
    alone = work.other(gradient="forward-only", budget=QUERIES)
    drise = partial(explainer.explain, method=DRise(MASKS))
    others: tuple[tuple[str, int, Callable[..., ibisa.Explanation]], ...] = (
        (f"{QUERIES} forward passes alone", forward_only, alone.explain),
        (f"D-RISE, {MASKS} masks", by_drise, drise),
    )
    for name, most, explain in others:
        few = [round(place) for place in np.linspace(0, len(asked) - 1, min(most, len(asked)))]
        these = [explain(image, ibisa.BoxTarget(n)) for image, n in (asked[it] for it in few)]
        say(f"  {len(these)} boxes of {name}")
        own = BoxFigures.of([found[place] for place in few])
        lines.append(
            f"{name}: {BoxFigures.of(these)} (the default on these: energy {own.energy:.2f})"
        )
    shown = explainer.explain(work.write(next(windows(work.assets, (2,)))), ibisa.BoxTarget(3))
    return work.finding(shown, "; ".join(lines))


def two_faces(work: Work, most: int = 12) -> Finding:
    """Explain two faces beside each other, in turn, of several pairs."""
    shares, more, answers = [], {}, 0
    for number, (image, places) in enumerate(pairs(work.explainer, work.assets, most)):
        path = image if number else work.write(image)
        found = work.explainer.explain_all(path, ibisa.BoxTarget(every=True))
        answers = answers or len(found)
        halves = sides((places[0][2] + places[1][0]) / 2)
        for place, (side, half) in zip(places, halves.items(), strict=True):
            each = _at(place, found)
            if each is not None:
                shares.append(ENERGY(each.map, across(half, each.map.shape)))
                more[f"{number} {side}"] = each
    where = (
        f"{len(shares)} faces of pairs: {np.mean(shares):.2f} of the map on the face's own side of "
        f"the middle, the least {np.min(shares):.2f}"
    )
    return Finding(more["0 right"], answers, where, more)


def _at(place: Box, found: Sequence[ibisa.Explanation]) -> ibisa.Explanation | None:
    """Return the first explanation of a box that overlaps another one."""
    for each in found:
        assert each.target.box is not None
        if overlaps(np.array(each.target.box), place) > OVERLAP:
            return each
    return None


def every_box(work: Work, draw: Callable[[Path], Pixels]) -> Finding:
    """Explain all boxes of a drawn picture."""
    found = work.explainer.explain_all(work.write(draw(work.assets)), ibisa.BoxTarget(every=True))
    return work.finding(found[0], f"boxes: {BoxFigures.of(found)}")
