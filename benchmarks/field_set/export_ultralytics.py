"""Networks of Ultralytics, from their own YAML files, with random weights.

Ultralytics writes the files itself, with its metadata, with `nms` in its three states: left alone,
on, and off, which asks those that need none (v10, 26) for boxes from end to end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from field_set.weights import PHOTOGRAPHS, as_input, make_rare, photograph, settle, spread

_CLASSES = {"pose": 1, "obb": 15}  # of a task, where the YAML file says 80
_NAMES = {
    "detect": "coco",
    "segment": "coco",
    "obb": "DOTAv1",
    "pose": "coco-pose",
    "classify": "ImageNet",
    "semantic": "cityscapes",
}
"""By task, the data set whose classes it names."""

FILES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "yolov5nu": ("yolov5n", {}),
    "yolov8n": ("yolov8n", {}),
    "yolov10n": ("yolov10n", {}),
    "yolo11n": ("yolo11n", {}),
    "yolo12n": ("yolo12n", {}),
    "yolo26n": ("yolo26n", {}),
    "yolov8n_nms": ("yolov8n", {"nms": True}),
    "yolov10n_e2e": ("yolov10n", {"nms": False}),
    "yolo26n_e2e": ("yolo26n", {"nms": False}),
    "yolo11n-seg": ("yolo11n-seg", {}),
    "yolo11n-seg_nms": ("yolo11n-seg", {"nms": True}),
    "yolo26n-seg_e2e": ("yolo26n-seg", {"nms": False}),
    "yolo11n-pose": ("yolo11n-pose", {}),
    "yolo11n-pose_nms": ("yolo11n-pose", {"nms": True}),
    "yolo26n-pose_e2e": ("yolo26n-pose", {"nms": False}),
    "yolo11n-obb": ("yolo11n-obb", {}),
    "yolo11n-obb_nms": ("yolo11n-obb", {"nms": True}),
    "yolo26n-obb_e2e": ("yolo26n-obb", {"nms": False}),
    "yolo11n-cls": ("yolo11n-cls", {}),
    "yolo26n-sem": ("yolo26n-sem", {}),
    "yolo26n-depth": ("yolo26n-depth", {}),
    "yolov8n_dyn": ("yolov8n", {"dynamic": True}),
    "rtdetr-l": ("rtdetr-l", {}),
}
"""By name, the YAML file and what `export` is given."""


def write(name: str, path: Path) -> None:
    """Draw a network's weights and export it."""
    (kind, settings), target = FILES[name], path.resolve()
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made):
        os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": made}
        import ultralytics

        build = ultralytics.RTDETR if kind.startswith("rtdetr") else ultralytics.YOLO
        model = build(f"{kind}.yaml")
        if model.task in _CLASSES:
            torch.manual_seed(0)
            _replace(model, f"{kind}.yaml", _CLASSES[model.task])
        side = 224 if model.task == "classify" else 320
        prepare(model.model, side)
        _name(model)
        shutil.move(model.export(format="onnx", imgsz=side, **settings), target)


def _replace(model: Any, file: str, classes: int) -> None:
    """Build the network once more, for another number of classes."""
    old = model.model
    model.model = type(old)(file, nc=classes, verbose=False)
    model.model.args, model.model.task = old.args, old.task


def prepare(net: Any, side: int) -> None:
    """Settle a network's normalizations, and scale the layers of its classes."""
    images, head = _images(side), net.model[-1]
    kind = type(head).__name__
    net.train()  # so that both branches of those without NMS are used
    settled = net
    if kind == "RTDETRDecoder":  # in training it asks for the true boxes
        head.eval()
        settled = net.model[:-1]
    settle(settled, partial(net.predict, images))
    net.eval()
    if kind == "Classify":
        spread([head.linear], partial(net, images), 0.0, 3.0)
    elif kind == "RTDETRDecoder":
        make_rare([head.enc_score_head, *head.dec_score_head], partial(net, images), 0.8)
    elif kind not in ("SemanticSegment", "Depth"):
        branches = [getattr(head, each, None) or () for each in ("cv3", "one2one_cv3")]
        layers = [level[-1] for branch in branches for level in branch]
        make_rare(layers, partial(net, images), 0.95)


def _images(side: int) -> torch.Tensor:
    """Return each photograph, and its middle, [4, 3, side, side]."""
    images = []
    for image in map(photograph, PHOTOGRAPHS):
        wide, high = image.size
        middle = image.crop((wide // 4, high // 4, 3 * wide // 4, 3 * high // 4))
        images += [as_input(each, (side, side)) for each in (image, middle)]
    return torch.cat(images)


def _name(model: Any) -> None:
    """Name the classes as a trained network's are, where there are as many."""
    from ultralytics.utils import ROOT, YAML

    if model.task in _NAMES:
        file = ROOT / "cfg" / "datasets" / f"{_NAMES[model.task]}.yaml"
        names = YAML.load(file).get("names") if file.exists() else None
        if names and len(names) == len(model.model.names):
            model.model.names = dict(names)
