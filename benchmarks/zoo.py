"""Compare the gradient of the backward ONNX graph with PyTorch's, architecture by architecture.

Each architecture comes from torchvision, timm or transformers, with random weights (nothing is
fetched), and is exported by both of torch's exporters. The reference is PyTorch in float64; a
difference is the largest one over the largest magnitude. Among the millions of units of a network
a few lie so near a kink (ReLU, max pooling) that float32 falls on its other side, PyTorch's as
often as ours, and the gradient is then another one. So images are drawn, two at a time, until one
has no such unit, at most forty: a wrong rule would show on every image. (Two at a time also because
PyTorch 2.13 and 2.14 give wrong gradients of a single image where the cotangent comes transposed to
a batch normalization at inference: they differ from PyTorch's own finite differences.)

Results are kept in a JSON file after each architecture, and what is there is not done again, so
that a run can be cut off and continued. `--write` puts the table into a page, between the marks
`<!-- zoo -->` and `<!-- /zoo -->`.

    python benchmarks/zoo.py [--exporter torchscript|dynamo]
        [--write docs/reference/operators.md] [names]
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from pages import put
from torch import nn

from ibisa_onnx.autodiff import Derivative, differentiate, missing_rules

TOLERANCE = 1e-4
DRAWS = 40
EXPORTERS = ("torchscript", "dynamo")

# What each source builds, at which side of the image, with which options. Sides are small, so that
# the whole takes minutes; transformers' configurations are cut to few layers of the usual kind.
FEW = {"num_hidden_layers": 3, "hidden_size": 96, "num_attention_heads": 3}
VIT = {**FEW, "intermediate_size": 192, "image_size": 64}
ZOO: dict[str, tuple[int, dict[str, Any]]] = {
    "torchvision:alexnet": (224, {}),
    "torchvision:vgg11": (224, {}),
    "torchvision:vgg11_bn": (224, {}),
    "torchvision:squeezenet1_0": (64, {}),
    "torchvision:squeezenet1_1": (64, {}),
    "torchvision:resnet18": (64, {}),
    "torchvision:resnet50": (64, {}),
    "torchvision:resnext50_32x4d": (64, {}),
    "torchvision:wide_resnet50_2": (64, {}),
    "torchvision:densenet121": (64, {}),
    "torchvision:googlenet": (64, {"aux_logits": False, "init_weights": False}),
    "torchvision:inception_v3": (96, {"aux_logits": False, "init_weights": False}),
    "torchvision:mobilenet_v2": (64, {}),
    "torchvision:mobilenet_v3_small": (64, {}),
    "torchvision:mobilenet_v3_large": (64, {}),
    "torchvision:mnasnet0_5": (64, {}),
    "torchvision:shufflenet_v2_x0_5": (64, {}),
    "torchvision:efficientnet_b0": (64, {}),
    "torchvision:efficientnet_v2_s": (64, {}),
    "torchvision:regnet_x_400mf": (64, {}),
    "torchvision:regnet_y_400mf": (64, {}),
    "torchvision:convnext_tiny": (64, {}),
    "torchvision:vit_b_32": (64, {"image_size": 64}),
    "torchvision:swin_t": (64, {}),
    "torchvision:swin_v2_t": (64, {}),
    "torchvision:maxvit_t": (224, {}),
    "timm:resnet10t": (64, {}),
    "timm:resnetv2_50x1_bit": (64, {}),
    "timm:resnetblur18": (64, {}),
    "timm:res2net50_14w_8s": (64, {}),
    "timm:resnest14d": (64, {}),
    "timm:skresnet18": (64, {}),
    "timm:seresnet18": (64, {}),
    "timm:ecaresnet26t": (64, {}),
    "timm:gcresnext26ts": (64, {}),
    "timm:nfnet_l0": (64, {}),
    "timm:eca_nfnet_l0": (64, {}),
    "timm:nf_regnet_b0": (64, {}),
    "timm:ghostnet_050": (64, {}),
    "timm:ghostnetv2_100": (64, {}),
    "timm:repghostnet_050": (64, {}),
    "timm:mobilenetv1_100": (64, {}),
    "timm:mobilenetv4_conv_small_050": (64, {}),
    "timm:mobilenetv4_hybrid_medium_075": (64, {}),
    "timm:lcnet_050": (64, {}),
    "timm:tinynet_e": (64, {}),
    "timm:mixnet_s": (64, {}),
    "timm:tf_efficientnet_b0": (64, {}),
    "timm:dla34": (64, {}),
    "timm:dpn68": (64, {}),
    "timm:hrnet_w18_small": (64, {}),
    "timm:inception_v4": (96, {}),
    "timm:inception_resnet_v2": (96, {}),
    "timm:legacy_xception": (64, {}),
    "timm:xception41": (64, {}),
    "timm:cspresnet50": (64, {}),
    "timm:darknet17": (64, {}),
    "timm:ese_vovnet19b_slim": (64, {}),
    "timm:hgnetv2_b0": (64, {}),
    "timm:rexnet_100": (64, {}),
    "timm:repvgg_a0": (64, {}),
    "timm:mobileone_s0": (64, {}),
    "timm:fasternet_t0": (64, {}),
    "timm:convmixer_768_32": (28, {}),
    "timm:convnext_atto": (64, {}),
    "timm:convnextv2_atto": (64, {}),
    "timm:inception_next_atto": (64, {}),
    "timm:focalnet_tiny_srf": (64, {}),
    "timm:poolformer_s12": (64, {}),
    "timm:poolformerv2_s12": (64, {}),
    "timm:convformer_s18": (64, {}),
    "timm:caformer_s18": (64, {}),
    "timm:vit_tiny_patch16_224": (64, {"img_size": 64}),
    "timm:vit_relpos_small_patch16_224": (64, {"img_size": 64}),
    "timm:vit_small_patch14_dinov2": (56, {"img_size": 56}),
    "timm:vit_small_patch16_dinov3": (64, {"img_size": 64}),
    "timm:deit_tiny_patch16_224": (64, {"img_size": 64}),
    "timm:deit3_small_patch16_224": (64, {"img_size": 64}),
    "timm:beit_base_patch16_224": (64, {"img_size": 64}),
    "timm:eva02_tiny_patch14_224": (56, {"img_size": 56}),
    "timm:cait_xxs24_224": (64, {"img_size": 64}),
    "timm:xcit_nano_12_p16_224": (64, {"img_size": 64}),
    "timm:volo_d1_224": (64, {"img_size": 64}),
    "timm:mixer_s32_224": (64, {"img_size": 64}),
    "timm:resmlp_12_224": (64, {"img_size": 64}),
    "timm:gmlp_ti16_224": (64, {"img_size": 64}),
    "timm:swin_tiny_patch4_window7_224": (64, {"img_size": 64, "window_size": 2}),
    "timm:swinv2_tiny_window8_256": (64, {"img_size": 64, "window_size": 2}),
    "timm:swinv2_cr_tiny_224": (64, {"img_size": 64, "window_size": 2}),
    "timm:twins_pcpvt_small": (64, {"img_size": 64}),
    "timm:twins_svt_small": (224, {}),
    "timm:pvt_v2_b0": (64, {}),
    "timm:pit_ti_224": (64, {"img_size": 64}),
    "timm:levit_128s": (64, {"img_size": 64}),
    "timm:tiny_vit_5m_224": (224, {}),
    "timm:efficientformer_l1": (224, {}),
    "timm:efficientformerv2_s0": (64, {"img_size": 64}),
    "timm:efficientvit_b0": (64, {}),
    "timm:efficientvit_m0": (64, {"img_size": 64}),
    "timm:mobilevit_xxs": (64, {}),
    "timm:mobilevitv2_050": (64, {}),
    "timm:edgenext_xx_small": (64, {}),
    "timm:fastvit_t8": (64, {}),
    "timm:repvit_m0_9": (64, {}),
    "timm:swiftformer_xs": (64, {}),
    "timm:maxvit_pico_rw_256": (64, {"img_size": 64}),
    "timm:coatnet_pico_rw_224": (64, {"img_size": 64}),
    "timm:coat_lite_tiny": (64, {"img_size": 64}),
    "timm:convit_tiny": (64, {"img_size": 64}),
    "timm:crossvit_tiny_240": (240, {}),
    "timm:davit_tiny": (64, {}),
    "timm:gcvit_xxtiny": (64, {"img_size": 64}),
    "timm:hiera_tiny_224": (64, {"img_size": 64}),
    "timm:mvitv2_tiny": (64, {"img_size": 64}),
    "timm:nest_tiny": (64, {"img_size": 64}),
    "timm:nextvit_small": (64, {}),
    "timm:tnt_s_patch16_224": (64, {"img_size": 64}),
    "timm:visformer_tiny": (64, {"img_size": 64}),
    "timm:halonet26t": (256, {}),
    "timm:lambda_resnet26t": (64, {}),
    "timm:botnet26t_256": (64, {"img_size": 64}),
    "timm:mambaout_femto": (64, {}),
    "timm:vit_base_patch32_clip_224": (64, {"img_size": 64, "depth": 4}),
    "timm:vit_base_patch16_siglip_224": (64, {"img_size": 64, "depth": 4}),
    "hf:ViTConfig": (64, VIT),
    "hf:DeiTConfig": (64, VIT),
    "hf:BeitConfig": (64, {**VIT, "use_relative_position_bias": True}),
    "hf:Dinov2Config": (56, {**FEW, "image_size": 56}),
    "hf:Dinov2WithRegistersConfig": (56, {**FEW, "image_size": 56}),
    "hf:DINOv3ViTConfig": (64, VIT),
    "hf:CLIPVisionConfig": (64, VIT),
    "hf:SiglipVisionConfig": (64, VIT),
    "hf:SwinConfig": (64, {"image_size": 64, "window_size": 2, "depths": [2, 2, 2, 2]}),
    "hf:Swinv2Config": (64, {"image_size": 64, "window_size": 2, "depths": [2, 2, 2, 2]}),
    "hf:ConvNextConfig": (64, {"depths": [1, 1, 2, 1]}),
    "hf:ConvNextV2Config": (64, {"depths": [1, 1, 2, 1]}),
    "hf:ResNetConfig": (64, {"depths": [1, 1, 1, 1]}),
    "hf:RegNetConfig": (64, {"depths": [1, 1, 1, 1]}),
    "hf:BitConfig": (64, {"depths": [1, 1, 1, 1]}),
    "hf:MobileNetV1Config": (64, {}),
    "hf:MobileNetV2Config": (64, {}),
    "hf:MobileViTConfig": (64, {"image_size": 64}),
    "hf:MobileViTV2Config": (64, {"image_size": 64}),
    "hf:EfficientNetConfig": (
        64,
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    ),
    "hf:SegformerConfig": (64, {}),
    "hf:PvtV2Config": (64, {}),
    "hf:PoolFormerConfig": (64, {}),
    "hf:LevitConfig": (64, {"image_size": 64}),
    "hf:FocalNetConfig": (64, {"image_size": 64}),
    "hf:CvtConfig": (64, {}),
    "hf:HieraConfig": (64, {"image_size": [64, 64], "depths": [1, 1, 2, 1]}),
}

Result = dict[str, Any]
"""Of one architecture and exporter: `error` (and what belongs to it), or `failure`."""


# -- architectures


def build(name: str) -> nn.Module:
    """A randomly initialised architecture that takes images and returns one tensor."""
    torch.manual_seed(0)
    source, kind = name.split(":")
    side, options = ZOO[name]
    net = {"torchvision": _torchvision, "timm": _timm, "hf": _transformers}[source](kind, options)
    net.eval().requires_grad_(False)
    randomise(net)
    calibrate(net, side)
    return net


def _torchvision(kind: str, options: dict[str, Any]) -> nn.Module:
    import torchvision

    net: nn.Module = torchvision.models.get_model(kind, weights=None, **options)
    return net


def _timm(kind: str, options: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(kind, pretrained=False, exportable=True, **options)


class _Result(nn.Module):
    """A transformers model, reduced to the tensor that its users read."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.net(pixel_values=x, return_dict=True)
        names = ("logits", "image_embeds", "pooler_output", "last_hidden_state")
        return next(result[name] for name in names if result.get(name) is not None)


def _transformers(kind: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    config = getattr(transformers, kind)(**options, architectures=[])
    known = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    auto = transformers.AutoModelForImageClassification if type(config) in known else None
    return _Result((auto or transformers.AutoModel).from_config(config))


def randomise(net: nn.Module) -> None:
    """Draw all weights so that every branch counts and features vary over the image.

    As they start, many architectures are nearly linear: residual branches are scaled by 0 or 1e-6,
    heads and biases are 0, and a wrong rule in them would not show.
    """
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            _draw(parameter.data)


def calibrate(net: nn.Module, side: int) -> None:
    """Let batch normalization scale features to about 1, as they come from a few random images.

    Without that they grow from block to block, until float32 has no digits left to compare. They
    are not centred: a deep chain of centred ReLUs is chaotic, which takes the digits as well.
    """
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [m for m in net.modules() if isinstance(m, kinds) and m.track_running_stats]
    hooks = [norm.register_forward_pre_hook(_measure) for norm in norms]
    if norms:
        net(torch.randn(32, 3, side, side))
    for hook in hooks:
        hook.remove()


def _measure(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    x = inputs[0]
    power = x.square().mean([0, *range(2, x.dim())])
    norm.running_var.copy_(power)  # type: ignore[operator, union-attr]
    norm.running_mean.normal_(0, 0.1).mul_(power.sqrt())  # type: ignore[operator, union-attr]


def _draw(weight: torch.Tensor) -> None:
    if not weight.numel():
        return
    constant = bool(weight.numel() == 1 or weight.min() == weight.max())
    if constant and weight.abs().max() >= 0.5:
        weight.mul_(torch.empty_like(weight).uniform_(0.5, 1.5))
    elif weight.dim() == 4 or (weight.dim() == 2 and not constant):
        fan = math.prod(weight.shape[1:])
        weight.normal_(0, math.sqrt((2 if weight.dim() == 4 else 1) / fan))
    else:
        weight.normal_(0, 0.2)


# -- exporting


def export(net: nn.Module, side: int, dynamo: bool) -> tuple[onnx.ModelProto, bool]:
    """Export with an open batch, else with a batch of one; which of them it was."""
    write = _export_dynamo if dynamo else _export_torchscript
    try:
        return write(net, torch.randn(2, 3, side, side), True), True
    except Exception:
        return write(net, torch.randn(1, 3, side, side), False), False


def _export_dynamo(net: nn.Module, x: torch.Tensor, batch: bool) -> onnx.ModelProto:
    shapes = ({0: torch.export.Dim("N", min=1, max=64)},) if batch else None
    program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    return program.model_proto


def _export_torchscript(net: nn.Module, x: torch.Tensor, batch: bool) -> onnx.ModelProto:
    buffer = io.BytesIO()
    axes = {"x": {0: "N"}, "y": {0: "N"}} if batch else None
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    torch.onnx.export(net, (x,), buffer, dynamo=False, **names)
    return onnx.load_model_from_string(buffer.getvalue())


# -- comparing


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """One thread, no warnings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def our_gradient(derivative: Derivative) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """From an image and its output's cotangent to the image's, both graphs in ONNX Runtime."""
    forward, backward = session(derivative.forward), session(derivative.backward)

    def gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        _, *saved = forward.run(None, {derivative.input: x})
        feeds = dict(zip(derivative.saved, saved, strict=True))
        result: np.ndarray = backward.run(None, {derivative.cotangent: dy, **feeds})[0]
        return result

    return gradient


def torch_gradient(net: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> np.ndarray:
    """PyTorch's, in the precision of `x`."""
    x = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(x), x, dy.to(x.dtype))
    return gradient.numpy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over largest magnitude."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare(net: nn.Module, name: str, exporter: str) -> Result:
    """Export, differentiate, and draw images until one agrees."""
    side = ZOO[name][0]
    model, batch = export(net, side, exporter == "dynamo")
    names = model.graph.input[0].name, model.graph.output[0].name
    if missing := missing_rules(model, *names):
        return {"failure": "; ".join(dict.fromkeys(f"{m.op_type}: {m.why}" for m in missing))}
    gradient = our_gradient(differentiate(model, *names))
    exact, ours, single = copy.deepcopy(net).double(), list[float](), list[float]()
    while not ours or (min(ours) > TOLERANCE and len(ours) < DRAWS):
        x = torch.randn(2, 3, side, side)
        dy = torch.randn(net(x).shape)
        expected = torch_gradient(exact, x.double(), dy)
        parts = [slice(0, 2)] if batch else [slice(0, 1), slice(1, 2)]
        dx = np.concatenate([gradient(x[part].numpy(), dy[part].numpy()) for part in parts])
        ours += map(relative, dx, expected)
        single += map(relative, torch_gradient(net, x, dy), expected)
    return {
        "error": min(ours),
        "torch": min(single),
        "images": len(ours),
        "batch": batch,
        "opset": model.opset_import[0].version,
        "operators": sorted({node.op_type for node in model.graph.node}),
    }


def attempt(name: str, exporter: str) -> Result:
    """The comparison, or why there is none."""
    start = time.perf_counter()
    try:
        result = compare(build(name), name, exporter)
    except Exception as error:
        cause: BaseException = error  # exporters wrap what went wrong
        while cause.__cause__ is not None:
            cause = cause.__cause__
        text = " ".join(str(cause).split())
        result = {"failure": f"{type(cause).__name__}: {text[:400]}"}
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


# -- the table


ABOUT = """By `make zoo`: weights are random, but such that every branch counts; PyTorch in float64
is the reference. A difference is the largest one over the largest magnitude. Images are drawn, two
at a time, until one has no unit so near a kink that float32 falls on its other side; how many that
took is said where it is more than two. The last column is PyTorch's own in float32 on the same
images. The batch is open, but where *batch 1* says that the architecture was exported with a batch
of one. `missing_rules` names nothing for any architecture that has a number."""


def table(results: dict[str, dict[str, Result]]) -> str:
    """The results in Markdown, with what they come to."""
    rows = [line for name, found in results.items() for line in _row(name, found)]
    notes = [f"- {note}" for name, found in results.items() for note in _notes(name, found)]
    head = (
        "| architecture | side | torchscript | dynamo | PyTorch, float32 |\n|---|---|---|---|---|"
    )
    below = ["", "Without a number:", "", *notes] if notes else []
    return "\n".join([ABOUT, "", _summary(results), "", head, *rows, *below])


def _agrees(result: Result) -> bool:
    return bool(result.get("error", math.inf) <= TOLERANCE)


def _summary(results: dict[str, dict[str, Result]]) -> str:
    each = {name: sum(map(_agrees, found.values())) for name, found in results.items()}
    errors = [r["error"] for found in results.values() for r in found.values() if _agrees(r)]
    both = sum(count == len(EXPORTERS) for count in each.values())
    return (
        f"{sum(map(bool, each.values()))} architectures agree with PyTorch within {TOLERANCE:g}, "
        f"{both} of them as written by both exporters; "
        f"the largest relative difference is {max(errors, default=math.nan):.1e}, "
        f"the median {np.median(errors) if errors else math.nan:.1e}."
    )


def _row(name: str, found: dict[str, Result]) -> Iterator[str]:
    single = [result["torch"] for result in found.values() if "torch" in result]
    cells = [_cell(found.get(exporter, {})) for exporter in EXPORTERS]
    reference = f"{max(single):.1e}" if single else "-"
    yield f"| {name} | {ZOO[name][0]} | {cells[0]} | {cells[1]} | {reference} |"


def _cell(result: Result) -> str:
    if "error" not in result:
        return "below" if result else "-"
    marks = "" if result["batch"] else ", batch 1"
    marks += f", {result['images']} images" if result["images"] > 2 else ""
    return f"{result['error']:.1e}{marks}"


def _notes(name: str, found: dict[str, Result]) -> Iterator[str]:
    for exporter, result in found.items():
        if "failure" in result:
            text = re.sub(r"\x1b\[\d*m|[`|<>]", "", result["failure"])
            yield f"{name}, {exporter}: {text[:160]}"


# -- running


def run(names: list[str], exporters: list[str], kept: Path) -> None:
    """Fill the results, saved after each."""
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for name in names:
        for exporter in exporters:
            found = results.setdefault(name, {})
            if exporter in found:
                continue
            # So that an architecture that ends the process is not tried again.
            found[exporter] = {"failure": "the process ended"}
            _save(kept, results)
            found[exporter] = attempt(name, exporter)
            _save(kept, results)
            line = {k: v for k, v in found[exporter].items() if k != "operators"}
            print(name, exporter, line, flush=True)


def _save(kept: Path, results: dict[str, dict[str, Result]]) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: results[name] for name in ZOO if name in results}
    kept.write_text(json.dumps(ordered, indent=1))


def main() -> None:
    """Run what has no result yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--exporter", choices=EXPORTERS, help="one of them only")
    parser.add_argument("--results", type=Path, default=Path("out/zoo.json"))
    parser.add_argument("--again", action="store_true", help="also what has a result already")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="a page to put the table into")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that no exporter knows
    names, exporters = arguments.names or list(ZOO), [arguments.exporter or None]
    chosen = [e for e in EXPORTERS if exporters == [None] or e in exporters]
    if arguments.again and arguments.results.exists():
        _forget(arguments.results, names, chosen)
    run(names, chosen, arguments.results)
    text = table(json.loads(arguments.results.read_text()))
    if arguments.write:
        put(arguments.write, "zoo", text)
    print(text)


def _forget(kept: Path, names: list[str], exporters: list[str]) -> None:
    results = json.loads(kept.read_text())
    for name in names:
        for exporter in exporters:
            results.get(name, {}).pop(exporter, None)
    kept.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
