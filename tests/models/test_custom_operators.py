"""Operators that ONNX Runtime lacks: named with their domain, registered where it is known how."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ibisa_onnx import Explainer
from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.onnx_session import DeployedModel

CONTRIB = "ai.onnx.contrib"


def model(domain: str, *operators: str) -> onnx.ModelProto:
    """Means of the channels of 4 x 4 pixels, behind operators of a domain on the way there."""
    nodes, name = [], "x"
    for place, operator in enumerate(operators):
        outputs = [f"y{place}", f"z{place}"] if operator == "NegPos" else [f"y{place}"]
        nodes.append(helper.make_node(operator, [name], outputs, domain=domain))
        name = outputs[-1]
    nodes.append(helper.make_node("ReduceMean", [name], ["scores"], axes=[2, 3], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def complaint(proto: onnx.ModelProto) -> str:
    with pytest.raises(ModelError) as caught:
        DeployedModel.open(proto.SerializeToString(), providers=["cpu"])
    return str(caught.value)


def test_without_the_package_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    assert complaint(model(CONTRIB, "NegPos", "Inverse")) == (
        "ONNX Runtime cannot open the model: it requires the operators Inverse, NegPos of "
        "ai.onnx.contrib: pip install onnxruntime-extensions, or 'ibisa-onnx[extensions]'"
    )


def test_the_packages_library_is_registered_where_it_is_installed(monkeypatch, tmp_path):
    library = tmp_path / "operators.so"
    fake = SimpleNamespace(get_library_path=lambda: str(library))
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", fake)
    text = complaint(model(CONTRIB, "NegPos"))
    assert str(library) in text  # which is not there, as ONNX Runtime says when it loads it


def test_only_operators_of_the_package_load_it(monkeypatch):
    def path():
        raise AssertionError("nobody asked for it")

    fake = SimpleNamespace(get_library_path=path)
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", fake)
    assert "pip install" not in complaint(model("my.ops", "Inverse"))


def test_another_domain_is_named_with_all_its_operators():
    text = complaint(model("my.ops", "Foo", "Bar", "Foo"))
    assert "it requires the operators Bar, Foo of my.ops" in text
    assert "register_custom_ops_library" in text


def test_an_operator_that_is_too_new_for_the_runtime():
    text = complaint(model("com.microsoft", "NotYet"))
    assert "the operators NotYet of com.microsoft, but this ONNX Runtime has no NotYet" in text


def test_with_the_package_the_model_runs_and_is_explained():
    pytest.importorskip("onnxruntime_extensions")
    picture = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    data = model(CONTRIB, "NegPos").SerializeToString()
    with_it = Explainer(data, preprocessing="imagenet", cache=False)
    explanation = with_it.explain(picture, target=0)
    assert explanation.certificate.gradient == "forward-only"
    assert f"{CONTRIB}.NegPos" in explanation.certificate.reason
