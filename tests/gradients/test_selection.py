"""Which source of gradients is taken, the reason in words, and wishes that cannot be met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.errors import GradientError, ModelError
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.selection import GRADIENTS, GradientPath, GradientSelection
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.targets.class_scores import Activation, ClassScores, Quantisation

Deploy = Callable[..., DeployedModel]


def opened(wanted: str, model: DeployedModel, surrogate: Any = None) -> GradientPath:
    """The source of gradients of a model's output."""
    return GradientSelection(wanted, surrogate).open(model, ("scores",))


@pytest.fixture
def byte_model() -> DeployedModel:
    """Takes bytes."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["f"], ["scores"], axes=[1, 2], keepdims=0),
        ],
        "bytes",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 4, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return DeployedModel.open(model.SerializeToString(), providers=["cpu"], threads=1)


@pytest.fixture
def masks() -> np.ndarray:
    """One that lets everything through, and one that lets nothing through."""
    return np.array([1, 0], np.float32).reshape(2, 1, 1, 1)


@pytest.fixture
def expected(images: np.ndarray, network: torch.nn.Module) -> np.ndarray:
    """The scores of image and baseline, which those masks show."""
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()


def test_auto_takes_the_exact_gradient_where_it_can(
    deployed: Deploy, images: np.ndarray, masks: np.ndarray, expected: np.ndarray
) -> None:
    path = opened("auto", deployed())
    assert (path.name, path.reason) == ("exact", "every operator has a gradient rule")
    assert 0 < path.tolerance <= 1e-3
    assert path.source is not None
    masked = MaskedImages(images[:1], images[1:])
    found, _ = path.source(masked, PassCounter()).forward(masks)
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-5, atol=1e-5)


def test_half_precision_is_certified_more_mildly(deployed: Deploy) -> None:
    half = opened("auto", deployed(half=True))
    full = opened("auto", deployed())
    assert half.name == "exact"
    assert half.tolerance > full.tolerance


def test_auto_goes_without_a_gradient_and_names_the_operator(deployed: Deploy) -> None:
    path = opened("auto", deployed(last=("Floor",)))
    assert path.name == "forward-only"
    assert path.source is None
    assert "Floor" in path.reason
    assert "use " not in path.reason  # advice to do what was just done


def test_auto_goes_without_a_gradient_for_long_integers(byte_model: DeployedModel) -> None:
    proto = byte_model.proto()
    assert proto is not None
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    model = DeployedModel.open(proto.SerializeToString(), providers=["cpu"], threads=1)
    path = opened("auto", model)
    assert path.name == "forward-only"
    assert path.reason == "input image has dtype int32, for which there is no gradient"


def test_bytes_have_a_gradient_like_the_numbers_that_they_are(byte_model: DeployedModel) -> None:
    path = opened("exact", byte_model)
    assert path.source is not None
    image, baseline = np.full((1, 3, 4, 4), 200, np.float32), np.full((1, 3, 4, 4), 100, np.float32)
    function = path.source(MaskedImages(image, baseline), PassCounter())
    raw, saved = function.forward(np.full((1, 1, 1, 1), 0.503, np.float32))
    np.testing.assert_array_equal(raw["scores"], [[150, 150, 150]])  # rounded, as pixels are
    slope = function.backward(saved, {"scores": np.float32([[1, 0, 0]])})
    np.testing.assert_allclose(slope, [[[[100]]]], rtol=1e-5)


def test_an_output_of_integers_is_read_as_reals() -> None:
    """The scores are what the integers stand for; cotangents are of the integers themselves."""
    inits = {"s": np.float32(0.25), "z": np.uint8(3)}
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("QuantizeLinear", ["m", "s", "z"], ["scores"]),
        ],
        "integers",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.UINT8, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in inits.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = DeployedModel.open(proto.SerializeToString(), providers=["cpu"], threads=1)
    path = opened("exact", model)
    assert path.source is not None
    ones = np.ones((1, 3, 4, 4), np.float32)
    function = path.source(MaskedImages(4 * ones, ones), PassCounter())
    found, saved = function.forward(np.full((1, 1, 1, 1), 0.5, np.float32))
    raw = found["scores"]
    np.testing.assert_array_equal(raw, np.uint8([[13, 13, 13]]))
    assert raw.dtype == np.uint8
    reading = ClassScores("scores", 3, Activation.SIGMOID_LOGIT, Quantisation(0.25, 3))
    np.testing.assert_array_equal(reading.scores(raw), [[2.5, 2.5, 2.5]])
    slope = function.backward(saved, {"scores": np.float32([[0.25, 0, 0]])})
    np.testing.assert_allclose(slope, [[[[3]]]], rtol=1e-5)
    # d log sigmoid(x) / dx = 1 / (1 + e^x), and x moves by 3 from one end of the mask to the other
    of_log_p = function.backward(saved, {"scores": reading.log_probability_vjp(raw, 0)})
    np.testing.assert_allclose(of_log_p, [[[[3 / (1 + np.exp(2.5))]]]], rtol=1e-5)


@pytest.mark.parametrize("wanted", ["auto", "surrogate"])
def test_a_surrogate_that_was_given_is_used(
    deployed: Deploy,
    network: torch.nn.Module,
    images: np.ndarray,
    masks: np.ndarray,
    expected: np.ndarray,
    wanted: str,
) -> None:
    model = deployed(last=("Floor",))
    path = opened(wanted, model, network)
    assert (path.name, path.reason) == ("surrogate", "a surrogate was provided")
    assert path.source is not None
    masked = MaskedImages(images[:1], images[1:])
    found, _ = path.source(masked, model.passes.scope()).forward(masks)
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-5, atol=1e-6)
    assert model.passes.forward == 2  # counted at the model that it stands for


@pytest.mark.parametrize("wanted", ["exact", "forward-only"])
def test_what_was_asked_for_is_said_so(deployed: Deploy, wanted: str) -> None:
    path = opened(wanted, deployed())
    assert (path.name, path.reason) == (wanted, "requested")
    assert (path.source is None) == (wanted == "forward-only")


def test_exact_is_not_quietly_something_else(deployed: Deploy) -> None:
    with pytest.raises(GradientError, match=r"Floor.*use a surrogate or gradient='forward-only'"):
        opened("exact", deployed(last=("Floor",)))


def test_auto_says_so_when_the_runtime_refuses_the_gradient_graph(
    deployed: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("ONNX Runtime cannot open a graph made from m.onnx: no kernel")

    monkeypatch.setattr(DeployedModel, "new_session", refuse)
    path = opened("auto", deployed())
    assert path.name == "forward-only"
    assert "no kernel" in path.reason
    with pytest.raises(ModelError, match="no kernel"):
        opened("exact", deployed())


@pytest.mark.parametrize("wanted", ["exact", "forward-only"])
def test_a_surrogate_and_another_wish_contradict(
    deployed: Deploy, network: torch.nn.Module, wanted: str
) -> None:
    with pytest.raises(GradientError, match="does not use a surrogate"):
        opened(wanted, deployed(), network)


def test_surrogate_without_one(deployed: Deploy) -> None:
    with pytest.raises(GradientError, match="pass surrogate=FILE"):
        opened("surrogate", deployed())


def test_a_surrogate_file_that_is_missing_is_no_reason_to_go_on(
    deployed: Deploy, tmp_path: Path
) -> None:
    with pytest.raises(GradientError, match=r"surrogate file .*none\.pt2 does not exist"):
        opened("auto", deployed(), tmp_path / "none.pt2")


def test_a_gradient_that_does_not_exist(deployed: Deploy) -> None:
    with pytest.raises(GradientError, match="magic") as caught:
        opened("magic", deployed())
    assert all(name in str(caught.value) for name in GRADIENTS)


def test_no_pass_is_spent_on_choosing(deployed: Deploy) -> None:
    model = deployed()
    opened("auto", model)
    assert model.passes.forward == 0
