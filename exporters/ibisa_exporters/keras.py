"""`model.keras` or `model.h5`: a model that Keras 3 saved, run on its torch backend.

On that backend a Keras model is an `nn.Module`, so it is exported and checked as all others are.
Such a file may hold code (the function of a `Lambda` layer), which Keras runs as it opens the file
unless it is in its safe mode; earlier versions did so even then.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibisa_exporters.trained import SIDE, Request, TrainedModel
from ibisa_onnx.errors import ExportError, MissingDependencyError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.signature import IMAGE_CHANNELS, Layout
from ibisa_onnx.preprocessing.spec import Preprocessing

_SCALING = ("Rescaling", "Normalization")
_BACKEND = "Keras runs on {}; set KERAS_BACKEND=torch for the export"
_SAFE = (3, 11, 3)
"""The first version whose safe mode holds for .h5 too, and for all that was found in .keras."""


class Inference(nn.Module):
    """A Keras model as it answers when it is not trained."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Give the scores of images, in the model's own layout."""
        scores: Tensor = self.net(images, training=False)
        return scores

    def half(self) -> Inference:
        """Make it float16 altogether: each layer of Keras casts what it gets to its own dtype."""
        net: Any = self.net
        for layer in net._flatten_layers():  # also those inside of others
            layer.dtype_policy = "float16"
        return super().half()


def load(name: str, request: Request) -> TrainedModel:
    """Load a Keras model file."""
    keras, path = _import(), Path(name)
    if request.weights == "none":
        raise ExportError(f"{path} holds its own weights; leave weights='none' out")
    with keras.device("cpu"):  # a GPU would hold the weights where the file cannot be tried
        net = _read(keras, path, request.trust)
        if request.file is not None:
            _load_weights(net, request.file)
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise ExportError(
            f"{path} has {len(net.inputs)} inputs and {len(net.outputs)} outputs; "
            "save a model of one picture and one tensor of scores"
        )
    layout, example = _example(tuple(net.inputs[0].shape), request, path)
    module = Inference(net).eval()
    spec = _spec(net, example, layout)
    return TrainedModel(path.stem, module, example, spec, layout=layout)


def _import() -> Any:
    """Import Keras on the torch backend."""
    wanted = os.environ.get("KERAS_BACKEND")
    if wanted not in (None, "torch"):
        raise MissingDependencyError(_BACKEND.format(wanted))
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        keras = import_extra("keras", "keras")  # which reads it once
    finally:
        if wanted is None:
            del os.environ["KERAS_BACKEND"]
    if keras.backend.backend() != "torch":
        raise MissingDependencyError(_BACKEND.format(keras.backend.backend()))
    return keras


def _read(keras: Any, path: Path, trust: bool) -> Any:
    if not path.is_file():
        raise ExportError(f"there is no Keras model {path}; save one: model.save('model.keras')")
    if not trust and _version(keras.__version__) < _SAFE:
        raise ExportError(
            f"Keras {keras.__version__} may run code that {path} holds; install 3.11.3 or later, "
            "or say trust=True if you trust whoever made the file"
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:
        if "safe_mode" in str(error):
            raise ExportError(
                f"{path} holds code of its own (a Lambda layer); say trust=True if you trust "
                "whoever made it"
            ) from error
        raise ExportError(
            f"Keras cannot load {path}: {essence(error)}; what needs TensorFlow itself goes "
            "another way: python -m tf2onnx.convert, and then ibisa-onnx annotate"
        ) from error


def _version(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    return tuple(int(each) for each in re.findall(r"\d+", text)[:3])


def _load_weights(net: Any, path: Path) -> None:
    try:
        net.load_weights(path)
    except Exception as error:
        raise ExportError(f"Keras cannot load the weights {path}: {essence(error)}") from error


def _example(shape: tuple[int | None, ...], request: Request, path: Path) -> tuple[Layout, Tensor]:
    """Tell the layout, and make an input."""
    if len(shape) != 4:
        raise ExportError(f"{path} takes {list(shape)}; save one that takes [N, H, W, C]")
    last = shape[3] in IMAGE_CHANNELS
    channels, sides = (shape[3], shape[1:3]) if last else (shape[1], shape[2:])
    wanted = request.size or [side or SIDE for side in sides]
    if any(side not in (None, want) for side, want in zip(sides, wanted, strict=True)):
        raise ExportError(f"{path} takes {sides[0]} x {sides[1]} pixels; leave size= out")
    layout = Layout.NHWC if last else Layout.NCHW
    axes = (*wanted, channels) if last else (channels, *wanted)
    return layout, torch.zeros(1, *(axis or 3 for axis in axes))


def _spec(net: Any, example: Tensor, layout: Layout) -> Preprocessing | None:
    """Say that bytes go in as they are, where the model begins with a scaling of its own."""
    kinds = [type(layer).__name__ for layer in net.layers[:3]]
    if not any(kind in _SCALING for kind in kinds):
        return None
    shape = example.shape[1:] if layout is Layout.NHWC else (*example.shape[2:], example.shape[1])
    order = {1: "GRAY", 3: "RGB", 4: "RGBA"}[shape[2]]
    return Preprocessing((shape[0], shape[1]), "stretch", channel_order=order, layout=str(layout))
