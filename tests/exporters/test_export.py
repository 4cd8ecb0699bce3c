"""`export` writes a file that explains itself, or nothing: from a factory in a user's file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from ibisa_onnx import Explainer
from ibisa_onnx.demo import scene_path
from ibisa_onnx.models.onnx_session import DeployedModel

pytest.importorskip("onnxscript", reason="torch writes ONNX by onnxscript")

NAMES = {"ant", "bee", "cat", "dog", "elk", "fox"}


def exported(cli, *words):
    """Export to model.onnx and return what was said in JSON."""
    result = cli("export", *words, "-o", "model.onnx", "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"code"}


def test_the_file_says_how_it_is_used(cli, source, tmp_path):
    said = exported(cli, source("net"))
    assert said["files"] == ["model.onnx"]
    assert said["warnings"] == []
    explainer = Explainer("model.onnx")
    spec = explainer.preprocessing.spec
    assert (spec.size, spec.resize, spec.mean, spec.scale) == (
        (32, 32),
        "stretch",
        (1.0,),
        1 / 127.5,
    )
    assert {each.label for each in explainer.predict(scene_path(), 6)} == NAMES
    assert explainer.warnings == ()
    assert cli("run", "model.onnx", scene_path(), "-o", "map.png").code == 0
    assert left_behind(tmp_path) == {"model.onnx", "map.png"}


@pytest.mark.parametrize("given", ["source", "--weights", "--labels", "--images"])
def test_what_was_given_is_not_overwritten(cli, source, module, tmp_path, given):
    file = module if given == "source" else tmp_path / "given.bin"
    if given != "source":
        file.write_bytes(b"precious")
    before = file.read_bytes()
    words = () if given == "source" else (given, file)
    if given == "--labels":
        file.write_text("\n".join(sorted(NAMES)))
        before = file.read_bytes()
    result = cli("export", source("net"), *words, "-o", file)
    assert result.code == 2
    assert "not overwritten" in result.err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("leaves", "SystemExit: 7"),
        ("sized", "input_size is 'abc'; use pixels"),
        ("labelled", "labels is a int; use a list"),
    ],
)
def test_what_a_factory_does_wrong_is_said_in_one_line(cli, source, tmp_path, name, says):
    result = cli("export", source(name), "-o", "model.onnx")
    assert (result.code, result.out) == (1, "")
    assert says in result.err.splitlines()[-1]
    assert left_behind(tmp_path) == set()


def test_what_a_factory_prints_is_not_taken_for_the_result(cli, source):
    assert exported(cli, source("talks"))["files"] == ["model.onnx"]


def test_what_was_verified_is_said(cli, source):
    said = exported(cli, source("net"))["verification"]
    assert [(each["input"], each["batch"]) for each in said] == [
        ("random", 1),
        ("random", 2),
        ("real", 1),
        ("real", 2),
    ]
    assert all(each["relative"] < 1e-5 and each["top5"] == 1 for each in said)
    assert all(each["images"] > 2 and each["varies"] for each in said)
    text = cli("export", source("net"), "-o", "model.onnx").out
    assert "model.onnx" in text
    assert "real input, batch 2" in text


def test_pictures_of_the_users_own(cli, source, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        assert cv2.imwrite(str(folder / name), np.full((8, 9, 3), 90, np.uint8))
    said = exported(cli, source("net"), "--images", folder)["verification"]
    assert [each["images"] for each in said if each["input"] == "real"] == [3, 3]


def test_the_default_name_is_the_sources(cli, source, module):
    assert cli("export", source("net"), "-q").out.strip() == str(module.parent / "net.onnx")


@pytest.mark.parametrize(("name", "flag"), [("wrong", []), ("wrong", ["--opset", "13"])])
def test_a_wrong_file_is_not_kept(cli, source, tmp_path, name, flag):
    (tmp_path / "model.onnx").write_bytes(b"before")
    result = cli("export", source(name), "-o", "model.onnx", "--surrogate", *flag)
    assert result.code == 1
    assert "(1.0e-02 of the largest score)" in result.err
    assert left_behind(tmp_path) == {"model.onnx"}
    assert (tmp_path / "model.onnx").read_bytes() == b"before"


def test_a_wider_tolerance_lets_it_pass(cli, source):
    said = exported(cli, source("wrong"), "--tolerance", "0.02")
    assert max(each["relative"] for each in said["verification"]) == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20, 21])
def test_the_opset_is_the_one_that_was_asked_for(cli, source, opset):
    exported(cli, source("net"), "--opset", opset)
    imports = {each.domain: each.version for each in onnx.load("model.onnx").opset_import}
    assert imports == {"": opset}


_WINDOWS = """

class Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.bias = nn.Parameter(torch.randn(1, 3, 16, 16))

    def forward(self, x):
        tokens = nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2).repeat(1, 1, 4)
        n, count, channels = tokens.shape
        parts = (layer(tokens) for layer in (self.query, self.key, self.value))
        heads = (part.view(n, count, -1, 4).transpose(1, 2) for part in parts)
        bias = self.bias + torch.zeros(1, 16, 16)[None].expand(n, -1, -1, -1).reshape(-1, 1, 16, 16)
        mixed = nn.functional.scaled_dot_product_attention(*heads, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).contiguous().reshape(n, count, -1)).mean(1)
"""


def test_attention_with_a_learnt_bias_of_each_image(cli, module):
    """As the Swin of transformers has it: with gradients it lies otherwise in memory."""
    module.write_text(module.read_text() + _WINDOWS)
    words = ("--size", "32", "--preprocess", "unit", "--surrogate")
    said = exported(cli, f"{module}:Windows", *words)
    assert max(each["relative"] for each in said["verification"]) < 1e-5


def test_an_opset_that_torch_does_not_write(cli, source, tmp_path):
    result = cli("export", source("net"), "-o", "model.onnx", "--opset", "60")
    assert result.code == 1
    assert "opset" in result.err
    assert left_behind(tmp_path) == set()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch(cli, source, batch):
    said = exported(cli, source("net"), "--fixed-batch", batch)
    assert {each["batch"] for each in said["verification"]} == {batch}
    assert DeployedModel.open("model.onnx").image.batch == batch


def test_the_batch_is_open_otherwise(cli, source):
    exported(cli, source("net"))
    image = DeployedModel.open("model.onnx").image
    assert image.tensor.shape == ("batch", 3, 32, 32)


def test_half_precision(cli, source):
    said = exported(cli, source("net"), "--half")
    model = DeployedModel.open("model.onnx")
    assert model.image.dtype == "float16"
    assert model.signature.outputs[0].dtype == "float16"
    assert said["preprocessing"]["dtype"] == "float16"
    assert 0 < max(each["relative"] for each in said["verification"]) < 1e-2


def test_another_size(cli, source):
    said = exported(cli, source("net"), "--size", "40x48")
    assert said["preprocessing"]["size"] == [40, 48]
    assert DeployedModel.open("model.onnx").image.tensor.shape[2:] == (40, 48)


def test_a_network_that_scales_by_what_it_is_shown(cli, source):
    assert exported(cli, source("Scaled"), "--size", "32")["files"] == ["model.onnx"]


def test_flags_go_before_what_the_source_says(cli, source, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("uvwxyz"))
    said = exported(cli, source("net"), "--preprocess", "caffe", "--labels", labels)
    assert said["preprocessing"]["channel_order"] == "BGR"
    assert {each.label for each in Explainer("model.onnx").predict(scene_path(), 6)} == set(
        "uvwxyz"
    )


def _resize_in_the_file():
    fields = {each.field: each for each in Explainer("model.onnx").preprocessing.resolved_fields}
    return fields["resize"]


def test_a_resize_that_nobody_said_is_a_guess_in_the_file(cli, source):
    words = (source("silent"), "--size", "32", "--preprocess", "unit")
    said = exported(cli, *words)
    assert said["preprocessing"]["guessed"] == ["resize", "interpolation"]
    assert ["--resize" in each for each in said["warnings"]] == [True]
    found = _resize_in_the_file()
    assert (found.value, found.source) == ("stretch", "metadata key ibisa (assumed)")

    said = exported(cli, *words, "--resize", "letterbox")
    assert said["warnings"] == []
    found = _resize_in_the_file()
    assert (found.value, found.is_guess) == ("letterbox", False)


def test_a_resize_alone_is_written_and_values_are_not(cli, source):
    said = exported(cli, source("silent"), "--size", "32", "--resize", "letterbox")
    assert ["--preprocess" in each for each in said["warnings"]] == [True]
    assert not _resize_in_the_file().is_guess
    (warning,) = Explainer("model.onnx").warnings
    assert "no preprocessing information found" in warning


def test_a_source_that_says_nothing_leaves_the_file_silent(cli, source):
    said = exported(cli, source("silent"), "--size", "32")
    assert said["preprocessing"] is None
    assert ["--preprocess" in each for each in said["warnings"]] == [True]
    assert not onnx.load("model.onnx").metadata_props


@pytest.mark.parametrize(
    "said",
    [
        "'tf'",
        "{'preset': 'tf', 'resize': 'shortest'}",
        "'spec.toml'",
        "Preprocessing((32, 32), scale=1 / 127.5, mean=(1.0,))",
    ],
)
def test_the_ways_to_state_a_preprocessing(cli, module, said):
    (module.parent / "spec.toml").write_text('preset = "tf"\n')
    (module.parent / "names.txt").write_text("\n".join("uvwxyz"))
    with module.open("a") as code:
        code.write("\n\nfrom ibisa_onnx.preprocessing.spec import Preprocessing\n")
        code.write(f"net.preprocessing, net.labels = {said}, 'names.txt'\n")
    spec = exported(cli, f"{module}:net")["preprocessing"]
    assert (spec["size"], spec["scale"], spec["mean"]) == ([32, 32], 1 / 127.5, [1.0])
    assert {each.label for each in Explainer("model.onnx").predict(scene_path(), 6)} == set(
        "uvwxyz"
    )


def test_a_preprocessing_that_is_none(cli, module):
    with module.open("a") as code:
        code.write("\n\nnet.preprocessing = 7\n")
    assert "preprocessing is a int" in cli("export", f"{module}:net", "-o", "m.onnx").err


@pytest.mark.parametrize("name", ["beside", "broken_beside"])
def test_files_of_one_name_beside_two_sources_are_not_mixed_up(cli, module, tmp_path, name):
    """In one process, as in a service: nothing of a source stays imported once it is exported."""
    before, path = set(sys.modules), list(sys.path)
    for folder, value in (("one", 1), ("two", 2)):
        place = tmp_path / "code" / folder
        (place / "parts_of_it").mkdir(parents=True)
        (place / "parts_of_it" / "__init__.py").write_text(f"VALUE = {value}\n")
        (place / "parts_of_it" / "late.py").write_text("def doubled(x):\n    return 2 * x\n")
        text = module.read_text() + "\n\nfrom parts_of_it import VALUE\n"
        text += "\n\nclass Late(Net):\n    def forward(self, x):\n"
        text += "        from parts_of_it import late\n"
        text += "        return late.doubled(super().forward(x))\n"
        text += "\n\ndef beside():\n    return Late()\n"
        text += "\n\nbeside.labels = [str(VALUE) + letter for letter in 'abcdef']\n"
        text += "\n\ndef broken_beside():\n    raise ValueError(VALUE)\n"
        (place / "nets.py").write_text(text)
        result = cli("export", f"{place / 'nets.py'}:{name}", "--size", "32", "-o", "model.onnx")
        if name == "broken_beside":
            assert f"ValueError: {value}" in result.err
        else:
            labels = {each.label for each in Explainer("model.onnx").predict(scene_path(), 6)}
            assert labels == {f"{value}{letter}" for letter in "abcdef"}
    assert {"nets", "parts_of_it"}.isdisjoint(set(sys.modules) - before)
    assert sys.path == path


def test_a_network_that_answers_the_same_to_everything(cli, module):
    module.write_text(module.read_text() + "\n\ndef flat():\n    n = Net()\n")
    module.write_text(module.read_text() + "    nn.init.zeros_(n.head.weight)\n    return n\n")
    said = exported(cli, f"{module}:flat", "--size", "32", "--preprocess", "unit")
    assert any("same scores" in each for each in said["warnings"])


_OTHER_OUTPUTS = """

class Segmenter(Net):
    def forward(self, x):
        return self.conv(x)


class Indices(Net):
    def forward(self, x):
        return super().forward(x).argmax(1)


class Column(Net):
    def forward(self, x):
        return super().forward(x)[:, :, None, None]
"""


@pytest.mark.parametrize(
    ("name", "said"), [("Segmenter", ""), ("Indices", "[batch]"), ("Column", "")]
)
def test_what_run_cannot_explain_is_said(cli, module, name, said):
    module.write_text(module.read_text() + _OTHER_OUTPUTS)
    words = ("--size", "32", "--preprocess", "unit")
    warnings = exported(cli, f"{module}:{name}", *words)["warnings"]
    warnings = [each for each in warnings if "cannot explain" in each]
    assert [said in each for each in warnings] == [True] * bool(said)
    assert (cli("run", "model.onnx", scene_path(), "-o", "map.png").code != 0) == bool(said)


def test_what_an_earlier_export_left_is_named(cli, source, tmp_path):
    assert exported(cli, source("net"), "--surrogate")["warnings"] == []
    (tmp_path / "model.onnx.data").write_bytes(b"large")
    (warning,) = exported(cli, source("net"), "--surrogate")["warnings"]
    assert warning.startswith("model.onnx.data is from an earlier export")
    (tmp_path / "model.onnx.data").unlink()
    (warning,) = exported(cli, source("net"))["warnings"]
    assert warning.startswith("model.surrogate.onnx is from an earlier export")
    assert (tmp_path / "model.surrogate.onnx").is_file()


def test_large_weights_go_beside_the_graph(cli, source, monkeypatch, tmp_path):
    monkeypatch.setattr("ibisa_exporters.onnx_export._LARGEST", 100)
    monkeypatch.setattr("ibisa_exporters.onnx_export._SMALLEST_EXTERNAL", 64)
    said = exported(cli, source("net"))
    assert said["files"] == ["model.onnx", "model.onnx.data"]
    assert left_behind(tmp_path) == {"model.onnx", "model.onnx.data"}
    graph, data = ((tmp_path / name).stat() for name in said["files"])
    assert data.st_size > 500
    assert data.st_mode == graph.st_mode
    assert Explainer("model.onnx").predict(scene_path())


def test_nothing_of_the_users_code_is_in_the_files(cli, source, tmp_path):
    for opset in (13, 18):
        exported(cli, source("net"), "--opset", opset, "--surrogate")
        for file in tmp_path.glob("model.*"):
            content = file.read_bytes()
            assert b"nets.py" not in content
            assert b"relu(self" not in content


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no.py:net"], "file not found: no.py"),
        (["code/nets.py:nothing"], "no function 'nothing'; choose from: Net, net, silent"),
        (["code/nets.py:broken"], "failed when called without arguments: ValueError: no data here"),
        (["code/nets.py:number"], "returned a int; return an nn.Module"),
        (["code/nets.py:pair"], "returns a tuple"),
        (["code/nets.py:made"], "nets.py:made is a network; specify a function that returns it"),
        (["code/nets.py:Two"], "Two fails on images [1, 3, 32, 32]"),
        (["code/nets.py:Alone"], "--fixed-batch 1 may help"),
        (
            ["code/nets.py:Alone", "--fixed-batch", "1", "--surrogate"],
            "a surrogate requires a dynamic batch",
        ),
        (["code/nets.py:lost"], "NaN or infinite scores; check its weights"),
        (["code/nets.py:Noisy"], "different scores for the same images"),
        (["code/nets.py:net", "--labels", "two.txt"], "2 labels for the model's 6 classes"),
        (["code/nets.py:net", "--weights", "two.txt"], "two.txt is not a weights file"),
        (["no.pt2"], "program file no.pt2 does not exist"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_line(cli, module, tmp_path, words, said):
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    result = cli("export", *words, "-o", "model.onnx", "--size", "32")
    assert result.code == 1
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert left_behind(tmp_path) == {"two.txt"}


_UNTRACEABLE = """

class Branch(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x.mean((2, 3))


class Fourier(Net):
    def forward(self, x):
        return super().forward(torch.fft.fft2(x).real)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [(["Branch"], "use torch.where"), (["Fourier", "--opset", "13"], "fft2")],
)
def test_torch_says_nothing_beside_our_line(module, tmp_path, words, said):
    module.write_text(module.read_text() + _UNTRACEABLE)
    name, *flags = words
    cli = Path(__file__).parents[2] / "cli.py"
    command = [sys.executable, cli, "export", f"{module}:{name}", *flags, "--size", "32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet50"], "'resnet50' is not a valid source"),
        (["timm:"], "names no model"),
        (["nets.py"], "requires the name of a function, FILE.py:factory"),
        (["net.onnx"], "already an ONNX model"),
        (["code/nets.py:net", "-o", "net.pt2"], "the output is an ONNX file"),
        (["code/nets.py:net", "--classes", "3"], "omit --classes"),
        (["timm:resnet10t", "--classes", "3"], "published weights"),
        (["code/nets.py:net", "--tolerance", "nan"], "'nan' is not a finite number"),
    ],
)
def test_what_is_written_wrongly_is_wrong_usage(cli, module, tmp_path, words, said):
    result = cli("export", "-o", "model.onnx", *words)
    assert result.code == 2
    assert said in result.err
    assert left_behind(tmp_path) == set()


def test_the_help_says_the_opset_that_is_taken():
    from ibisa_exporters.onnx_export import OPSET

    from ibisa_onnx.commands.export import command

    assert {each.name: each.default for each in command.params}["opset"] == OPSET


def test_a_place_that_cannot_be_written_is_told_first(cli, module, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli("export", f"{module}:broken", "-o", "file/model.onnx")
    assert result.code == 1
    assert "is a file, not a folder" in result.err or "cannot make this folder" in result.err


def test_stdout_is_refused(cli, source):
    result = cli("export", source("net"), "-o", "-")
    assert result.code == 2
    assert "specify a file" in result.err


@pytest.mark.parametrize(
    ("name", "package"), [("torchvision", "torchvision"), ("timm", "timm"), ("hf", "transformers")]
)
def test_a_missing_framework_names_its_extra(cli, monkeypatch, name, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    result = cli("export", f"{name}:anything")
    assert result.code == 1
    assert f"pip install 'ibisa-onnx[{package}]'" in result.err
    assert len(result.err.splitlines()) == 1


def test_torch_without_onnxscript(cli, source, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    result = cli("export", source("net"), "-o", "model.onnx")
    assert "pip install 'ibisa-onnx[export]'" in result.err
