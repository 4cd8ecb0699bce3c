"""Explanations on CUDA: is every node there, does it agree with the CPU, what does it cost.

    python benchmarks/gpu.py MODEL IMAGE [--preprocess tf]

Fails (exit 1) where CUDA does not come up, or a node of the model or of its gradient graphs runs on
the CPU. Prints for each provider the one in use, the seconds of an explanation, and `explain_batch`
of the picture turned and mirrored in 8 ways beside single runs (see `batch.py`); then the largest
difference of the two providers' maps.
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
from batch import Pair, batch_of
from cost import seconds

from ibisa_onnx import Explainer
from ibisa_onnx.errors import IbisaError
from ibisa_onnx.io.images import read_image
from ibisa_onnx.metrics import spearman


def main() -> None:
    """Measure, print, and exit 1 where a node is on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--preprocess", default=None)
    parser.add_argument("--repeat", type=int, default=10)
    args = parser.parse_args()
    print(f"model        {Path(args.model).name}")
    try:
        maps = {provider: measured(args, provider) for provider in ("cpu", "cuda")}
    except IbisaError as error:
        sys.exit(str(error))
    nodes = nodes_by_provider(args)
    difference = float(np.abs(maps["cpu"] - maps["cuda"]).max())
    agreement = spearman(maps["cpu"], maps["cuda"])
    print(f"nodes        {dict(nodes)}")
    print(f"map          differs by {difference:.1e}, Spearman {agreement:.4f}")
    if nodes["CPUExecutionProvider"]:
        sys.exit("nodes ran on the CPU")


def measured(args: argparse.Namespace, provider: str) -> np.ndarray:
    """Explain by a provider, print what that costs, and return the map."""
    explainer = Explainer(args.model, preprocessing=args.preprocess, providers=[provider])
    found = explainer.explain(args.image)
    runs = [seconds(lambda: explainer.explain(args.image)) for _ in range(args.repeat)]
    print(f"provider     {found.provenance.providers[0]}")
    print(f"explanation  {1000 * min(runs):.0f} ms")
    image = read_image(args.image)
    pictures = [
        np.ascontiguousarray(np.rot90(each, turns))
        for each in (image, image[:, ::-1])
        for turns in range(4)
    ]
    print(f"batch        {said(batch_of(explainer, pictures, args.repeat))}", flush=True)
    return found.map


def said(pair: Pair) -> str:
    """Return what a batch costs beside single runs."""
    passes, (alone, together) = " and ".join(pair.passes), pair.costs
    return (
        f"{pair.count} maps differ by {pair.difference:.1e} from single runs ({passes} passes), "
        f"which take {pair.ratio:.2f} times as long: {1000 * pair.alone:.0f} ms and "
        f"{1000 * pair.together:.0f} ms, a map {alone:.1f} and {together:.1f} forward passes"
    )


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
