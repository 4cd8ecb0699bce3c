"""What ONNX's own version converter makes of the nodes that `autodiff/upgrade.py` rewrites.

    python benchmarks/version_converter.py

Takes the models of tests/autodiff/test_upgrade.py to opset 18 with it, and runs both.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import version_converter

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "autodiff"))

from test_upgrade import CASES, NEW, model, run  # type: ignore[import-not-found]


def main() -> None:
    """Compare, print what differs, and count."""
    verdicts = {name: verdict(model(*case)) for name, case in CASES.items()}
    for name, each in verdicts.items():
        if each != "the same":
            print(f"{each}: {name}")
    print(dict(Counter(verdicts.values())))


def verdict(old: onnx.ModelProto) -> str:
    """Say what became of a model."""
    try:
        new = run(version_converter.convert_version(old, NEW))
    except Exception:
        return "fails"
    return "the same" if np.array_equal(new, run(old), equal_nan=True) else "different"


if __name__ == "__main__":
    main()
