"""Whatever a model's file, or what lies beside it, says: an answer, or an error on purpose."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.examples import fuzzed
from ibisa_onnx.errors import IbisaError
from ibisa_onnx.models.signature import ImageInput, Layout, Signature, TensorInfo
from ibisa_onnx.preprocessing.resolve import resolve_preprocessing
from ibisa_onnx.preprocessing.sources.metadata import MODEL_API_RESIZES, PIXEL_FORMATS, PIXEL_RANGES
from ibisa_onnx.preprocessing.spec import CHANNEL_ORDERS, PRESETS, RESIZES, prepare
from ibisa_onnx.targets.labels import (
    ClassCount,
    choose_labels,
    find_label,
    known_labels,
    read_labels,
)

PICTURE = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
words = st.one_of(
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "Cc", "Nd", "No"]), max_size=4),
    st.sampled_from(
        ["²", "٣", "nan", "-1e400", "9" * 5000, "0x" + "f" * 9000, "[" * 200, "-" * 99]
    ),
)
numbers = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([10**9, 2**31, 2**63, 10**299, 10**400, -(10**400)]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.5, 5e-324, 1e-300, 1e300, -0.0]),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, words)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)
side = st.sampled_from([8, 9, 16])
sizes = st.one_of(side, st.lists(side, min_size=1, max_size=3))
colours = st.lists(st.sampled_from([0.0, 0.5, 1.0, 123.7]), min_size=1, max_size=4)
truth = st.booleans()


def table(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return tables of some known keys, each value as it is written or anything at all."""
    return st.fixed_dictionaries(
        {}, optional={key: usual | usual | anything for key, usual in known.items()}
    )


names = st.one_of(
    st.lists(words, max_size=5),
    st.dictionaries(st.sampled_from(["0", "1", "2", "²", "-1", "9" * 5000]), words, max_size=4),
)
ours = table(
    {
        "preset": st.sampled_from([*PRESETS]),
        "size": sizes,
        "resize": st.sampled_from([*RESIZES]),
        "shorter_side": side,
        "channel_order": st.sampled_from([*CHANNEL_ORDERS]),
        "scale": st.sampled_from([1.0, 1 / 255]),
        "mean": colours,
        "std": colours,
        "layout": st.sampled_from(["NCHW", "NHWC"]),
        "dtype": st.sampled_from(["float32", "uint8"]),
        "channels": side,
        "pad_value": side,
        "guessed": st.lists(st.sampled_from(["mean", "size"])),
    }
)
hugging_face = table(
    {
        "image_processor_type": st.sampled_from(["ViTImageProcessor", "LevitImageProcessor"]),
        "do_normalize": truth,
        "do_resize": truth,
        "do_rescale": truth,
        "do_center_crop": truth,
        "rescale_factor": st.just(1 / 255),
        "rescale_offset": truth,
        "include_top": truth,
        "image_mean": colours,
        "image_std": colours,
        "size": table({"shortest_edge": side, "height": side, "width": side}) | sizes,
        "crop_size": sizes | table({"height": side, "width": side}),
        "crop_pct": st.just(0.9),
        "resample": st.integers(0, 5),
        "id2label": names,
    }
)
timm = table(
    {
        "input_size": st.just([3, 8, 8]),
        "mean": colours,
        "std": colours,
        "interpolation": st.just("bicubic"),
        "crop_pct": st.just(0.9),
        "crop_mode": st.sampled_from(["squash", "border", "center"]),
        "label_names": names,
        "label_descriptions": st.dictionaries(words, words, max_size=3),
    }
)
torchvision = table(
    {"crop_size": sizes, "resize_size": sizes, "mean": colours, "interpolation": words}
)
config = st.one_of(
    hugging_face,
    timm,
    torchvision,
    st.fixed_dictionaries({"pretrained_cfg": timm | anything, "data_config": timm | anything}),
    anything,
)


def written(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """Return values as JSON, as Python writes them, or cut off."""

    def write(value: Any, how: int) -> str:
        text = json.dumps(value, ensure_ascii=how % 2 == 0)
        with contextlib.suppress(ValueError):  # Python writes no more than 4300 digits
            text = repr(value) if how > 2 else text
        return text[: len(text) // 2] if how == 4 else text

    return st.builds(write, values, st.integers(0, 4))


model_api = {
    "embedded_processing": st.sampled_from(["True", "yes"]),
    "intensity_mode": st.sampled_from(["none", "scale_to_unit"]),
    "intensity_max_value": st.sampled_from(["255", "0", "5e-324"]),
    "mean_values": st.sampled_from(["1 2 3", "[1, 2, 3]", "1e400"]),
    "scale_values": st.sampled_from(["1 2 3", "0", "1e-320"]),
    "reverse_input_channels": st.just("True"),
    "resize_type": st.sampled_from([*MODEL_API_RESIZES]),
    "pad_value": st.sampled_from(["0", "114", "²", "9" * 5000]),
    "labels": st.just("a b c"),
}
metadata = st.fixed_dictionaries(
    {},
    optional={
        "ibisa": written(
            st.fixed_dictionaries(
                {"version": st.just(1) | anything, "preprocessing": ours | anything},
                optional={"labels": names | anything},
            )
        ),
        "author": st.just("Ultralytics"),
        "task": st.sampled_from(["classify", "detect"]) | words,
        "imgsz": written(sizes | anything),
        "channels": written(st.sampled_from([1, 3]) | anything),
        "names": written(names | anything),
        "character": words,
        "Image.BitmapPixelFormat": st.sampled_from([*PIXEL_FORMATS]) | words,
        "Image.NominalPixelRange": st.sampled_from([*PIXEL_RANGES]) | words,
        **{f"model_info {key}": usual | words for key, usual in model_api.items()},
    },
)
inputs = st.tuples(
    st.sampled_from([1, 3, 4, 5]),
    st.sampled_from([None, 8]),
    st.sampled_from(["float32", "uint8", "int64"]),
)


def signature_of(channels: int, side: int | None, dtype: str) -> Signature:
    tensor = TensorInfo("x", dtype, ("n", channels, side or "h", side or "w"))
    image = ImageInput(tensor, Layout.NCHW, channels, side, side, None)
    return Signature((tensor,), (TensorInfo("y", "float32", ("n", 3)),), image)


def ask(
    signature: Signature,
    said: dict[str, str],
    folder: Path | None = None,
    file: Path | None = None,
) -> None:
    """Do what opening a model does with what it says, and what a picture then goes through."""
    for count in (None, 3, ClassCount(3, steps=True)):
        chosen, _ = choose_labels(known_labels(said, folder), count)
        with contextlib.suppress(IbisaError):
            find_label(chosen.labels if chosen else ("a",), "zz")
        if chosen is not None:
            "".join(chosen.labels).encode()
    with contextlib.suppress(IbisaError):
        resolved = resolve_preprocessing(signature, said, folder=folder, file=file)
        json.dumps(resolved.spec.to_dict(), allow_nan=False)
        assert all(len(each) <= 1000 for each in resolved.warnings)
        if max(resolved.spec.size) <= 300:
            tensor = prepare(PICTURE, resolved.spec).tensor
            assert np.isfinite(tensor).all()


@fuzzed(200)
@given(inputs, metadata)
def test_metadata_of_any_kind(shape, said):
    ask(signature_of(*shape), said)


@fuzzed(200)
@given(inputs, written(config), st.sampled_from(["config.json", "preprocessor_config.json"]))
def test_files_beside_a_model_of_any_kind(shape, text, name):
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        ask(signature_of(*shape), {}, folder=Path(place))


@fuzzed(200)
@given(inputs, written(config | ours), st.sampled_from([".json", ".toml", ".csv", ".txt"]))
def test_files_that_are_named_of_any_kind(shape, text, suffix):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"file{suffix}"
        if suffix == ".toml" and text[:1] == "{":
            text = text[1:-1].replace('": ', '" = ').replace(', "', '\n"')
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        ask(signature_of(*shape), {}, file=path)
        with contextlib.suppress(IbisaError):
            "".join(read_labels(path)).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("crop_size", [0]),
        ("crop_size", []),
        ("crop_size", -5),
        ("crop_size", 10**9),
        ("crop_size", "224"),
        ("resize_size", 10**9),
        ("mean", [math.nan] * 3),
        ("std", [0, 0, 0]),
        ("std", [10**400] * 3),
    ],
)
def test_what_a_file_beside_a_model_cannot_mean_is_ignored_with_a_warning(tmp_path, name, content):
    said = {"crop_size": [8], "resize_size": [9], "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps(said | {name: content}))
    resolved = resolve_preprocessing(signature_of(3, 8, "float32"), {}, folder=tmp_path)
    (warning,) = (each for each in resolved.warnings if "config.json" in each or "ignored" in each)
    assert "ignored" in warning
    assert resolved.spec.size == (8, 8)
    assert resolved.spec.mean == PRESETS["imagenet"].mean or "size ignored" in warning
