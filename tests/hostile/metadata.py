"""What models say of themselves: preprocessing and labels in their metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hostile.base import SIDE, graph, model, with_model
from hostile.case import Case

_FAMILY = "metadata"
_WORDS = ("run", "m.onnx", "p.png", "-o", "out/", "--threads", "1")
_HONEST = {
    "size": [SIDE, SIDE],
    "resize": "stretch",
    "channel_order": "RGB",
    "scale": 1 / 255,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
}
MANY = "9" * 5000
DEEP = "[" * 100000 + "]" * 100000


def make() -> Iterator[Case]:
    for name, text in _ibisa():
        yield _of(f"ibisa-{name}", {"ibisa": text})
    for name, text in _literals():
        for key in ("names", "imgsz", "stride", "character", "preprocessor_config"):
            yield _of(f"{key}-{name}", {key: text})
    for name, text in (("many", MANY), ("deep", DEEP), ("zero", "0"), ("text", "x\x1b[2J\ny")):
        for key in ("mean_values", "scale_values", "resize_type", "labels", "confidence_threshold"):
            yield _of(
                f"api-{key}-{name}", {f"model_info {key}": text, "model_info model_type": "x"}
            )


def _of(name: str, metadata: dict[str, str]) -> Case:
    def source() -> Any:
        return model(graph(shape=("n", 3, "h", "w")), metadata)

    return Case(_FAMILY, name, with_model(source, *_WORDS))


def spoilt() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield preprocessing of which one value is bad."""
    values: dict[str, tuple[Any, ...]] = {
        "size": ([0, 0], [-5, 5], [10**9, 10**9], [1], "16", [1.5, 2], [None, 3], 10**400, [[1]]),
        "shorter_side": (0, -1, 10**9, 10**400, "x", 1.5, [3]),
        "crop_size": ([0], [10**9], "x", {}),
        "resize": ("x", 3, None, ["stretch"]),
        "channel_order": ("XYZ", 3, "\x1b[2J"),
        "scale": (0, 1e400, "x", -1, [1], None),
        "mean": ([1], [1, 2, 3, 4], "x", [None] * 3, [1e400] * 3, [1e39] * 3, {}),
        "std": ([0, 0, 0], [1e-50] * 3, [-1] * 3, ["1"] * 3, [1e400] * 3),
        "pad_value": (-1, 300, "x", 1.5),
        "interpolation": ("x", 7),
        "layout": ("x", 7, "NHWC"),
        "dtype": ("x", "object", "float64"),
    }
    for key, bad in values.items():
        for number, value in enumerate(bad):
            yield f"{key}-{number}", _HONEST | {key: value}


def _ibisa() -> Iterator[tuple[str, str]]:
    yield "honest", json.dumps({"version": 1, "preprocessing": _HONEST})
    for name, preprocessing in spoilt():
        yield name, json.dumps({"version": 1, "preprocessing": preprocessing})
    yield "version-many", f'{{"version": {MANY}}}'
    yield "version-text", '{"version": "1", "preprocessing": []}'
    yield "no-json", "{"
    yield "deep", DEEP
    yield "deep-inside", f'{{"version": 1, "preprocessing": {DEEP}}}'
    yield "null", "null"
    yield "nan", '{"version": 1, "preprocessing": {"scale": NaN, "mean": [Infinity, 1, 1]}}'
    yield "labels-number", '{"version": 1, "labels": 5}'
    yield "labels-surrogate", json.dumps({"version": 1, "labels": ["\ud800"] * 5})
    yield (
        "labels-escape",
        json.dumps({"version": 1, "labels": ["\x1b[2J\nibisa-onnx: error: x"] * 5}),
    )
    yield "labels-long", json.dumps({"version": 1, "labels": ["x" * 10**6] * 5})
    yield "labels-many", json.dumps({"version": 1, "labels": ["x"] * 10**5})
    yield "labels-index", f'{{"version": 1, "labels": {{"{MANY}": "a", "²": "b"}}}}'


def _literals() -> Iterator[tuple[str, str]]:
    yield "many", MANY
    yield "deep", DEEP
    yield "call", "__import__('os').system('touch code-was-run')"
    yield "table", "{0: 'a', '²': 'b'}"
    yield "huge-index", f"{{{MANY}: 'a'}}"
    yield "negative", "{-1: 'a'}"
    yield "expression", "9**9**9"
    yield "surrogate", "['\\ud800', 'b']"
    yield "zeros", "[0, 0]"
    yield "large", "[1000000000, 1000000000]"
    yield "empty", ""
