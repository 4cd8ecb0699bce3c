"""Networks of transformers, built from a configuration alone, as ONNX files of one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from field_set.weights import ByName, Network

_BATCH = {0: "batch_size"}
SIDES = {2: "height", 3: "width"}


def config(name: str, **fields: Any) -> Any:
    """Return a configuration, whose attention is plain operators."""
    import transformers

    return getattr(transformers, name)(attn_implementation="eager", **fields)


def built(name: str, configuration: str, **fields: Any) -> Any:
    """Return a network of a class and a class of configurations."""
    import transformers

    return getattr(transformers, name)(config(configuration, **fields)).eval()


def sees(net: nn.Module, images: Sequence[Tensor]) -> Callable[[], object]:
    """Return what shows a network some images, one by one."""
    return lambda: [net(pixel_values=each) for each in images]


def network(
    net: nn.Module, image: Tensor, outputs: Sequence[str], sides: Mapping[int, str] | None = None
) -> Network:
    """Return a network of one image; its batch is open, and its sides if they are named."""
    axes: dict[str, Mapping[int, str]] = dict.fromkeys(outputs, _BATCH)
    axes["pixel_values"] = {**_BATCH, **(sides or {})}
    return Network(ByName(net, ["pixel_values"], outputs), {"pixel_values": image}, outputs, axes)


def sizes(width: int, count: int) -> dict[str, Any]:
    """Return the sizes of a transformer, as most configurations name them."""
    return {"hidden_size": width, "num_hidden_layers": count, "num_attention_heads": 4}
