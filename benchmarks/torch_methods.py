"""captum's and pytorch-grad-cam's methods on a deployed file, against the same network in torch.

    pip install captum grad-cam
    python benchmarks/torch_methods.py

runs each method on `OnnxModule` of the embedded model and on that model rebuilt in torch, prints a
Markdown table of how far the maps are apart, and says where `OnnxModule` warned. Methods that look
at a layer get the file in two parts, cut at the output of its last ReLU.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from ibisa_onnx.demo import model_path
from ibisa_onnx.gradients.onnx_module import OnnxModule

TARGET = 2
IMAGE = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
BLACK = torch.zeros_like(IMAGE)
TWO = {"baselines": torch.cat([BLACK, BLACK + 0.5]), "target": TARGET}
CELLS = (torch.arange(128)[:, None] // 32 * 4 + torch.arange(128) // 32)[None, None]
BY_CELL = {"baselines": 0, "target": TARGET, "feature_mask": CELLS}


@dataclass(frozen=True)
class Subject:
    """A network, and the layer that methods on layers look at."""

    network: nn.Module
    layer: nn.Module


Method = Callable[[Subject], Any]


def leaf() -> torch.Tensor:
    return IMAGE.clone().requires_grad_()


def captum_on_the_input() -> dict[str, Method]:
    import captum.attr as ca

    return {
        "Saliency": lambda s: ca.Saliency(s.network).attribute(leaf(), TARGET),
        "InputXGradient": lambda s: ca.InputXGradient(s.network).attribute(leaf(), TARGET),
        "IntegratedGradients": lambda s: ca.IntegratedGradients(s.network).attribute(
            IMAGE, BLACK, TARGET, n_steps=20, internal_batch_size=10
        ),
        "GradientShap": lambda s: ca.GradientShap(s.network).attribute(IMAGE, n_samples=6, **TWO),
        "NoiseTunnel": lambda s: ca.NoiseTunnel(ca.Saliency(s.network)).attribute(
            IMAGE, nt_samples=6, stdevs=0.1, target=TARGET
        ),
        "Occlusion": lambda s: ca.Occlusion(s.network).attribute(
            IMAGE, (3, 32, 32), strides=(3, 32, 32), target=TARGET
        ),
        "FeatureAblation": lambda s: ca.FeatureAblation(s.network).attribute(IMAGE, **BY_CELL),
        "FeaturePermutation": lambda s: ca.FeaturePermutation(s.network).attribute(
            torch.cat([IMAGE, IMAGE.flip(3)]), TARGET, feature_mask=CELLS
        ),
        "ShapleyValueSampling": lambda s: ca.ShapleyValueSampling(s.network).attribute(
            IMAGE, n_samples=3, **BY_CELL
        ),
        "KernelShap": lambda s: ca.KernelShap(s.network).attribute(IMAGE, n_samples=40, **BY_CELL),
        "Lime": lambda s: ca.Lime(
            s.network, interpretable_model=ca._core.lime.SkLearnLasso(alpha=1e-4)
        ).attribute(IMAGE, n_samples=40, **BY_CELL),
    }


def captum_on_a_layer() -> dict[str, Method]:
    import captum.attr as ca

    def on(name: str, **options: Any) -> Method:
        return lambda s: getattr(ca, name)(s.network, s.layer).attribute(IMAGE, **options)

    path = {"baselines": BLACK, "target": TARGET, "n_steps": 5}
    channels = torch.arange(96)[None, :, None, None] // 8
    return {
        "LayerGradCam": on("LayerGradCam", target=TARGET),
        "LayerActivation": on("LayerActivation"),
        "LayerGradientXActivation": on("LayerGradientXActivation", target=TARGET),
        "LayerIntegratedGradients": on("LayerIntegratedGradients", **path),
        "LayerConductance": on("LayerConductance", **path),
        "InternalInfluence": on("InternalInfluence", **path),
        "LayerGradientShap": on("LayerGradientShap", n_samples=4, **TWO),
        "LayerFeatureAblation": on("LayerFeatureAblation", target=TARGET, layer_mask=channels),
    }


def captum_by_rules() -> dict[str, Method]:
    import captum.attr as ca

    return {
        "GuidedBackprop": lambda s: ca.GuidedBackprop(s.network).attribute(leaf(), TARGET),
        "Deconvolution": lambda s: ca.Deconvolution(s.network).attribute(leaf(), TARGET),
        "DeepLift": lambda s: ca.DeepLift(s.network).attribute(IMAGE, BLACK, TARGET),
        "DeepLiftShap": lambda s: ca.DeepLiftShap(s.network).attribute(IMAGE, **TWO),
        "LRP": lambda s: ca.LRP(s.network).attribute(leaf(), TARGET),
        "LayerGradCam": lambda s: ca.LayerGradCam(s.network, s.layer).attribute(IMAGE, TARGET),
        "GuidedGradCam": lambda s: ca.GuidedGradCam(s.network, s.layer).attribute(leaf(), TARGET),
    }


def grad_cam_on_a_layer() -> dict[str, Method]:
    import pytorch_grad_cam as package
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def on(name: str) -> Method:
        def method(subject: Subject) -> Any:
            cam = getattr(package, name)(subject.network, [subject.layer])
            return cam(input_tensor=leaf(), targets=[ClassifierOutputTarget(TARGET)])

        return method

    names = ("GradCAM", "GradCAMPlusPlus", "XGradCAM", "HiResCAM", "LayerCAM", "EigenCAM")
    return {name: on(name) for name in (*names, "ScoreCAM", "AblationCAM")}


def rebuilt(model: onnx.ModelProto) -> nn.Sequential:
    """The embedded model as torch's own layers."""
    values = {each.name: numpy_helper.to_array(each).copy() for each in model.graph.initializer}
    weights = {name: torch.from_numpy(value) for name, value in values.items()}
    return nn.Sequential(*(_layer(node, weights) for node in model.graph.node)).eval()


def _layer(node: onnx.NodeProto, weights: dict[str, torch.Tensor]) -> nn.Module:
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    own = [weights[name] for name in node.input[1:]]
    if node.op_type == "Conv":
        layer: nn.Module = nn.Conv2d(
            own[0].shape[1], own[0].shape[0], own[0].shape[2:], given["strides"], given["pads"][:2]
        )
    elif node.op_type == "Gemm":
        layer = nn.Linear(*reversed(own[0].shape))
    elif node.op_type == "MaxPool":
        return nn.MaxPool2d(given["kernel_shape"], given["strides"])
    else:
        plain = {"Relu": nn.ReLU, "Flatten": nn.Flatten}
        return plain[node.op_type]() if node.op_type in plain else nn.AdaptiveAvgPool2d(1)
    layer.load_state_dict({"weight": own[0], "bias": own[1]})
    return layer


def run(method: Method, subject: Subject) -> tuple[torch.Tensor | str, bool]:
    """A map, or what went wrong, and whether `OnnxModule` warned."""
    torch.manual_seed(1)
    np.random.seed(1)
    quiet = contextlib.ExitStack()
    quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
    quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
    with quiet, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = method(subject)
            found = torch.as_tensor(found[0] if isinstance(found, tuple) else found)
        except Exception as error:
            found = type(error).__name__
    return found, any("ONNX Runtime" in str(each.message) for each in caught)


def compared(ours: torch.Tensor | str, theirs: torch.Tensor | str) -> str:
    """How far two maps are apart, in words."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return " / ".join(each if isinstance(each, str) else "a map" for each in (ours, theirs))
    if ours.shape != theirs.shape:
        return f"shape {list(ours.shape)} / {list(theirs.shape)}"
    return f"{(ours - theirs).norm() / theirs.norm():.0e}"


def rows() -> Iterator[str]:
    model = onnx.load(model_path())
    twin = rebuilt(model)
    relus = [place for place, each in enumerate(twin) if isinstance(each, nn.ReLU)]
    name = model.graph.node[relus[-1]].output[0]
    network = Subject(twin, twin[relus[-1]])

    def whole() -> Subject:
        module = OnnxModule(model_path())
        return Subject(module, module)

    def parts() -> Subject:
        head = OnnxModule(model_path(), output=name)
        return Subject(nn.Sequential(head, OnnxModule(model_path(), input=name)), head)

    groups = (
        ("captum, on the input", captum_on_the_input, whole),
        ("captum, at a layer, the file in two parts", captum_on_a_layer, parts),
        ("pytorch-grad-cam, the file in two parts", grad_cam_on_a_layer, parts),
        ("captum, by rules or at a layer, the file as one module", captum_by_rules, whole),
    )
    for title, methods, subject in groups:
        for method_name, method in methods().items():
            ours, warned = run(method, subject())
            theirs, _ = run(method, network)
            yield f"| {title} | {method_name} | {compared(ours, theirs)} | {'yes' * warned} |"


if __name__ == "__main__":
    print("| | method | difference, or OnnxModule / torch | warned |\n|---|---|---|---|")
    for row in rows():
        print(row)
