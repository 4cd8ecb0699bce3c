"""`eval`: a map is scored beside a random one, and what cannot be scored ends in one line."""

from __future__ import annotations

import io
import json
import sys

import cv2
import numpy as np
import pytest

from ibisa_onnx.benchmark.evaluation import USUAL
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.metrics import LOCALISATION, STABILITIES

MODEL, SCENE = model_path(), scene_path()
IMPUTATIONS = ("blur", "mean", "noise", "border")
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
    ours, random = scores(result), scores(result, "smooth random")
    assert list(ours) == [metric.name for metric in (*USUAL, *STABILITIES)]
    assert ours["insertion"] > random["insertion"]  # which is one draw, and may be a lucky one
    assert ours["deletion"] < random["deletion"]
    record = json.loads(result.out)
    for each in record["comparisons"]:
        assert each["area"] > max(each["random"]) + 0.2  # the best of twenty
    assert record["passes"]["this map"] == [21, 10]
    assert record["target"]["label"] == "striped ball"
    assert record["checking_passes"] > 100
    assert record["verdict"]["trusted"] is True
    assert "this map shows better than chance" in record["verdict"]["text"]
    assert {each["imputation"] for each in record["comparisons"]} == set(IMPUTATIONS)


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
    assert names.split() == ["this", "map", "smooth", "random", "gradcam"]
    assert rows[0].split() == ["faithfulness"]
    assert [" ".join(row.split()[:2]) for row in rows[1:3]] == ["insertion ↑", "deletion ↓"]
    assert all(len(row.split()) == 5 for row in rows[1:3])
    assert rows[3].split("  ")[-1].strip() == "2 + 1"
    assert "forward passes" in rows[4]
    assert len(rows) == 5  # of some metrics there is no verdict


def test_the_last_line_is_the_verdict(cli, given, ball_map, tmp_path):
    np.save(tmp_path / "inverted.npy", 1 - ball_map)
    for file, said in (
        (
            "ball.npy",
            "This map shows better than chance what the prediction depends on: it outperforms all "
            "20 smooth random maps",
        ),
        ("inverted.npy", "Do not trust this map: it is worse than smooth random maps under"),
    ):
        text = cli("eval", MODEL, SCENE, file, "--threads", 1).out
        assert text.splitlines()[-1].startswith(said)
        assert text.count("of 20") >= len(IMPUTATIONS)


def test_the_verdict_does_not_depend_on_whether_it_is_seen(cli, given):
    words = ("eval", MODEL, SCENE, given, "--threads", 1)
    record = json.loads(cli(*words, "--json").out)
    assert f"{record['verdict']['text'][1:]}." in cli(*words).out
    assert "trusted" not in cli(*words, "-q").out


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
    result = cli("eval", MODEL, SCENE, given, "--within", box, "--json", "--metric", "box ratio")
    assert list(scores(result)) == ["box ratio"]
    assert scores(result)["box ratio"] > 0.9 > scores(result, "smooth random")["box ratio"]
    every = cli("eval", MODEL, SCENE, given, "--within", box, "--json", "--threads", 1)
    assert list(scores(every)) == [metric.name for metric in (*USUAL, *LOCALISATION)]
    assert list(scores(every, "region")) == [metric.name for metric in USUAL]
    assert scores(every, "region")["insertion"] > scores(every, "smooth random")["insertion"]


@pytest.fixture
def masks(tmp_path):
    """A folder of two masks: the ball, and a corner where there is nothing."""
    (tmp_path / "masks").mkdir()
    left, top, right, bottom = (round(LARGE * side) for side in BALL)
    for name, place in {"ball": np.s_[top:bottom, left:right], "corner": np.s_[:60, :60]}.items():
        mask = np.zeros((480, 480), np.uint8)
        mask[place] = 255
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), mask)
    return tmp_path / "masks"


def test_regions_are_tested_by_box_and_by_a_folder_of_masks(cli, given, masks):
    box = ",".join(str(round(LARGE * side)) for side in BALL)
    words = ("eval", MODEL, SCENE, given, *QUICK, "--within", box, "--within", masks)
    record = json.loads(cli(*words, "--json").out)
    names = [f"box {box}", "mask ball.png", "mask corner.png"]
    assert [each["region"] for each in record["regions"]] == names
    by_box, ball, corner = record["regions"]
    assert by_box == {**ball, "region": by_box["region"]}
    assert ball["without"] < 0.2 < 0.4 < ball["only"]
    assert corner["only"] < 0.2 < 0.4 < corner["without"]
    assert ball["share"] > 0.8 > 0.1 > corner["share"]
    assert len(ball["by_imputation"]["without"]) == 5
    text = cli(*words).out
    for said in ("without this region: ", "only this region: ", "fraction of the map: "):
        assert text.count(said) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fail-over", "without=0.5"), "mask corner.png: without is 0."),
        (("--fail-under", "only=0.5"), "mask corner.png: only is 0."),
        (("--fail-under", "share=0.5"), "mask corner.png: share is 0"),
        (("--fail-over", "share=1"), ""),
        (("--fail-over", "insertion=0"), "insertion is "),
    ],
)
def test_regions_decide_the_exit_code(cli, given, masks, words, said):
    result = cli("eval", MODEL, SCENE, given, *QUICK, "--within", masks, *words, "-q")
    assert result.code == (1 if said else 0)
    assert said in result.err
    assert len(result.err.splitlines()) == bool(said)


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
        (["--metric", "inserted"], 2, "unknown metric 'inserted'"),
        (["--against", "lime"], 2, "no method 'lime'"),
        (["--against", "iba"], 2, "ibisa-onnx bench"),
        (["--fail-under", "insertion"], 2, "METRIC=NUMBER"),
        (["--fail-under", "insertion=nan"], 2, "METRIC=NUMBER"),
        (["--fail-under", "inserted=1"], 2, "unknown metric 'inserted'"),
        (["--fail-under", "pointing game=1"], 1, "box"),
        (["--metric", "energy"], 1, "box"),
        (["--within", "1,2,3"], 2, "LEFT,TOP,RIGHT,BOTTOM"),
        (["--within", "900,900,950,950"], 1, "beyond the image, which is 480x480"),
        (["--within", "400,400,481,480"], 1, "beyond the image"),
        (["--fail-over", "without=0.5"], 1, "a box or a mask"),
        (["--within", "nosuch.png"], 2, "'nosuch.png' is not a box in pixels"),
        (["--within", "small.png"], 1, "the mask is 30x20"),
        (["--within", "black.png"], 1, "black.png: the region is empty"),
        (["--metric", "stability"], 2, "omit the map"),
        (["--within", "0,0,480,480"], 1, "whole image"),
        (["-t", "zebra crossing"], 1, "no label"),
        (["-t", "top:2"], 2, "eval accepts a single target per image"),
        (["-t", "ball", "-t", "star"], 2, "eval accepts a single target per image"),
        (["--box", "1"], 1, "the model's kind is classifier, which has no boxes"),
        (["--metric", "insertion (D-RISE)"], 1, "requires a detector's box as target"),
    ],
)
def test_what_cannot_be_scored_is_said_before_any_explanation(
    cli, given, tmp_path, no_explanation, words, code, match
):
    cv2.imwrite(str(tmp_path / "small.png"), np.ones((20, 30), np.uint8))
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((480, 480), np.uint8))
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
    assert "not a .npy file" in one_line(cli("eval", MODEL, SCENE, SCENE))
    assert "'nosuch.npy' does not exist" in one_line(cli("eval", MODEL, SCENE, "nosuch.npy"))


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
