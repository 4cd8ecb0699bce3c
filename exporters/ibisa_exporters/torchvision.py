"""`torchvision:NAME`: the classifiers of torchvision, with their transforms and class names.

`NAME.TAG` selects published weights other than the default: `resnet50.IMAGENET1K_V1`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibisa_exporters.trained import Request, TrainedModel, alike, read_config
from ibisa_exporters.weights import fetch, load_weights, seeded
from ibisa_onnx.errors import ExportError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.models.ort_messages import essence

# Their published weights, and networks fine-tuned from them, expect the scaling of another
# framework; without weights, torchvision builds them without that step.
_RESCALING = ("googlenet", "inception_v3")


_DOWNLOAD: dict[str, Any] = {"progress": False, "check_hash": True, "weights_only": True}


def load(name: str, request: Request) -> TrainedModel:
    """Build an architecture of torchvision."""
    models = import_extra("torchvision", "torchvision").models
    architecture, _, tag = name.partition(".")
    published = _published(models, architecture, tag)
    module = _build(models, architecture, published, request)
    spec, warnings = read_config(vars(published.transforms()), "torchvision", request.size)
    known = tuple(published.meta["categories"])
    labels = known if request.classes in (None, len(known)) else None
    example = torch.zeros(1, 3, *spec.size)
    if architecture in _RESCALING and request.weights != "default":
        warnings += (f"{architecture} is built with transform_input=True, as for its own weights",)
    return TrainedModel(name, module, example, spec, labels, warnings=warnings)


def _published(models: Any, architecture: str, tag: str) -> Any:
    """Return the entry of the published weights, which includes transforms and categories."""
    known = models.list_models(module=models)
    if architecture not in known:
        raise ExportError(
            f"torchvision has no classifier {architecture!r}; "
            f"similar names: {alike(architecture, known)}"
        )
    weights = models.get_model_weights(architecture)
    if tag and tag not in weights.__members__:
        raise ExportError(
            f"torchvision has no weights {tag!r} of {architecture}; "
            f"choose from: {', '.join(weights.__members__)}"
        )
    return weights[tag] if tag else weights.DEFAULT


def _build(models: Any, architecture: str, published: Any, request: Request) -> nn.Module:
    options: dict[str, Any] = {}
    if architecture in _RESCALING:
        options = {"transform_input": True, "init_weights": False}
    if request.size is not None:
        options |= _sized(architecture, request.size)
    if request.classes is not None:
        options["num_classes"] = request.classes
    with seeded(request.seed):
        try:
            module: nn.Module = models.get_model(architecture, weights=None, **options)
        except Exception as error:
            raise ExportError(
                f"torchvision cannot build {architecture}: {essence(error)}"
            ) from error
    if request.weights == "default":
        load_weights(module, _cached(published))
    elif request.file is not None:
        load_weights(module, request.file, "pass classes=N if the number of classes differs")
    return module.eval()


def _sized(architecture: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments that set the input size, for architectures that require it."""
    if architecture.startswith("maxvit_"):
        return {"input_size": size}
    if not architecture.startswith("vit_"):
        return {}
    if size[0] != size[1]:
        raise ExportError(
            f"{architecture} of torchvision requires square images; pass one number for size="
        )
    return {"image_size": size[0]}


def _cached(published: Any) -> Path:
    """Return the file of published weights, downloading it if needed."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file: Path = folder / published.url.rsplit("/", 1)[-1]
    if not file.is_file():
        fetch(
            published.url,
            lambda: published.get_state_dict(**_DOWNLOAD),
            f"put {file.name} into {folder}, or pass weights=FILE, or weights='none' (random)",
        )
    return file
