"""Compare the gradient of the backward ONNX graph with PyTorch's, on torchvision architectures.

Weights are random, nothing is fetched. The reference is PyTorch in float64. A difference is the
largest one over the largest magnitude. Among the millions of units of a network a few lie so near
a kink (ReLU, max pooling) that float32 falls on its other side, PyTorch's, shown beside, as often
as ours, and the gradient is then another one. So random inputs are drawn until one has no such
unit: shown are the smallest difference (a wrong rule would show on every input), how many inputs
that took, and the median.
Times are in multiples of the plain model's forward pass, best of seven, one thread.
Needs `torchvision`, `onnxscript` and `onnxruntime`.

    python benchmarks/gradient_parity.py [--exporter dynamo|torchscript|both] [names ...]
"""

from __future__ import annotations

import argparse
import io
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torchvision

from ibisa_onnx.autodiff import Derivative, differentiate

NAMES = (
    "squeezenet1_1",
    "resnet50",
    "vgg16",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
)

# ReLU6 has two kinks: of larger pictures hardly any is without a unit near one.
SIDES = {"inception_v3": 299, "mobilenet_v2": 96}
TOLERANCE = 1e-5


def build(name: str) -> torch.nn.Module:
    """A randomly initialised architecture whose features vary over the image.

    With PyTorch's own start they hardly do, and max pooling would choose among near-equals.
    """
    torch.manual_seed(0)
    extra = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    if extra:
        extra["init_weights"] = False
    net = getattr(torchvision.models, name)(weights=None, **extra).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    if name == "vit_b_16":  # its head starts at zero, which has no gradient to compare
        torch.nn.init.normal_(net.heads.head.weight, std=0.05)
    return net


def export(net: torch.nn.Module, x: torch.Tensor, dynamo: bool) -> onnx.ModelProto:
    """Export with a dynamic batch; ViT and Swin are asked for a fixed one if that fails."""
    buffer = io.BytesIO()
    if dynamo:
        batch = torch.export.Dim("N", min=1, max=64)
        program = torch.onnx.export(
            net, (x,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
        )
        return program.model_proto
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    axes = {"x": {0: "N"}, "y": {0: "N"}}
    torch.onnx.export(net, (x,), buffer, dynamo=False, dynamic_axes=axes, **names)
    return onnx.load_model_from_string(buffer.getvalue())


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """One thread, no warnings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def best(function: Callable[[], Any], repeats: int = 7) -> float:
    """The shortest of a few runs, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


class Pair:
    """The two sessions of a derivative, the activations handed over as they are."""

    def __init__(self, derivative: Derivative) -> None:
        self.derivative = derivative
        self.forward, self.backward = session(derivative.forward), session(derivative.backward)
        self.front, self.back = self.forward.io_binding(), self.backward.io_binding()

    def gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Ours."""
        derivative, front, back = self.derivative, self.front, self.back
        front.bind_ortvalue_input(derivative.input, ort.OrtValue.ortvalue_from_numpy(x))
        for name in (derivative.output, *derivative.saved):
            front.bind_output(name)
        self.forward.run_with_iobinding(front)
        back.bind_ortvalue_input(derivative.cotangent, ort.OrtValue.ortvalue_from_numpy(dy))
        for name, value in zip(derivative.saved, front.get_outputs()[1:], strict=True):
            back.bind_ortvalue_input(name, value)
        back.bind_output(derivative.gradient)
        self.backward.run_with_iobinding(back)
        return back.get_outputs()[0].numpy()

    def times(self) -> tuple[float, float]:
        """Milliseconds of the forward and of the backward, on the last input."""
        return (
            best(lambda: self.forward.run_with_iobinding(self.front)),
            best(lambda: self.backward.run_with_iobinding(self.back)),
        )


def torch_gradient(net: torch.nn.Module, x: torch.Tensor, dy: torch.Tensor) -> np.ndarray:
    """PyTorch's, in the precision of `x`."""
    net = net.to(x.dtype)
    x = x.clone().requires_grad_(True)
    (net(x) * dy.to(x.dtype)).sum().backward()
    net.to(torch.float32)
    assert x.grad is not None
    return x.grad.numpy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over largest magnitude."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def row(name: str, dynamo: bool, batch: int, draws: int) -> str:
    """One line of the table."""
    net = build(name)
    side = SIDES.get(name, 224)
    model = export(net, torch.randn(2, 3, side, side), dynamo)
    source, target = model.graph.input[0].name, model.graph.output[0].name
    pair = Pair(differentiate(model, source, target))
    plain = session(model)
    ours: list[float] = []
    single: list[float] = []
    while len(ours) < 3 or (min(ours) > TOLERANCE and len(ours) < draws):
        x = torch.randn(batch, 3, side, side)
        dy = torch.randn(plain.run([target], {source: x.numpy()})[0].shape)
        exact = torch_gradient(net, x.double(), dy)
        ours.append(relative(pair.gradient(x.numpy(), dy.numpy()), exact))
        single.append(relative(torch_gradient(net, x, dy), exact))
    base = best(lambda: plain.run([target], {source: x.numpy()}))
    forward, backward = (time / base for time in pair.times())
    return (
        f"| {name} | {side} | {'dynamo' if dynamo else 'torchscript'} "
        f"| {min(ours):.1e} | {len(ours)} | {np.median(ours):.1e} "
        f"| {min(single):.1e} | {np.median(single):.1e} | {forward:.2f} | {backward:.2f} "
        f"| {forward + backward:.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--exporter", choices=["dynamo", "torchscript", "both"], default="both")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--draws", type=int, default=30, help="the most inputs to try")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(
        "| model | side | exporter | ours, smallest | inputs | median "
        "| torch float32, smallest | median | forward | backward | sum |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.names:
        for dynamo in {"dynamo": [True], "torchscript": [False], "both": [False, True]}[
            arguments.exporter
        ]:
            try:
                print(row(name, dynamo, arguments.batch, arguments.draws), flush=True)
            except Exception as error:
                print(f"| {name} | dynamo={dynamo} | {type(error).__name__}: {str(error)[:300]} |")


if __name__ == "__main__":
    main()
