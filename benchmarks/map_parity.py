"""Maps before and after a change of the code, bit by bit, over the photographs and all methods.

    git worktree add ../before REVISION            # the code before the change, with this script
    python benchmarks/map_parity.py store ASSETS maps/before
    python benchmarks/map_parity.py store ASSETS maps/after      # of the code after the change
    python benchmarks/map_parity.py compare maps/before maps/after

`store` writes the map of each case (effect and uncertainty too), the probabilities of the check,
the passes, and the fidelity check's difference. `compare` prints the largest difference of each
group of cases, and exits with 1 where a map differs by more than 1e-5 or passes differ.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from photographs import PRESETS

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.gradients.onnx_module import OnnxModule
from ibisa_onnx.methods import GradCam, Iba, Occlusion, RandomMap, Rise
from ibisa_onnx.methods.ibisa.options import PRESETS as OPTIONS

FLOAT = ("squeezenet", "mobilenetv2")
MOST = 1e-5

Case = tuple[str, Any]
"""A name, and an explanation."""


class Cases:
    """All explanations that are compared."""

    def __init__(self, assets: Path) -> None:
        self.assets = assets
        self.photos = sorted((assets / "images").glob("*.JPEG"))

    def __iter__(self) -> Iterator[Case]:
        for part in (self.exact, self.forward_only, self.methods, self.surrogates, self.others):
            yield from part()

    def explainer(self, model: str, **options: Any) -> ibisa.Explainer:
        """Open a model with one thread, keeping nothing."""
        path = self.assets / "models" / f"{model}.onnx"
        given = {"preprocessing": PRESETS[model], "threads": 1, "cache": False, **options}
        return ibisa.Explainer(path, **given)

    def exact(self) -> Iterator[Case]:
        first, second = self.photos[:2]
        for model in FLOAT:
            explainer = self.explainer(model)
            for photo in self.photos:
                yield f"{model}-exact-{photo.stem}", explainer.explain(photo)
            for number, each in enumerate(explainer.explain_all(first, "top:3")):
                yield f"{model}-top{number}-{first.stem}", each
            for number, each in enumerate(explainer.explain_rounds(second)):
                yield f"{model}-round{number}-{second.stem}", each
            for preset, count in (("fast", 5), ("quality", 3)):
                explainer = self.explainer(model, options=preset)
                for photo in self.photos[:count]:
                    yield f"{model}-{preset}-{photo.stem}", explainer.explain(photo)
            explainer = self.explainer(model, overrides=ibisa.Overrides(resize="stretch"))
            pets = self.assets / "detection" / "pets.jpg"
            for number, each in enumerate(explainer.explain_all(pets, "top:2")):
                yield f"{model}-pets{number}", each
        explainer = self.explainer("mobilenetv2_int8")
        for photo in self.photos[:8]:
            yield f"mobilenetv2_int8-exact-{photo.stem}", explainer.explain(photo)
        explainer = ibisa.Explainer(model_path(), threads=1, cache=False)
        for number, each in enumerate(explainer.explain_all(scene_path(), "top:2")):
            yield f"demo-exact-{number}", each

    def forward_only(self) -> Iterator[Case]:
        counts = {"forward-only": 4, "finite-difference": 1}
        for model in PRESETS:
            for gradient, count in counts.items():
                explainer = self.explainer(model, gradient=gradient)
                for photo in self.photos[:count]:
                    yield f"{model}-{gradient}-{photo.stem}", explainer.explain(photo, seed=3)

    def methods(self) -> Iterator[Case]:
        methods = {
            "rise": Rise(200),
            "centred-rise": Rise(200, centred=True),
            "gradcam": GradCam(),
            "iba": Iba(tuple(map(str, self.photos[:8]))),
            "occlusion": Occlusion(),
            "random": RandomMap(),
        }
        for model in PRESETS:
            explainer = self.explainer(model)
            for name, method in methods.items():
                for photo in self.photos[:2]:
                    found = explainer.explain(photo, method=method, seed=1)
                    yield f"{model}-{name}-{photo.stem}", found

    def surrogates(self) -> Iterator[Case]:
        for model in FLOAT:
            module = OnnxModule(str(self.assets / "models" / f"{model}.onnx"), threads=1)
            explainer = self.explainer(model, surrogate=module)
            for photo in self.photos[:3]:
                yield f"{model}-surrogate-{photo.stem}", explainer.explain(photo)

    def others(self) -> Iterator[Case]:
        rounds = replace(OPTIONS["standard"], rounds=2, beta=4.0)
        explainer = self.explainer("squeezenet", options=rounds)
        for photo in self.photos[:2]:
            yield f"squeezenet-rounds-{photo.stem}", explainer.explain(photo, seed=7)
        for name, batch in (("forward-only", None), ("fixed4", 4)):
            spec = ibisa.InputSpec((batch, 3, 64, 64))
            explainer = ibisa.Explainer(mean_colours, spec, preprocessing="unit")
            yield f"function-{name}", explainer.explain(self.photos[0])


def mean_colours(images: np.ndarray) -> np.ndarray:
    """Scores [N, 3] of images [N, 3, H, W]."""
    return images.mean((2, 3))


def store(assets: Path, folder: Path) -> None:
    """Write all cases."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in Cases(assets):
        checked, difference = found.sufficiency, found.certificate.difference
        passes = found.passes
        np.savez_compressed(
            folder / f"{name}.npz",
            **found.maps,
            sufficiency=np.array(checked.probabilities if checked else []),
            probability=found.target.probability,
            passes=np.array(
                [passes.forward, passes.backward, passes.forward_calls, passes.backward_calls]
            ),
            difference=np.nan if difference is None else difference,
        )


def compare(before: Path, after: Path) -> int:
    """Print how far the cases of each group differ; return an exit code."""
    groups: dict[str, list[tuple[str, float, str]]] = defaultdict(list)
    names = sorted(path.stem for path in before.glob("*.npz"))
    missing = [name for name in names if not (after / f"{name}.npz").exists()]
    for name in names:
        if name not in missing:
            groups["-".join(name.split("-")[:2]).rstrip("0123456789")].append(
                (name, *_difference(before / f"{name}.npz", after / f"{name}.npz"))
            )
    worst = 0.0
    for group, rows in groups.items():
        largest = max(rows, key=lambda row: row[1])
        same = sum(not row[1] and not row[2] for row in rows)
        said = "" if same == len(rows) else f"  largest {largest[1]:.1e} ({largest[0]})"
        notes = sorted({row[2] for row in rows if row[2]})
        print(f"{group:32} {same:3} of {len(rows):3} identical{said}  {'; '.join(notes)}")
        worst = max(worst, largest[1])
    print(f"missing: {', '.join(missing) or 'none'}; largest difference of a map {worst:.1e}")
    return int(bool(missing) or worst > MOST)


def _difference(before: Path, after: Path) -> tuple[float, str]:
    """Return the largest difference of two cases' maps, and what else differs."""
    one, two = np.load(before), np.load(after)

    def values(name: str) -> float:
        return float(np.abs(one[name] - two[name]).max())

    maps = [name for name in one.files if name in ("map", "effect", "uncertainty")]
    largest = max(values(name) for name in maps)
    others = ("sufficiency", "probability", "passes", "difference")
    notes = [
        name
        for name in others  # of passes the images, not the calls
        if not np.array_equal(one[name].flat[:2], two[name].flat[:2], equal_nan=True)
        or (name == "sufficiency" and not np.array_equal(one[name], two[name]))
    ]
    return largest, ", ".join(notes)


def main() -> None:
    """Store or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("store", "compare"))
    parser.add_argument("one", type=Path, help="ASSETS, or the folder before")
    parser.add_argument("two", type=Path, help="the folder to write, or the folder after")
    args = parser.parse_args()
    if args.verb == "compare":
        sys.exit(compare(args.one, args.two))
    store(args.one, args.two)


if __name__ == "__main__":
    main()
