"""Random weights with which a network tells places apart, and how its ONNX file is written.

Frameworks draw weights that leave a deep network's scores nearly equal: no box is found, and
nothing can be explained. So normalizations take the statistics of two photographs, and the last
layers are scaled until scores differ as those of a trained network do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

PHOTOGRAPHS = ("bus.jpg", "zidane.jpg")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
UNIT = ((0.0,) * 3, (1.0,) * 3)
Scale = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels in 0..1."""


# -- photographs


def photograph(name: str) -> Image.Image:
    """Open one of `PHOTOGRAPHS`, which Ultralytics' package carries."""
    package = find_spec("ultralytics")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the photographs are Ultralytics': pip install ultralytics")
    return Image.open(Path(package.origin).parent / "assets" / name).convert("RGB")


def as_input(image: Image.Image, size: tuple[int, int], scale: Scale = UNIT) -> Tensor:
    """Return a picture as a tensor [1, 3, H, W] of a height and width."""
    pixels = np.asarray(image.resize(size[::-1]), np.float32) / 255
    mean, std = (np.array(each, np.float32) for each in scale)
    return torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None].contiguous()


def inputs(side: int, scale: Scale = UNIT) -> list[Tensor]:
    """Return the photographs, stretched to squares, [1, 3, side, side] each."""
    return [as_input(photograph(name), (side, side), scale) for name in PHOTOGRAPHS]


# -- weights


def settle(net: nn.Module, run: Callable[[], object]) -> None:
    """Let batch normalizations take the statistics of what they see while `run` runs."""
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        run()
    for norm in norms:
        norm.eval()


def spread(
    layers: Iterable[nn.Module], run: Callable[[], object], mean: float, std: float = 1.5
) -> None:
    """Scale layers, so that each of their channels has a mean, and they a standard deviation."""
    for layer, values in _outputs(layers, run).items():
        centres = values.mean(1)
        _rescale(layer, centres, std / float(values.std(1).mean().clamp(min=1e-9)), mean)


def make_rare(layers: Iterable[nn.Module], run: Callable[[], object], share: float) -> None:
    """Scale layers of class logits, so that a share of all places has none above -1.1.

    The largest becomes 2.7: probabilities of 0.25 and 0.94.
    """
    for layer, values in _outputs(layers, run).items():
        centres = values.mean(1)
        best = (values - centres[:, None]).amax(0)
        usual = float(best.quantile(share))
        scale = 3.8 / max(float(best.max()) - usual, 1e-6)
        _rescale(layer, centres, scale, -1.1 - usual * scale)


def _outputs(layers: Iterable[nn.Module], run: Callable[[], object]) -> dict[Any, Tensor]:
    """Return what layers gave while `run` ran, [channels, places] each; none for those not used."""
    seen: dict[Any, list[Tensor]] = {}

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        axis = 1 if output.dim() == 4 else -1
        flat = output.detach().transpose(0, axis).reshape(output.shape[axis], -1)
        seen.setdefault(layer, []).append(flat)

    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return {layer: torch.cat(each, 1) for layer, each in seen.items()}


def _rescale(layer: Any, centres: Tensor, scale: float, mean: float) -> None:
    """Multiply what a layer gives about its channels' centres, and move these to a mean."""
    with torch.no_grad():
        bias = layer.bias.clone()
        layer.weight *= scale
        layer.bias.copy_(mean - (centres - bias) * scale)


# -- files


@dataclass(frozen=True)
class Network:
    """A network that is ready to be written.

    Attributes
    ----------
    net
        From its inputs, in their order, to a tuple.
    inputs
        Examples, by name.
    outputs
        Names.
    axes
        Of inputs and outputs by name: the axes of any length, and what these are called.
    """

    net: nn.Module
    inputs: Mapping[str, Any]
    outputs: Sequence[str]
    axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the ONNX file."""
        torch.onnx.export(
            self.net,
            tuple(self.inputs.values()),
            path,
            dynamo=False,
            opset_version=17,
            input_names=list(self.inputs),
            output_names=list(self.outputs),
            dynamic_axes=dict(self.axes),
        )


class ByName(nn.Module):
    """Some outputs of a network that takes and gives them by name, as a tuple."""

    def __init__(self, net: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.net, self.inputs, self.outputs = net, tuple(inputs), tuple(outputs)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        found = self.net(**dict(zip(self.inputs, values, strict=True)))
        return tuple(found[name] for name in self.outputs)
