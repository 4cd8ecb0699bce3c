"""The map of an exported surrogate beside the exact one, on photographs, with trained weights.

    python benchmarks/surrogates.py ASSETS [--write docs/how-to/export.md]

ASSETS has `models/squeezenet.onnx`, `models/mobilenetv2.onnx` and photographs in `images/`. Each
file's graph is put into torch (`distill --student own -o model.pt2`) and goes through `export
model.pt2 --trust --surrogate`; then `exact` on the new file and `surrogate` explain each
photograph. The exact map of copies whose weights are shaken in the last digit of float32 tells what
rounding alone does to it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from ibisa_exporters.distillation import Settings, distil
from ibisa_exporters.export import ExportOptions, export
from ibisa_exporters.surrogate import surrogate_path
from ibisa_exporters.trained import Request
from onnx import numpy_helper
from pages import put
from photographs import PRESETS

from ibisa_onnx import Explainer
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics import spearman

MODELS = ("squeezenet", "mobilenetv2")
ROUNDING = 1e-7
COPIES = 2
ALIKE = 0.99


def shake(model: Path, path: Path, seed: int = 0) -> None:
    """Copy a model with weights that differ by the last digit of float32."""
    proto, rng = onnx.load_model(model), np.random.default_rng(seed)
    limit = np.finfo(np.float32).max  # which masks of attention hold
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            near = values * (1 + ROUNDING * rng.standard_normal(values.shape))
            near = np.clip(near, -limit, limit).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(near, tensor.name))
    onnx.save_model(proto, path)


def exported(deployed: Path, photographs: Sequence[Path], folder: Path) -> Path:
    """Write a deployed file anew from a torch program of its graph, and a surrogate beside it."""
    preset = PRESETS[deployed.stem]
    explainer = Explainer(deployed, preprocessing=preset, threads=1)
    program, model = folder / f"{deployed.stem}.pt2", folder / f"{deployed.stem}.onnx"
    own = distil(explainer, [photographs[0], photographs[1]], Settings("own", masks=1))
    own.save(program)
    pictures = [read_image(path) for path in photographs[:4]]
    options = ExportOptions(preprocessing=preset, surrogate=True)
    export(str(program), model, Request(trust=True), options, pictures)
    return model


def correlations(model: Path, photographs: Sequence[Path]) -> np.ndarray:
    """Spearman's correlation of each photograph's exact map with the others', [photographs, 2].

    The second column is the mean over the shaken copies.
    """
    exact = Explainer(model, threads=1)
    others = [
        Explainer(model, gradient="surrogate", surrogate=surrogate_path(model), threads=1),
        *(Explainer(each, threads=1) for each in _copies(model)),
    ]
    rows = []
    for path in photographs:
        found = exact.explain(path)
        maps = [each.explain(path, found.target.index).map for each in others]
        surrogate, *shaken = (spearman(found.map, each) for each in maps)
        rows.append((surrogate, np.mean(shaken)))
        print(model.stem, path.name, *rows[-1], flush=True)
    return np.array(rows)


def _copies(model: Path) -> list[Path]:
    paths = [model.with_name(f"{model.stem}.{seed}.onnx") for seed in range(COPIES)]
    for seed, path in enumerate(paths):
        shake(model, path, seed)
    return paths


def row(name: str, found: np.ndarray) -> str:
    """A line of the table."""
    least, mean = found.min(0), found.mean(0)
    alike = (found >= ALIKE).sum(0)
    cells = [f"{least[i]:.3f} | {mean[i]:.3f} | {alike[i]} of {len(found)}" for i in (0, 1)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("assets", type=Path)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="a page to put the table into")
    arguments = parser.parse_args()
    photographs = sorted((arguments.assets / "images").glob("*.JPEG"))
    lines = [
        f"| model | surrogate: least | mean | {ALIKE} or more | rounding: least | mean "
        f"| {ALIKE} or more |\n|---|---|---|---|---|---|---|"
    ]
    with tempfile.TemporaryDirectory(prefix="ibisa-onnx.") as made:
        for name in MODELS:
            model = exported(arguments.assets / "models" / f"{name}.onnx", photographs, Path(made))
            lines.append(row(name, correlations(model, photographs)))
    text = "\n".join(lines)
    if arguments.write:
        put(arguments.write, "surrogates", text)
    print(text)


if __name__ == "__main__":
    main()
