"""Explanations side by side against one after the other: the same maps, and what they cost.

    python benchmarks/batch.py [ASSETS] [--model squeezenet] [--threads 2] [--repeat 5]

ASSETS has `models/` and `images/`; without it, what the environment's IBISA_ASSETS says. For each
model two pairs: `explain_batch` of 8 photographs against 8 runs of `explain`, and
`explain_all(photograph, "top:3")` against 3. The two of a pair run in turn, so that they see the
same machine; what opens the gradient comes before, and is not counted.

Printed are the largest difference of the maps, the passes, and medians: seconds of each, by how
much the runs in turn take longer, and the cost of one answer in forward passes of one image at the
same number of threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cost import seconds
from photographs import PRESETS, explainer_of_crops, photographs

from ibisa_onnx import Explainer, Explanation

PICTURES, TOP = 8, 3
FORWARDS = 10  # in each turn

Run = Callable[[], list[Explanation]]


@dataclass(frozen=True)
class Pair:
    """Several explanations made together, and one by one.

    Attributes
    ----------
    count
        How many answers there are.
    difference
        The largest one between two maps of the same answer.
    passes
        Forward and backward passes in all, one by one and together.
    alone, together
        Median seconds.
    ratio
        The first over the second, the median of all turns.
    forward
        Median seconds of one forward pass of one image.
    """

    count: int
    difference: float
    passes: tuple[str, str]
    alone: float
    together: float
    ratio: float
    forward: float

    @property
    def costs(self) -> tuple[float, float]:
        """What one answer costs one by one and together, in forward passes."""
        return tuple(each / self.count / self.forward for each in (self.alone, self.together))


def measure_pair(explainer: Explainer, alone: Run, together: Run, repeat: int) -> Pair:
    """Make the explanations of a pair, and time them in turn."""
    ones, others = alone(), together()  # opens the gradient; not counted
    maps = zip(ones, others, strict=True)
    image = explainer.problem(ones[0].image).image
    forwards, turns = [], []
    for _ in range(repeat):
        forwards += [seconds(lambda: explainer.model.run(image)) for _ in range(FORWARDS)]
        turns.append((seconds(alone), seconds(together)))
    return Pair(
        len(ones),
        max(float(np.abs(one.map - other.map).max()) for one, other in maps),
        (spent(ones), spent(others)),
        *(statistics.median(each) for each in zip(*turns, strict=True)),
        statistics.median(one / other for one, other in turns),
        statistics.median(forwards),
    )


def spent(explanations: Sequence[Explanation]) -> str:
    """Return all forward and backward passes of some explanations."""
    forward, backward = (
        sum(getattr(each.passes, name) for each in explanations) for name in ("forward", "backward")
    )
    return f"{forward} + {backward}"


def batch_of(explainer: Explainer, images: Sequence[Path | np.ndarray], repeat: int) -> Pair:
    """Measure `explain_batch` of several pictures."""
    return measure_pair(
        explainer,
        lambda: [explainer.explain(image) for image in images],
        lambda: explainer.explain_batch(images),
        repeat,
    )


def top_of(explainer: Explainer, image: Path | np.ndarray, repeat: int) -> Pair:
    """Measure `explain_all` of the likeliest classes of one picture."""
    indices = [each.index for each in explainer.predict(image, TOP)]
    return measure_pair(
        explainer,
        lambda: [explainer.explain(image, index) for index in indices],
        lambda: explainer.explain_all(image, f"top:{TOP}"),
        repeat,
    )


HEAD = (
    "| model | what | maps differ by | passes alone | together | seconds alone | together "
    "| alone / together | one answer alone, in forward passes | together |\n" + "|---" * 10 + "|"
)


def row(model: str, what: str, pair: Pair) -> str:
    """Return a line of the table."""
    times = f"{pair.alone:.3f} | {pair.together:.3f} | {pair.ratio:.2f}"
    alone, together = pair.costs
    return (
        f"| {model} | {what} | {pair.difference:.1e} | {' | '.join(pair.passes)} | {times} "
        f"| {alone:.1f} | {together:.1f} |"
    )


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path, nargs="?", default=os.environ.get("IBISA_ASSETS"))
    parser.add_argument("--model", action="append", choices=PRESETS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    args = parser.parse_args()
    if args.assets is None:
        sys.exit("give ASSETS, or set IBISA_ASSETS")
    print(f"{args.threads} threads, medians of {args.repeat} turns\n\n{HEAD}", flush=True)
    for model in args.model or PRESETS:
        explainer, fitted = explainer_of_crops(args.assets, model, args.threads)
        photos = [each.path for each in photographs(args.assets, explainer, fitted)]
        photos = photos[: args.pictures]
        pair = batch_of(explainer, photos, args.repeat)
        print(row(model, f"explain_batch of {len(photos)}", pair), flush=True)
        pair = top_of(explainer, photos[0], args.repeat)
        print(row(model, f"explain_all of top:{TOP}", pair), flush=True)


if __name__ == "__main__":
    main()
