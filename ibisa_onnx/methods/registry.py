"""The methods by the names that the command line has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ibisa_onnx.errors import OptionError
from ibisa_onnx.methods.base import Method
from ibisa_onnx.methods.drise import DRise
from ibisa_onnx.methods.grad_cam import GradCam
from ibisa_onnx.methods.iba import Iba
from ibisa_onnx.methods.occlusion import Occlusion
from ibisa_onnx.methods.random_map import RandomMap
from ibisa_onnx.methods.rise import Rise


@dataclass(frozen=True)
class MethodSettings:
    """What the methods are given.

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


METHODS: Mapping[str, Callable[[MethodSettings], Method]] = MappingProxyType(
    {
        "rise": lambda given: Rise(given.masks),
        "centred-rise": lambda given: Rise(given.masks, centred=True),
        "drise": lambda given: DRise(given.masks),
        "gradcam": lambda given: GradCam(given.gradcam_layer),
        "iba": lambda given: Iba(tuple(map(str, given.images)), given.iba_layer),
        "occlusion": lambda given: Occlusion(),
        "random": lambda given: RandomMap(),
    }
)


def method_named(name: str, settings: MethodSettings | None = None) -> Method:
    """Return a method.

    Raises
    ------
    OptionError
        There is none of that name, or a setting is out of its range.
    """
    if name not in METHODS:
        raise OptionError(f"there is no method {name!r}; choose from: {', '.join(METHODS)}")
    return METHODS[name](settings or MethodSettings())
