"""Small segmenters, embedders, depth, pose and enlargement of transformers with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from field_set.configured import SIDES, built, config, network, sees, sizes
from field_set.weights import (
    HALF,
    IMAGENET,
    PHOTOGRAPHS,
    UNIT,
    ByName,
    Network,
    Scale,
    as_input,
    inputs,
    photograph,
    settle,
    spread,
)

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_EMBEDDED = ("last_hidden_state", "pooler_output")


# -- maps


def segformer() -> Network:
    """SegFormer, of any size of image."""
    net = built(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=64,
        num_labels=19,
    )
    image = inputs(512, IMAGENET)[0]
    settle(net, sees(net, [image]))
    with torch.no_grad():
        net.decode_head.classifier.weight *= 30
    return network(net, image, ["logits"], SIDES)


def dpt() -> Network:
    """DPT: depth by a vision transformer."""
    net = built(
        "DPTForDepthEstimation",
        "DPTConfig",
        **sizes(64, 4),
        intermediate_size=128,
        image_size=384,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 32, 48, 64],
        fusion_hidden_size=32,
    )
    image = inputs(384, HALF)[0]
    spread([net.head.head[4]], sees(net, [image]), 3.0, 1.0)
    return network(net, image, ["predicted_depth"])


def depth_anything() -> Network:
    """Depth Anything: depth by DINOv2."""
    backbone = config(
        "Dinov2Config",
        **sizes(64, 4),
        image_size=224,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    net = built(
        "DepthAnythingForDepthEstimation",
        "DepthAnythingConfig",
        backbone_config=backbone,
        reassemble_hidden_size=64,
        neck_hidden_sizes=[16, 32, 48, 64],
        fusion_hidden_size=32,
        patch_size=14,
    )
    image = inputs(224, IMAGENET)[0]
    spread([net.head.conv3], sees(net, [image]), 3.0, 1.0)
    return network(net, image, ["predicted_depth"])


def vitpose() -> Network:
    """ViTPose: a heat map for each of 17 keypoints."""
    backbone = config(
        "VitPoseBackboneConfig",
        **sizes(64, 2),
        image_size=[256, 192],
        patch_size=[16, 16],
        out_features=["stage2"],
    )
    net = built(
        "VitPoseForPoseEstimation",
        "VitPoseConfig",
        backbone_config=backbone,
        num_labels=17,
        scale_factor=4,
        use_simple_decoder=True,
    )
    image = as_input(photograph(PHOTOGRAPHS[0]), (256, 192), IMAGENET)
    settle(net, sees(net, [image]))
    return network(net, image, ["heatmaps"])


# -- what keeps the weights that were drawn


def as_drawn(
    name: str,
    configuration: str,
    outputs: Sequence[str],
    scale: Scale,
    is_open: bool = True,
    **fields: Any,
) -> Network:
    """Return a network of a class and its configuration; `is_open`: it takes any batch."""
    net = built(name, configuration, **fields)
    found = network(net, inputs(fields["image_size"], scale)[0], outputs)
    return found if is_open else replace(found, axes={})


def clip() -> Network:
    """The whole of CLIP: an image beside two texts."""
    net = built(
        "CLIPModel",
        "CLIPConfig",
        projection_dim=64,
        text_config={
            **sizes(64, 2),
            "intermediate_size": 128,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "projection_dim": 64,
        },
        vision_config={
            **sizes(128, 2),
            "intermediate_size": 256,
            "image_size": 224,
            "patch_size": 32,
            "projection_dim": 64,
        },
    )
    words = torch.tensor([[49406, 320, 1125, 539, 320, each, 49407] for each in (2368, 1929)])
    examples = {
        "input_ids": words,
        "pixel_values": inputs(224, CLIP)[0],
        "attention_mask": torch.ones_like(words),
    }
    image, text = {0: "image_batch_size"}, {0: "text_batch_size"}
    axes: dict[str, Mapping[int, str]] = {
        "input_ids": {**text, 1: "sequence_length"},
        "attention_mask": {**text, 1: "sequence_length"},
        "pixel_values": image,
        "logits_per_image": {**image, 1: "text_batch_size"},
        "logits_per_text": {**text, 1: "image_batch_size"},
        "text_embeds": text,
        "image_embeds": image,
    }
    outputs = list(axes)[3:]
    return Network(ByName(net, list(examples), outputs), examples, outputs, axes)


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "hf_segformer": segformer,
    "hf_clip_vision": partial(
        as_drawn,
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        ("image_embeds", "last_hidden_state"),
        CLIP,
        **sizes(128, 3),
        intermediate_size=256,
        projection_dim=64,
        image_size=224,
        patch_size=32,
    ),
    "hf_clip": clip,
    "hf_siglip_vision": partial(
        as_drawn,
        "SiglipVisionModel",
        "SiglipVisionConfig",
        _EMBEDDED,
        HALF,
        **sizes(96, 3),
        intermediate_size=192,
        image_size=224,
        patch_size=16,
    ),
    "hf_dinov2": partial(
        as_drawn,
        "Dinov2Model",
        "Dinov2Config",
        _EMBEDDED,
        IMAGENET,
        **sizes(96, 3),
        image_size=224,
        patch_size=14,
    ),
    "hf_dpt_depth": dpt,
    "hf_depth_anything": depth_anything,
    "hf_vitpose": vitpose,
    "hf_swin2sr": partial(
        as_drawn,
        "Swin2SRForImageSuperResolution",
        "Swin2SRConfig",
        ("reconstruction",),
        UNIT,
        is_open=False,
        image_size=64,
        embed_dim=24,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=8,
        upscale=2,
        upsampler="pixelshuffledirect",
    ),
}
