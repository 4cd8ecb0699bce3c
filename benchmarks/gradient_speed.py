"""What a gradient costs: forward + backward, in multiples of the forward pass alone and of PyTorch.

    python benchmarks/gradient_speed.py MODEL [MODEL ...] [--batch 2] [--threads 1] [--repeat 40]

All are run in turn, so that they see the same machine; times are medians. PyTorch runs the same
file's operators, with gradients for the image alone; a dash where it lacks one of them. *Saved* is
what goes from the forward graph to the backward graph, beside what all float tensors of a forward
pass take. *Peak* is by how much the first forward and backward run raise the memory of a process in
which both graphs are open (Linux alone tells).
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from ibisa_onnx.autodiff import Derivative, differentiate
from ibisa_onnx.autodiff.graph import Graph

Step = Callable[[], Any]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| model | forward | with saving | backward | sum | of PyTorch's | saved | peak |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for path in args.models:
        print(row(path, args.batch, args.threads, args.repeat), flush=True)


def row(path: Path, batch: int, threads: int, repeat: int) -> str:
    """Return a model's line of the table."""
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        peak = alone.apply(peak_memory, (path, batch, threads)) / 2**20
    model, x, derivative = read(path, batch)
    plain = session(model, threads)
    sessions = [session(graph, threads) for graph in (derivative.forward, derivative.backward)]
    forward, backward, saved = bind(derivative, x, *sessions)
    steps: list[Step] = [lambda: plain.run(None, {derivative.input: x}), forward, backward]
    try:
        steps.append(in_torch(model, derivative.input, x))
        steps[-1]()
    except (KeyError, NotImplementedError):
        steps = steps[:3]
    times = medians(steps, repeat)
    both = times[1] + times[2]
    torch_ratio = f"{both / times[3]:.2f}" if len(times) > 3 else "-"
    megabytes = saved / 2**20
    whole = activations(model, derivative.output, batch) / 2**20
    return (
        f"| {path.stem} | {1000 * times[0]:.1f} ms | {times[1] / times[0]:.2f} "
        f"| {times[2] / times[0]:.2f} | {both / times[0]:.2f} | {torch_ratio} "
        f"| {megabytes:.1f} of {whole:.1f} MiB | {peak:.1f} MiB |"
    )


def read(path: Path, batch: int) -> tuple[onnx.ModelProto, np.ndarray, Derivative]:
    """Load a model, draw images for it, and differentiate its first output."""
    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    image = next(each for each in model.graph.input if each.name not in constants)
    sides = [side.dim_value for side in image.type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(size=(batch, *sides[1:])).astype(np.float32)
    return model, x, differentiate(model, image.name, model.graph.output[0].name)


def peak_memory(path: Path, batch: int, threads: int) -> int:
    """Return the bytes that the first forward and backward run add to this process, at the most."""
    _, x, derivative = read(path, batch)
    sessions = [session(graph, threads) for graph in (derivative.forward, derivative.backward)]
    ctypes.CDLL(None).malloc_trim(0)  # what opening left free would be taken first, unseen
    Path("/proc/self/clear_refs").write_text("5")  # from here on, VmHWM is the peak
    before = _status("VmRSS")
    _, backward, _ = bind(derivative, x, *sessions)
    backward()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def medians(steps: list[Step], repeat: int) -> list[float]:
    """Return each step's median time in seconds; they take turns."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(repeat):
        for step, kept in zip(steps, times, strict=True):
            begin = time.perf_counter()
            step()
            kept.append(time.perf_counter() - begin)
    return [statistics.median(each) for each in times]


def session(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    """Open a model on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def bind(
    derivative: Derivative,
    x: np.ndarray,
    one: ort.InferenceSession,
    other: ort.InferenceSession,
) -> tuple[Step, Step, int]:
    """Return the forward and the backward run, bound to the same memory, and its size in bytes."""
    ahead, back = one.io_binding(), other.io_binding()
    ahead.bind_cpu_input(derivative.input, x)
    for output in one.get_outputs():
        ahead.bind_output(output.name)
    one.run_with_iobinding(ahead)
    values = dict(zip((o.name for o in one.get_outputs()), ahead.get_outputs(), strict=True))
    y = values[derivative.output].numpy()
    needed = {each.name for each in other.get_inputs()}
    if derivative.cotangent in needed:
        cotangent = np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)
        back.bind_cpu_input(derivative.cotangent, cotangent)
    for name in needed.intersection(derivative.saved):
        back.bind_ortvalue_input(name, values[name])
    back.bind_output(derivative.gradient)
    saved = sum(values[name].numpy().nbytes for name in derivative.saved)
    return (
        lambda: one.run_with_iobinding(ahead),
        lambda: other.run_with_iobinding(back),
        saved,
    )


def activations(model: onnx.ModelProto, output: str, batch: int) -> int:
    """Return the bytes of all float tensors that a forward pass computes."""
    graph = Graph(model, output)
    dims = [graph.type(name).dims or () for node in graph.nodes for name in node.outputs]
    shapes = [[side if isinstance(side, int) else batch for side in shape] for shape in dims]
    return 4 * sum(int(np.prod(shape)) for shape in shapes)


def in_torch(model: onnx.ModelProto, image: str, x: np.ndarray) -> Step:
    """Return one forward and backward pass of the same operators in PyTorch."""
    weights = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
    nodes = [
        (node, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute})
        for node in model.graph.node
    ]

    def step() -> torch.Tensor:
        values = dict(weights)
        values[image] = torch.from_numpy(x).requires_grad_()
        for node, attributes in nodes:
            given = [values[name] if name else None for name in node.input]
            values[node.output[0]] = OPERATORS[node.op_type](*given, **attributes)
        y = values[model.graph.output[0].name]
        return torch.autograd.grad(y.sum(), values[image])[0]

    return step


def _padded(
    x: torch.Tensor, pads: list[int], value: float = 0.0
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return what torch can pad by itself, and the padding left for it."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _conv(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    pads: Any = (0, 0, 0, 0),
    strides: Any = (1, 1),
    dilations: Any = (1, 1),
    group: int = 1,
    **_: Any,
) -> torch.Tensor:
    x, padding = _padded(x, pads)
    return F.conv2d(x, w, b, strides, padding, dilations, group)


def _max_pool(
    x: torch.Tensor, kernel_shape: Any, pads: Any = (0, 0, 0, 0), strides: Any = (1, 1), **_: Any
) -> torch.Tensor:
    x, padding = _padded(x, pads, -torch.inf)
    return F.max_pool2d(x, kernel_shape, strides, padding)


def _gemm(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, **given: Any) -> torch.Tensor:
    return torch.addmm(c, a, b.T if given.get("transB") else b)


OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": torch.add,
    "Clip": lambda x, low, high: x.clamp(low.item(), high.item()),
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Conv": _conv,
    "Dropout": lambda x, *_, **__: x,
    "Flatten": lambda x, axis=1: x.flatten(axis),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Identity": lambda x: x,
    "MaxPool": _max_pool,
    "Relu": torch.relu,
    "Reshape": lambda x, shape, **_: x.reshape([len(x), *shape.tolist()[1:]]),
    "Softmax": lambda x, axis=1: F.softmax(x, axis),
}


if __name__ == "__main__":
    main()
