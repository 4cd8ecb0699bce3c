"""`hf:NAME` or `hf:FOLDER`: image classifiers of transformers, from the hub or a local folder.

A folder contains config.json, preprocessor_config.json and model.safetensors, as written by
`save_pretrained`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibisa_exporters.hub import WEIGHTS, fetch_from_hub
from ibisa_exporters.trained import SIDE, Request, TrainedModel, sides_of, spec_of
from ibisa_exporters.weights import load_weights, seeded, some
from ibisa_onnx.errors import ExportError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.preprocessing.sources.files import read_spec_file

_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # by default it prompts the user


class Logits(nn.Module):
    """A classifier of transformers, reduced to its logits [N, K]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images [N, C, H, W]."""
        logits: Tensor = self.net(pixel_values=images).logits
        return logits


def load(name: str, request: Request) -> TrainedModel:
    """Build an image classifier of transformers."""
    transformers = import_extra("transformers", "transformers")
    if Path(name).is_dir() or Path(name).is_absolute() or name.startswith("."):
        return _load(transformers, name, Path(name), request)
    wanted = (_CONFIG,) if request.weights != "default" else WEIGHTS
    advice = "or use hf:FOLDER with this file, config.json and preprocessor_config.json"
    return fetch_from_hub(
        name, wanted, lambda: _load(transformers, name, _snapshot(name), request), advice
    )


def _snapshot(name: str) -> Path:
    """Return the folder of the hub's cache with the config files, downloading them if needed."""
    hub = import_extra("huggingface_hub", "transformers")
    config = hub.hf_hub_download(name, _CONFIG)
    with contextlib.suppress(OSError):  # there is none, or it is not cached; `_load` warns
        hub.hf_hub_download(name, _PROCESSOR)
    return Path(config).parent


def _load(transformers: Any, name: str, folder: Path, request: Request) -> TrainedModel:
    if not (folder / _CONFIG).is_file():
        raise ExportError(
            f"{folder} contains no {_CONFIG}; use a folder written by save_pretrained"
        )
    config = _config(transformers, name, request)
    module = Logits(_network(transformers, name, config, request)).eval()
    model = Path(name).name
    labels, size = _labels(config), request.size or sides_of(getattr(config, "image_size", None))
    channels = getattr(config, "num_channels", 3)
    if not (folder / _PROCESSOR).is_file():
        example = torch.zeros(1, channels, *(size or (SIDE, SIDE)))
        return TrainedModel(model, module, example, labels=labels)
    layer = read_spec_file(folder / _PROCESSOR)
    spec = spec_of(layer, size)
    example = torch.zeros(1, channels, *spec.size)
    return TrainedModel(model, module, example, spec, labels, warnings=layer.warnings)


def _config(transformers: Any, name: str, request: Request) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(name, **_NO_CODE)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(
            f"transformers cannot read the config of {name}: {essence(error)}"
        ) from error
    config.architectures = config.architectures or []  # transformers requires a list for DeiT
    if request.classes is not None and request.classes != config.num_labels:
        config.num_labels = request.classes
    if request.size is not None and hasattr(config, "image_size"):
        config.image_size = request.size[0] if request.size[0] == request.size[1] else request.size
    return config


def _network(transformers: Any, name: str, config: Any, request: Request) -> nn.Module:
    """Build the classifier that a config describes, with the requested weights."""
    auto = transformers.AutoModelForImageClassification
    try:
        if request.weights == "default":
            return _pretrained(transformers, auto, name, config)
        with seeded(request.seed):
            net: nn.Module = auto.from_config(config, **_NO_CODE)
    except (OSError, ValueError, RuntimeError) as error:
        hint = "; omit size=" if request.size else ""
        raise ExportError(
            f"transformers cannot build a classifier of {name}: {essence(error)}{hint}"
        ) from error
    if request.file is not None:
        load_weights(net, request.file, "pass classes=N if the number of classes differs")
    return net


def _pretrained(transformers: Any, auto: Any, name: str, config: Any) -> nn.Module:
    """Load a classifier, requiring all weights; transformers would initialise missing ones."""
    with _silent(transformers.utils.logging):
        net: nn.Module
        net, found = auto.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, **_NO_CODE
        )
    if missing := sorted(found["missing_keys"]):
        raise ExportError(
            f"the weights of {name} are not a classifier's: {some(missing)} missing; use a model "
            "trained to classify images, or weights='none' (random)"
        )
    return net


@contextlib.contextmanager
def _silent(log: Any) -> Iterator[None]:
    """Suppress transformers' messages and progress bars during loading."""
    drawn, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity(log.CRITICAL)
    try:
        yield
    finally:
        log.set_verbosity(level)
        if drawn:
            log.enable_progress_bar()


def _labels(config: Any) -> tuple[str, ...] | None:
    """Return the names of the classes; None for placeholders such as LABEL_0."""
    names = tuple(str(config.id2label[each]) for each in sorted(config.id2label))
    return None if all(name == f"LABEL_{each}" for each, name in enumerate(names)) else names
