"""Localisation on planted truth: does the map's peak fall on the object that it should explain?

    python benchmarks/planted.py [--scenes 300] [--gradient exact] [--budget 200]

Scenes of one, two and three objects in turn are drawn and explained with the embedded classifier,
one map for each object that the picture holds. A peak is the map's first highest pixel; counted are
those on the object's own pixels, those within one cell of the map's grid (2.3 pixels) of them, and
those inside its convex hull, which takes in a ring's hole and the gaps of a star. Prints one
Markdown table.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from ibisa_onnx import Explainer
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene

_FIRST_SEED = 100_000  # beyond those of the tests and of the training


def hull(mask: np.ndarray) -> np.ndarray:
    """Return the convex hull of a mask, bool [H, W]."""
    points = cv2.convexHull(cv2.findNonZero(mask.astype(np.uint8)))
    return cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), points, 1) > 0


def distance(mask: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest pixel of a mask, float32 [H, W]."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--gradient", default="exact")
    parser.add_argument("--budget", type=int, default=200)
    args = parser.parse_args()
    explainer = Explainer(
        model_path(), providers=["cpu"], threads=1, gradient=args.gradient, budget=args.budget
    )
    cell = 128 / explainer.options.grid
    rows, scenes, astray = [], [], 0
    for number in range(args.scenes):
        count = 1 + number % 3
        scene = draw_scene(np.random.default_rng(_FIRST_SEED + number), count=count)
        targets, right = [item.index for item in scene.objects], []
        for item, found in zip(
            scene.objects, explainer.explain_all(scene.image, targets), strict=True
        ):
            peak = np.unravel_index(found.map.argmax(), found.map.shape)
            inside = hull(item.mask)
            near = distance(item.mask)[peak] <= cell
            mass = found.map[inside].sum() / found.map.sum()
            rows.append((count, item.mask[peak], near, inside[peak], mass))
            right.append(bool(inside[peak]))
            astray += any(other.mask[peak] for other in scene.objects if other is not item)
        scenes.append(all(right))
    values = np.array(rows, float)
    print(f"{args.gradient}, {args.scenes} scenes")
    print(
        "| objects | maps | peak on its pixels | within a cell | in its hull | mass in the hull |"
    )
    print("|---|---|---|---|---|---|")
    for count in (1, 2, 3, None):
        these = values if count is None else values[values[:, 0] == count]
        on, near, inside, mass = these[:, 1:].mean(0)
        print(
            f"| {count or 'all'} | {len(these)} "
            f"| {on:.1%} | {near:.1%} | {inside:.1%} | {mass:.2f} |"
        )
    print(f"scenes with every peak in its hull: {np.mean(scenes):.1%}")
    print(f"peaks on another object: {astray}")


if __name__ == "__main__":
    main()
