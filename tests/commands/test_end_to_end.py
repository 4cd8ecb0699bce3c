"""The commands with the real explainer, on the embedded model and on real ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ibisa_onnx.demo import LABELS, model_path, scene_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.formats import encode_png
from ibisa_onnx.models import onnx_session


def test_demo_explains_two_classes_and_prints_the_cost(cli, tmp_path):
    result = cli("demo", "--json")
    assert (result.code, result.err) == (0, "")
    first, second = (json.loads(line) for line in result.out.splitlines())
    assert first["target"]["label"] != second["target"]["label"]
    assert (first["passes"]["forward"], first["passes"]["backward"]) == (21, 10)
    assert first["certificate"]["gradient"] == "exact"
    assert first["certificate"]["holds"]
    for each in (first, second):
        assert cv2.imread(str(tmp_path / each["files"][0])) is not None


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
def test_run_is_the_same_for_the_same_seed(cli, gradient):
    maps = []
    for seed in (1, 1, 2):
        words = ["-o", "map.npy", "--seed", seed, "--threads", 1, "-q", "--gradient", gradient]
        assert cli("run", model_path(), scene_path(), *words).code == 0
        maps.append(np.load("map.npy"))
    np.testing.assert_array_equal(maps[0], maps[1])
    assert (maps[0] != maps[2]).any() == (gradient == "forward-only")  # exact: fixed masks


def test_budget_bounds_the_passes_where_there_is_no_gradient(cli):
    words = ["--gradient", "forward-only", "--budget", 40, "-o", "r.json", "--threads", 1, "-q"]
    assert cli("run", model_path(), scene_path(), *words).code == 0
    record = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert record["certificate"]["gradient"] == "forward-only"
    assert record["passes"]["forward"] <= 40
    assert record["passes"]["backward"] == 0


def test_inspect_gives_the_top_five_of_the_embedded_scene(cli):
    data = json.loads(cli("inspect", model_path(), scene_path(), "--json").out)
    assert len(data["predictions"]) == 5
    assert {each["label"] for each in data["predictions"]} <= set(LABELS)
    assert all(each["exact"] for each in data["gradients"])


def test_an_explanation_saved_is_an_explanation_loaded(tmp_path):
    from ibisa_onnx import Explainer

    explanation = Explainer(model_path(), threads=1).explain(scene_path())
    explanation.save(tmp_path / "out")
    loaded = Explanation.load(tmp_path / "out")
    np.testing.assert_array_equal(loaded.map, explanation.map)
    np.testing.assert_array_equal(loaded.image, explanation.image)
    assert loaded.record() == explanation.record()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-t", "strp ball"], "striped ball"),
        (["-t", "99"], "99"),
        (["--output", "nope"], "nope"),
        (["--input", "nope"], "nope"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(cli, tmp_path, words, said):
    result = cli("run", model_path(), scene_path(), "-o", "map.png", *words)
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_real_classifier_names_the_dog_it_explains(cli, assets):
    words = ["--preprocess", "caffe", "--labels", assets / "imagenet_classes.txt", "--json"]
    photo = assets / "images" / "n02113023_Pembroke.JPEG"
    model = assets / "models" / "squeezenet.onnx"
    result = cli("run", model, photo, "-o", "out/", "--threads", 1, *words)
    record = json.loads(result.out)
    assert record["target"]["index"] == 263
    assert record["certificate"]["gradient"] == "exact"
    assert (record["passes"]["forward"], record["passes"]["backward"]) == (21, 10)


@pytest.mark.real
def test_a_segmenter_is_explained_by_what_it_sees(cli, assets, tmp_path):
    model, photo = assets / "models" / "deeplabv3_int8.onnx", "n02113023_Pembroke.JPEG"
    result = cli(
        "run", model, assets / "images" / photo, "-o", "out.png", "--json", "--resize=none"
    )
    assert result.code == 1  # a photograph of another size
    words = ("-t", "dog", "-o", "out.png", "--json", "--resize", "stretch")
    record = json.loads(cli("run", model, assets / "images" / photo, *words).out)
    assert record["target"]["kind"] == "region"
    assert record["target"]["label"] == "dog"
    assert record["certificate"]["gradient"] == "exact"
    assert (tmp_path / "out.png").exists()


FACES = ("--mean=127,127,127", "--std=128,128,128", "--scale=1", "--channel-order=RGB")


@pytest.mark.real
def test_boxes_are_listed_drawn_and_explained(cli, assets, tmp_path):
    model = assets / "models" / "face_rfb320.onnx"
    (tmp_path / "faces.jpg").write_bytes((assets / "detection" / "15.jpg").read_bytes())
    words = (*FACES, "--resize", "stretch")
    listed = json.loads(cli("inspect", model, "faces.jpg", "--json", *words).out)
    assert listed["kind"]["name"] == "detector"
    boxes = listed["pictures"]["faces.jpg"]
    assert [each["number"] for each in boxes] == list(range(1, len(boxes) + 1))
    assert listed["drawn"] == {"faces.jpg": "faces.boxes.ibisa.png"}
    assert (tmp_path / "faces.boxes.ibisa.png").exists()
    result = cli("run", model, "faces.jpg", "--box", 2, "--box", 3, "--json", *words)
    records = [json.loads(line) for line in result.out.splitlines()]
    for number, record in zip((2, 3), records, strict=True):
        expected = boxes[number - 1]["box"]
        assert record["target"]["details"]["box"] == pytest.approx(expected, abs=0.1)
        assert record["files"] == [f"faces.object-{number}.ibisa.png"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--box", 40], "there is no box 40; detected: 1 object 100%"),
        (["--at", "1,1"], "nothing was detected at 1,1; detected:"),
        (["-t", "dog"], "there is no label 'dog'"),
        (["-t", "top:3"], "target top:3 stands for classes, but a detector predicts boxes"),
        (["--text"], "the model's kind is detector, which has no text"),
        (["--char", 1], "the model's kind is detector, which has no text"),
    ],
)
def test_what_a_detector_has_not_is_one_line(cli, assets, flags, message):
    model, photo = assets / "models" / "face_rfb320.onnx", assets / "detection" / "15.jpg"
    result = cli("run", model, photo, "-q", "-o", "out/", *FACES, *flags)
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert message in line


@pytest.mark.real
def test_a_picture_without_an_answer_does_not_end_the_others(cli, assets, tmp_path):
    model = assets / "models" / "face_rfb320.onnx"
    (tmp_path / "b.jpg").write_bytes((assets / "detection" / "15.jpg").read_bytes())
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    result = cli("run", model, "a.png", "b.jpg", "-q", *FACES)
    assert result.code == 1
    assert "a.png: nothing was detected" in result.err
    assert result.out.strip() == "b.ibisa.png"


@pytest.mark.real
def test_pictures_of_one_name_are_drawn_apart(cli, assets, tmp_path):
    photo = (assets / "detection" / "15.jpg").read_bytes()
    for name in ("a.jpg", "a.jpeg"):
        (tmp_path / name).write_bytes(photo)
    model = assets / "models" / "face_rfb320.onnx"
    drawn = json.loads(cli("inspect", model, "a.jpg", "a.jpeg", "--json", *FACES).out)["drawn"]
    assert len(set(drawn.values())) == 2
    assert all((tmp_path / name).exists() for name in drawn.values())
    quiet = json.loads(cli("inspect", model, "a.jpg", "--json", "--no-draw", *FACES).out)
    assert quiet["drawn"] == {}


def test_a_deadline_ends_with_the_map_so_far_and_says_so(cli, tmp_path):
    words = ["--gradient", "forward-only", "--budget", 4000, "--deadline-ms", 500, "--threads", 1]
    result = cli("run", model_path(), scene_path(), "-o", "r.png", "--with-data", *words)
    assert result.code == 0
    record = json.loads((tmp_path / "r.json").read_text())
    done = record["completion"]["done"]
    assert record["completion"] == {
        "done": done,
        "planned": 3990,
        "unit": "queries",
        "cut_short": "deadline",
    }
    assert f"after {done} of 3990 queries" in result.out
    assert "cut short by the deadline" in result.err
    assert (tmp_path / "r.png").exists()


def test_a_folder_is_explained_by_several_workers_as_one_by_one(cli, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("abdef"):
        (tmp_path / "in" / f"{name}.png").write_bytes(
            encode_png(draw_scene(np.random.default_rng(seed), count=2).image)
        )
    (tmp_path / "in" / "c.png").write_bytes(b"no image")
    monkeypatch.setattr(onnx_session, "cores", lambda: 3)
    together = cli("run", model_path(), "in", "-o", "out", "--with-data", "--json", "-t", "top:2")
    assert together.code == 1
    assert [json.loads(line)["image"] for line in together.out.splitlines()] == [
        f"in/{name}.png" for name in "aabbddeeff"
    ]
    assert together.err.count("c.png") == 1
    assert cli("run", model_path(), "in/d.png", "-o", "one", "--with-data", "-t", "top:2").code == 0
    for path in (tmp_path / "one").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    again = cli("run", model_path(), "in", "-o", "out", "--with-data", "-t", "top:2")
    assert "skipped 5 of 6 images" in again.err


def test_a_deadline_without_time_for_a_step_is_an_error(cli, tmp_path):
    result = cli("run", model_path(), scene_path(), "-o", "r.png", "--deadline-ms", 1)
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "no time for a first step" in result.err
    assert "--deadline-ms" in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["0", "-5", "soon"])
def test_a_deadline_is_milliseconds(cli, value):
    result = cli("run", model_path(), scene_path(), "--deadline-ms", value)
    assert (result.code, result.out) == (2, "")


@pytest.mark.parametrize("words", [["--gradient", "exact"], ["--method", "occlusion"]])
def test_signed_draws_blue_and_writes_a_map_below_zero(cli, tmp_path, words):
    words = [*words, "--threads", 1, "-t", "star"]
    data = ["--with-data", "--signed"]
    assert (
        cli("run", model_path(), scene_path(), "-o", "plain.png", "--with-data", *words).code == 0
    )
    assert cli("run", model_path(), scene_path(), "-o", "signed.png", *data, *words).code == 0
    plain, signed = np.load(tmp_path / "plain.npy"), np.load(tmp_path / "signed.npy")
    assert (signed.dtype, signed.shape) == (np.float32, plain.shape)
    assert plain.min() >= 0
    assert -1 <= signed.min() < 0 < signed.max() <= 1
    assert (signed <= plain).all()
    assert (signed == plain).any()
    record = json.loads((tmp_path / "signed.json").read_text())
    assert record["maps"] == ["map", "against"]
    one, other = (cv2.imread(str(tmp_path / name)) for name in ("plain.png", "signed.png"))
    assert one.shape == other.shape
    assert (one != other).any()
    assert not list(tmp_path.glob("*.against.npy"))


def test_uncertainty_is_a_third_panel(cli, tmp_path):
    words = ["--gradient", "forward-only", "--budget", 40, "--threads", 1]
    plain = cli("run", model_path(), scene_path(), "-o", "two.png", *words)
    drawn = cli("run", model_path(), scene_path(), "-o", "three.png", "--uncertainty", *words)
    assert (plain.code, drawn.code) == (0, 0)
    words += ["--with-data"]
    assert cli("run", model_path(), scene_path(), "-o", "data.png", *words).code == 0
    record = json.loads((tmp_path / "data.json").read_text())
    assert record["maps"] == ["map", "against", "effect", "uncertainty"]
    effect, map = np.load(tmp_path / "data.effect.npy"), np.load(tmp_path / "data.npy")
    assert effect.shape == map.shape == np.load(tmp_path / "data.uncertainty.npy").shape
    assert map.flat[effect.argmax()] > 0.999 * map.max()
    assert (effect != map).any()
    two, three = (cv2.imread(str(tmp_path / name)) for name in ("two.png", "three.png"))
    assert three.shape[1] > 1.4 * two.shape[1]


def test_uncertainty_of_a_gradient_is_refused(cli, tmp_path):
    result = cli("run", model_path(), scene_path(), "-o", "r.png", "--uncertainty")
    assert result.code == 1
    assert "exact" in result.err
    assert "--gradient forward-only" in result.err
    assert not (tmp_path / "r.png").exists()


def test_finite_differences_take_the_steps_too(cli, tmp_path):
    words = ["--gradient", "finite-difference", "--budget", 120, "--threads", 1]
    result = cli("run", model_path(), scene_path(), "-o", "r.json", *words)
    assert result.code == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["certificate"]["gradient"] == "finite-difference"
    assert record["completion"]["done"] <= 111
    assert record["passes"]["forward"] == record["completion"]["done"] + 9
    assert record["passes"]["backward"] == 0


@pytest.mark.real
def test_where_no_box_is_sure_enough_the_least_score_can_be_lowered(cli, assets):
    model = assets / "models" / "face_rfb320.onnx"
    cv2.imwrite("grey.png", np.full((200, 300, 3), 120, np.uint8))
    words = (model, "grey.png", "--json", *FACES, "--resize", "stretch")
    said = cli("run", *words)
    assert (said.code, said.out) == (1, "")
    assert "nothing was detected with a score of 25% or more: the highest score is" in said.err
    assert "(object); check the preprocessing, or pass --confidence 0.0" in said.err
    assert "the highest score is" in cli("inspect", *words).err
    listed = json.loads(cli("inspect", *words, "--confidence", 0.01).out)["pictures"]["grey.png"]
    assert 0.01 <= listed[-1]["score"] <= listed[0]["score"] < 0.25
    target = json.loads(cli("run", *words, "--confidence", 0.01, "--box", 1).out)["target"]
    assert target["details"]["box"] == pytest.approx(listed[0]["box"], abs=0.1)


@pytest.mark.real
def test_a_least_score_is_of_boxes_alone(cli, assets):
    model, photo = assets / "models" / "deeplabv3_int8.onnx", assets / "detection" / "pets.jpg"
    result = cli("inspect", model, photo, "--no-draw", "--confidence", 0.1)
    assert result.code == 1
    assert "the model's kind is segmenter, which has no boxes" in result.err


@pytest.mark.real
def test_regions_are_listed_without_numbers_and_drawn_with_names(cli, assets, tmp_path):
    """No flag takes the number of a region."""
    cv2.imwrite("pets.png", cv2.imread(str(assets / "detection" / "pets.jpg")))
    words = ("inspect", assets / "models" / "deeplabv3_int8.onnx", "pets.png")
    listed = cli(*words, "--resize", "stretch").out.split("predictions\n")[1].splitlines()
    assert listed[-1] == "  drawn in pets.boxes.ibisa.png"
    assert all(re.match(r" {2,4}\d+\.\d%  \w", each) for each in listed[:-1])
    assert any("dog" in each for each in listed)
    assert cv2.imread("pets.boxes.ibisa.png").shape[1] >= 800
