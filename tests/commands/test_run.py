"""`run`: what is asked of the explainer, what is written where, and what is said."""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ibisa_onnx.commands import explaining, main, model_options
from ibisa_onnx.methods.ibisa import options as ibisa
from ibisa_onnx.preprocessing import resampling
from ibisa_onnx.preprocessing import spec as preprocessing
from ibisa_onnx.preprocessing.resolve import Overrides
from ibisa_onnx.targets.class_scores import Activation


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stdin(monkeypatch):
    """Put bytes on stdin."""

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


def test_overlay_lies_beside_the_picture_and_the_report_says_so(cli, fake, photo, tmp_path):
    photo("photo.jpg")
    result = cli("run", "m.onnx", "photo.jpg")
    assert result.code == 0
    assert files(tmp_path) == {"photo.jpg", "photo.ibisa.png"}
    assert cv2.imread("photo.ibisa.png").shape[1] > 2 * 30
    for said in ("goat (0) 87.5%", "photo.ibisa.png", "exact: every operator has a rule"):
        assert said in result.out
    for said in ("20 forward + 10 backward", "1.50 s", "CPUExecutionProvider", "3.0e-07"):
        assert said in result.out


def test_warnings_go_to_stderr_once_and_quiet_leaves_only_the_path(cli, fake, photo):
    photo("a.jpg"), photo("b.jpg")
    result = cli("run", "m.onnx", "a.jpg", "b.jpg")
    assert result.err.splitlines() == [
        "ibisa-onnx: warning: the mean is a guess",
        "ibisa-onnx: warning: the map is a test",
    ]
    quiet = cli("run", "m.onnx", "a.jpg", "b.jpg", "-q")
    assert (quiet.out, quiet.err) == ("a.ibisa.png\nb.ibisa.png\n", "")


def test_verbose_says_more_on_stderr(cli, fake, photo):
    photo("a.jpg")
    plain, verbose = cli("run", "m.onnx", "a.jpg"), cli("run", "m.onnx", "a.jpg", "-v")
    assert verbose.out == plain.out
    assert "10 forward + 10 backward" in verbose.err
    assert "10 forward" not in plain.err


def test_json_is_one_object_a_line(cli, fake, photo):
    photo("a.jpg")
    result = cli("run", "m.onnx", "a.jpg", "--json", "-t", "top:2", "--seed", "5")
    first, second = (json.loads(line) for line in result.out.splitlines())
    assert first["files"] == ["a.goat.ibisa.png"]
    assert second["target"]["label"] == "Crème brûlée"
    assert second["passes"]["forward"] == 20
    assert second["provenance"]["seed"] == 5


def test_several_targets_are_told_apart_by_their_labels(cli, fake, photo, tmp_path):
    photo("a.jpg")
    targets = [word for each in ("goat", "Crème brûlée", 2, 3, 4) for word in ("-t", each)]
    assert cli("run", "m.onnx", "a.jpg", *targets).code == 0
    assert files(tmp_path) - {"a.jpg"} == {
        "a.goat.ibisa.png",
        "a.creme-brulee.ibisa.png",
        "a.class-2.ibisa.png",
        "a.crane.ibisa.png",
        "a.crane-4.ibisa.png",
    }
    assert fake.last.asked[0][1] == ["goat", "Crème brûlée", 2, 3, 4]


def test_a_folder_means_its_pictures_but_not_our_own(cli, fake, photo, tmp_path):
    for name in ("in/b.PNG", "in/a.jpg", "in/old.ibisa.png", "in/.hidden.jpg", "in/deep/c.jpg"):
        photo(name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    result = cli("run", "m.onnx", "in", "-o", "out", "-q")
    assert result.out.split() == ["out/a.ibisa.png", "out/b.ibisa.png"]


def test_pictures_of_one_name_do_not_overwrite_each_other(cli, fake, photo, tmp_path):
    for name in ("x/a.jpg", "y/a.jpg", "y/a.png"):
        photo(name)
    assert cli("run", "m.onnx", "x/a.jpg", "y", "-o", "out/").code == 0
    assert len(files(tmp_path / "out")) == 3


@pytest.mark.parametrize("name", ["made.png", "made.npy", "made.json", "MADE.PNG", "new/made.png"])
def test_out_names_a_file_by_its_suffix(cli, fake, photo, tmp_path, name):
    photo("a.jpg")
    assert cli("run", "m.onnx", "a.jpg", "-o", name).code == 0
    assert files(tmp_path) == {"a.jpg", name}


def test_map_file_holds_the_map_at_the_size_of_the_picture(cli, fake, photo):
    photo("a.jpg")
    cli("run", "m.onnx", "a.jpg", "-o", "map.npy")
    map = np.load("map.npy")
    assert (map.shape, map.dtype) == ((20, 30), np.float32)


def test_with_data_writes_the_map_and_the_record_too(cli, fake, photo, tmp_path):
    photo("a.jpg")
    assert cli("run", "m.onnx", "a.jpg", "--with-data").code == 0
    assert files(tmp_path) - {"a.jpg"} == {"a.ibisa.png", "a.ibisa.npy", "a.ibisa.json"}
    assert cli("run", "m.onnx", "a.jpg", "--with-data", "-o", "o/x.json").code == 0
    assert files(tmp_path / "o") == {"x.png", "x.npy", "x.json"}


def test_an_existing_folder_takes_the_result_under_its_usual_name(cli, fake, photo, tmp_path):
    photo("a.jpg")
    (tmp_path / "v1.0").mkdir()
    assert cli("run", "m.onnx", "a.jpg", "-o", "v1.0", "-q").out == "v1.0/a.ibisa.png\n"


@pytest.mark.parametrize(
    "args",
    [
        ["a.jpg", "-o", "x.jpg"],
        ["a.jpg", "b.jpg", "-o", "x.png"],
        ["a.jpg", "-t", "top:2", "-o", "x.png"],
        ["a.jpg", "-t", "0", "-t", "1", "-o", "-"],
        ["a.jpg", "-o", "-", "--with-data"],
        ["a.jpg", "--preprocess", "cafe"],
        ["a.jpg", "--mean", "1,two"],
        ["a.jpg", "--size", "0"],
        ["a.jpg", "--size", "2x3x4"],
        ["a.jpg", "--gradient", "magic"],
        ["a.jpg", "--threads", "0"],
        ["a.jpg", "--extra-input", "t"],
        ["a.jpg", "--extra-input", "t=much"],
        ["a.jpg", "--extra-input", "t=none.npy"],
        ["a.jpg", "--extra-input", "t=nan"],
        ["a.jpg", "--extra-input", "t=a.npz"],
        ["a.jpg", "--size", "9" * 5000],
        ["a.jpg", "--size", "²"],
        ["a.jpg", "--mean", "nan"],
        ["a.jpg", "--std", "1e400"],
        ["a.jpg", "--box", "9" * 5000],
        ["a.jpg", "--box", "²"],
        ["a.jpg", "--at", "nan,1"],
        ["a.jpg", "--at", "1," + "9" * 5000],
        ["a.jpg", "--region", "1,2,inf,4"],
        ["a.jpg", "--region", "a" * 5000],
        ["a.jpg", "--preprocess", "a" * 5000],
    ],
)
def test_wrong_usage_is_found_before_any_work(cli, fake, photo, tmp_path, args):
    photo("a.jpg"), photo("b.jpg")
    result = cli("run", "m.onnx", *args)
    assert result.code == 2
    assert result.err.splitlines()[0].startswith("ibisa-onnx: error: ")
    assert len(result.err) < 1500
    assert fake.last is None
    assert files(tmp_path) == {"a.jpg", "b.jpg"}


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff"])
def test_an_input_that_is_no_array_is_wrong_usage_and_no_interruption(cli, fake, photo, content):
    photo("a.jpg")
    Path("t.npy").write_bytes(content)
    result = cli("run", "m.onnx", "a.jpg", "--extra-input", "t=t.npy")
    assert result.code == 2
    assert "t.npy is not a .npy file of real numbers" in result.err
    assert fake.last is None


def test_stdin_and_stdout_cannot_serve_two(cli, fake):
    assert cli("run", "-", "-").code == 2


def test_inputs_are_never_overwritten(cli, fake, photo):
    before = photo("a.png").read_bytes()
    result = cli("run", "m.onnx", "a.png", "-o", "./a.png")
    assert result.code == 2
    assert "not overwritten" in result.err
    assert Path("a.png").read_bytes() == before


def test_a_place_that_cannot_be_written_is_found_before_any_work(cli, fake, photo, tmp_path):
    photo("a.jpg")
    (tmp_path / "file").write_text("mine")
    result = cli("run", "m.onnx", "a.jpg", "-o", "file/out/")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert fake.last is None


def test_no_folder_is_left_where_nothing_could_be_done(cli, fake, photo, tmp_path):
    photo("a.jpg")
    assert cli("run", "m.onnx", "a.jpg", "-t", "gaot", "-o", "new/deep/").code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.jpg"}


def test_the_folder_of_a_picture_is_tried_before_any_work(cli, fake, photo, tmp_path, monkeypatch):
    photo("in/a.jpg")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "in")
    result = cli("run", "m.onnx", "in/a.jpg")
    assert result.code == 1
    assert result.err.splitlines() == [
        "ibisa-onnx: error: in: no write access; pass another folder with -o"
    ]
    assert fake.last is None


def test_a_further_target_says_why_it_costs_less(cli, fake, photo):
    photo("a.jpg")
    first, second = (
        cli("run", "m.onnx", "a.jpg", "-t", "top:2").out.split("goat (0)")[1].split("(1)")
    )
    assert "first target" not in first
    assert "(prediction, fidelity check and baseline shared with the first target)" in second


def test_one_bad_picture_of_several_is_reported_and_the_rest_done(cli, fake, photo, tmp_path):
    photo("a.jpg"), photo("c.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no picture at all")
    result = cli("run", "m.onnx", "a.jpg", "b.jpg", "c.jpg", "-q")
    assert result.code == 1
    assert result.out == "a.ibisa.png\nc.ibisa.png\n"
    (line,) = result.err.splitlines()
    assert line.startswith("ibisa-onnx: error: ")
    assert "b.jpg" in line


def test_an_unknown_label_stops_at_once(cli, fake, photo):
    photo("a.jpg"), photo("b.jpg")
    result = cli("run", "m.onnx", "a.jpg", "b.jpg", "-t", "gaot")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert "nearest is 'goat'" in line


def test_interrupted_while_it_waits_for_a_picture_it_ends(cli, fake, monkeypatch):
    class Waiting(io.BytesIO):
        def read(self, *_):
            signal.raise_signal(signal.SIGINT)
            return b""

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Waiting()))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    result = cli("run", "m.onnx", "-")
    signal.signal(signal.SIGINT, before)
    assert (result.code, result.out) == (130, "")
    assert result.err.strip() == "ibisa-onnx: error: interrupted"


def test_interrupted_among_several_it_says_how_many_are_left_out(
    cli, fake, photo, tmp_path, monkeypatch
):
    for name in "abc":
        photo(f"{name}.jpg")
    real = fake.iter_explanations

    def interrupted(self, image, *args, **options):
        if image == "b.jpg":
            signal.raise_signal(signal.SIGINT)
        return real(self, image, *args, **options)

    monkeypatch.setattr(fake, "iter_explanations", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    result = cli("run", "m.onnx", "a.jpg", "b.jpg", "c.jpg", "--json")
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    assert result.code == 130
    assert [json.loads(line)["image"] for line in result.out.splitlines()] == ["a.jpg", "b.jpg"]
    assert files(tmp_path) == {"a.jpg", "b.jpg", "c.jpg", "a.ibisa.png", "b.ibisa.png"}
    assert "1 of 3 images not explained" in result.err


def test_missing_picture_and_empty_folder(cli, fake, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, said in (("none.jpg", "none.jpg"), ("empty", "no images in this folder")):
        result = cli("run", "m.onnx", name)
        assert result.code == 1
        (line,) = result.err.splitlines()
        assert said in line


def test_picture_from_stdin_goes_to_stdout(fake, photo, stdin, capsysbinary):
    stdin(photo("a.jpg").read_bytes())
    with pytest.raises(SystemExit) as exit_:
        main(["run", "m.onnx", "-"])
    assert exit_.value.code == 0
    out, err = capsysbinary.readouterr()
    drawn = cv2.imdecode(np.frombuffer(out, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape[1] > 2 * 30
    assert b"goat (0) 87.5%" in err


def test_picture_from_stdin_goes_where_out_says(cli, fake, photo, stdin, tmp_path):
    stdin(photo("a.jpg").read_bytes())
    assert cli("run", "m.onnx", "-", "-o", "out/", "-q").out == "out/stdin.ibisa.png\n"


def test_model_from_stdin(cli, fake, photo, stdin):
    photo("a.jpg")
    stdin(b"the model")
    assert cli("run", "-", "a.jpg").code == 0
    assert fake.last.model == b"the model"


def test_options_reach_the_explainer(cli, fake, photo, tmp_path):
    photo("a.jpg")
    (tmp_path / "l.txt").write_text("a\nb\n")
    words = "--provider cuda --provider cpu --input x --output y --threads 2 --labels l.txt"
    more = "--gradient exact --activation sigmoid"
    assert cli("run", "m.onnx", "a.jpg", *words.split(), *more.split()).code == 0
    options = fake.last.options
    assert options["providers"] == ("cuda", "cpu")
    assert (options["input"], options["output"], options["threads"]) == ("x", "y", 2)
    assert (options["labels"], options["gradient"]) == ("l.txt", "exact")
    assert options["activation"] == "sigmoid"
    assert options["cache"] is True
    assert (options["preprocessing"], options["overrides"]) == (None, Overrides())


def test_the_cache_can_be_left_out(cli, fake, photo):
    photo("a.jpg")
    assert cli("run", "m.onnx", "a.jpg", "--no-cache").code == 0
    assert fake.last.options["cache"] is False


def test_extra_inputs_are_numbers_or_files(cli, fake, photo):
    photo("a.jpg")
    np.save("sizes.npy", np.array([[640.0, 480.0]]))
    words = ["--extra-input", "t=0.5", "--extra-input", "m=1,2", "--extra-input", "s=sizes.npy"]
    assert cli("run", "m.onnx", "a.jpg", *words).code == 0
    values = fake.last.options["extra_inputs"]
    assert {name: value.tolist() for name, value in values.items()} == {
        "t": [0.5],
        "m": [1.0, 2.0],
        "s": [[640.0, 480.0]],
    }


def test_preprocessing_flags_become_overrides(cli, fake, photo):
    photo("a.jpg")
    words = "--preprocess caffe --mean 1,2,3 --std 4 --scale 0.5 --channel-order rgb"
    more = "--size 20x30 --resize stretch --shorter-side 40 --interpolation box --layout nhwc"
    assert cli("run", "m.onnx", "a.jpg", *words.split(), *more.split()).code == 0
    assert fake.last.options["preprocessing"] == "caffe"
    assert fake.last.options["overrides"] == Overrides(
        mean=(1.0, 2.0, 3.0),
        std=(4.0,),
        scale=0.5,
        channel_order="RGB",
        size=(20, 30),
        resize="stretch",
        shorter_side=40,
        interpolation="box",
        layout="NHWC",
    )


def test_flags_and_a_spec_file_both_reach_the_explainer(cli, fake, photo, tmp_path):
    photo("a.jpg")
    (tmp_path / "spec.toml").write_text('preset = "tf"\n')
    assert cli("run", "m.onnx", "a.jpg", "--preprocess", "spec.toml", "--size", "7").code == 0
    assert fake.last.options["preprocessing"] == "spec.toml"
    assert fake.last.options["overrides"] == Overrides(size=(7, 7))


def test_choices_offered_are_those_there_are():
    assert set(model_options.ACTIVATIONS) == set(Activation)
    assert set(model_options.PRESETS) == set(preprocessing.PRESETS)
    assert tuple(explaining.PRESETS) == tuple(ibisa.PRESETS)
    offered = explaining.PresetChoice(explaining.PRESETS)
    for earlier, name in ibisa.ALIASES.items():
        assert offered.convert(earlier, None, None) == name
    assert set(model_options.CHANNEL_ORDERS) == set(preprocessing.CHANNEL_ORDERS)
    assert set(model_options.RESIZES) == set(preprocessing.RESIZES)
    assert set(model_options.INTERPOLATIONS) == set(resampling.KERNELS)


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("ibisa", ("--masks", "4000")),
        ("gradcam", ("--iba-layer", "mixed")),
        ("occlusion", ("--gradcam-layer", "mixed")),
        ("rise", ("--iba-images", ".")),
    ],
)
def test_an_option_of_another_method_is_refused(cli, fake, photo, tmp_path, method, option):
    photo("a.jpg")
    result = cli("run", "m.onnx", "a.jpg", "--method", method, *option)
    assert result.code == 2
    assert f"{option[0]} applies to " in result.err
    assert files(tmp_path) == {"a.jpg"}


@pytest.mark.parametrize("method", ["rise", "gradcam", "iba", "random"])
def test_signed_is_refused_where_a_method_has_no_sign(cli, fake, photo, tmp_path, method):
    photo("a.jpg")
    result = cli("run", "m.onnx", "a.jpg", "--method", method, "--signed")
    assert (result.code, result.out) == (2, "")
    line = result.err.splitlines()[0]
    assert line == (
        f"ibisa-onnx: error: --method {method} does not support --signed; use ibisa or occlusion, "
        "or omit --signed"
    )
    assert files(tmp_path) == {"a.jpg"}


def test_a_picture_is_not_written_to_a_terminal(cli, fake, photo, stdin, monkeypatch):
    stdin(photo("a.jpg").read_bytes())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    result = cli("run", "m.onnx", "-")
    assert (result.code, result.out) == (2, "")
    assert "cannot write an image to the terminal; pass -o FILE" in result.err
