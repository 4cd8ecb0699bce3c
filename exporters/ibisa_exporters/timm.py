"""`timm:NAME`: the architectures of timm, with their data configuration.

`NAME.TAG` selects published weights by timm's tag; without a tag, timm's default is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ibisa_exporters.hub import WEIGHTS, fetch_from_hub
from ibisa_exporters.trained import Request, TrainedModel, alike, read_config
from ibisa_exporters.weights import fetch, load_weights, seeded
from ibisa_onnx.errors import ExportError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.models.ort_messages import essence


def load(name: str, request: Request) -> TrainedModel:
    """Build an architecture of timm."""
    timm = import_extra("timm", "timm")
    if not timm.is_model(name.partition(".")[0]):
        near = alike(name, timm.list_models())
        raise ExportError(f"timm has no model {name!r}; similar names: {near}")
    module = _build(timm, name, request)
    config = timm.data.resolve_data_config({}, model=module)
    spec, warnings = read_config(config, "timm", request.size)
    example = torch.zeros(1, config["input_size"][0], *spec.size)
    labels = _labels(timm.data, module)
    return TrainedModel(name, module, example, spec, labels, warnings=warnings)


def _build(timm: Any, name: str, request: Request) -> nn.Module:
    options: dict[str, Any] = {} if request.classes is None else {"num_classes": request.classes}
    with seeded(request.seed):
        try:
            module = _create(timm, name, request.size, options)
        except Exception as error:
            raise ExportError(f"timm cannot build {name}: {essence(error)}") from error
    if request.weights == "default":
        _load_published(timm, module, name)
    elif request.file is not None:
        load_weights(module, request.file, "pass classes=N if the number of classes differs")
    return module.eval()


def _create(
    timm: Any, name: str, size: tuple[int, int] | None, options: Mapping[str, Any]
) -> nn.Module:
    """Build without weights, for an image size if the architecture has one."""
    create = partial(timm.create_model, name, pretrained=False, exportable=True, **options)
    if size is None:
        return create()  # type: ignore[no-any-return]
    try:
        return create(img_size=size)  # type: ignore[no-any-return]
    except TypeError:
        return create()  # type: ignore[no-any-return]  # an architecture for any size


def _load_published(timm: Any, module: nn.Module, name: str) -> None:
    """Load the weights that timm publishes for the architecture."""
    config: Any = module.pretrained_cfg
    advice = "or pass weights=FILE, or weights='none' (random)"

    def load() -> None:
        timm.models.load_pretrained(module)

    if config.get("hf_hub_id"):
        fetch_from_hub(config["hf_hub_id"], WEIGHTS, load, advice)
    elif config.get("url"):
        fetch(config["url"], load, advice)
    else:
        raise ExportError(f"timm publishes no weights of {name}; {advice.removeprefix('or ')}")


def _labels(data: Any, module: nn.Module) -> tuple[str, ...] | None:
    """Return the names of ImageNet's classes, if they are the network's."""
    subset = data.infer_imagenet_subset(module.pretrained_cfg)
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    if info.num_classes() != getattr(module, "num_classes", None):
        return None
    return tuple(info.index_to_description(each) for each in range(info.num_classes()))
