"""captum on a deployed file, where it is installed: the maps of the same network in torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ibisa_onnx.gradients.onnx_module import OnnxModule

captum = pytest.importorskip("captum.attr")

Method = Callable[[torch.nn.Module], torch.Tensor]
IMAGES = torch.from_numpy(np.random.default_rng(6).normal(size=(2, 3, 9, 9)).astype(np.float32))
BASELINE = torch.zeros_like(IMAGES)
REGIONS = (torch.arange(9)[:, None] // 3 * 3 + torch.arange(9) // 3).repeat(1, 1, 1)[None]
SHAP = {"baselines": torch.cat([BASELINE, BASELINE + 0.5]), "target": 1}
BY_REGION = {"baselines": 0, "target": 1, "feature_mask": REGIONS}

ON_THE_INPUT: dict[str, Method] = {
    "Saliency": lambda f: captum.Saliency(f).attribute(image(), target=1),
    "InputXGradient": lambda f: captum.InputXGradient(f).attribute(image(), target=1),
    "IntegratedGradients": lambda f: captum.IntegratedGradients(f).attribute(
        IMAGES, BASELINE, target=1, n_steps=8, internal_batch_size=4
    ),
    "GradientShap": lambda f: captum.GradientShap(f).attribute(IMAGES, n_samples=4, **SHAP),
    "NoiseTunnel": lambda f: captum.NoiseTunnel(captum.Saliency(f)).attribute(
        IMAGES, target=1, nt_samples=3, stdevs=0.1
    ),
    "Occlusion": lambda f: captum.Occlusion(f).attribute(
        IMAGES, (3, 3, 3), strides=(3, 3, 3), target=1
    ),
    "FeatureAblation": lambda f: captum.FeatureAblation(f).attribute(IMAGES, **BY_REGION),
    "KernelShap": lambda f: captum.KernelShap(f).attribute(IMAGES[:1], n_samples=30, **BY_REGION),
    "Lime": lambda f: captum.Lime(f).attribute(IMAGES[:1], n_samples=30, **BY_REGION),
}
ON_LAYERS: dict[str, Method] = {
    "GuidedBackprop": lambda f: captum.GuidedBackprop(f).attribute(image(), target=1),
    "Deconvolution": lambda f: captum.Deconvolution(f).attribute(image(), target=1),
    "DeepLift": lambda f: captum.DeepLift(f).attribute(IMAGES, BASELINE, target=1),
    "DeepLiftShap": lambda f: captum.DeepLiftShap(f).attribute(IMAGES, **SHAP),
    "LRP": lambda f: captum.LRP(f).attribute(image(), target=1),
    "LayerGradCam": lambda f: captum.LayerGradCam(f, f).attribute(IMAGES, target=1),
    "GuidedGradCam": lambda f: captum.GuidedGradCam(f, f).attribute(IMAGES, target=1),
}


def image() -> torch.Tensor:
    """The images, to be differentiated."""
    return IMAGES.clone().requires_grad_()


def map_of(method: Method, model: torch.nn.Module) -> torch.Tensor:
    torch.manual_seed(0)
    np.random.seed(0)
    return method(model)


def about_us(caught: list[warnings.WarningMessage]) -> list[str]:
    """The messages of ours among those of captum."""
    return [str(each.message) for each in caught if "ONNX Runtime" in str(each.message)]


@pytest.fixture
def module(small_onnx: Callable[..., onnx.ModelProto]) -> OnnxModule:
    return OnnxModule(small_onnx().SerializeToString(), threads=1)


@pytest.mark.parametrize("method", ON_THE_INPUT.values(), ids=ON_THE_INPUT)
def test_methods_on_the_input_give_the_maps_of_torchs_network(
    module: OnnxModule, network: torch.nn.Module, method: Method
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = map_of(method, module)
    expected = map_of(method, network)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not about_us(list(caught))


@pytest.mark.parametrize("method", ON_LAYERS.values(), ids=ON_LAYERS)
def test_methods_that_look_into_layers_are_warned_of_once(
    module: OnnxModule, method: Method
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            map_of(method, module)
    assert len(about_us(list(caught))) == 1


def test_the_model_in_two_parts_has_a_layer(
    small_onnx: Callable[..., onnx.ModelProto], network: Any
) -> None:
    data = small_onnx().SerializeToString()
    head, tail = OnnxModule(data, output="s", threads=1), OnnxModule(data, input="s", threads=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parts = captum.LayerGradCam(torch.nn.Sequential(head, tail), head)
        found = parts.attribute(IMAGES, target=1)
    assert not about_us(list(caught))
    features = torch.nn.functional.softplus(
        torch.nn.functional.conv2d(IMAGES, network.kernel, network.bias, padding=1)
    )
    # Pooled, then multiplied: each feature's mean gradient is that of its cells' weights.
    weights = network.matrix[:, 1].reshape(4, 9).sum(1) / 81
    expected = torch.einsum("nchw,c->nhw", features, weights)[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
