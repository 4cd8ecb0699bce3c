"""Weights from a file: those of just this network, whatever wraps them, and nothing but tensors."""

from __future__ import annotations

import json

import pytest
import torch
from ibisa_exporters.weights import load_weights, seeded
from torch import nn

from ibisa_onnx.errors import ExportError


def network(seed: int = 0) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_in_the_usual_ways(tmp_path, key, prefix):
    trained, path = network(1), tmp_path / "weights.pth"
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save(state if key is None else {"epoch": 3, key: state}, path)
    net = network()
    assert not same(net, trained)
    load_weights(net, path)
    assert same(net, trained)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    safetensors.save_file(network(1).state_dict(), tmp_path / "weights.safetensors")
    net = network()
    load_weights(net, tmp_path / "weights.safetensors")
    assert same(net, network(1))


def test_what_does_not_fit_is_named(tmp_path):
    state = network().state_dict()
    state["3.weight"] = torch.zeros(5, 4)
    state["head.bias"] = state.pop("3.bias")
    torch.save(state, tmp_path / "weights.pth")
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ExportError) as error:
        load_weights(net, tmp_path / "weights.pth", "pass classes=5")
    message = str(error.value)
    assert "missing: 3.bias;" in message
    assert "unknown: head.bias;" in message
    assert "of another shape: 3.weight [5, 4] (the network has [2, 4]); use weights of" in message
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_hint_is_for_shapes_alone(tmp_path):
    state = network().state_dict() | {"3.weight": torch.zeros(5, 4)}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ExportError, match=r"the network has \[2, 4\]\); pass classes=5"):
        load_weights(network(), tmp_path / "weights.pth", "pass classes=5")


def test_few_of_many_names_are_said(tmp_path):
    torch.save({f"layer{n}": torch.zeros(1) for n in range(40)}, tmp_path / "weights.pth")
    with pytest.raises(ExportError, match=r"unknown: layer0, layer1, layer10 and 37 more"):
        load_weights(network(), tmp_path / "weights.pth")


def test_no_code_is_run_from_a_file(tmp_path):
    torch.save(network(), tmp_path / "whole.pth")
    with pytest.raises(ExportError, match="not a weights file"):
        load_weights(network(), tmp_path / "whole.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n<!DOCTYPE html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_was_downloaded_in_place_of_weights(tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=said):
        load_weights(network(), tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ExportError, match="state_dict"):
        load_weights(network(), tmp_path / "other.pth")


def test_random_weights_are_those_of_the_seed(cli, module):
    def scores(*flags):
        words = ("export", f"{module}:net", "--weights", "none", *flags, "-o", "m.onnx", "--json")
        said = json.loads(cli(*words).out)
        assert said["files"] == ["m.onnx"]
        return (module.parent.parent / "m.onnx").read_bytes()

    first = scores("--seed", "1")
    torch.manual_seed(5)
    assert scores("--seed", "1") == first
    assert scores("--seed", "2") != first


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    network(9)
    assert torch.equal(torch.rand(2), expected)
