"""Weights in other files: places outside the folder, and files that are none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onnx import TensorProto

from hostile.base import INSPECT, RUN, encoded, model
from hostile.case import Case, Expected

_FAMILY = "weights"
_COMMANDS = {
    "run": RUN,
    "inspect": INSPECT,
    "gradient": ("gradient", "m.onnx", "-o", "g.onnx"),
    "annotate": ("annotate", "m.onnx", "--preprocess", "unit", "-o", "out/a.onnx"),
}


def make() -> Iterator[Case]:
    for name, (location, place, expected) in _places().items():
        for verb, words in _COMMANDS.items():
            for use in ("used", "unused"):
                build = _build({"location": location}, place, use, words)
                wanted: Expected = "refused" if expected == "refused" else "explained"
                yield Case(_FAMILY, f"{name}-{use}-{verb}", build, wanted)
    for name, entries in _entries().items():
        for verb in ("run", "annotate"):
            build = _build({"location": "w.bin"} | entries, _beside, "used", _COMMANDS[verb])
            yield Case(_FAMILY, f"{name}-{verb}", build, "refused")


def _build(
    entries: dict[str, str], place: Callable[[Path], object], use: str, words: tuple[str, ...]
) -> Any:
    def build(folder: Path) -> tuple[str, ...]:
        made = model()
        tensor = made.graph.initializer[0]
        if use == "unused":
            tensor = made.graph.initializer.add(name="unused", data_type=1, dims=tensor.dims)
            tensor.raw_data = made.graph.initializer[0].raw_data
        (folder / "w.tmp").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        (folder / "m.onnx").write_bytes(made.SerializeToString())
        (folder / "p.png").write_bytes(encoded())
        place(folder)
        (folder / "w.tmp").unlink()
        return words

    return build


def _beside(folder: Path) -> None:
    (folder / "w.bin").write_bytes((folder / "w.tmp").read_bytes())


def _outside(folder: Path) -> None:
    (folder.parent / "outside" / "w.bin").write_bytes((folder / "w.tmp").read_bytes())


def _link_out(folder: Path) -> None:
    _outside(folder)
    (folder / "w.bin").symlink_to(folder.parent / "outside" / "w.bin")


def _folder_link(folder: Path) -> None:
    _outside(folder)
    (folder / "sub").symlink_to(folder.parent / "outside")


def _linked(target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "w.bin").symlink_to(target)


def _hub(folder: Path) -> None:
    """Move model and weights into a folder of blobs, and link to both."""
    blobs = folder / "blobs"
    blobs.mkdir()
    (folder / "m.onnx").rename(blobs / "h1")
    (blobs / "h2").write_bytes((folder / "w.tmp").read_bytes())
    (folder / "m.onnx").symlink_to("blobs/h1")
    (folder / "w.bin").symlink_to("blobs/h2")


def _places() -> dict[str, tuple[str, Callable[[Path], object], Expected]]:
    return {
        "beside": ("w.bin", _beside, "explained"),
        "hub": ("w.bin", _hub, "explained"),
        "parent": ("../outside/w.bin", _outside, "refused"),
        "back-and-forth": ("../work/w.bin", _beside, "refused"),
        "absolute": ("/etc/passwd", _beside, "refused"),
        "zero": ("/dev/zero", _beside, "refused"),
        "link-out": ("w.bin", _link_out, "refused"),
        "folder-link": ("sub/w.bin", _folder_link, "refused"),
        "link-to-zero": ("w.bin", _linked("/dev/zero"), "refused"),
        "link-to-passwd": ("w.bin", _linked("/etc/passwd"), "refused"),
        "pipe": ("w.bin", lambda folder: os.mkfifo(folder / "w.bin"), "refused"),
        "folder": ("w.bin", lambda folder: (folder / "w.bin").mkdir(), "refused"),
        "absent": ("w.bin", lambda folder: None, "refused"),
        "empty-name": ("", _beside, "refused"),
        "dot": (".", _beside, "refused"),
        "zero-byte": ("w\0.bin", _beside, "refused"),
        "long": ("w" * 5000, _beside, "refused"),
    }


def _entries() -> dict[str, dict[str, str]]:
    many = "9" * 5000
    return {
        "offset-word": {"offset": "x"},
        "offset-negative": {"offset": "-1"},
        "offset-many": {"offset": many},
        "offset-beyond": {"offset": str(2**62)},
        "offset-not-ascii": {"offset": "²"},
        "length-word": {"length": "1.5"},
        "length-negative": {"length": "-540"},
        "length-many": {"length": many},
        "length-short": {"length": "3"},
        "length-beyond": {"length": str(2**40)},
    }
