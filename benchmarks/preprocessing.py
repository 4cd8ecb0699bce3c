"""How often `inspect --try` finds a model's preprocessing, on random draws of photographs.

python benchmarks/preprocessing.py squeezenet.onnx caffe photos/ --pictures 5 --draws 20
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ibisa_onnx import Explainer
from ibisa_onnx.commands.outputs import expand
from ibisa_onnx.io.images import read_image, read_picture
from ibisa_onnx.preprocessing.spec import Preprocessing, prepare, unprepare
from ibisa_onnx.preprocessing.trial import Answer, rank_preprocessing, usual_order


def remembered(answer: Answer) -> Answer:
    """Ask about each image once, whatever draws it is in."""
    known: dict[bytes, np.ndarray] = {}

    def ask(tensors: np.ndarray) -> np.ndarray:
        keys = [hashlib.sha1(each.tobytes()).digest() for each in tensors]
        new = [place for place, key in enumerate(keys) if key not in known]
        for place, each in zip(new, answer(tensors[new]) if new else (), strict=True):
            known[keys[place]] = each
        return np.stack([known[key] for key in keys])

    return ask


def at_input_size(path: str, spec: Preprocessing) -> np.ndarray:
    return unprepare(prepare(read_image(path), spec).tensor, spec)


def draw_ranks(
    preset: str, spec: Preprocessing, draw: Callable[[], list], answer: Answer, draws: int
) -> None:
    ranks, sure, wrong, passes = Counter(), 0, 0, []
    for _ in range(draws):
        found = rank_preprocessing(spec, draw(), answer)
        wanted = preset, usual_order(preset, spec)
        names = [(each.preset, each.channel_order) for each in found.trials]
        rank = names.index(wanted) + 1
        ranks[rank] += 1
        sure += found.is_sure
        wrong += found.is_sure and rank > 1
        passes.append(found.passes)
    print(f"  ranks {dict(sorted(ranks.items()))}, sure {sure}, wrongly {wrong}, ", end="")
    print(f"{min(passes)} to {max(passes)} passes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("preset")
    parser.add_argument("photos")
    parser.add_argument("--pictures", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    explainer = Explainer(args.model, cache=False)
    spec = explainer.preprocessing.spec
    raw = Explainer(args.model, cache=False, preprocessing="raw").preprocessing.spec
    paths = expand([args.photos])
    crops: dict[int, np.ndarray] = {}

    def picture(number: int) -> object:
        if number not in crops:
            crops[number] = at_input_size(paths[number], raw)
        return read_picture(crops[number])

    answer = remembered(explainer._pipeline.probabilities_of)
    for count in args.pictures:
        rng = np.random.default_rng(0)

        def draw(count: int = count, rng: np.random.Generator = rng) -> list:
            return [picture(n) for n in rng.choice(len(paths), count, replace=False)]

        print(f"{args.model.name}, {count} pictures, {args.draws} draws:")
        draw_ranks(args.preset, spec, draw, answer, args.draws)


if __name__ == "__main__":
    main()
