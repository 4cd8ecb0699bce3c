"""Maps of likeness and contrast: how much of each is on the half of the picture it is about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import ibisa_onnx as ibisa
from field_set.case import Finding, Work
from field_set.drawing import Pixels, resized
from field_set.measures import across, sides
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics.localisation import ENERGY

BESIDE = (
    ("n02123394_Persian_cat", "n07873807_pizza"),
    ("n02279972_monarch", "n04252225_snowplow"),
    ("n02397096_warthog", "n02980441_castle"),
    ("n01748264_Indian_cobra", "n03388183_fountain_pen"),
)


def two_dogs(work: Work, questions: Mapping[str, tuple[Any, str]]) -> Finding:
    """Explain what is about one half of a picture of two dogs.

    Parameters
    ----------
    work
        Whose.
    questions
        From what to call it to its target, or what makes it of the two halves, and the half that
        it is about, "left" or "right". The first is drawn.
    """
    pets = read_image(work.assets / "detection" / "pets.jpg")
    path, halves = work.write(pets), sides(pets.shape[1] // 2)
    parts = {side: work.write(pets[:, half], f"{side}.png") for side, half in halves.items()}
    found, told = {}, []
    for name, (target, side) in questions.items():
        each = work.explainer.explain(path, target(parts) if callable(target) else target)
        own = across(halves[side], each.map.shape)
        told.append(f"{name}: {ENERGY(each.map, own):.2f} on the {side} half")
        found[name] = each
    return work.finding(next(iter(found.values())), "; ".join(told), found)


def like(side: str, output: str, unlike: str | None = None) -> Any:
    """Return what makes the target of a likeness to one half, and not to another."""

    def target(parts: Mapping[str, Path]) -> ibisa.SimilarityTarget:
        return ibisa.SimilarityTarget(parts[side], unlike and parts[unlike], output)

    return target


def collages(work: Work, output: str) -> Finding:
    """Explain why two photographs side by side are like either of them."""
    shares: list[float] = []
    more: dict[str, ibisa.Explanation] = {}
    for names in BESIDE:
        parts = [_square(read_image(work.assets / "images" / f"{it}.JPEG")) for it in names]
        path = work.write(np.hstack(parts), "other.png" if more else "")
        halves = sides(len(parts[0]))
        for name, part, half in zip(names, parts, halves.values(), strict=True):
            reference = work.write(part, "other_like.png" if more else "like.png")
            found = work.explainer.explain(path, ibisa.SimilarityTarget(reference, None, output))
            shares.append(ENERGY(found.map, across(half, found.map.shape)))
            more[name] = found
    where = (
        f"{len(shares)} likenesses to one of two photographs side by side: {np.mean(shares):.2f} "
        f"of the map on it, the least {np.min(shares):.2f}"
    )
    return work.finding(next(iter(more.values())), where, more)


def _square(image: Pixels, side: int = 256) -> Pixels:
    """Return the middle of a picture, of so many pixels a side."""
    least = min(image.shape[:2])
    top, left = (image.shape[0] - least) // 2, (image.shape[1] - least) // 2
    return resized(image[top : top + least, left : left + least], (side, side))
