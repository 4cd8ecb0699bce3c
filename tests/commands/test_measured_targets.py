"""`eval` and `bench` of what is no class: boxes, regions, similarities and values."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from documentation import stand_ins
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.benchmark.evaluation import USUAL
from ibisa_onnx.metrics import BOX_METRICS, LOCALISATION

SIDE, CELL = 32, 8
QUICK = ("--threads", 1, "--preprocess", "unit", "--resize", "stretch")


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    outputs: dict[str, list[int | str]],
    names: str = "",
) -> None:
    image, *made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {"image": ["n", 3, SIDE, SIDE], **outputs}.items()
    )
    tensors = [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()]
    graph = helper.make_graph(nodes, "planted", [image], made, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if names:
        helper.set_model_props(model, {"names": names})
    onnx.save(model, path)


@pytest.fixture
def detector(tmp_path: Path) -> str:
    """Boxes are cells of 8 pixels, their scores how red, green and blue these are."""
    onnx.save(stand_ins.detector(SIDE, CELL, ("red", "green", "blue")), tmp_path / "boxes.onnx")
    return "boxes.onnx"


@pytest.fixture
def segmenter(tmp_path: Path) -> str:
    """How red, green and blue each place of 2 pixels is, beside a background."""
    kernel = np.concatenate([np.zeros((1, 3, 2, 2), np.float32), 12 * stand_ins.colours(2)])
    nodes = [helper.make_node("Conv", ["image", "kernel", "bias"], ["scores"], strides=[2, 2])]
    constants = {"kernel": kernel, "bias": np.array([0, -6, -6, -6], np.float32)}
    names = "['background', 'red', 'green', 'blue']"
    saved(tmp_path / "regions.onnx", nodes, constants, {"scores": ["n", 4, 16, 16]}, names)
    return "regions.onnx"


@pytest.fixture
def embedder(tmp_path: Path) -> str:
    """A unit vector of 16: how bright each cell is, and a constant."""
    kernel = np.full((1, 3, CELL, CELL), 1 / 192, np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["m"], strides=[CELL, CELL]),
        helper.make_node("Flatten", ["m"], ["flat"]),
        helper.make_node("ReduceL2", ["flat"], ["length"], axes=[1]),
        helper.make_node("Div", ["flat", "length"], ["embedding"]),
    ]
    constants = {"kernel": kernel, "bias": np.array([0.02], np.float32)}
    saved(tmp_path / "like.onnx", nodes, constants, {"embedding": ["n", 16]})
    return "like.onnx"


def picture(path: Path, *squares: tuple[int, int, int]) -> None:
    """A black picture with a square in some cells: row, column and channel of each."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for row, column, channel in squares:
        place = np.s_[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1), channel]
        pixels[place] = 230 - 20 * channel
    assert cv2.imwrite(str(path), pixels[..., ::-1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of a red square beside others, one of a green one, and the map that is right."""
    picture(tmp_path / "a.png", (1, 2, 0), (3, 0, 1))
    picture(tmp_path / "b.png", (2, 1, 0), (0, 3, 1))
    picture(tmp_path / "green.png", (0, 0, 1))
    map = np.zeros((SIDE, SIDE), np.float32)
    map[8:16, 16:24] = 1
    np.save(tmp_path / "right.npy", map)
    np.save(tmp_path / "wrong.npy", 1 - map)
    return tmp_path


def test_a_box_is_measured_by_all_that_there_is_of_boxes(cli, folder, detector):
    words = ("eval", detector, "a.png", "right.npy", *QUICK, "--box", 1)
    record = json.loads(cli(*words, "--json").out)
    assert record["target"]["caption"] == "box 1: red at 16,8,24,16"
    assert record["target"]["details"]["box"] == [16, 8, 24, 16]
    scores = record["scores"]["this map"]
    assert list(scores) == [each.name for each in (*USUAL, *BOX_METRICS, *LOCALISATION)]
    assert scores["pointing game"] == scores["energy"] == 1
    assert scores["insertion (ODAM)"] > 0.4 > scores["deletion (ODAM)"]
    assert scores["insertion (D-RISE)"] > 0.7 > 0.1 > scores["deletion (D-RISE)"]
    (region,) = record["regions"]
    assert region["region"] == "its box"
    assert region["without"] < 0.1 < 0.8 < region["only"]
    assert "this map shows better than chance" in record["verdict"]["text"]
    text = cli(*words).out
    assert text.startswith("a.png: box 1: red at 16,8,24,16 90.2%")
    assert "its box" in text
    assert "detection" in text


@pytest.mark.parametrize(
    ("map", "words", "said"),
    [
        ("right", ("--fail-under", "insertion (D-RISE)=0.7"), ""),
        ("wrong", ("--fail-under", "insertion (D-RISE)=0.7"), "insertion (D-RISE) is 0."),
        ("right", ("--fail-under", "deletion (ODAM)=0.5"), ""),
        ("wrong", ("--fail-under", "deletion (ODAM)=0.5"), "deletion (ODAM) is 1, over 0.5"),
        ("right", ("--fail-under", "energy=0.9"), ""),
        ("wrong", ("--fail-under", "energy=0.9"), "energy is 0, under 0.9"),
        ("right", ("--within", "0,0,8,8", "--fail-under", "energy=0.9"), "energy is 0, under"),
        ("right", ("--fail-over", "without=0.2"), ""),
    ],
)
def test_a_box_fails_where_its_map_is_wrong(cli, folder, detector, map, words, said):
    result = cli(
        *("eval", detector, "a.png", f"{map}.npy", *QUICK, "--box", 1, "-q"),
        *("--metric", "deletion", *words),
    )
    assert result.code == (1 if said else 0), result.err
    assert said in result.err


def test_the_map_of_a_box_is_made_and_held_against_drise(cli, folder, detector):
    words = ("eval", detector, "a.png", *QUICK, "--at", "2,30", "--against", "drise", "--masks", 64)
    metrics = ("--metric", "energy", "--metric", "insertion (ODAM)")
    record = json.loads(cli(*words, *metrics, "--json").out)
    assert record["target"]["label"] == "green"
    assert record["passes"]["this map"] == [21, 10]
    assert record["passes"]["drise"][0] >= 64
    ours = record["scores"]["this map"]
    assert ours["energy"] > max(0.5, record["scores"]["drise"]["energy"])
    assert ours["insertion (ODAM)"] > 0.2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--box", 3), 1, "there is no box 3; detected: 1 red 90%, 2 green 82%"),
        (("--box", "all"), 2, "eval accepts a single target per image"),
        (("--box", 1, "--box", 2), 2, "eval accepts a single target per image"),
        (("--box", 1, "--fail-under", "energies=1"), 2, "unknown metric 'energies'"),
        (("--box", "0,0,5,5"), 2, "is not a box number"),
    ],
)
def test_what_is_no_one_box_is_one_line(cli, folder, detector, words, code, said):
    result = cli("eval", detector, "a.png", "right.npy", *QUICK, *words)
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_a_region_is_measured_on_itself(cli, folder, segmenter):
    words = ("eval", segmenter, "a.png", "right.npy", *QUICK, "-t", "red", "--json")
    metrics = ("--metric", "energy", "--metric", "insertion", "--metric", "deletion")
    record = json.loads(cli(*words, *metrics).out)
    assert [each["region"] for each in record["regions"]] == ["its region"]
    scores = record["scores"]["this map"]
    assert scores["energy"] == 1
    assert scores["insertion"] > 0.6 > 0.3 > scores["deletion"]
    result = cli(*words, "--metric", "insertion (ODAM)")
    assert "requires a detector's box as target" in result.err


def test_a_similarity_is_measured_between_what_hides_it_and_the_picture(cli, folder, embedder):
    words = ("eval", embedder, "a.png", "right.npy", *QUICK, "--like", "like.png", "--json")
    picture(folder / "like.png", (1, 2, 0))
    metrics = ("--metric", "insertion", "--metric", "deletion")
    record = json.loads(cli(*words, *metrics).out)
    assert record["target"]["caption"] == "similarity to like.png"
    assert record["target"]["probability"] == pytest.approx(1)
    assert record["scores"]["this map"]["deletion"] < 0.4
    assert record["scores"]["this map"]["insertion"] > 0.8
    assert record["checking_passes"] > 5
    assert cli(*words, *metrics, "--fail-under", "deletion=0.4").code == 0
    assert cli(*words, *metrics, "--fail-under", "deletion=0.001").code == 1
    result = cli(*words, "--metric", "energy")
    assert "energy requires the object's location" in result.err


def test_boxes_are_compared_on_the_pictures_that_have_them(cli, folder, detector):
    words = ("bench", detector, "a.png", "b.png", "green.png", *QUICK, "-t", "red")
    words += ("--against", "drise,random", "--masks", 64, "-o", "out", "--json")
    metrics = ("--metric", "insertion (ODAM)", "--metric", "pointing game", "--metric", "energy")
    result = cli(*words, *metrics)
    assert result.code == 1
    assert "green.png: no red was detected; detected: 1 green 82%" in result.err
    record = json.loads(result.out)
    assert (record["pictures"], record["left_out"]) == (2, ["green.png"])
    ours, drise, random = (
        {name: each["mean"] for name, each in method["scores"].items()}
        for method in record["methods"]
    )
    assert [each["method"] for each in record["methods"]] == ["ibisa", "drise", "random"]
    assert ours["pointing game"] == 1
    assert ours["energy"] > drise["energy"] > random["energy"]
    assert ours["insertion (ODAM)"] > random["insertion (ODAM)"]


def test_each_box_is_a_benchmark_of_its_own(cli, folder, detector):
    words = ("bench", detector, "a.png", "b.png", *QUICK, "--against", "drise,random")
    words += ("--masks", 32, "--metric", "energy", "-o", "out")
    for number in (1, 2, 1):
        result = cli(*words, "--box", number)
        assert result.code == 0, result.err
    lines = (folder / "out" / "scores.csv").read_text().splitlines()[1:]
    assert [line.split(",")[4].split(" at ")[0].strip('"') for line in lines] == [
        *["box 1: red"] * 6,
        *["box 2: green"] * 6,
    ]
    assert "6 maps from an earlier run" in result.out


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        (
            "detector",
            ("--box", 1, "--versus", "green"),
            "green.png: target and versus are the same",
        ),
        ("segmenter", ("--region", "mask.png"), "small.png: mask.png is 32 x 32, but the image"),
        ("segmenter", ("--region", "16,16,30,30"), "small.png: region 16,16,30,30 is outside"),
        ("segmenter", ("--at", "20,20"), "small.png: at 20,20 is outside the image"),
        ("segmenter", ("-t", "red"), "green.png: there is no red in this image"),
    ],
)
def test_a_picture_without_the_answer_does_not_end_the_others(
    request, cli, folder, kind, words, said
):
    picture(folder / "z.png", (2, 1, 0), (2, 2, 0))
    cv2.imwrite(str(folder / "small.png"), np.zeros((16, 16, 3), np.uint8))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[16:24, 8:16] = 255
    cv2.imwrite(str(folder / "mask.png"), mask)
    pictures, model = ("green.png", "small.png", "z.png"), request.getfixturevalue(kind)
    result = cli("run", model, *pictures, *QUICK, *words, "-q", "-o", "out")
    assert result.code == 1
    assert said in result.err
    assert "z.ibisa.png" in result.out
