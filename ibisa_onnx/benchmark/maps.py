"""Maps and masks as files: a user's own, and those saved by a benchmark."""

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

_DIGITS = 8  # of an image's SHA-256, in the name of its map


def read_map(source: Path | bytes, limits: Limits | None = None) -> Map:
    """Read a map from a .npy file, or from its bytes, as finite float64 [H, W].

    Raises
    ------
    MetricError
        The file cannot be read, contains no map, or is larger than the limit.
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
    """Read a mask for an image of (H, W): all pixels that are not black.

    Raises
    ------
    ImageError
        The file cannot be read.
    MetricError
        The mask differs in size from the image, or all or none of its pixels are black.
    """
    pixels = read_image(path).any(2)
    if pixels.shape != picture:
        (height, width), (high, wide) = pixels.shape, picture
        raise MetricError(
            f"{path}: the mask is {width}x{height} (width x height), but the image is "
            f"{wide}x{high}; pass a mask of the image's size"
        )
    try:
        return PictureRegion(f"mask {path.name}", checked_region(pixels, picture))
    except MetricError as error:
        raise MetricError(f"{path}: {error}") from error


@dataclass(frozen=True)
class MapFolder:
    """A folder of maps, one `.npy` file per image, method and settings.

    Attributes
    ----------
    folder
        The folder; created when the first map is written.
    """

    folder: Path

    def path(self, image: Path, image_sha256: str, method: str, settings: str) -> Path:
        """Return the path of a map.

        Parameters
        ----------
        image
            The image; only its name is used.
        image_sha256
            SHA-256 of the image's content, which tells images of one name apart.
        method
            Name of the method.
        settings
            Digest of the method's and the model's settings.

        Returns
        -------
        Path
            `FOLDER/METHOD-SETTINGS/NAME-SHA256.npy`.
        """
        name = f"{image.stem}-{image_sha256[:_DIGITS]}.npy"
        return self.folder / f"{method}-{settings}" / name

    def write(self, path: Path, map: npt.NDArray[Any]) -> None:
        """Write a map.

        Parameters
        ----------
        path
            The file, as `path` returns it.
        map
            Map [H, W], any real dtype.

        Raises
        ------
        ResultError
            The file cannot be written.
        """
        write_files({path: encode_npy(map)})
