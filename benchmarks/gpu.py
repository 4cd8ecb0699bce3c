"""Explanations on CUDA: is every node there, does it agree with the CPU, what does it cost.

    python benchmarks/gpu.py MODEL IMAGE [--preprocess tf]

Fails (exit 1) where CUDA does not come up, or a node of the model or of its gradient graphs runs on
the CPU. Prints the largest difference of the two maps, and times.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cost import seconds

from ibisa_onnx import Explainer
from ibisa_onnx.metrics import spearman


def main() -> None:
    """Measure, print, and exit 1 where a node is on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--preprocess", default=None)
    parser.add_argument("--repeat", type=int, default=10)
    args = parser.parse_args()
    maps, times = {}, {}
    for provider in ("cpu", "cuda"):
        explainer = Explainer(args.model, preprocessing=args.preprocess, providers=[provider])
        maps[provider] = explainer.explain(args.image).map
        runs = [seconds(lambda e=explainer: e.explain(args.image)) for _ in range(args.repeat)]
        times[provider] = min(runs)
    nodes = nodes_by_provider(args)
    difference = float(np.abs(maps["cpu"] - maps["cuda"]).max())
    agreement = spearman(maps["cpu"], maps["cuda"])
    print(f"model        {Path(args.model).name}")
    print(f"nodes        {dict(nodes)}")
    print(f"map          differs by {difference:.1e}, Spearman {agreement:.4f}")
    print(f"explanation  CPU {1000 * times['cpu']:.0f} ms, CUDA {1000 * times['cuda']:.0f} ms")
    if nodes["CPUExecutionProvider"]:
        sys.exit("nodes ran on the CPU")


def nodes_by_provider(args: argparse.Namespace) -> collections.Counter[str]:
    """Profile every session of one explanation on CUDA, and count nodes by where they ran."""
    sessions: list[Any] = []
    plain = onnxruntime.InferenceSession

    class Profiled(plain):  # type: ignore[misc,valid-type]
        """A session that profiles itself."""

        def __init__(self, source: Any, options: Any = None, *rest: Any, **named: Any) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = f"{folder}/profile{len(sessions)}"
            super().__init__(source, options, *rest, **named)
            sessions.append(self)

    with tempfile.TemporaryDirectory() as folder:
        onnxruntime.InferenceSession = Profiled
        try:
            explainer = Explainer(args.model, preprocessing=args.preprocess, providers=["cuda"])
            explainer.explain(args.image)
        finally:
            onnxruntime.InferenceSession = plain
        counts: collections.Counter[str] = collections.Counter()
        for session in sessions:
            events = json.loads(Path(session.end_profiling()).read_text())
            ran = {
                (event["args"]["provider"], event["name"])
                for event in events
                if event.get("cat") == "Node" and event.get("args", {}).get("provider")
            }
            counts.update(provider for provider, _ in ran)
    return counts


if __name__ == "__main__":
    main()
