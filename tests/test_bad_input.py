"""What bad and unusual input gets: one line that helps, or simply a map."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.commands import main
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.errors import GradientError, ModelError, OutputError, PreprocessingError
from ibisa_onnx.io import images

SIDE, CLASSES = 16, 5
FLOAT = TensorProto.FLOAT
Tail = tuple[list[onnx.NodeProto], list[tuple[str, int, list[Any]]], dict[str, np.ndarray]]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def logits(name: str = "y") -> Tail:
    return [node("Identity", "l", name)], [(name, FLOAT, ["n", CLASSES])], {}


def make_model(
    tail: Tail | None = None,
    *,
    dtype: int = FLOAT,
    batch: Any = "n",
    extra: tuple[str, list[Any]] | None = None,
) -> onnx.ModelProto:
    """`r` [n, K, h, w] is a ReLU of channel mixtures, `l` [n, K] its mean; `tail` goes on."""
    nodes, outputs, constants = tail or logits()
    rng = np.random.default_rng(0)
    constants = {
        "mix": rng.standard_normal((CLASSES, 3, 1, 1)).astype(np.float32),
        "rows": np.array([0, CLASSES]),
    } | constants
    body = [
        node("Cast", "image", "x", to=FLOAT),
        node("Conv", "x mix", "c"),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Reshape", "g rows", "l"),
    ]
    inputs = [helper.make_tensor_value_info("image", dtype, [batch, 3, SIDE, SIDE])]
    if extra:
        inputs.append(helper.make_tensor_value_info(extra[0], FLOAT, extra[1]))
    graph = helper.make_graph(
        [*body, *nodes],
        "small",
        inputs,
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def explain(model: onnx.ModelProto | Any, **options: Any) -> ibisa.Explanation:
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, 24, 3), dtype=np.uint8)
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    options = {"preprocessing": "unit", "threads": 1} | options
    return ibisa.Explainer(source, **options).explain(picture)


# -- outputs


DETECTOR: Tail = (
    [
        node("Reshape", "r rowwise", "boxes"),
        node("ReduceMean", "boxes", "scores", axes=[2], keepdims=0),
    ],
    [("boxes", FLOAT, [1, 320, 4]), ("scores", FLOAT, [1, 320])],
    {"rowwise": np.array([1, 320, 4])},
)
SEGMENTER: Tail = ([], [("r", FLOAT, ["n", CLASSES, SIDE, SIDE])], {})
INDEX: Tail = (
    [node("ArgMax", "l", "top", axis=1, keepdims=0)],
    [("top", TensorProto.INT64, ["n"])],
    {},
)


@pytest.mark.parametrize(
    ("tail", "batch", "said"),
    [
        (DETECTOR, 1, ["boxes float32 [1, 320, 4]", "scores", "per-class maximum"]),
        (SEGMENTER, "n", ["r float32", "values per pixel", "per-class mean over"]),
        (INDEX, "n", ["top int64 [n] (class indices)", "before the ArgMax"]),
    ],
)
def test_what_is_no_classifier_hears_what_its_outputs_are_and_what_to_do(
    tail: Tail, batch: Any, said: list[str]
) -> None:
    with pytest.raises(OutputError) as caught:
        explain(make_model(tail, batch=batch))
    for words in (*said, "output=", "target="):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_a_detector_are_explained_only_when_named() -> None:
    explanation = explain(make_model(DETECTOR, batch=1), output="scores")
    assert explanation.target.output == "scores"


def test_an_output_that_does_not_fit_is_refused_with_those_that_may() -> None:
    nodes, outputs, constants = logits()
    tail = (nodes, [*outputs, ("r", FLOAT, ["n", CLASSES, SIDE, SIDE])], constants)
    with pytest.raises(OutputError, match=r"output r .* these may: output=y"):
        explain(make_model(tail), output="r")
    assert explain(make_model(tail)).target.output == "y"


def test_two_outputs_of_scores_are_the_users_choice() -> None:
    (one, [first], _), (two, [second], _) = logits("y"), logits("aux")
    model = make_model(([*one, *two], [first, second], {}))
    with pytest.raises(OutputError, match=r"y, aux .*output=NAME"):
        explain(model)
    assert explain(model, output="aux").target.output == "aux"


def test_scores_that_are_nan_on_masked_copies_only_are_no_map() -> None:
    """Division by the deviation from a constant picture: fine on it, NaN or infinite elsewhere."""
    nodes = [node("Sub", "l own", "d"), node("Sqrt", "d", "s"), node("Add", "l s", "y")]
    plain = make_model()
    picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
    picture[4:8, 4:8] = 10
    session = onnxruntime.InferenceSession(
        plain.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    tensor = (picture / 255).astype(np.float32).transpose(2, 0, 1)[None]
    own = session.run(None, {"image": tensor})[0]
    model = make_model((nodes, [("y", FLOAT, ["n", CLASSES])], {"own": own}))
    explainer = ibisa.Explainer(
        model.SerializeToString(), preprocessing="unit", threads=1, gradient="forward-only"
    )
    with pytest.raises(OutputError, match="NaN or infinite"):
        explainer.explain(picture)


# -- inputs


@pytest.mark.parametrize("shape", [[], [1], ["n", 1]])
def test_other_inputs_take_a_number_of_any_rank(shape: list[Any]) -> None:
    nodes = [node("Mul", "l t", "y")]
    model = make_model((nodes, [("y", FLOAT, ["n", CLASSES])], {}), extra=("t", shape))
    with pytest.raises(ModelError, match=r"requires a value for 't' .*extra_inputs="):
        explain(model)
    cold, warm = (explain(model, extra_inputs={"t": np.array([t])}) for t in (1.0, 9.0))
    assert cold.certificate.gradient == "exact"
    assert warm.target.probability > cold.target.probability


@pytest.mark.parametrize("dtype", [FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_float_inputs_of_any_width_have_the_exact_gradient(dtype: int) -> None:
    explanation = explain(make_model(dtype=dtype), gradient="exact")
    assert explanation.certificate.holds
    assert explanation.passes.backward == 10


def test_bytes_have_the_exact_gradient() -> None:
    explanation = explain(make_model(dtype=TensorProto.UINT8), preprocessing=None, gradient="exact")
    assert explanation.certificate.holds
    assert explanation.certificate.tolerance == 1e-3
    assert explanation.passes.backward == 10


def test_long_integers_have_no_gradient_and_both_sentences_read_right() -> None:
    model = make_model(dtype=TensorProto.INT32)
    reason = explain(model, preprocessing=None).certificate.reason
    assert reason == "input image has dtype int32, for which there is no gradient"
    with pytest.raises(GradientError, match=f"^no exact gradient: {reason}; use gradient="):
        explain(model, preprocessing=None, gradient="exact")


@pytest.mark.parametrize("batch", ["n", 1, 3, 4, 16])
def test_forward_only_keeps_its_budget_whatever_the_batch(batch: Any) -> None:
    explanation = explain(make_model(batch=batch), gradient="forward-only", budget=100)
    assert 60 <= explanation.passes.forward <= 100


def test_a_budget_too_small_is_refused_with_the_least() -> None:
    with pytest.raises(GradientError, match=r"budget of 12 .* use 13 or more"):
        explain(make_model(), gradient="forward-only", budget=12)
    assert explain(make_model(), gradient="forward-only", budget=13).passes.forward == 13


def test_an_ort_file_goes_forward_only_and_says_which_file_would_do(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    data = make_model().SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    certificate = explain(tmp_path / "m.ort").certificate
    assert certificate.gradient == "forward-only"
    assert "pass the .onnx file" in certificate.reason


def test_weights_in_another_file_have_the_exact_gradient_too(tmp_path: Path) -> None:
    whole, path = make_model(), tmp_path / "m.onnx"
    expected = explain(whole)
    onnx.save(whole, path, save_as_external_data=True, location="m.bin", size_threshold=50)
    explanation = explain(path, gradient="exact")
    np.testing.assert_array_equal(explanation.map, expected.map)


def test_a_model_that_is_nothing_known() -> None:
    with pytest.raises(ModelError, match="the model is a list; pass a path"):
        ibisa.Explainer([])  # type: ignore[arg-type]


# -- preprocessing


def test_single_values_go_before_a_spec_file_which_keeps_its_sources(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('preset = "tf"\nresize = "stretch"\n')
    explainer = ibisa.Explainer(
        make_model().SerializeToString(),
        preprocessing=spec,
        overrides=ibisa.Overrides(mean=(0.5,)),
    )
    sources = {each.field: each.source for each in explainer.preprocessing.resolved_fields}
    assert sources["mean"] == "overrides={'mean': ...}"
    assert sources["resize"] == sources["scale"] == "file spec.toml"
    assert explainer.preprocessing.spec.mean == (0.5,)


def test_a_whole_spec_leaves_nothing_to_override() -> None:
    with pytest.raises(PreprocessingError, match="cannot be combined with a Preprocessing"):
        explain(
            make_model(),
            preprocessing=ibisa.Preprocessing((SIDE, SIDE)),
            overrides=ibisa.Overrides(mean=(0.5,)),
        )


def test_overrides_may_be_a_dict_as_json_has_it() -> None:
    def spec(overrides: Any) -> ibisa.Preprocessing:
        model = make_model().SerializeToString()
        return ibisa.Explainer(model, overrides=overrides).preprocessing.spec

    given = {"preset": "tf", "mean": [0.5, 0.25, 0.125], "resize": "stretch"}
    wanted = ibisa.Overrides(preset="tf", mean=(0.5, 0.25, 0.125), resize="stretch")
    assert spec(given) == spec(wanted)
    assert spec({}) == spec(None)
    assert spec({"mean": np.full(3, 0.5)}) == spec(ibisa.Overrides(mean=(0.5, 0.5, 0.5)))


@pytest.mark.parametrize("overrides", [{"meen": 0.5}, [("mean", 0.5)], "tf"])
def test_overrides_of_another_kind_are_refused(overrides: Any) -> None:
    with pytest.raises(ibisa.OptionError, match=r"overrides (is|has no)"):
        explain(make_model(), overrides=overrides)


@pytest.mark.parametrize(
    "given",
    [
        {"mean": "x"},
        {"mean": (None,)},
        {"scale": "a"},
        {"size": "a"},
        {"size": (128,)},
        {"channel_order": 3},
        {"preset": 4},
        {"interpolation": []},
        {"shorter_side": 2.5},
    ],
)
def test_an_override_of_the_wrong_kind_is_one_line(given: dict[str, Any]) -> None:
    ((name, _),) = given.items()
    with pytest.raises(PreprocessingError, match=f"{name} is .*, expected") as caught:
        ibisa.Explainer(make_model().SerializeToString(), overrides=ibisa.Overrides(**given))
    assert "\n" not in str(caught.value)


def test_a_misspelt_preset_is_no_missing_file() -> None:
    with pytest.raises(PreprocessingError, match=r"imagnet.*imagenet, caffe"):
        explain(make_model(), preprocessing="imagnet")


# -- work that is not done twice


def test_graph_hash_and_picture_are_read_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counts: dict[str, int] = {}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **options: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return function(*args, **options)

        return count

    from ibisa_onnx import pipeline
    from ibisa_onnx.models.onnx_file import ModelFile

    for owner, name in (
        (ModelFile, "load_proto"),
        (ModelFile, "sha256"),
        (pipeline, "versions"),
        (pipeline, "prepare"),
        (images, "_read_bytes"),
    ):
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    picture = tmp_path / "p.png"
    assert cv2.imwrite(str(picture), np.zeros((SIDE, SIDE, 3), np.uint8))
    path = tmp_path / "m.onnx"
    onnx.save(make_model(), path)
    explainer = ibisa.Explainer(path, preprocessing="unit", threads=1)
    list(explainer.explain_all(picture, [0, 1]))
    once = dict(counts)
    list(explainer.explain_all(picture, [0, 1]))
    assert (once["_read_bytes"], once["prepare"], once["sha256"], once["versions"]) == (
        1,
        1,
        1,
        1,
    )
    assert {name: counts[name] - once[name] for name in counts} == {
        "load_proto": 0,
        "sha256": 0,
        "versions": 0,
        "prepare": 1,
        "_read_bytes": 1,
    }


# -- the command line


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, list[str]]:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return int(str(caught.value.code)), out, err.splitlines()


def test_a_scalar_input_is_given_on_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = make_model(
        ([node("Mul", "l t", "y")], [("y", FLOAT, ["n", CLASSES])], {}), extra=("t", [])
    )
    path, made = tmp_path / "m.onnx", tmp_path / "o.png"
    onnx.save(model, path)
    words = ["--extra-input", "t=2.5", "--preprocess", "unit", "--threads", 1, "-q"]
    assert run(capsys, "run", path, scene_path(), "-o", made, *words) == (0, f"{made}\n", [])
    assert run(capsys, "inspect", path, *words[:4])[0] == 0


def start_without_end(tmp_path: Path, *words: str, patience: bool = True) -> subprocess.Popen[str]:
    """A run of hundreds of thousands of queries, of which some have been asked.

    Without patience, nothing ends it but an exception.
    """
    code = "import sys; from ibisa_onnx.commands import main; main(sys.argv[1:])"
    words = ("run", str(model_path()), str(scene_path()), "-o", "out/", "--threads", "1", *words)
    endless = ["--gradient", "forward-only", "--budget", "400000"]
    watch = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    tell = "import ibisa_onnx.methods.ibisa.forward_only as f; real = f.smooth_masks; "
    tell += "f.smooth_masks = lambda *a, **k: print('busy', flush=True) or real(*a, **k); "
    if not patience:
        tell += (
            "from ibisa_onnx.methods.stopping import StoppingRule as S; S.over = lambda *_: False; "
        )
    process = subprocess.Popen(
        [sys.executable, "-c", watch + tell + code, *words, *endless],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(ibisa.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    return process


def test_interrupted_it_ends_with_the_best_map_so_far(tmp_path: Path) -> None:
    process = start_without_end(tmp_path, "--with-data")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "cut short by an interruption" in err
    record = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    completion = record["completion"]
    assert completion["cut_short"] == "stop"
    assert 0 < completion["done"] < completion["planned"]
    assert record["passes"]["forward"] == completion["done"] + 5
    assert record["sufficiency"] is None
    assert f"after {completion['done']} of {completion['planned']} queries" in out
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_interrupted_twice_it_leaves_nothing(tmp_path: Path) -> None:
    process = start_without_end(tmp_path, patience=False)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "Ctrl-C again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
