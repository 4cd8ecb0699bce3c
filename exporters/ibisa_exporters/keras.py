"""`model.keras` or `model.h5`: a model saved by Keras 3, run on its torch backend.

On this backend a Keras model is an `nn.Module`, and is exported and verified like any other. Files
may contain code (the function of a `Lambda` layer), which Keras executes when it opens the file
unless safe mode is on; earlier versions did so even in safe mode.
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
_BACKEND = "Keras uses the backend {}; set KERAS_BACKEND=torch for the export"
_SAFE = (3, 11, 3)
"""The first version whose safe mode covers .h5, and all known vulnerabilities of .keras."""


class Inference(nn.Module):
    """A Keras model in inference mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of images, in the model's own layout."""
        scores: Tensor = self.net(images, training=False)
        return scores

    def half(self) -> Inference:
        """Convert to float16, including layers, each of which casts its input to its own dtype."""
        net: Any = self.net
        for layer in net._flatten_layers():  # nested ones included
            layer.dtype_policy = "float16"
        return super().half()


def load(name: str, request: Request) -> TrainedModel:
    """Load a Keras model file."""
    keras, path = _import(), Path(name)
    if request.weights == "none":
        raise ExportError(f"{path} contains its own weights; omit weights='none'")
    with keras.device("cpu"):  # verification runs on the CPU
        net = _read(keras, path, request.trust)
        if request.file is not None:
            _load_weights(net, request.file)
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise ExportError(
            f"{path} has {len(net.inputs)} inputs and {len(net.outputs)} outputs; "
            "save a model with one image input and one output of scores"
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
        keras = import_extra("keras", "keras")  # reads the variable once
    finally:
        if wanted is None:
            del os.environ["KERAS_BACKEND"]
    if keras.backend.backend() != "torch":
        raise MissingDependencyError(_BACKEND.format(keras.backend.backend()))
    return keras


def _read(keras: Any, path: Path, trust: bool) -> Any:
    if not path.is_file():
        raise ExportError(f"Keras model not found: {path}; save one with model.save('model.keras')")
    if not trust and _version(keras.__version__) < _SAFE:
        raise ExportError(
            f"Keras {keras.__version__} may execute code in {path}; install 3.11.3 or later, or "
            "pass trust=True if you trust the author of the file"
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:
        if "safe_mode" in str(error):
            raise ExportError(
                f"{path} contains code (a Lambda layer); pass trust=True if you trust its author"
            ) from error
        raise ExportError(
            f"Keras cannot load {path}: {essence(error)}; for models that require TensorFlow, use "
            "python -m tf2onnx.convert and then ibisa-onnx annotate"
        ) from error


def _version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    return tuple(int(each) for each in re.findall(r"\d+", text)[:3])


def _load_weights(net: Any, path: Path) -> None:
    try:
        net.load_weights(path)
    except Exception as error:
        raise ExportError(f"Keras cannot load the weights {path}: {essence(error)}") from error


def _example(shape: tuple[int | None, ...], request: Request, path: Path) -> tuple[Layout, Tensor]:
    """Return the layout, and an example input."""
    if len(shape) != 4:
        raise ExportError(
            f"{path} has input shape {list(shape)}; save a model with input [N, H, W, C]"
        )
    last = shape[3] in IMAGE_CHANNELS
    channels, sides = (shape[3], shape[1:3]) if last else (shape[1], shape[2:])
    wanted = request.size or [side or SIDE for side in sides]
    if any(side not in (None, want) for side, want in zip(sides, wanted, strict=True)):
        raise ExportError(f"{path} requires {sides[0]}x{sides[1]} (height x width); omit size=")
    layout = Layout.NHWC if last else Layout.NCHW
    axes = (*wanted, channels) if last else (channels, *wanted)
    return layout, torch.zeros(1, *(axis or 3 for axis in axes))


def _spec(net: Any, example: Tensor, layout: Layout) -> Preprocessing | None:
    """Return a preprocessing without scaling if the model starts with a scaling layer."""
    kinds = [type(layer).__name__ for layer in net.layers[:3]]
    if not any(kind in _SCALING for kind in kinds):
        return None
    shape = example.shape[1:] if layout is Layout.NHWC else (*example.shape[2:], example.shape[1])
    order = {1: "GRAY", 3: "RGB", 4: "RGBA"}[shape[2]]
    return Preprocessing((shape[0], shape[1]), "stretch", channel_order=order, layout=str(layout))
