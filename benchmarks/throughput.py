"""Images explained per second: through a scheduler, by batch size and workers, and one at a time.

    python benchmarks/throughput.py model.onnx IMAGE... --threads 2 [--provider cuda] [run options]

One at a time is a loop of `explain` with the same number of threads. All settings take turns in
each round, so that a busy machine slows them alike; printed are the median of the rounds, and the
ratio to one at a time within each round. Every map is compared with that of `explain`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np

import ibisa_onnx as ibisa
from ibisa_onnx.serving.scheduler import Scheduler

Explain = Callable[[list[str]], list[ibisa.Explanation]]


def one_at_a_time(explainer: ibisa.Explainer) -> Explain:
    return lambda images: [explainer.explain(each) for each in images]


def scheduled(explainer: ibisa.Explainer, workers: int, batch: int) -> Explain:
    def explain(images: list[str]) -> list[ibisa.Explanation]:
        with Scheduler(
            explainer, max_batch=batch, workers=workers, max_queue=len(images)
        ) as scheduler:
            futures = [scheduler.submit(each) for each in images]
            return [each.result() for each in futures]

    return explain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=16, help="images per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    given = parser.parse_args()

    def opened(threads: int) -> ibisa.Explainer:
        explainer = ibisa.Explainer(
            given.model,
            preprocessing=given.preprocess,
            providers=[given.provider],
            threads=threads,
        )
        explainer.warm_up()
        return explainer

    images = list(itertools.islice(itertools.cycle(given.images), given.count))
    whole, single = opened(given.threads), opened(1)
    ways: dict[str, Explain] = {f"one at a time, {given.threads} threads": one_at_a_time(whole)}
    for batch in given.batches:
        ways[f"1 worker, batch {batch}, {given.threads} threads"] = scheduled(whole, 1, batch)
    for batch in given.batches:
        name = f"{given.threads} workers, batch {batch}, 1 thread each"
        ways[name] = scheduled(single, given.threads, batch)
    expected = [whole.explain(each).map for each in images]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, explain in ways.items():
            begin = time.perf_counter()
            found = explain(images)
            seconds[name].append(time.perf_counter() - begin)
            for each, map in zip(found, expected, strict=True):
                np.testing.assert_allclose(each.map, map, atol=1e-4)
    first = next(iter(seconds.values()))
    print(f"{given.model}, {given.count} images, {given.rounds} rounds, {given.provider}\n")
    print("| | images/s | ratio to one at a time (lowest to highest) |\n|---|---|---|")
    for name, times in seconds.items():
        ratios = sorted(one / each for one, each in zip(first, times, strict=True))
        print(
            f"| {name} | {given.count / statistics.median(times):.2f} | "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
