"""Maps and masks as files: those that a user gives, and those that a comparison keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ibisa_onnx.benchmark.regions import PictureRegion
from ibisa_onnx.errors import MetricError
from ibisa_onnx.io.arrays import load_npy, read_npy
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.files import name_of
from ibisa_onnx.io.formats import encode_npy
from ibisa_onnx.io.images import read_image
from ibisa_onnx.limits import Limits
from ibisa_onnx.metrics.maps import Map, checked_map, checked_region

_DIGITS = 8  # of a picture's SHA-256, in the name of its map


def read_map(source: Path | bytes, limits: Limits | None = None) -> Map:
    """Read a map from a .npy file, or from its bytes, as finite float64 [H, W].

    Raises
    ------
    MetricError
        It cannot be read, holds no map, or has more bytes than the limit.
    """
    if isinstance(source, bytes):
        name, values = "the map", read_npy(source, "the map", MetricError, limits)
    else:
        name, values = name_of(source), load_npy(source, "map", MetricError, limits)
    try:
        return checked_map(values)
    except MetricError as error:
        raise MetricError(f"{name}: {error}") from error


def read_region(path: Path, picture: tuple[int, int]) -> PictureRegion:
    """Read a mask of a picture of (H, W): its pixels that are not black.

    Raises
    ------
    ImageError
        It cannot be read.
    MetricError
        It has another size, or is all black or all not.
    """
    pixels = read_image(path).any(2)
    if pixels.shape != picture:
        (height, width), (high, wide) = pixels.shape, picture
        raise MetricError(
            f"{path}: the mask is {width} x {height} (width x height), the picture is {wide} x "
            f"{high}; give one of its size"
        )
    try:
        return PictureRegion(f"mask {path.name}", checked_region(pixels, picture))
    except MetricError as error:
        raise MetricError(f"{path}: {error}") from error


@dataclass(frozen=True)
class MapFolder:
    """A folder of maps, one for each picture, method and settings."""

    folder: Path

    def path(self, image: Path, image_sha256: str, method: str, settings: str) -> Path:
        """Name the file of a map; pictures of one name are told apart by their content."""
        name = f"{image.stem}-{image_sha256[:_DIGITS]}.npy"
        return self.folder / f"{method}-{settings}" / name

    def write(self, path: Path, map: npt.NDArray[Any]) -> None:
        """Write a map; ResultError where that cannot be done."""
        write_files({path: encode_npy(map)})
