"""Detectors and segmenters of torchvision with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from field_set.weights import IMAGENET, UNIT, Network, inputs, settle, spread

SIDE = 320
_NONE = {"weights": None, "weights_backbone": None}
_FREE = {0: "batch", 2: "height", 3: "width"}


def detector(name: str, layers: Callable[[Any], Iterator[Any]], **settings: Any) -> Network:
    """Return a detector, which takes one image [3, H, W], and the last layers of which are given.

    `layers` yields them from the network, each with the mean and the deviation of its scores.
    """
    from torchvision.models import detection

    net = getattr(detection, name)(**_NONE, **settings).eval()
    images = [each[0] for each in inputs(SIDE)]
    settle(net, partial(net, images))
    for layer, mean, std in layers(net):
        spread([layer], partial(net, images), mean, std)
    with torch.no_grad():
        outputs = list(net(images[:1])[0])  # in an order of each network's own
    return Network(net, {"images": images[:1]}, outputs)


def ssd_layers(net: Any) -> Iterator[Any]:
    """Yield the last layer of each level."""
    for level in net.head.classification_head.module_list:
        yield level[1], 0.0, 1.5


def retina_layers(net: Any) -> Iterator[Any]:
    """Yield the last layer, which all levels share."""
    yield net.head.classification_head.cls_logits, -6.0, 1.5


def rcnn_layers(net: Any) -> Iterator[Any]:
    """Yield the last layers of the proposals and of the classes."""
    yield net.rpn.head.cls_logits, -1.0, 1.5
    yield net.roi_heads.box_predictor.cls_score, 0.0, 2.0


class _Out(nn.Module):
    """The segmentation alone, which torchvision gives by name."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)["out"]
        return out


def segmenter(name: str, scaled: bool) -> Network:
    """Return a segmenter; `scaled`: its scores are spread."""
    from torchvision.models import segmentation

    net = getattr(segmentation, name)(**_NONE).eval()
    images = torch.cat(inputs(SIDE, IMAGENET if scaled else UNIT))
    settle(net, partial(net, images))
    if scaled:
        spread([net.classifier[-1]], partial(net, images), 0.0, 2.0)
    return Network(_Out(net), {"input": images[:1]}, ["out"], {"input": _FREE, "out": _FREE})


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "tv_ssdlite320": partial(detector, "ssdlite320_mobilenet_v3_large", ssd_layers),
    "tv_retinanet_r50": partial(
        detector, "retinanet_resnet50_fpn", retina_layers, min_size=SIDE, max_size=SIDE
    ),
    "tv_fasterrcnn_mnv3_320": partial(
        detector, "fasterrcnn_mobilenet_v3_large_320_fpn", rcnn_layers
    ),
    "tv_deeplabv3_mnv3": partial(segmenter, "deeplabv3_mobilenet_v3_large", scaled=True),
    "tv_lraspp_mnv3": partial(segmenter, "lraspp_mobilenet_v3_large", scaled=False),
}
