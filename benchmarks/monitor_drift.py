"""What a monitor reports when photographs change in known ways.

    python benchmarks/monitor_drift.py ASSETS

ASSETS has `models/squeezenet.onnx` and `images/`. The reference is the photographs as they are; the
recent window is the same photographs, mirrored (no drift), with another photograph pasted over a
corner, or shrunk into that corner. As both windows show the same photographs, chance moves them
apart less than it would independent ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from ibisa_onnx import Explainer, Explanation, Overrides
from ibisa_onnx.monitor import Monitor, Summary

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]
LOGO = "n02123394_Persian_cat.JPEG"
CORNER = 0.4  # of the shorter side
GREY = 128


def unchanged(image: np.ndarray, _: np.ndarray) -> np.ndarray:
    return image


def mirrored(image: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def pasted(image: np.ndarray, logo: np.ndarray) -> np.ndarray:
    """Cover the top left corner by another photograph."""
    image, side = image.copy(), int(CORNER * min(image.shape[:2]))
    image[:side, :side] = cv2.resize(logo, (side, side))
    return image


def shrunk(image: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Shrink the photograph to half its sides, in the top left corner of a grey image."""
    height, width = (side // 2 for side in image.shape[:2])
    moved = np.full_like(image, GREY)
    moved[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return moved


def all_but_the_corner(explanation: Explanation) -> np.ndarray:
    mask = np.ones(explanation.map.shape, bool)
    side = int(CORNER * min(mask.shape))
    mask[:side, :side] = False
    return mask


CHANGES: dict[str, Change] = {
    "mirrored": mirrored,
    "photograph pasted over the corner": pasted,
    "shrunk into the corner": shrunk,
}
REGIONS = {"centre": (0.2, 0.2, 0.8, 0.8), "all but the corner": all_but_the_corner}


class Photographs:
    """The photographs of the assets, and SqueezeNet's explanations of changed ones."""

    def __init__(self, assets: Path) -> None:
        files = sorted((assets / "images").glob("*.JPEG"))
        self.images = [np.ascontiguousarray(cv2.imread(str(each))[:, :, ::-1]) for each in files]
        self.logo = self.images[[each.name for each in files].index(LOGO)]
        self.explainer = Explainer(
            assets / "models" / "squeezenet.onnx",
            overrides=Overrides(preset="caffe", resize="stretch"),
            threads=1,
        )

    def explanations(self, change: Change) -> Iterator[Explanation]:
        for image in self.images:
            yield self.explainer.explain(change(image, self.logo))


def summaries(
    photographs: Photographs, change: Change, references: dict[str, Summary] | None = None
) -> dict[str, Summary]:
    """Return the summary of changed photographs for each region."""
    monitors = {
        name: Monitor(region, references[name] if references else None, window=50)
        for name, region in REGIONS.items()
    }
    for explanation in photographs.explanations(change):
        for monitor in monitors.values():
            monitor.observe(explanation)
    return {name: monitor.summary() for name, monitor in monitors.items()}


def main() -> None:
    photographs = Photographs(Path(sys.argv[1]))
    references = summaries(photographs, unchanged)
    print("| photographs | region | outside | distance | p-value | drifted |")
    print("|---|---|---|---|---|---|")
    for name, change in CHANGES.items():
        for region, summary in summaries(photographs, change, references).items():
            found = summary.comparisons["outside"]
            print(
                f"| {name} | {region} | {found.reference.mean:.2f} → {found.recent.mean:.2f} | "
                f"{found.distance:.2f} | {found.p_value:.2g} | {', '.join(summary.drifted)} |"
            )


if __name__ == "__main__":
    main()
