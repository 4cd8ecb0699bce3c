"""What it takes to open an exact gradient: built anew, and from the cache.

    python benchmarks/opening.py MODEL [OUTPUT]

Prints the median of several runs in milliseconds: reading the model, building the two graphs or
finding them in the cache, and opening the two sessions; then the size of the entry.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from ibisa_onnx.gradients import onnx_backward
from ibisa_onnx.gradients.cache import GradientCache, usage
from ibisa_onnx.models.onnx_session import DeployedModel

REPEATS = 7


def main() -> None:
    """Measure and print."""
    path, *output = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        model = DeployedModel.open(path, providers=["cpu"], threads=1)
        name = output[0] if output else model.signature.outputs[0].name
        hashed = milliseconds(lambda: model.file.sha256())
        model.sha256  # noqa: B018  computed once; the explanation's record needs it too
        read = milliseconds(model.proto)
        cache = GradientCache(Path(folder))
        anew = [opening(model, name, None) for _ in range(REPEATS)]
        opening(model, name, cache)
        kept = [opening(model, name, cache) for _ in range(REPEATS)]
        print(f"{Path(path).name}: hash {hashed:.0f} ms, read {read:.0f} ms")
        for what, runs in (("built anew", anew), ("from the cache", kept)):
            graphs, sessions, total = (median(column) for column in zip(*runs, strict=True))
            print(f"  {what:15} graphs {graphs:6.1f}  sessions {sessions:6.1f}  all {total:6.1f}")
        print(f"  entry {usage(Path(folder)).bytes / 1000:.0f} kB")


def opening(
    model: DeployedModel, output: str, cache: GradientCache | None
) -> tuple[float, float, float]:
    """Return milliseconds for the graphs, for the sessions, and in all."""
    spent = {"_derivative": 0.0, "new_session": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            begin = time.perf_counter()
            result = function(*args)
            spent[name] += 1000 * (time.perf_counter() - begin)
            return result

        return wrapped

    derivative, new_session = onnx_backward._derivative, DeployedModel.new_session
    onnx_backward._derivative = timed("_derivative", derivative)
    DeployedModel.new_session = timed("new_session", new_session)  # type: ignore[method-assign]
    try:
        begin = time.perf_counter()
        onnx_backward.ExactGradient(model, (output,), cache)
        total = 1000 * (time.perf_counter() - begin)
    finally:
        onnx_backward._derivative = derivative
        DeployedModel.new_session = new_session  # type: ignore[method-assign]
    return spent["_derivative"], spent["new_session"], total


def milliseconds(function: Callable[[], Any]) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - begin))
    return median(times)


if __name__ == "__main__":
    main()
