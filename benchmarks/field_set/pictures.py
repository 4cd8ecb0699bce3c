"""What each classifier of the field set is shown: named pictures, from the folder of assets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from field_set.drawing import resized
from field_set.scenes import (
    PLANTED,
    Drawn,
    byte_image,
    draw_head,
    draw_line,
    draw_page,
    draw_plate,
)
from ibisa_onnx.io.images import read_image

Pictures = Callable[[Path], Iterator[tuple[str, Drawn]]]
"""From the folder of assets to named pictures."""


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
        yield name, Drawn(np.ascontiguousarray(resized(cut, (24, 24)).transpose(1, 0, 2)))


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
