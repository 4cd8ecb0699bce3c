"""Gradients that are kept: the same ones, never out of date, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import ibisa_onnx
from ibisa_onnx.errors import OptionError
from ibisa_onnx.gradients import cache as module
from ibisa_onnx.gradients import onnx_backward as exact
from ibisa_onnx.gradients.cache import VARIABLE, GradientCache, cache_folder, usage
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.onnx_backward import ExactGradient
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
    assert warning.startswith("the gradient is not kept for the next time: ")
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


def test_an_entry_of_somebody_else_serves_too(deployed, folder, monkeypatch):
    open_(deployed(), folder)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(module.GradientCache, "store", refuse)
    open_(deployed(), folder)


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
    from ibisa_onnx.demo import model_path, scene_path

    maps = []
    for cache in (False, folder, folder):
        explainer = ibisa_onnx.Explainer(model_path(), gradient="exact", threads=1, cache=cache)
        maps.append(explainer.explain(scene_path()).map)
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])
    assert len(built) == 2
    assert usage(folder).files == 1
