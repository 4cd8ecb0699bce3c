"""Maps of regions: how much of each lies in a mask, or in what was drawn there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import ibisa_onnx as ibisa
from field_set.case import Finding, Work
from field_set.drawing import Mask, draw_line
from field_set.measures import inside, share
from ibisa_onnx.io.images import read_image


def region(work: Work, photograph: str, target: ibisa.RegionTarget, mask: str = "") -> Finding:
    """Explain a region, and tell how much of the map is in it.

    Parameters
    ----------
    work
        Whose.
    photograph
        Below the assets.
    target
        The region.
    mask
        Below the assets: the true region; "": nobody drew one.
    """
    path = work.write(read_image(work.assets / photograph))
    if mask:
        truth: Mask = np.asarray((read_image(work.assets / mask) > 0).any(2))
        work.write(np.repeat(truth[..., None] * np.uint8(255), 3, 2), "mask.png")
        target = replace(target, region=work.folder / "mask.png")
    shown = work.explainer.explain(path, target)
    where = f"energy in the model's own region {share(shown.map, own_region(work, path, target))}"
    if mask:
        where = f"energy in the given mask {share(shown.map, truth)}, {where}"
    return work.finding(shown, where)


def own_region(work: Work, picture: Path, target: ibisa.RegionTarget) -> Mask:
    """Return the region that an objective is about, at the size of the picture."""
    row = work.explainer.problem(picture, target).rows[0]
    grid: Any = row.objective
    cells = cv2.resize(grid.region.mask.astype(np.float32), row.geometry.model[::-1])
    return np.asarray(row.geometry.restore(cells) > 0.5)


def text_region(work: Work) -> Finding:
    """Explain one of two lines on a page that a text detector found."""
    page = np.full((320, 480, 3), 250, np.uint8)
    upper, lower = draw_line("Hello world", (60, 400)), draw_line("second line", (50, 300), 2)
    page[50:110, 40:440], page[200:250, 100:400] = upper.image, lower.image
    path = work.write(page)
    shown = work.explainer.explain(path, ibisa.RegionTarget(at=(250, 225)))
    left, top, right, bottom = lower.box
    line = inside((left + 100, top + 200, right + 100, bottom + 200), page.shape)
    half = inside((0, 160, 480, 320), page.shape)
    where = (
        f"energy in the drawn line {share(shown.map, line)}, "
        f"on that line's half of the page {share(shown.map, half)}"
    )
    return work.finding(shown, where)


def direction(work: Work) -> Finding:
    """Explain why a line stands on its head."""
    line = draw_line("time has look", (96, 384))
    path = work.write(np.ascontiguousarray(np.rot90(line.image, 2)))
    shown = work.explainer.explain(path)
    left, top, right, bottom = line.box
    text = inside((384 - right, 96 - bottom, 384 - left, 96 - top), shown.map.shape)
    return work.finding(
        shown, f"{shown.target.name} degrees; energy in the text {share(shown.map, text)}"
    )
