"""`bench`: one table of all that was measured, by as many runs as it took; early refusals."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ibisa_onnx.benchmark import runner as module
from ibisa_onnx.demo import model_path, scene_path

QUICK = ("--against", "rise,random", "--masks", 16, "--threads", 1)
FILES = {"table.md", "table.csv", "plot.png", "scores.csv"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model, and a folder of two pictures: the embedded scene, and its mirror."""
    scene = cv2.imread(str(scene_path()))
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "a.png"), scene)
    cv2.imwrite(str(tmp_path / "pictures" / "b.png"), scene[:, ::-1])
    shutil.copy(model_path(), tmp_path / "model.onnx")
    return tmp_path


@pytest.fixture
def bench(cli, folder) -> Callable:
    return lambda *words: cli("bench", "model.onnx", *words)


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The pictures whose maps were measured, in turn."""
    names: list[str] = []
    evaluate = module.evaluate

    def spy(subject, problem, *rest):
        names.append(problem.row.objective.label)
        return evaluate(subject, problem, *rest)

    monkeypatch.setattr(module, "evaluate", spy)
    return names


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def error(result, code: int = 1) -> str:
    assert (result.code, result.out) == (code, "")
    said = [line for line in result.err.splitlines() if not line.startswith("Try '")]
    assert said[-1].startswith("ibisa-onnx: error: ")
    return said[-1]


def test_all_methods_are_compared_and_all_files_written(bench, folder):
    result = bench("pictures", "--masks", 16, "--threads", 1)
    assert result.code == 0, result.err
    out = folder / "model.bench"
    assert {path.name for path in out.iterdir()} == FILES
    table = (out / "table.md").read_text(encoding="utf-8")
    assert result.out.startswith(table.rstrip())
    names = ["ibisa", "rise", "gradcam", "iba", "occlusion"]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == names
    assert [line["method"] for line in lines(out / "table.csv")] == names
    assert len(lines(out / "scores.csv")) == 2 * len(names)
    assert cv2.imread(str(out / "plot.png")) is not None
    assert "2 images; mean ± half width" in result.out
    assert "model.bench" in result.out


def test_the_table_is_the_mean_of_the_scores(bench, folder):
    assert bench("pictures", *QUICK, "-o", "out").code == 0
    scores = [
        float(line["insertion"])
        for line in lines(folder / "out" / "scores.csv")
        if line["method"] == "rise"
    ]
    _, rise, _ = lines(folder / "out" / "table.csv")
    assert float(rise["insertion"]) == pytest.approx(np.mean(scores))
    assert float(rise["forward"]) >= 16


def test_the_same_command_measures_nothing_twice_and_says_so(bench, measured):
    first = bench("pictures", *QUICK)
    assert len(measured) == 6
    again = bench("pictures", *QUICK)
    assert len(measured) == 6
    table, note = again.out.rsplit("\n\n", 1)
    assert table == first.out.rsplit("\n\n", 1)[0]
    assert "6 maps from an earlier run" in note
    assert "earlier" not in first.out


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(bench, folder, monkeypatch, measured):
    spy = module.evaluate

    def interrupted(*args):
        if len(measured) == 4:
            raise KeyboardInterrupt
        return spy(*args)

    monkeypatch.setattr(module, "evaluate", interrupted)
    result = bench("pictures", *QUICK, "-o", "out")
    assert "rerun the same command" in error(result, 130)
    assert "scores.csv" in result.err
    assert {path.name for path in (folder / "out").iterdir()} == {"scores.csv"}
    monkeypatch.setattr(module, "evaluate", spy)
    assert bench("pictures", *QUICK, "-o", "out").code == 0
    assert len(measured) == 6
    bench("pictures", *QUICK, "-o", "whole")
    kept = [
        [(line["image"], line["method"], line["insertion"]) for line in lines(folder / name)]
        for name in ("out/scores.csv", "whole/scores.csv")
    ]
    assert kept[0] == kept[1]


def test_a_line_that_was_cut_off_is_measured_again(bench, folder, measured):
    bench("pictures", *QUICK)
    path = folder / "model.bench" / "scores.csv"
    whole = lines(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert bench("pictures", *QUICK).code == 0
    assert len(measured) == 7
    assert lines(path)[-1]["insertion"] == whole[-1]["insertion"]


def test_another_model_and_other_settings_do_not_mix_into_the_table(bench, folder, measured):
    import onnx

    bench("pictures", *QUICK, "-o", "out")
    first = (folder / "out" / "table.csv").read_text()
    assert bench("pictures", *QUICK, "--seed", 1, "-o", "out").code == 0
    assert len(measured) == 12
    model = onnx.load("model.onnx")
    for each in model.graph.initializer[-1:]:
        values = onnx.numpy_helper.to_array(each)
        each.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.01), each.name))
    onnx.save(model, "model.onnx")
    assert bench("pictures", *QUICK, "-o", "out").code == 0
    assert len(measured) == 18
    rows = lines(folder / "out" / "scores.csv")[-6:]
    for line in lines(folder / "out" / "table.csv"):
        mean = np.mean([float(row["deletion"]) for row in rows if row["method"] == line["method"]])
        assert float(line["deletion"]) == pytest.approx(mean)
        assert line["pictures"] == "2"
    assert (folder / "out" / "table.csv").read_text() != first


def test_one_picture_has_no_intervals_but_null(bench):
    result = bench("pictures/a.png", *QUICK, "--json")
    record = json.loads(result.out)
    ours, rise, _ = record["methods"]
    assert record["pictures"] == 1
    assert rise["lead"]["half"] is None
    assert ours["scores"]["insertion"]["half"] is None
    assert ours["lead"] is None
    text = bench("pictures/a.png", *QUICK).out
    assert "nan" not in text
    assert "±" not in text
    assert "1 image, so no confidence intervals" in text


def test_json_holds_what_the_table_does(bench, folder):
    record = json.loads(bench("pictures", *QUICK, "--json").out)
    assert [each["method"] for each in record["methods"]] == ["ibisa", "rise", "random"]
    ours = record["methods"][0]
    assert (ours["forward"], ours["backward"]) == (21, 10)
    assert ours["peak_mib"] > 10
    assert all((folder / file).is_file() for file in record["files"])
    assert record["left_out"] == []


def test_quiet_gives_the_table_alone_and_verbose_each_map(bench, folder):
    quiet = bench("pictures", *QUICK, "-q")
    table = (folder / "model.bench" / "table.md").read_text(encoding="utf-8")
    assert (quiet.out, quiet.err) == (table, "")
    verbose = bench("pictures", *QUICK, "-v")
    said = [line.split(":")[0] for line in verbose.err.splitlines()]
    assert said[:3] == ["a.png, ibisa", "a.png, rise", "a.png, random"]


def test_pictures_that_cannot_be_read_are_left_out_with_exit_code_1(bench, folder):
    (folder / "pictures" / "bad.jpg").write_bytes(b"no picture")
    result = bench("pictures", *QUICK, "--json")
    assert result.code == 1
    record = json.loads(result.out)
    assert record["pictures"] == 2
    assert record["left_out"] == [str(Path("pictures/bad.jpg"))]
    assert "bad.jpg is damaged, or not a supported image" in result.err
    assert "skipped 1 of 3 images" in result.err


def test_no_picture_at_all_is_one_error(bench, folder):
    (folder / "bad.jpg").write_bytes(b"no picture")
    assert "no image was explained by all methods" in error(bench("bad.jpg", *QUICK))


def test_iba_does_without_pictures_that_cannot_be_read(bench, folder):
    (folder / "pictures" / "bad.jpg").write_bytes(b"no picture")
    result = bench("pictures", "--against", "iba", "--limit", 1, "--threads", 1)
    assert result.code == 0, result.err
    assert "bad.jpg: cannot be read; not used by iba" in result.err


def test_iba_is_left_out_where_there_is_one_picture(bench, folder):
    words = ("--threads", 1, "--json")
    result = bench("pictures/a.png", "--against", "gradcam,iba", *words)
    assert result.code == 0, result.err
    methods = [each["method"] for each in json.loads(result.out)["methods"]]
    assert methods == ["ibisa", "gradcam"]
    assert "iba skipped: it requires at least 2 images" in result.err
    given = bench("pictures/a.png", "--against", "gradcam,iba", *words, "--iba-images", "pictures")
    assert [each["method"] for each in json.loads(given.out)["methods"]][-1] == "iba"


@pytest.mark.parametrize("words", [("iba",), ("gradcam,iba", "--iba-images", "one")])
def test_iba_that_was_asked_for_alone_or_given_one_picture_is_an_error(bench, folder, words):
    (folder / "one").mkdir()
    shutil.copy(folder / "pictures" / "a.png", folder / "one")
    said = error(bench("pictures/a.png", "--against", *words), 2)
    assert "iba requires at least 2 readable images, found 1" in said


def test_maps_are_kept_apart(bench, folder):
    (folder / "other").mkdir()
    (folder / "pictures" / "b.png").rename(folder / "other" / "a.png")
    assert bench("pictures", "other", *QUICK, "--keep-maps").code == 0
    maps = list((folder / "model.bench" / "maps").rglob("a*.npy"))
    assert len(maps) == 6
    assert all(np.load(path).shape == (480, 480) for path in maps)


def test_every_and_limit_choose_pictures(bench, folder):
    for number in range(4):
        shutil.copy(folder / "pictures" / "a.png", folder / "pictures" / f"c{number}.png")
        with (folder / "pictures" / f"c{number}.png").open("ab") as file:
            file.write(bytes(number + 1))  # the same picture in another file
    words = ("--against", "random", "--metric", "average-drop", "--threads", 1)
    assert bench("pictures", *words, "--every", 2, "--limit", 2, "-q").code == 0
    names = [line["image"] for line in lines(folder / "model.bench" / "scores.csv")]
    assert names == ["a.png", "a.png", "c0.png", "c0.png"]


def test_a_method_named_twice_is_one_and_case_does_not_matter(bench):
    result = bench(
        "pictures/a.png", "--against", "Random, random,", "--metric", "deletion", "--json"
    )
    assert [each["method"] for each in json.loads(result.out)["methods"]] == ["ibisa", "random"]


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["--against", "lime"], 2, "no method 'lime'; choose from"),
        (["--metric", "energies"], 2, "unknown metric 'energies'"),
        (["--metric", "energy"], 1, "energy requires the object's location; a class has none"),
        (["--metric", "insertion (D-RISE)"], 1, "requires a detector's box, not a class"),
        (["--against", "drise"], 1, "drise explains boxes of detectors, not a class"),
        (["-t", "top:2"], 2, "bench accepts a single target per image"),
        (["-t", "ball", "-t", "star"], 2, "bench accepts a single target per image"),
        (["-o", "model.onnx"], 1, "is a file"),
        (["-o", ""], 2, "-o is empty"),
        (["--gradcam-layer", "nosuch"], 1, "gradcam"),
        (["--iba-layer", "nosuch"], 1, "iba"),
        (["--limit", "0"], 2, "--limit"),
        (["nosuch.png", "--against", "iba", "--iba-images", "one"], 2, "--iba-images FOLDER"),
    ],
)
def test_what_cannot_be_compared_is_said_before_any_explanation(
    bench, folder, monkeypatch, words, code, match
):
    def explain(*_, **__):
        raise AssertionError("explained")

    (folder / "one").mkdir()
    shutil.copy(folder / "pictures" / "a.png", folder / "one")
    monkeypatch.setattr("ibisa_onnx.explainer.Explainer.explain", explain)
    assert match in error(bench("pictures", *words), code)
    assert not (folder / "model.bench").exists()


@pytest.mark.parametrize("package", ["psutil", "matplotlib.figure", "scipy.stats"])
def test_a_missing_package_is_said_before_the_model_is_opened(bench, monkeypatch, package):
    def open_(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr("ibisa_onnx.explainer.Explainer.__init__", open_)
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'ibisa-onnx[bench]'" in error(bench("pictures"))


def test_more_metrics_are_measured_alone(bench, folder, measured):
    bench("pictures/a.png", *QUICK, "--keep-maps")
    path = folder / "model.bench" / "scores.csv"
    before, seen = lines(path), len(measured)
    words = ("--metric", "stability (noise)", "--metric", "LeRF - MoRF (mean)", "--keep-maps")
    result = bench("pictures/a.png", *QUICK, *words)
    assert result.code == 0, result.err
    assert [{**line, **old} for line, old in zip(lines(path), before, strict=True)] == lines(path)
    assert len(measured) == seen + 3
    ours, _, random = lines(folder / "model.bench" / "table.csv")
    assert float(random["stability (noise)"]) == 1  # the same numbers whatever the picture
    assert float(ours["LeRF - MoRF (mean)"]) > float(random["LeRF - MoRF (mean)"])
    assert "insertion" not in ours
    assert bench("pictures/a.png", *QUICK, *words).code == 0
    assert len(measured) == seen + 3


def test_another_class_has_rows_of_its_own(bench, folder, measured):
    words = ("pictures/a.png", *QUICK, "-o", "out")
    assert bench(*words).code == 0
    assert bench(*words, "-t", "star").code == 0
    assert measured == ["striped ball"] * 3 + ["star"] * 3
    rows = lines(folder / "out" / "scores.csv")
    assert [row["target"].split(" (")[0] for row in rows] == measured
    table = [line["insertion"] for line in lines(folder / "out" / "table.csv")]
    assert table == [row["insertion"] for row in rows[3:]]
    assert bench(*words).code == 0
    assert len(measured) == 6


def test_a_file_of_something_else_is_not_written_to(bench, folder):
    (folder / "out").mkdir()
    (folder / "out" / "scores.csv").write_text("a,b\n1,2\n")
    assert "choose another -o" in error(bench("pictures/a.png", *QUICK, "-o", "out"))
    assert (folder / "out" / "scores.csv").read_text() == "a,b\n1,2\n"


def test_stdin_is_refused(bench, cli):
    assert "pass files" in error(bench("-"), 2)
    assert "pass files" in error(cli("bench", "-", "pictures"), 2)


def test_the_time_left_is_shown_on_a_terminal_alone(bench, monkeypatch):
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=terminal: shown)
        result = bench("pictures", *QUICK, "-o", f"out-{terminal}")
        assert ("bench  [" in result.err) == terminal
        assert (" left" in result.err) == terminal
