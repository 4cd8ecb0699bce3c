"""Common interface of all exporters.

Each exporter is a function from a name and a `Request` to a `TrainedModel`, one file per framework.
`source.py` selects one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from ibisa_onnx.checks import check_type, shown
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
"""Default height and width of the input, in pixels."""


@dataclass(frozen=True)
class Request:
    """How to build a network.

    Attributes
    ----------
    weights
        "default" (the source's own or published weights), "none" (random), or a file of weights.
    seed
        Seed of random weights, and of a factory's random numbers.
    classes
        Number of classes; None: that of the default weights.
    size
        Height and width of the input, in pixels; None: the source's own.
    trust
        Whether code in a file of a network may be executed, which opening some formats requires.
        Code of a factory is always executed.
    """

    weights: str = "default"
    seed: int = 0
    classes: int | None = None
    size: tuple[int, int] | None = None
    trust: bool = False

    def __post_init__(self) -> None:
        check_type("weights", self.weights, (str, os.PathLike), "a name or a file", ExportError)
        check_type("seed", self.seed, int, "an integer", ExportError)
        check_type("classes", self.classes, (int, NoneType), "an integer", ExportError)
        whole = isinstance(self.size, tuple | list) and [type(each) for each in self.size]
        if self.size is not None and whole != [int, int]:
            raise ExportError(f"size is {shown(self.size)}; pass (height, width) in pixels")

    @property
    def file(self) -> Path | None:
        """The file of weights, if there is one."""
        return None if self.weights in ("default", "none") else Path(self.weights)


@dataclass(frozen=True)
class TrainedModel:
    """A network, with the metadata of its framework.

    Attributes
    ----------
    name
        Name in messages and file names.
    module
        The network, in evaluation mode, on the CPU, float32, from one tensor of images to one
        tensor of scores.
    example
        float32 [1, C, H, W], or [1, H, W, C] if `layout` is NHWC; its values are irrelevant.
    preprocessing
        The preprocessing of images; None: unknown.
    labels
        The names of the classes, in index order; None: unknown.
    layout
        Layout of `example`.
    batch
        Fixed batch size; None: dynamic.
    warnings
        Warnings for the user.
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
        """Resolve the preprocessing of the exported input.

        Parameters
        ----------
        wanted
            A preset or a spec file, whose fields override the network's own; None: neither.
        dtype
            NumPy name of the input's dtype.
        resize
            One of `RESIZES`, which overrides the others; None: not specified.

        Returns
        -------
        ResolvedPreprocessing
            The preprocessing with its sources.
        """
        image = TensorInfo("image", dtype, tuple(self.example.shape))
        with torch.no_grad():  # the default resize depends on the number of classes
            shape = (self.batch or 1, *self.example.shape[1:])
            classes = tuple(self.module(self.example.expand(shape)).shape[1:])
        scores = TensorInfo("scores", dtype, ("batch", *classes))
        signature = Signature((image,), (scores,), find_image([image], layout=self.layout))
        said = {}
        if self.preprocessing is not None:
            spec = self.preprocessing
            # Explicit, because the default resizes to a larger side and crops.
            fields = {**spec.to_dict(), "shorter_side": spec.shorter_side or min(spec.size)}
            said = {METADATA_KEY: json.dumps({"version": 1, "preprocessing": fields})}
        return settle_preprocessing(signature, said, wanted, Overrides(resize=resize))


Exporter = Callable[[str, Request], TrainedModel]


def read_config(
    config: Mapping[str, Any], framework: str, size: tuple[int, int] | None
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Convert a framework's data configuration to a spec, for another input size if given.

    Returns
    -------
    spec : Preprocessing
        The spec.
    warnings : tuple of str
        Differences between the spec and the framework's own preprocessing.
    """
    layer = config_layer(config, f"{framework}'s configuration")
    if layer is None:
        raise ExportError(
            f"{framework}'s configuration has an unknown format ({', '.join(config)}); export "
            "through path/module.py:factory"
        )
    return spec_of(layer, size), layer.warnings


def spec_of(layer: Layer, size: tuple[int, int] | None) -> Preprocessing:
    """Return a source's fields as a complete spec, for another input size if given."""
    preset = dataclasses.asdict(PRESETS[layer.preset]) if layer.preset else {}
    return of_size(Preprocessing(**{"size": size or (SIDE, SIDE), **preset, **layer.fields}), size)


def sides_of(value: Any) -> tuple[int, int] | None:
    """Read height and width: one number for both, or the last two of several; else None."""
    sides = value[-2:] if isinstance(value, tuple | list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def alike(name: str, known: Iterable[str]) -> str:
    """Return the known names most similar to one, for a message."""
    return ", ".join(difflib.get_close_matches(name, list(known), n=5, cutoff=0))


def of_size(spec: Preprocessing, size: tuple[int, int] | None) -> Preprocessing:
    """Return a spec for another input size, with the same cropped fraction."""
    if size is None or size == spec.size:
        return spec
    side = spec.shorter_side
    shorter = None if side is None else round(side * min(size) / min(spec.size))
    return dataclasses.replace(spec, size=size, shorter_side=shorter)
