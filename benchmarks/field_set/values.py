"""Maps of values: landmarks of a face, and how important a place is said to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import ibisa_onnx as ibisa
from field_set.case import Finding, Work
from field_set.measures import across, centre, share, sides
from ibisa_onnx.io.images import read_image

FACE = (92, 336, 160, 404)  # of 11.jpg


def landmarks(work: Work, output: str) -> Finding:
    """Explain landmarks of a face: how far the map's centre is from each.

    The network takes faces transposed, as its package gives them to it: its x goes down.
    """
    left, top, right, bottom = FACE
    face = read_image(work.assets / "detection" / "11.jpg")[top:bottom, left:right]
    path = work.write(np.ascontiguousarray(face.transpose(1, 0, 2)))
    problem = work.explainer.problem(path, ibisa.ValueTarget(output=output, index=0))
    values = work.explainer.model.run(problem.image, (output,))[output][0]
    targets = [ibisa.ValueTarget("keep", output, index=number) for number in range(5)]
    found = work.explainer.explain_all(path, targets)
    upright = [replace(each, map=each.map.T, image=face) for each in found]
    x = [centre(each.map) / face.shape[1] for each in upright]
    y = [centre(each.map.T) / face.shape[0] for each in upright]
    far = np.hypot(np.subtract(x, values[:5]), np.subtract(y, values[5:]))
    where = (
        f"x of 5 landmarks: the map's centre is {', '.join(f'{each:.2f}' for each in far)} "
        "of the face's side from each"
    )
    return Finding(upright[0], int(np.size(values)), where)


def importance(work: Work, at: tuple[int, int]) -> Finding:
    """Explain how important a place of a photograph is said to be."""
    image = read_image(work.assets / "detection" / "pets.jpg")
    height, width = image.shape[:2]
    shown = work.explainer.explain(work.write(image), ibisa.ValueTarget("raise", at=at))
    y, x = np.mgrid[:height, :width]
    near = np.hypot(x - at[0], y - at[1]) < min(height, width) / 4
    side = "right" if at[0] > width // 2 else "left"
    half = across(sides(width // 2)[side], image.shape)
    where = (
        f"energy within a quarter of the height of the point {share(shown.map, near)}, "
        f"on its half of the image {share(shown.map, half)}"
    )
    return work.finding(shown, where)
