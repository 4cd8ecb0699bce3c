"""What an explanation costs, in multiples of one forward pass of the same model in the same run.

    python benchmarks/cost.py MODEL IMAGE [--preprocess tf] [--threads 1] [--repeat 5]

Prints the ratio, the share of time spent outside ONNX Runtime, and the peak memory. The time inside
ONNX Runtime is measured around its calls, so what feeds and fetches them counts as outside.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import onnxruntime

from ibisa_onnx import Explainer
from ibisa_onnx.io.images import read_image
from ibisa_onnx.preprocessing.spec import prepare


class Clock:
    """Adds up the seconds spent in the calls that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begin

        return timed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--preprocess", default=None)
    parser.add_argument("--provider", action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    clock = Clock()
    for name in ("run", "run_with_iobinding"):
        method = getattr(onnxruntime.InferenceSession, name)
        setattr(onnxruntime.InferenceSession, name, clock.wrap(method))
    explainer = Explainer(
        args.model,
        preprocessing=args.preprocess,
        providers=args.provider,
        threads=args.threads,
    )
    before = peak()
    explanation = explainer.explain(args.image)  # opens the gradient graphs; not counted
    image = prepare(read_image(args.image), explainer.preprocessing.spec).tensor
    forwards, totals, outside = [], [], []
    for _ in range(args.repeat):  # in turn, so that both see the same machine
        forwards += [seconds(lambda: explainer.model.run(image)) for _ in range(10)]
        clock.seconds = 0.0
        totals.append(seconds(lambda: explainer.explain(args.image)))
        outside.append(1 - clock.seconds / totals[-1])
    forward, total = statistics.median(forwards), statistics.median(totals)
    passes = explanation.passes
    print(f"gradient                {explanation.certificate.gradient}")
    print(f"provider                {explanation.provenance.providers[0]}")
    print(f"passes                  {passes.forward} forward + {passes.backward} backward")
    print(f"one forward pass        {1000 * forward:.1f} ms")
    print(f"one explanation         {1000 * total:.0f} ms = {total / forward:.1f} forward passes")
    print(f"outside ONNX Runtime    {100 * statistics.median(outside):.1f}%")
    print(f"peak memory             {peak():.0f} MiB ({before:.0f} MiB with the model open)")


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def peak() -> float:
    """Return the process's peak memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
