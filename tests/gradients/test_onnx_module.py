"""An ONNX model in torch: the same values and gradients as the network it was made from."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ibisa_onnx.errors import ModelError, UnsupportedOperatorError
from ibisa_onnx.gradients.onnx_module import OnnxModule


@pytest.fixture
def module(small_onnx):
    return OnnxModule(small_onnx().SerializeToString(), threads=1)


def pulled(function, images):
    images = images.clone().requires_grad_()
    loss = (torch.log_softmax(function(2 * images), 1)[:, 3] ** 2).sum()
    return torch.autograd.grad(loss, images)[0]


def test_values_and_gradients_are_torchs(module, network, images):
    values = torch.from_numpy(images)
    torch.testing.assert_close(module(values), network(values), rtol=1e-5, atol=1e-5)
    for some in (values, values[:1], values[:, :, :, :].flip(3)):
        torch.testing.assert_close(
            pulled(module, some), pulled(network, some), rtol=1e-4, atol=1e-5
        )


def test_it_is_a_module_among_others(module, network, images):
    head = torch.nn.Linear(5, 2)
    slopes = [
        torch.autograd.grad(
            torch.nn.Sequential(body, head)(torch.from_numpy(images)).sum(), head.weight
        )
        for body in (module, network)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)
    assert list(module.parameters()) == []


def test_an_earlier_gradient_outlives_a_later_forward(module, images):
    values = torch.from_numpy(images)
    leaf = values.clone().requires_grad_()
    scores = module(leaf)
    module(100 * values)
    (late,) = torch.autograd.grad(scores.sum(), leaf)
    (early,) = torch.autograd.grad(module(leaf).sum(), leaf)
    torch.testing.assert_close(late, early, rtol=0, atol=0)


def test_half_precision_takes_and_gives_its_own_type(small_onnx, images):
    module = OnnxModule(small_onnx(half=True).SerializeToString())
    leaf = torch.from_numpy(images).half().requires_grad_()
    module(leaf).sum().backward()
    assert leaf.grad.dtype == torch.float16


def test_a_path_with_external_weights(small_onnx, network, images, tmp_path):
    path = tmp_path / "m.onnx"
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save(small_onnx(), path, **options)
    values = torch.from_numpy(images)
    torch.testing.assert_close(
        pulled(OnnxModule(path), values), pulled(network, values), rtol=1e-4, atol=1e-5
    )


def test_refusals_are_one_line(small_onnx, module, images):
    with pytest.raises(UnsupportedOperatorError, match="Floor"):
        OnnxModule(small_onnx(last=("Floor",)).SerializeToString())
    model = small_onnx()
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    with pytest.raises(ModelError, match="more than one tensor: image, k"):
        OnnxModule(model.SerializeToString())
    with pytest.raises(ModelError, match="failed to run") as caught:
        module(torch.from_numpy(images[:, :2]))
    assert "\n" not in str(caught.value)
