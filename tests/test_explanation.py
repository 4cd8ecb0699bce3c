"""Explanations survive saving and loading, and half-written results do not exist."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from fuzz.examples import fuzzed
from hypothesis import given
from hypothesis import strategies as st

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.errors import ResultError
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.limits import Limits
from ibisa_onnx.methods.rise import Rise
from ibisa_onnx.statements import (
    Certificate,
    Completion,
    ExplainedTarget,
    Passes,
    Provenance,
    Sufficiency,
)

FILES = {"explanation.json", "image.png", "map.npy", "overlay.png"}


@pytest.fixture
def explanation() -> Explanation:
    rng = np.random.default_rng(3)
    return Explanation(
        map=rng.random((30, 40), dtype=np.float32),
        image=rng.integers(0, 256, (30, 40, 3), dtype=np.uint8),
        target=ExplainedTarget(
            kind="class",
            caption="golden retriever 犬 (207)",
            output="probabilities",
            probability=0.931,
            index=207,
            label="golden retriever 犬",
            activation="softmax",
            details={"group": "dogs"},
        ),
        sufficiency=Sufficiency((0.0, 0.05), (0.01, 0.9)),
        completion=Completion(7, 10, "steps", "deadline"),
        passes=Passes(20, 10, 10, 10),
        timings={"load": 0.5, "explain": 1.25},
        certificate=Certificate("exact", "every operator has a rule", 3e-7, 1e-3, True),
        provenance=Provenance(
            model="model.onnx",
            model_sha256="ab" * 32,
            image=None,
            image_sha256="cd" * 32,
            preprocessing={"mean": [1.0, 2.0, 3.0], "crop": None},
            providers=("CPUExecutionProvider",),
            versions={"numpy": "2"},
            seed=7,
            options={"beta": 2.0},
        ),
        warnings=("the mean is a guess",),
    )


def test_loading_gives_back_what_was_saved(explanation, tmp_path):
    explanation.save(tmp_path / "deep" / "out")
    loaded = Explanation.load(tmp_path / "deep" / "out")
    for item in fields(Explanation):
        expected, found = getattr(explanation, item.name), getattr(loaded, item.name)
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
        else:
            assert found == expected


def test_saving_leaves_the_four_files_and_no_other(explanation, tmp_path):
    explanation.save(tmp_path)
    explanation.save(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_record_is_strict_json_whatever_the_settings_hold(explanation):
    odd = {"path": Path("a/b"), "scale": np.float32(0.5), "inf": float("inf"), "std": (1, 2)}
    odd_one = replace(explanation, timings={"a": np.float64(1)})
    odd_one = replace(odd_one, provenance=replace(explanation.provenance, options=odd))
    record = json.loads(odd_one.encode(".json"), parse_constant=pytest.fail)
    assert record["provenance"]["options"] == {
        "path": str(Path("a/b")),
        "scale": 0.5,
        "inf": None,
        "std": [1, 2],
    }
    assert "map" not in record
    assert record["target"]["label"] == "golden retriever 犬"


def test_files_of_each_kind_hold_what_their_suffix_says(explanation, tmp_path):
    for suffix in (".png", ".npy", ".json"):
        (tmp_path / f"x{suffix}").write_bytes(explanation.encode(suffix))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), explanation.map)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ResultError, match=r"unsupported result format '\.jpg'"):
        explanation.encode(".jpg")


def test_folder_that_is_a_file_is_refused_in_one_line(explanation, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ResultError, match="cannot write") as caught:
        explanation.save(tmp_path / "taken")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="rights do not bind this user")
def test_folder_without_write_access_is_refused(explanation, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ResultError, match="write access"):
        explanation.save(tmp_path / "locked")


def test_the_systems_refusal_to_write_is_passed_on_in_one_line(explanation, tmp_path, monkeypatch):
    """As above, but played, for rights do not bind every user."""

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ResultError, match=r"cannot write: Permission denied.*write access"):
        explanation.save(tmp_path / "locked")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_touched_when_one_file_cannot_be_written(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(ResultError, match="it is a folder"):
        write_files({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert (tmp_path / "a").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_failed_write_leaves_no_temporary_file(tmp_path):
    with pytest.raises(TypeError):
        write_files({tmp_path / "a": b"new", tmp_path / "b": "not bytes"})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_loading_a_folder_without_an_explanation_says_so(tmp_path):
    with pytest.raises(ResultError, match=r"cannot read explanation\.json"):
        Explanation.load(tmp_path)


@pytest.mark.parametrize("name", sorted(FILES - {"overlay.png"}))
def test_damaged_files_are_reported_in_one_line(explanation, tmp_path, name):
    explanation.save(tmp_path)
    data = (tmp_path / name).read_bytes()
    for damaged in (b"", data[: len(data) // 3], b"[1, 2]"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ResultError, match="damaged") as caught:
            Explanation.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_record_of_another_format_is_refused(explanation, tmp_path):
    explanation.save(tmp_path)
    path = tmp_path / "explanation.json"
    path.write_text(path.read_text().replace('"format": 7', '"format": 99'))
    with pytest.raises(ResultError, match="unsupported format 99"):
        Explanation.load(tmp_path)


def test_record_of_the_format_before_is_read_without_what_speaks_against(explanation, tmp_path):
    explanation.save(tmp_path)
    path = tmp_path / "explanation.json"
    path.write_text(path.read_text().replace('"format": 7', '"format": 5'))
    loaded = Explanation.load(tmp_path)
    np.testing.assert_array_equal(loaded.map, explanation.map)
    assert loaded.against is None


def test_what_speaks_against_is_saved_drawn_and_below_zero(explanation, tmp_path):
    against = np.zeros_like(explanation.map)
    against[:10] = 2 * explanation.map[:10]
    found = replace(explanation, against=against)
    found.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"against.npy"}
    loaded = Explanation.load(tmp_path)
    np.testing.assert_array_equal(loaded.against, against)
    np.testing.assert_array_equal(loaded.signed[:10], -explanation.map[:10])
    np.testing.assert_array_equal(loaded.signed[10:], explanation.map[10:])
    (tmp_path / "signed.npy").write_bytes(loaded.encode(".npy", signed=True))
    np.testing.assert_array_equal(np.load(tmp_path / "signed.npy"), loaded.signed)
    np.testing.assert_array_equal(found.overlay(), explanation.overlay())
    assert not np.array_equal(found.overlay(signed=True), found.overlay())


def test_a_map_without_a_sign_says_so_in_one_line(explanation):
    for ask in (lambda: explanation.signed, lambda: explanation.overlay(signed=True)):
        with pytest.raises(ResultError, match="no negative evidence") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_flat_map_is_drawn_in_neither_colour(explanation):
    flat = replace(explanation, map=np.full_like(explanation.map, 0.3))
    against = replace(flat, against=np.ones_like(flat.map))
    pictures = slice(0, 190)  # above the caption
    np.testing.assert_array_equal(against.overlay(signed=True)[pictures], flat.overlay()[pictures])


@pytest.mark.parametrize(
    ("highest", "shown", "flat"),
    [
        (0.02, (0.4, 0.4), False),  # not low
        (0.009, (0.4, 0.9), False),  # low, but its best part gives back most of what was lost
        (0.009, (0.4, 0.6), True),
        (0.009, (0.93, 0.95), True),  # the baseline loses nothing that could be given back
        (0.0, (0.4, 0.9), True),  # no order, whatever was shown
        (0.009, None, True),  # nobody looked
    ],
)
def test_a_low_map_is_flat_unless_what_it_points_at_gives_the_answer_back(
    explanation: Explanation, highest: float, shown: tuple[float, ...] | None, flat: bool
) -> None:
    map = np.zeros_like(explanation.map)
    map[3:9, 4:12] = highest
    checked = None if shown is None else Sufficiency((0.0, 0.05), shown)
    assert replace(explanation, map=map, sufficiency=checked).flat is flat


def tampered(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "explanation.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def at(*keys: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(record: dict[str, Any]) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (at("maps", value=["map", "../../etc/passwd"]), "maps is"),
        (at("maps", value=["map", "map"]), "maps is"),
        (at("maps", value=["effect"]), "maps is"),
        (at("maps", value="map"), "maps is"),
        (at("maps", value=[["map"]]), "maps is"),
        (at("target", value="dog"), "target is 'dog', expected an object"),
        (at("target", "probability", value="0.9"), "probability is '0.9', expected a number"),
        (at("target", "probability", value=-0.5), "probability is -0.5, expected 0 or more"),
        (at("target", "probability", value=True), "probability is True, expected a number"),
        (at("target", "probability", value=float("nan")), "probability is nan"),
        (at("target", "probability", value=1e999), "probability is inf"),
        (at("target", "index", value=1.5), "index is 1.5"),
        (at("target", "label", value=3), "label is 3, expected a string"),
        (at("target", "details", value={"box": "abcd"}), "box 'abcd'"),
        (at("target", "details", value={"box": [0, 0, 1e30, 5]}), "outside any image"),
        (at("target", "details", value={"box": [0, 0, None, 5]}), "outside any image"),
        (at("target", "details", value={"at": [float("inf"), 1]}), "outside any image"),
        (at("target", "details", value={"at": 7}), "outside any image"),
        (at("target", "details", value={"value": "much"}), "value is 'much'"),
        (at("target", "colour", value="red"), "unknown field 'colour'"),
        (at("colour", value="red"), "unknown field 'colour'"),
        (at("passes", "forward", value=-1), "forward is -1, expected 0 or more"),
        (at("passes", "forward", value=2.5), "forward is 2.5, expected an integer"),
        (at("passes", "forward", value=True), "forward is True"),
        (at("passes", value={}), "is missing field 'forward'"),
        (at("sufficiency", "areas", value=[0.1]), "1 areas and 2 probabilities"),
        (at("sufficiency", value={"areas": [], "probabilities": []}), "0 areas"),
        (at("sufficiency", "areas", value=[0.1, 1.5]), r"areas\[1\] is 1.5, expected 0 to 1"),
        (at("sufficiency", "areas", value=[0.9, 0.9]), "areas"),
        (at("completion", "done", value="7"), "done is '7'"),
        (at("certificate", "holds", value=1), "holds is 1, expected true or false"),
        (at("certificate", "difference", value="none"), "difference is 'none'"),
        (at("provenance", "providers", value="CPU"), "providers is 'CPU', expected a list"),
        (at("provenance", "versions", value={"numpy": 2}), "versions.numpy is 2"),
        (at("provenance", "seed", value=None), "seed is None"),
        (at("timings", "load", value=[]), "timings.load is"),
        (at("warnings", value=["fine", 3]), r"warnings\[1\] is 3, expected a string"),
        (at("method", value=None), "method is None"),
        (at("together", value=-3), "together is -3"),
    ],
)
def test_a_record_that_was_changed_is_refused_by_the_field(explanation, tmp_path, change, match):
    explanation.save(tmp_path)
    tampered(tmp_path, change)
    with pytest.raises(ResultError, match=f"damaged.*{match}") as caught:
        Explanation.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"format": ' + "9" * 5000 + "}", "integer of 5,000 digits"),
        ('{"format": ["\\ud800"]}', "lone surrogate"),
        ("7", "not an object"),
        ("\x00", "damaged"),
    ],
)
def test_a_record_that_is_no_json_to_be_read_is_refused(explanation, tmp_path, text, match):
    explanation.save(tmp_path)
    (tmp_path / "explanation.json").write_text(text)
    with pytest.raises(ResultError, match=match):
        Explanation.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((30, 40), bool), "bool"),
        (np.zeros((30, 40), complex), "c16"),
        (np.full((30, 40), "0.5"), "<U3"),
        (np.zeros((30, 40)), "float64"),
        (np.zeros((30, 40, 1), np.float32), r"\[30, 40, 1\]"),
        (np.zeros((30, 41), np.float32), r"map is \[30, 41\], but image.png \[30, 40\]"),
        (np.full((30, 40), np.nan, np.float32), "NaN"),
        (np.zeros((0, 40), np.float32), r"\[0, 40\]"),
    ],
)
def test_a_map_that_was_changed_is_refused(explanation, tmp_path, values, match):
    explanation.save(tmp_path)
    np.save(tmp_path / "map.npy", values)
    with pytest.raises(ResultError, match=f"damaged.*{match}"):
        Explanation.load(tmp_path)


def test_an_archive_or_a_pickle_is_no_map(explanation, tmp_path):
    explanation.save(tmp_path)
    np.savez(tmp_path / "a.npz", map=explanation.map)
    (tmp_path / "a.npz").replace(tmp_path / "map.npy")
    with pytest.raises(ResultError, match="archive"):
        Explanation.load(tmp_path)
    np.save(tmp_path / "map.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ResultError, match=r"contains '\|O'"):
        Explanation.load(tmp_path)


def test_another_picture_is_refused_before_it_is_decoded(explanation, tmp_path, monkeypatch):
    explanation.save(tmp_path)
    data = bytearray((tmp_path / "image.png").read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    (tmp_path / "image.png").write_bytes(data)
    monkeypatch.setattr("ibisa_onnx.io.decoding.decode", pytest.fail)
    with pytest.raises(ResultError, match=r"image.png \[60000, 60000\]"):
        Explanation.load(tmp_path)


@pytest.mark.parametrize(
    ("limits", "variable"),
    [
        (Limits(pixels=1199), "IBISA_ONNX_MAX_PIXELS"),
        (Limits(file_bytes=1000), "IBISA_ONNX_MAX_FILE_BYTES"),
        (Limits(text_bytes=100), "IBISA_ONNX_MAX_TEXT_BYTES"),
    ],
)
def test_a_result_larger_than_the_limits_is_refused(explanation, tmp_path, limits, variable):
    explanation.save(tmp_path)
    assert Explanation.load(tmp_path, Limits(pixels=1200)).target == explanation.target
    with pytest.raises(ResultError, match=variable):
        Explanation.load(tmp_path, limits)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("name", sorted(FILES - {"overlay.png"}))
def test_a_pipe_among_the_files_is_refused_at_once(explanation, tmp_path, name):
    explanation.save(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ResultError, match="is a pipe"):
        Explanation.load(tmp_path)


@given(st.data())
@fuzzed(100)
def test_whatever_a_record_says_is_an_explanation_that_can_be_drawn_or_an_error(
    explanation, tmp_path_factory, data
):
    folder = tmp_path_factory.mktemp("saved")
    explanation.save(folder)
    record = json.loads((folder / "explanation.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = record
        while isinstance(place, dict | list) and len(place):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key, table = data.draw(st.sampled_from(keys)), place
            place = table[key]
            if data.draw(st.booleans()):
                break
        table[key] = deepcopy(data.draw(odd_values))
    (folder / "explanation.json").write_text(json.dumps(record))
    with contextlib.suppress(ResultError):
        loaded = Explanation.load(folder)
        loaded.encode(".png")
        loaded.save(folder)
        assert "\n" not in repr(loaded)


odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(),
    st.sampled_from([10**18, 10**200, "", "0.5", "\x1b[31m\n", [], {}, [0, 0, 5, 5], [[[]]]]),
    st.sampled_from([{"box": [0, 0, 9, 9]}, {"box": [1e9] * 4}, {"at": [1, 2]}, {"value": 2}]),
    st.text(st.characters(categories=["Cs", "Cc", "Lo"]), max_size=3),
)


def test_text_that_is_no_utf_8_is_written_out_and_read_back(explanation, tmp_path):
    provenance = replace(explanation.provenance, image="caf\udce9.png")
    target = replace(explanation.target, details={"\ud800": "\udfff"})
    replace(explanation, provenance=provenance, target=target).save(tmp_path)
    loaded = Explanation.load(tmp_path)
    assert loaded.provenance.image == r"caf\udce9.png"
    assert loaded.target.details == {r"\ud800": r"\udfff"}


KINDS = {
    "gradient": {},
    "forward passes alone": {"gradient": "forward-only", "budget": 40},
    "another method": {"method": Rise(8)},
    "cut short": {"stop": lambda: True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_follows_the_schema(kind: str):
    """The one that the documentation publishes; what it says must hold of real records."""
    options = dict(KINDS[kind])
    opening = {name: options.pop(name) for name in ("gradient", "budget") if name in options}
    explainer = ibisa.Explainer(model_path(), threads=1, cache=False, **opening)
    record = json.loads(explainer.explain(scene_path(), **options).encode(".json"))
    schema = Explanation.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(record, schema)
    for field in schema["required"]:
        with pytest.raises(jsonschema.ValidationError, match=field):
            jsonschema.validate({k: v for k, v in record.items() if k != field}, schema)
    wrong = record | {"passes": record["passes"] | {"forward": -1}}
    with pytest.raises(jsonschema.ValidationError, match="-1"):
        jsonschema.validate(wrong, schema)


def test_the_schema_names_each_field_of_a_record():
    properties = Explanation.schema()["properties"]
    assert set(properties) == {"format", "maps"} | (
        {each.name for each in fields(Explanation)}
        - {"image", "map", "against", "effect", "uncertainty"}
    )
