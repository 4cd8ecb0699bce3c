"""Eight threads, a hundred explanations each: are the maps the same bits, and is memory flat?

    python benchmarks/steadiness.py MODEL IMAGE [--threads 8] [--explanations 100]

Prints how many different maps there were of each target, and the resident memory after each tenth.
Memory is flat where the last tenth has no more than 5% above the second: the first one loads
libraries and fills caches.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ibisa_onnx as ibisa


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--explanations", type=int, default=100, help="of each thread")
    parser.add_argument("--preprocessing")
    options = parser.parse_args()
    explainer = ibisa.Explainer(options.model, preprocessing=options.preprocessing, threads=1)
    classes = [each.index for each in explainer.predict(options.image, 2)]
    memory, digests, lock = [], {index: set() for index in classes}, threading.Lock()
    total = options.threads * options.explanations

    def explain(number: int) -> None:
        target = classes[number % len(classes)]
        found = explainer.explain(options.image, target)
        digest = hashlib.sha256(found.map.tobytes()).hexdigest()
        with lock:
            digests[target].add(digest)
            memory.append(_resident())

    with ThreadPoolExecutor(options.threads) as pool:
        list(pool.map(explain, range(total)))
    tenths = [max(memory[total * k // 10 : total * (k + 1) // 10]) for k in range(10)]
    print(f"{total} explanations by {options.threads} threads of {len(classes)} targets")
    print(f"different maps of a target: {max(map(len, digests.values()))}")
    print(f"resident memory, MiB, most of each tenth: {' '.join(str(m >> 20) for m in tenths)}")
    growth = tenths[-1] / tenths[1] - 1
    print(f"growth from the second tenth to the last: {growth:+.1%}")
    return int(growth > 0.05 or max(map(len, digests.values())) > 1)


def _resident() -> int:
    """Return the bytes that this process has in memory."""
    line = next(
        each for each in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in each
    )
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    sys.exit(main())
