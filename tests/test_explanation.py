"""Explanations survive saving and loading, and half-written results do not exist."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from ibisa_onnx.errors import ResultError
from ibisa_onnx.explanation import (
    Certificate,
    Completion,
    ExplainedTarget,
    Explanation,
    Passes,
    Provenance,
    Sufficiency,
)
from ibisa_onnx.io.atomic import write_files

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
    with pytest.raises(ResultError, match=r"not as '\.jpg'"):
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
    path.write_text(path.read_text().replace('"format": 6', '"format": 99'))
    with pytest.raises(ResultError, match="format is 99"):
        Explanation.load(tmp_path)


def test_record_of_the_format_before_is_read_without_what_speaks_against(explanation, tmp_path):
    explanation.save(tmp_path)
    path = tmp_path / "explanation.json"
    path.write_text(path.read_text().replace('"format": 6', '"format": 5'))
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
        with pytest.raises(ResultError, match="what speaks against") as caught:
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
