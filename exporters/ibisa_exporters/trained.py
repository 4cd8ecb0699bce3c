"""What a framework gives: a network ready to be exported, and what is known of its pictures.

The one interface of all exporters: each is a function from a name and a `Request` to a
`TrainedModel`, a file a framework. `source.py` chooses among them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibisa_onnx.errors import ExportError
from ibisa_onnx.models.signature import METADATA_KEY, Layout, Signature, TensorInfo, find_image
from ibisa_onnx.preprocessing.resolve import (
    DEFAULT_SIZE,
    Overrides,
    ResolvedPreprocessing,
    settle_preprocessing,
)
from ibisa_onnx.preprocessing.sources.base import Layer
from ibisa_onnx.preprocessing.sources.frameworks import config_layer
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing

SIDE = DEFAULT_SIZE
"""Height and width, in pixels, of an input on which nothing else says anything."""


@dataclass(frozen=True)
class Request:
    """What is wanted of a source.

    Attributes
    ----------
    weights
        "default" (those the source has or publishes), "none" (random), or a file of weights.
    seed
        Of random weights, and of whatever a factory draws.
    classes
        How many the network tells apart; None: as many as its default weights do.
    size
        Height and width of the input; None: the source's own.
    trust
        Whether code in a file that holds a network may be run, as opening some formats does. That
        of a factory always is.
    """

    weights: str = "default"
    seed: int = 0
    classes: int | None = None
    size: tuple[int, int] | None = None
    trust: bool = False

    @property
    def file(self) -> Path | None:
        """The file of weights, if one was named."""
        return None if self.weights in ("default", "none") else Path(self.weights)


@dataclass(frozen=True)
class TrainedModel:
    """A network and what its framework says of it.

    Attributes
    ----------
    name
        What to call it in messages and file names.
    module
        In evaluation mode, on the CPU, float32; takes one tensor of images, gives one tensor.
    example
        float32 [1, C, H, W], or [1, H, W, C] where `layout` is NHWC; values are of no matter.
    preprocessing
        How a picture becomes its input; None: not known.
    labels
        The names of its classes, in index order; None: not known.
    layout
        Of `example`.
    batch
        How many images it takes at once; None: any number.
    warnings
        What a user should know.
    """

    name: str
    module: nn.Module
    example: Tensor
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    layout: Layout = Layout.NCHW
    batch: int | None = None
    warnings: tuple[str, ...] = ()

    def settle(
        self, wanted: str | None, dtype: str, resize: str | None = None
    ) -> ResolvedPreprocessing:
        """Settle the preprocessing of an exported input of a dtype.

        Parameters
        ----------
        wanted
            A preset or a spec file, whose fields go before those that are known; None: neither.
        resize
            One of `RESIZES`, which goes before all of them; None: not said.
        """
        image = TensorInfo("image", dtype, tuple(self.example.shape))
        with torch.no_grad():  # the usual resize depends on the number of classes
            shape = (self.batch or 1, *self.example.shape[1:])
            classes = tuple(self.module(self.example.expand(shape)).shape[1:])
        scores = TensorInfo("scores", dtype, ("batch", *classes))
        signature = Signature((image,), (scores,), find_image([image], layout=self.layout))
        said = {}
        if self.preprocessing is not None:
            spec = self.preprocessing
            # Said in so many words: where nothing is said, more is resized and cropped.
            fields = {**spec.to_dict(), "shorter_side": spec.shorter_side or min(spec.size)}
            said = {METADATA_KEY: json.dumps({"version": 1, "preprocessing": fields})}
        return settle_preprocessing(signature, said, wanted, Overrides(resize=resize))


Exporter = Callable[[str, Request], TrainedModel]


def read_config(
    config: Mapping[str, Any], framework: str, size: tuple[int, int] | None
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Translate a framework's data configuration, for another size of input where one is wanted.

    Returns
    -------
    Preprocessing, tuple of str
        The spec, and in what it differs from what the framework does.
    """
    layer = config_layer(config, f"{framework}'s configuration")
    if layer is None:
        raise ExportError(f"{framework}'s configuration is not known: {', '.join(config)}")
    return spec_of(layer, size), layer.warnings


def spec_of(layer: Layer, size: tuple[int, int] | None) -> Preprocessing:
    """Return what a source says as a whole spec, for another size where one is wanted."""
    preset = dataclasses.asdict(PRESETS[layer.preset]) if layer.preset else {}
    return of_size(Preprocessing(**{"size": size or (SIDE, SIDE), **preset, **layer.fields}), size)


def sides_of(value: Any) -> tuple[int, int] | None:
    """Read height and width: one number for both, or the last two of several; else None."""
    sides = value[-2:] if isinstance(value, tuple | list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def alike(name: str, known: Iterable[str]) -> str:
    """Return the known names that are most like one, for a message."""
    return ", ".join(difflib.get_close_matches(name, list(known), n=5, cutoff=0))


def of_size(spec: Preprocessing, size: tuple[int, int] | None) -> Preprocessing:
    """Return a spec for another size of input; what is cropped away stays the same share."""
    if size is None or size == spec.size:
        return spec
    side = spec.shorter_side
    shorter = None if side is None else round(side * min(size) / min(spec.size))
    return dataclasses.replace(spec, size=size, shorter_side=shorter)
