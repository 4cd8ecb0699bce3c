"""How the check of a gradient tells right ones from wrong ones.

    python benchmarks/gradient_check.py ASSETS [--every 1] [--exported FOLDER]

Classifiers of ASSETS (the tests' folder) are asked about the first and the third class of each
photograph, files of random weights (`field_exports.py` writes them into FOLDER) about what they say
first of two. The gradient at the first step's mask is checked as it is, and then spoilt: its sign
turned, zero, its cells shuffled, shifted or transposed, a hundred times as large and as small, or
that of the class that comes next.

Of each: the relative errors (median, and the largest of right ones or the smallest of wrong ones)
and how many are beyond the tolerance. Where nothing tells, that is said apart.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from field_set.exported import EXPORTED, UNSURE

import ibisa_onnx as ibisa
from ibisa_onnx.errors import IbisaError
from ibisa_onnx.methods.ibisa.baseline_choice import for_rounds, settle_baselines
from ibisa_onnx.methods.ibisa.gradient_check import GradientCheck
from ibisa_onnx.methods.ibisa.optimizer import optimise, pathwise
from ibisa_onnx.methods.problem import MaskGradient, Problem

CLASSIFIERS = {
    "squeezenet": {"preprocessing": "imagenet"},
    "mobilenetv2": {"preprocessing": "tf"},
    "mobilenetv2_int8": {},
}
Values = np.ndarray[Any, np.dtype[np.float32]]
SPOILT: dict[str, Callable[[Values], Values]] = {
    "right": lambda values: values,
    "sign turned": lambda values: -values,
    "zero": np.zeros_like,
    "shuffled": lambda values: np.random.default_rng(1).permuted(values, axis=None),
    "shifted": lambda values: np.roll(values, (5, 9), (1, 2)),
    "transposed": lambda values: values.transpose(0, 2, 1).reshape(values.shape),
    "x 100": lambda values: values * np.float32(100),
    "x 0.01": lambda values: values * np.float32(0.01),
}


class _Known(Exception):  # noqa: N818 - nothing is wrong
    """The first step's masks are known."""


def first_masks(problem: Problem, options: ibisa.Options) -> Values:
    """Return the masks of the first step, [1, h, w]."""
    seen: list[Values] = []

    def note(masks: Values) -> MaskGradient:
        seen.append(masks)
        raise _Known

    steps = optimise(
        lambda _: pathwise(note, options.temperature),
        *(1, problem.size, options),
    )
    with suppress(_Known):
        next(steps)
    return seen[0]


def measured(
    explainer: ibisa.Explainer, image: Path, target: Any, other: Any = None
) -> Iterator[tuple[bool, str, float | None, float]]:
    """Yield of right and wrong gradients: rounded or not, which, error and tolerance."""
    problem = settle_baselines(explainer.problem(image, target), "auto")
    path = explainer.method.gradients.open(
        problem.model, problem.row.objective.outputs, problem.size
    )
    if path.source is None:
        return
    one = for_rounds(problem, [0])
    masks, gradient = first_masks(one, explainer.method.options), one.gradient(path.source)
    found = gradient(masks)
    wrong = {name: spoil(found.values) for name, spoil in SPOILT.items()}
    if other is not None:
        objective = explainer.problem(image, other).row.objective
        row = replace(one.row, objective=objective)
        wrong["another class"] = replace(one, rows=(row,)).gradient(path.source)(masks).values
    for name, values in wrong.items():
        check = GradientCheck(1, coarse=path.coarse)
        spoilt = replace(found, values=values)
        check.watch(one, lambda _, spoilt=spoilt: spoilt)(masks)
        yield path.coarse, name, check.errors[0], path.gradient_tolerance


def cases(args: argparse.Namespace) -> Iterator[tuple[ibisa.Explainer, Path, Any, Any]]:
    """Yield models, pictures, targets, and other targets."""
    photographs = sorted((args.assets / "images").glob("*.JPEG"))[:: args.every]
    for name, settings in CLASSIFIERS.items():
        explainer = ibisa.Explainer(args.assets / "models" / f"{name}.onnx", threads=1, **settings)
        for image in photographs:
            first, second, third = (each.index for each in explainer.predict(image, 3))
            yield from ((explainer, image, first, second), (explainer, image, third, first))
    for name, settings in EXPORTED.items() if args.exported else ():
        path = args.exported / f"{name}.onnx"
        if path.exists():
            explainer = ibisa.Explainer(path, threads=1, **settings)
            for image in (args.assets / "detection" / each for each in ("pets.jpg", "1.jpg")):
                unsure = explainer.kind.name == "detector" and not explainer.answers(image)
                target = ibisa.BoxTarget(confidence=UNSURE) if unsure else None
                yield explainer, image, target, None


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("assets", type=Path)
    parser.add_argument("--every", type=int, default=1, help="of the photographs")
    parser.add_argument("--exported", type=Path, help="of field_exports.py")
    args = parser.parse_args()
    errors: dict[tuple[bool, str], list[tuple[float | None, float]]] = defaultdict(list)
    for case in cases(args):
        try:
            for coarse, name, error, tolerance in measured(*case):
                errors[coarse, name].append((error, tolerance))
                if name == "right" and error is not None and error > tolerance:
                    print(f"right, but {error:.2f}: {case[0].model.name}, {case[1].name}")
        except IbisaError as error:
            print(f"{case[0].model.name}, {case[1].name}: {error}")
    print("| path | gradient | median error | extreme | beyond tolerance | nothing tells |")
    print("|---|---|---|---|---|---|")
    for (coarse, name), found in sorted(errors.items()):
        told = [(error, tolerance) for error, tolerance in found if error is not None]
        values = [error for error, _ in told] or [np.nan]
        extreme = max(values) if name == "right" else min(values)
        beyond = sum(error > tolerance for error, tolerance in told)
        print(
            f"| {'rounded' if coarse else 'float'} | {name} | {np.median(values):.2f} | "
            f"{extreme:.2f} | {beyond} of {len(told)} | {len(found) - len(told)} |"
        )


if __name__ == "__main__":
    main()
