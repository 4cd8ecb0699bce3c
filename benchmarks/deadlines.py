"""How well a deadline is kept: by image size, by threads that explain at a time, and by deadline.

    python benchmarks/deadlines.py model.onnx IMAGE [--preprocess imagenet] [--repeat 20]

The image is enlarged to each size and encoded as JPEG; decoding it, and restoring the map to its
size, count. Printed are the median, the 99th percentile and the longest time from call to return in
fractions of the deadline, explanations or `DeadlineError`s alike, and the median number of steps.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

import ibisa_onnx as ibisa


def enlarged(path: str, megapixels: float) -> bytes:
    """Return an image at about this many megapixels, as JPEG."""
    image = cv2.imread(path)
    factor = math.sqrt(megapixels * 1e6 / (image.shape[0] * image.shape[1]))
    resized = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return bytes(cv2.imencode(".jpg", resized)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--deadlines", type=float, nargs="+", default=[0.2, 0.5, 1.0])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.2, 24, 100])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8])
    given = parser.parse_args()
    explainer = ibisa.Explainer(given.model, preprocessing=given.preprocess)
    explainer.warm_up()
    print("| megapixels | threads | deadline | median | p99 | longest | steps | no map |")
    print("|---|---|---|---|---|---|---|---|")
    for megapixels in given.megapixels:
        data = enlarged(given.image, megapixels)
        explainer.explain(data)
        for threads in given.threads:
            for deadline in given.deadlines:

                def explain(
                    _: int, data: bytes = data, deadline: float = deadline
                ) -> tuple[float, int]:
                    begin, steps = time.perf_counter(), 0
                    with contextlib.suppress(ibisa.DeadlineError):
                        steps = explainer.explain(data, deadline=deadline).completion.done
                    return (time.perf_counter() - begin) / deadline, steps

                with ThreadPoolExecutor(threads) as pool:
                    found = list(pool.map(explain, range(max(given.repeat, 2 * threads))))
                taken = np.array([each[0] for each in found])
                steps = [each[1] for each in found]
                print(
                    f"| {megapixels:g} | {threads} | {deadline:g} s | {np.median(taken):.2f} | "
                    f"{np.percentile(taken, 99):.2f} | {taken.max():.2f} | "
                    f"{np.median(steps):.0f} of 10 | {steps.count(0)} of {len(steps)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
