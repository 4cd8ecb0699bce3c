"""Small detectors of transformers with random weights, which answer with a box for each query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from field_set.configured import SIDES, built, config, network, sees, sizes
from field_set.weights import IMAGENET, Network, inputs, settle, spread

OUTPUTS = ("logits", "pred_boxes")
_SIZES = {"layers": 2, "attention_heads": 4, "ffn_dim": 128}
_CODERS = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in _SIZES.items()}


def detr() -> Network:
    """DETR on a small ResNet."""
    backbone = config(
        "ResNetConfig",
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    net = built(
        "DetrForObjectDetection",
        "DetrConfig",
        use_timm_backbone=False,
        backbone_config=backbone,
        use_pretrained_backbone=False,
        backbone=None,
        d_model=64,
        **_CODERS,
        num_queries=50,
        num_labels=91,
    )
    images = inputs(320, IMAGENET)
    settle(net, sees(net, images[:1]))
    with torch.no_grad():
        net.model.query_position_embeddings.weight.normal_()
    _spread_queries(net, net.class_labels_classifier, images)
    return network(net, images[0], OUTPUTS, SIDES)


def yolos() -> Network:
    """YOLOS: a vision transformer with a token for each box."""
    net = built(
        "YolosForObjectDetection",
        "YolosConfig",
        **sizes(64, 2),
        intermediate_size=128,
        image_size=[320, 320],
        patch_size=16,
        num_detection_tokens=50,
        num_labels=91,
    )
    images = inputs(320, IMAGENET)
    with torch.no_grad():
        net.vit.embeddings.detection_tokens.normal_()
        net.vit.embeddings.position_embeddings.normal_(std=0.5)
    _spread_queries(net, net.class_labels_classifier.layers[-1], images)
    return network(net, images[0], OUTPUTS)


def _spread_queries(net: Any, classes: Any, images: Sequence[Tensor]) -> None:
    """Let queries differ in class and place; most are no object, and boxes are small."""
    boxes = net.bbox_predictor.layers[-1]
    spread([classes], sees(net, images), 0.0, 3.0)
    spread([boxes], sees(net, images), 0.0, 1.0)
    with torch.no_grad():
        classes.bias[-1] += 6
        boxes.bias[2:] -= 1


def rt_detr(version: str) -> Network:
    """RT-DETR on a small ResNet; version "" or "V2"."""
    backbone = config(
        "RTDetrResNetConfig",
        embedding_size=16,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 1, 1, 1],
        layer_type="bottleneck",
        out_features=["stage2", "stage3", "stage4"],
    )
    net = built(
        f"RTDetr{version}ForObjectDetection",
        f"RTDetr{version}Config",
        backbone_config=backbone,
        backbone=None,
        use_pretrained_backbone=False,
        encoder_hidden_dim=64,
        encoder_in_channels=[64, 96, 128],
        feat_strides=[8, 16, 32],
        d_model=64,
        num_queries=100,
        decoder_in_channels=[64, 64, 64],
        **{**_CODERS, "encoder_layers": 1},
        num_labels=80,
        anchor_image_size=None,
    )
    image = inputs(320)[0]
    settle(net, sees(net, [image]))
    with torch.no_grad():
        for layer in getattr(net.model.decoder, "class_embed", None) or net.class_embed:
            layer.weight *= 3
            layer.bias.fill_(-3.5)
        net.model.enc_score_head.weight *= 3
    return network(net, image, OUTPUTS)


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "hf_detr": detr,
    "hf_yolos": yolos,
    "hf_rtdetr": partial(rt_detr, ""),
    "hf_rtdetr_v2": partial(rt_detr, "V2"),
}
