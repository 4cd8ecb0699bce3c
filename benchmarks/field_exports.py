"""Write files with random weights, by the exporters of three frameworks, for `field.py --exported`.

    python benchmarks/field_exports.py FOLDER [--only NAME ...]

Needs `pip install ultralytics transformers`, best in an environment of its own; nothing else is
fetched. Each network is built from its configuration alone: detectors, segmenters, poses, rotated
boxes, depth and a classifier of Ultralytics, with `nms` left alone, on and off; detectors and
segmenters of torchvision; small detectors, segmenters, embedders, depth, poses and a picture's
enlargement of transformers. What is there already is not written again, unless it is named.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from field_set import (
    export_queries,
    export_torchvision,
    export_transformers,
    export_ultralytics,
)

NETWORKS = {
    **export_torchvision.NETWORKS,
    **export_queries.NETWORKS,
    **export_transformers.NETWORKS,
}


def _build_and_write(name: str, path: Path) -> None:
    NETWORKS[name]().write(path)


EXPORTS: Mapping[str, Callable[[Path], None]] = {
    **{name: partial(export_ultralytics.write, name) for name in export_ultralytics.FILES},
    **{name: partial(_build_and_write, name) for name in NETWORKS},
}
"""By name, what writes the file to a path."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write what is not there, and say what failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=EXPORTS, metavar="NAME")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in args.only or EXPORTS:
        path, start = args.folder / f"{name}.onnx", time.perf_counter()
        if path.exists() and not args.only:
            continue
        torch.manual_seed(0)
        try:
            EXPORTS[name](path)
        except Exception as error:  # the others are written all the same
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        else:
            print(f"{name}: written ({time.perf_counter() - start:.0f} s)", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
