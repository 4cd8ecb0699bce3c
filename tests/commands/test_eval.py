"""`eval`: a map is scored beside a random one, and what cannot be scored ends in one line."""

from __future__ import annotations

import io
import json
import sys

import cv2
import numpy as np
import pytest

from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.metrics import FAITHFULNESS, LOCALISATION

MODEL, SCENE = model_path(), scene_path()
QUICK = ("--metric", "insertion", "--metric", "deletion", "--threads", 1)
BALL = (74, 20, 115, 60)  # in pixels of a picture of 128 x 128
LARGE = 480 / 128


@pytest.fixture(scope="module")
def ball_map() -> np.ndarray:
    """High on the striped ball, which the model predicts, at the picture's size."""
    map = np.zeros((480, 480), np.float32)
    left, top, right, bottom = (round(LARGE * side) for side in BALL)
    map[top:bottom, left:right] = 1
    return cv2.GaussianBlur(map, (31, 31), 8)


@pytest.fixture
def given(ball_map, tmp_path):
    np.save(tmp_path / "ball.npy", ball_map)
    return tmp_path / "ball.npy"


@pytest.fixture
def no_explanation(monkeypatch):
    """Whoever explains anything fails."""

    def explain(*_, **__):
        raise AssertionError("explained")

    monkeypatch.setattr("ibisa_onnx.explainer.Explainer.explain", explain)


def scores(result, name: str = "this map") -> dict[str, float]:
    assert result.code == 0, result.err
    return json.loads(result.out)["scores"][name]


def one_line(result) -> str:
    assert result.code in (1, 2)
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if not line.startswith("Try '")]
    assert len(lines) == 1
    assert lines[0].startswith("ibisa-onnx: error: ")
    return lines[0]


def test_without_a_map_the_picture_is_explained_and_beats_a_random_map(cli):
    result = cli("eval", MODEL, SCENE, "--json", "--threads", 1)
    ours, random = scores(result), scores(result, "random")
    assert list(ours) == [metric.name for metric in FAITHFULNESS]
    assert ours["insertion"] > random["insertion"] + 0.2
    assert ours["deletion"] < random["deletion"] - 0.2
    record = json.loads(result.out)
    assert record["passes"]["this map"] == [20, 10]
    assert record["target"]["label"] == "striped ball"
    assert record["checking_passes"] > 100


def test_a_map_fits_its_own_object_and_no_other(cli, given):
    words = ("eval", MODEL, SCENE, given, *QUICK, "--json", "-t")
    ball, star = (scores(cli(*words, target)) for target in ("striped ball", "star"))
    assert ball["insertion"] > star["insertion"] + 0.3
    assert ball["deletion"] < star["deletion"]


def test_a_map_at_the_model_s_size_and_in_bytes_scores_alike(cli, given, ball_map, tmp_path):
    small = cv2.resize(ball_map, (128, 128), interpolation=cv2.INTER_AREA)
    np.save(tmp_path / "small.npy", small)
    np.save(tmp_path / "bytes.npy", (255 * ball_map).round().astype(np.uint8))
    found = [
        scores(cli("eval", MODEL, SCENE, tmp_path / name, *QUICK, "--json"))
        for name in ("ball.npy", "small.npy", "bytes.npy")
    ]
    for each in found[1:]:
        assert each == pytest.approx(found[0], abs=0.05)


def test_the_table_names_map_metrics_directions_and_cost(cli, given):
    result = cli("eval", MODEL, SCENE, given, *QUICK, "--against", "gradcam")
    head, names, *rows = result.out.splitlines()
    assert "striped ball (1)" in head
    assert names.split() == ["this", "map", "random", "gradcam"]
    assert [" ".join(row.split()[:2]) for row in rows[:2]] == ["insertion ↑", "deletion ↓"]
    assert all(len(row.split()) == 5 for row in rows[:2])
    assert rows[2].split("  ")[-1].strip() == "2 + 1"
    assert "forward passes" in rows[3]


def test_quiet_gives_the_map_s_scores_alone(cli, given):
    result = cli("eval", MODEL, SCENE, given, *QUICK, "-q")
    assert [line.split()[0] for line in result.out.splitlines()] == ["insertion", "deletion"]
    assert result.err == ""


def test_verbose_tells_how_the_map_was_made(cli):
    quiet, verbose = (cli("eval", MODEL, SCENE, *QUICK, *more) for more in ((), ("-v",)))
    assert quiet.out == verbose.out
    assert "model sha256" in verbose.err
    assert "model sha256" not in quiet.err


def test_a_guess_at_the_preprocessing_is_said_though_the_map_was_given(cli, tmp_path):
    import onnx

    model = onnx.load(MODEL)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    np.save(tmp_path / "map.npy", np.eye(128))
    result = cli("eval", "bare.onnx", SCENE, "map.npy", *QUICK)
    assert result.code == 0
    assert "warning" in result.err


def test_a_box_brings_localisation(cli, given):
    box = ",".join(str(round(LARGE * side)) for side in BALL)
    result = cli("eval", MODEL, SCENE, given, "--box", box, "--json", "--metric", "box ratio")
    assert list(scores(result)) == ["box ratio"]
    assert scores(result)["box ratio"] > 0.9 > scores(result, "random")["box ratio"]
    every = scores(cli("eval", MODEL, SCENE, given, "--box", box, "--json", "--threads", 1))
    assert list(every) == [metric.name for metric in (*FAITHFULNESS, *LOCALISATION)]


@pytest.mark.parametrize(
    ("floors", "code", "said"),
    [
        (["insertion=0"], 0, ""),
        (["insertion=0.999"], 1, "insertion is "),
        (["deletion=0.999"], 0, ""),
        (["deletion=0"], 1, "deletion is "),
        (["insertion=0.999", "deletion=0"], 1, "under 0.999; deletion is "),
        (["average-drop=1"], 0, ""),
    ],
)
def test_fail_under_decides_the_exit_code_after_the_scores(cli, given, floors, code, said):
    words = [word for floor in floors for word in ("--fail-under", floor)]
    result = cli("eval", MODEL, SCENE, given, *QUICK, *words, "--json")
    assert result.code == code
    record = json.loads(result.out)
    assert bool(record["failed"]) == bool(code)
    assert said in result.err
    assert len(result.err.splitlines()) == code
    assert floors[0].split("=")[0].replace("-", " ") in record["scores"]["this map"]


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["--metric", "inserted"], 1, "no metric 'inserted'"),
        (["--against", "lime"], 1, "no method 'lime'"),
        (["--against", "iba"], 2, "ibisa-onnx bench"),
        (["--fail-under", "insertion"], 2, "METRIC=NUMBER"),
        (["--fail-under", "insertion=nan"], 2, "METRIC=NUMBER"),
        (["--fail-under", "inserted=1"], 1, "no metric 'inserted'"),
        (["--fail-under", "pointing game=1"], 1, "box"),
        (["--metric", "energy"], 1, "box"),
        (["--box", "1,2,3"], 2, "LEFT,TOP,RIGHT,BOTTOM"),
        (["--box", "900,900,950,950"], 1, "no pixel"),
        (["--box", "0,0,480,480"], 1, "whole picture"),
        (["-t", "zebra crossing"], 1, "no label"),
    ],
)
def test_what_cannot_be_scored_is_said_before_any_explanation(
    cli, given, no_explanation, words, code, match
):
    result = cli("eval", MODEL, SCENE, given, *words)
    assert result.code == code
    assert match in one_line(result)


def test_a_method_that_cannot_explain_the_model_is_said_before_others_work(cli, monkeypatch):
    asked = []
    explain = "ibisa_onnx.explainer.Explainer.explain"
    monkeypatch.setattr(explain, lambda *_, **__: asked.append(1))
    monkeypatch.setattr("ibisa_onnx.methods.features.spatial_tensors", lambda *_: ())
    result = cli("eval", MODEL, SCENE, "--against", "rise,gradcam")
    assert "gradcam" in one_line(result)
    assert asked == []


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((480, 480), np.nan), "NaN"),
        (np.zeros((50, 480)), "[480, 480]"),
        (np.zeros((3, 480, 480)), "(3, 480, 480)"),
    ],
)
def test_a_map_that_is_none_is_refused_before_any_explanation(
    cli, tmp_path, no_explanation, values, match
):
    np.save(tmp_path / "map.npy", values)
    assert match in one_line(cli("eval", MODEL, SCENE, "map.npy"))


def test_a_file_that_holds_no_map_is_refused(cli):
    assert "no .npy file" in one_line(cli("eval", MODEL, SCENE, SCENE))
    assert "No such file" in one_line(cli("eval", MODEL, SCENE, "nosuch.npy"))


@pytest.mark.parametrize("piped", [0, 1, 2])
def test_one_of_model_picture_and_map_may_come_by_stdin(cli, given, monkeypatch, piped):
    files = [MODEL, SCENE, given]
    plain = cli("eval", *files, *QUICK, "-q")
    words = [*files[:piped], "-", *files[piped + 1 :]]
    data = io.BytesIO(files[piped].read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    assert cli("eval", *words, *QUICK, "-q").out == plain.out
    assert "only one" in one_line(cli("eval", "-", "-", given))


def test_nothing_but_the_runtime_is_needed(cli, given, monkeypatch):
    for module in ("scipy", "scipy.stats", "matplotlib.figure", "psutil"):
        monkeypatch.setitem(sys.modules, module, None)
    assert cli("eval", MODEL, SCENE, given, "--threads", 1).code == 0
