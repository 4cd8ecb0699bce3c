"""The methods by the names that the command line has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ibisa_onnx.errors import OptionError
from ibisa_onnx.methods.base import Method
from ibisa_onnx.methods.grad_cam import GradCam
from ibisa_onnx.methods.iba import Iba
from ibisa_onnx.methods.occlusion import Occlusion
from ibisa_onnx.methods.random_map import RandomMap
from ibisa_onnx.methods.rise import Rise


@dataclass(frozen=True)
class Settings:
    """What the methods are told.

    Attributes
    ----------
    masks
        Of RISE, plain and centred.
    gradcam_layer, iba_layer
        Names of tensors; None: chosen.
    images
        From which IBA estimates.
    """

    masks: int = 4000
    gradcam_layer: str | None = None
    iba_layer: str | None = None
    images: Sequence[Path] = ()


METHODS: Mapping[str, Callable[[Settings], Method]] = MappingProxyType(
    {
        "rise": lambda told: Rise(told.masks),
        "centred-rise": lambda told: Rise(told.masks, centred=True),
        "gradcam": lambda told: GradCam(told.gradcam_layer),
        "iba": lambda told: Iba(tuple(map(str, told.images)), told.iba_layer),
        "occlusion": lambda told: Occlusion(),
        "random": lambda told: RandomMap(),
    }
)


def method_named(name: str, settings: Settings) -> Method:
    """Return a method.

    Raises
    ------
    OptionError
        There is none of that name, or a setting is out of its range.
    """
    if name not in METHODS:
        raise OptionError(f"there is no method {name!r}; choose from: {', '.join(METHODS)}")
    return METHODS[name](settings)
