"""Gradients that are kept: the same ones, never out of date, and never in the way."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import ibisa_onnx
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.errors import OptionError
from ibisa_onnx.gradients import cache as module
from ibisa_onnx.gradients import onnx_backward as exact
from ibisa_onnx.gradients.cache import VARIABLE, GradientCache, cache_folder, usage
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.onnx_backward import ExactGradient
from ibisa_onnx.models.external_data import GIVEN
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCounter


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def built(monkeypatch):
    """The outputs that were differentiated, in their order."""
    outputs = []
    differentiate = exact.differentiate

    def counted(model, mask, output, extra):
        outputs.append(output)
        return differentiate(model, mask, output, extra)

    monkeypatch.setattr(exact, "differentiate", counted)
    return outputs


@pytest.fixture
def pull(images):
    """What a source of gradients gives: raw scores of two masks, and a gradient."""
    masks = np.random.default_rng(0).random((2, 1, 4, 6), dtype=np.float32)
    cotangent = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)

    def pulled(source):
        function = source(MaskedImages(images[:1], images[1:]), PassCounter())
        raw, saved = function.forward(masks)
        return raw["scores"], function.backward(saved, {"scores": cotangent})

    return pulled


def open_(model, folder, output="scores"):
    return ExactGradient(model, (output,), GradientCache(folder))


def entries(folder):
    return sorted(folder.iterdir())


@pytest.mark.parametrize("options", [{}, {"half": True}, {"nhwc": True}, {"listed": True}], ids=str)
def test_what_is_kept_is_what_was_built(deployed, folder, built, pull, options):
    plain = pull(ExactGradient(deployed(**options), ("scores",)))
    for _ in range(3):
        found = pull(open_(deployed(**options), folder))
        for one, other in zip(found, plain, strict=True):
            np.testing.assert_array_equal(one, other)
    assert built == ["scores", "scores"]  # without the cache, and the first time with it
    assert len(entries(folder)) == 1


def test_an_entry_holds_no_weights(folder, tmp_path, images):
    """100 x 243 weights are 97 kB; in the entry there are none."""
    weights = np.random.default_rng(0).normal(size=(243, 100)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Flatten", ["image"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["hidden"]),
        onnx.helper.make_node("Tanh", ["hidden"], ["scores"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("image", 1, ["n", 3, 9, 9])],
        [onnx.helper.make_tensor_value_info("scores", 1, ["n", 100])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    imports = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    inside, outside = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model, inside)
    onnx.save(model, outside, save_as_external_data=True, location="w.data", size_threshold=0)
    masks, cotangent = np.full((1, 1, 3, 3), 0.5, np.float32), np.ones((1, 100), np.float32)
    found = []
    for path in (inside, outside, inside, outside):
        source = open_(DeployedModel.open(path), folder)
        function = source(MaskedImages(images[:1], images[1:]), PassCounter())
        raw, saved = function.forward(masks)
        found.append((raw["scores"], function.backward(saved, {"scores": cotangent})))
    for raw, gradient in found[1:]:
        np.testing.assert_array_equal(raw, found[0][0])
        np.testing.assert_array_equal(gradient, found[0][1])
    assert usage(folder).files == 2
    assert usage(folder).bytes < 20_000


def test_another_model_output_or_version_is_another_entry(deployed, folder, built, monkeypatch):
    open_(deployed(), folder)
    open_(deployed(last=("Relu",)), folder)
    open_(deployed(batch=2), folder)
    assert len(built) == len(entries(folder)) == 3
    monkeypatch.setattr(module.metadata, "version", lambda name: f"{name} of tomorrow")
    open_(deployed(), folder)
    monkeypatch.setattr(module, "_hash_of_sources", lambda: "a rule was mended")
    open_(deployed(), folder)
    assert len(built) == len(entries(folder)) == 5
    open_(deployed(), folder)
    assert len(built) == 5


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another"])
def test_a_damaged_entry_is_built_anew(deployed, folder, built, pull, damage):
    first = pull(open_(deployed(), folder))
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    flipped = bytearray(whole)
    flipped[-40] ^= 1
    entry.write_bytes(
        {"cut": whole[:-7], "flipped": bytes(flipped), "empty": b"", "another": b"x\ny\nz"}[damage]
    )
    again = pull(open_(deployed(), folder))
    np.testing.assert_array_equal(again[1], first[1])
    assert len(built) == 2
    assert entry.read_bytes() == whole
    assert entries(folder) == [entry]


def test_a_folder_that_cannot_be_written_is_a_warning_and_no_failure(deployed, tmp_path, pull):
    obstacle = tmp_path / "file"
    obstacle.write_text("in the way")
    model = deployed()
    pulled = pull(open_(model, obstacle / "cache"))
    np.testing.assert_array_equal(pulled[1], pull(ExactGradient(deployed(), ("scores",)))[1])
    (warning,) = model.warnings
    assert warning.startswith("the gradient is not cached: ")
    assert VARIABLE in warning
    assert "\n" not in warning


def test_the_oldest_entries_go_and_strangers_stay(deployed, folder, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ENTRIES", 2)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    kept = []
    for number, output in enumerate(("Relu", "Tanh", "Sigmoid")):
        before = set(entries(folder))
        open_(deployed(last=(output,)), folder)
        (new,) = set(entries(folder)) - before
        os.utime(new, (number, number))
        kept.append(new)
        if number == 1:
            open_(deployed(last=("Relu",)), folder)  # used again, so it is not the oldest
    assert set(entries(folder)) == {folder / "notes.txt", kept[0], kept[2]}


def test_an_entry_serves_from_a_folder_that_cannot_be_written_to(deployed, folder, monkeypatch):
    open_(deployed(), folder)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(module.GradientCache, "store", refuse)
    open_(deployed(), folder)


def reencoded(entry, change, **names):
    """Change an entry, and give it the hash that it should have."""
    derivative = module._decode(entry.read_bytes(), entry.stem)
    change(derivative)
    entry.write_bytes(module._encode(replace(derivative, **names), entry.stem))


def sealed(entry, payload):
    """Write an entry of any content, with the hash that it should have."""
    entry.write_bytes(module._digest(entry.stem, payload) + b"\n" + payload)


def multiplied(factor):
    """Have a backward graph give its gradient times a factor."""

    def change(derivative):
        graph = derivative.backward.graph
        (last,) = (node for node in graph.node if derivative.gradient in node.output)
        last.output[0] = "before"
        constant = onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor")
        graph.initializer.append(constant)
        nodes = onnx.helper.make_node("Mul", ["before", "factor"], [derivative.gradient])
        graph.node.append(nodes)

    return change


@pytest.mark.parametrize("factor", [-1, 100, 0.01])
def test_an_entry_whose_gradient_is_wrong_is_not_believed(folder, factor):
    def explained(**options):
        made = ibisa_onnx.Explainer(model_path(), threads=1, providers=["cpu"], **options)
        return made.explain(scene_path())

    honest = explained(cache=folder)
    for entry in entries(folder):
        reencoded(entry, multiplied(factor))
    found = explained(cache=folder)
    assert honest.certificate.gradient == "exact"
    assert found.certificate.gradient == "forward-only"
    assert "the exact gradient does not match the deployed model" in found.certificate.reason
    assert np.corrcoef(found.map.ravel(), honest.map.ravel())[0, 1] > 0.5
    used = explained(cache=folder, gradient="exact")
    assert not used.certificate.holds
    assert any("may not be faithful" in each for each in used.warnings)


def test_another_models_entry_is_not_taken_for_this_ones(deployed, folder, built, pull):
    """The same graph of other weights: what is small stands in the entry."""
    first = pull(open_(deployed(), folder))
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    open_(deployed(last=("Tanh",)), folder)
    (other,) = set(entries(folder)) - {entry}
    entry.write_bytes(other.read_bytes())
    again = pull(open_(deployed(), folder))
    np.testing.assert_array_equal(again[1], first[1])
    assert len(built) == 3
    assert entry.read_bytes() == whole


def graphs(change):
    return lambda entry: reencoded(entry, change)


def names(**changed):
    return lambda entry: reencoded(entry, lambda _: None, **changed)


def header(text):
    return lambda entry: sealed(entry, text + b"\n")


def refused_by_the_runtime(derivative):
    derivative.backward.graph.node[0].op_type = "NoSuchOperator"


def reading_a_file(location):
    def change(derivative):
        value = onnx.TensorProto(name="stolen", data_type=1, dims=[2])
        value.data_location = onnx.TensorProto.EXTERNAL
        value.external_data.add(key="location", value=location)
        derivative.forward.graph.initializer.append(value)

    return change


def wanting_more(derivative):
    derivative.forward.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1]))


def giving_less(derivative):
    del derivative.forward.graph.output[-1]


def misnamed(derivative):
    name = derivative.gradient.encode()
    text = derivative.backward.SerializeToString().replace(name, b"\xff" * len(name))
    derivative.backward.ParseFromString(text)


UNFIT = {
    "header": header(b"{"),
    "list": header(b"[]"),
    "deep": header(b"[" * 100_000),
    "not text": header(b"\xff"),
    "no names": header(b'{"forward": 0, "names": {}}'),
    "size": header(b'{"forward": 1e99, "names": {}}'),
    "negative": header(b'{"forward": -1, "names": {}}'),
    "protobuf": lambda entry: sealed(
        entry, entry.read_bytes().partition(b"\n")[2].partition(b"\n")[0] + b"\n\xff\xff\xff" * 99
    ),
    "types": names(output=3),
    "saved": names(saved="gradient"),
    "unknown output": names(output="nothing"),
    "unknown gradient": names(gradient="nothing"),
    "unknown activation": names(saved=("nothing",)),
    "unknown counterpart": names(real="nothing"),
    "unknown input": names(input="nothing"),
    "operator": graphs(refused_by_the_runtime),
    "file": graphs(reading_a_file("secret.bin")),
    "file above": graphs(reading_a_file("../secret.bin")),
    "device": graphs(reading_a_file("/dev/zero")),
    "mark": graphs(reading_a_file(GIVEN)),
    "more inputs": graphs(wanting_more),
    "fewer outputs": graphs(giving_less),
    "name": graphs(misnamed),
    "large": lambda entry: entry.write_bytes(bytes(module._LARGEST + 1)),
    "no file": lambda entry: [entry.unlink(), entry.mkdir()],
}


@pytest.mark.parametrize("kind", UNFIT)
def test_an_entry_that_is_none_is_built_anew(deployed, folder, built, pull, kind):
    first = pull(open_(deployed(), folder))
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    UNFIT[kind](entry)
    model = deployed()
    again = pull(open_(model, folder))
    np.testing.assert_array_equal(again[1], first[1])
    assert len(built) == 2
    if kind == "no file":  # a folder stays, and is told of
        assert "is a folder" in model.warnings[0]
        return
    assert not model.warnings
    assert entry.read_bytes() == whole


posix = pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")


@posix
def test_a_pipe_in_the_cache_blocks_nothing(folder):
    code = (
        "import os, pathlib, sys; from ibisa_onnx.demo import model_path\n"
        "from ibisa_onnx.gradients.cache import GradientCache\n"
        "from ibisa_onnx.gradients.onnx_backward import ExactGradient\n"
        "from ibisa_onnx.models.onnx_session import DeployedModel\n"
        "model, folder = DeployedModel.open(model_path(), threads=1), pathlib.Path(sys.argv[1])\n"
        "ExactGradient(model, ('logits',), GradientCache(folder))\n"
        "(entry,) = folder.iterdir(); entry.unlink(); os.mkfifo(entry, 0o600)\n"
        "ExactGradient(model, ('logits',), GradientCache(folder))\n"
        "print(entry.is_file(), model.warnings)"
    )
    root, command = Path(ibisa_onnx.__file__).parents[1], [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
    assert done.stdout == "True []\n", done.stderr


@posix
def test_a_link_in_the_cache_is_neither_followed_nor_written_through(
    deployed, folder, built, tmp_path
):
    open_(deployed(), folder)
    (entry,) = entries(folder)
    elsewhere = entry.rename(tmp_path / "elsewhere")
    before = elsewhere.read_bytes()
    elsewhere.write_bytes(before + b"more")
    entry.symlink_to(elsewhere)
    open_(deployed(), folder)
    assert len(built) == 2
    assert not entry.is_symlink()
    assert entry.read_bytes() == before
    assert elsewhere.read_bytes() == before + b"more"


@posix
def test_what_is_made_is_for_this_user_alone(deployed, folder):
    old = os.umask(0)
    try:
        open_(deployed(), folder)
    finally:
        os.umask(old)
    (entry,) = entries(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


@posix
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_not_used(deployed, folder, built, mode):
    open_(deployed(), folder)
    before = {each: each.stat() for each in entries(folder)}
    folder.chmod(mode)
    model = deployed()
    for _ in range(2):
        open_(model, folder)
    open_(deployed(last=("Tanh",)), folder)
    assert len(built) == 4
    assert {each: each.stat() for each in entries(folder)} == before
    (warning,) = model.warnings
    assert f"{folder} is writable by other users (mode {mode:o}); run chmod 700 on it" in warning
    assert VARIABLE in warning


@posix
def test_an_entry_that_others_can_write_to_is_built_anew(deployed, folder, built):
    open_(deployed(), folder)
    (entry,) = entries(folder)
    entry.chmod(0o664)
    open_(deployed(), folder)
    assert len(built) == 2
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


@posix
def test_what_belongs_to_another_user_is_not_used(deployed, folder, built, monkeypatch):
    open_(deployed(), folder)
    if os.geteuid() == 0:
        os.chown(folder, 4321, -1)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    model = deployed()
    open_(model, folder)
    assert len(built) == 2
    assert f"{folder} belongs to another user" in model.warnings[0]


def test_two_processes_at_once(folder, tmp_path):
    """Both build, both write, and one whole entry is left."""
    code = (
        "import sys; from ibisa_onnx.demo import model_path\n"
        "from ibisa_onnx.gradients.cache import GradientCache\n"
        "from ibisa_onnx.gradients.onnx_backward import ExactGradient\n"
        "from ibisa_onnx.models.onnx_session import DeployedModel\n"
        "model = DeployedModel.open(model_path(), threads=1)\n"
        "sys.stdin.readline()\n"
        "for _ in range(5): ExactGradient(model, ('logits',), GradientCache(__import__('pathlib')"
        f".Path({str(folder)!r})))\n"
        "print(model.warnings)"
    )
    root = Path(ibisa_onnx.__file__).parents[1]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    for each in both:
        each.stdin.write("go\n")
        each.stdin.flush()
    assert [each.communicate()[0] for each in both] == ["[]\n", "[]\n"]
    assert [each.returncode for each in both] == [0, 0]
    assert len(entries(folder)) == 1


def test_where_it_is_kept(monkeypatch, tmp_path):
    assert cache_folder(False) is None
    assert cache_folder() is None  # the tests switch it off
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    assert cache_folder(False) is None
    monkeypatch.setenv(VARIABLE, "OFF")
    assert cache_folder() is None
    monkeypatch.delenv(VARIABLE)
    assert cache_folder().name == "ibisa-onnx"
    with pytest.raises(OptionError, match="cache is 3"):
        cache_folder(3)


def test_explanations_are_the_same_from_the_cache(folder, built):
    maps = []
    for cache in (False, folder, folder):
        explainer = ibisa_onnx.Explainer(model_path(), gradient="exact", threads=1, cache=cache)
        maps.append(explainer.explain(scene_path()).map)
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])
    assert len(built) == 2
    assert usage(folder).files == 1
