"""Attribution methods by the names that the command line uses.

A method's module is imported when the method is created, so that the command line can list the
names at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ibisa_onnx.errors import OptionError

if TYPE_CHECKING:
    from ibisa_onnx.methods.base import Method


@dataclass(frozen=True)
class MethodSettings:
    """Settings from which `method_named` creates a method.

    Attributes
    ----------
    masks
        Number of masks of RISE (plain and centred) and D-RISE.
    gradcam_layer, iba_layer
        Names of tensors for Grad-CAM and IBA; None to choose them.
    images
        Image files from which IBA estimates its statistics.
    """

    masks: int = 4000
    gradcam_layer: str | None = None
    iba_layer: str | None = None
    images: Sequence[Path] = ()


@dataclass(frozen=True)
class MethodEntry:
    """A method that comparisons may use.

    Attributes
    ----------
    home
        Module within `ibisa_onnx.methods`, and class.
    arguments
        Function from settings to the class's arguments.
    signed
        Whether its maps also show what lowers the score.
    """

    home: tuple[str, str]
    arguments: Callable[[MethodSettings], Mapping[str, Any]] = lambda given: {}
    signed: bool = False

    def __call__(self, settings: MethodSettings) -> Method:
        """Import the class, and create the method."""
        module, name = self.home
        home = import_module(f"ibisa_onnx.methods.{module}")
        method: Method = getattr(home, name)(**self.arguments(settings))
        return method


MethodName = Literal[
    "ibisa", "rise", "centred-rise", "drise", "gradcam", "iba", "occlusion", "random"
]
"""The names of IBISA and of `METHODS`, for type checkers."""
METHODS: Mapping[str, MethodEntry] = MappingProxyType(
    {
        "rise": MethodEntry(("rise", "Rise"), lambda given: {"masks": given.masks}),
        "centred-rise": MethodEntry(
            ("rise", "Rise"), lambda given: {"masks": given.masks, "centred": True}
        ),
        "drise": MethodEntry(("drise", "DRise"), lambda given: {"masks": given.masks}),
        "gradcam": MethodEntry(
            ("grad_cam", "GradCam"), lambda given: {"layer": given.gradcam_layer}
        ),
        "iba": MethodEntry(
            ("iba", "Iba"),
            lambda given: {"images": tuple(map(str, given.images)), "layer": given.iba_layer},
        ),
        "occlusion": MethodEntry(("occlusion", "Occlusion"), signed=True),
        "random": MethodEntry(("random_map", "RandomMap")),
    }
)


def method_named(name: str, settings: MethodSettings | None = None) -> Method:
    """Create a comparison method by its name on the command line.

    Parameters
    ----------
    name
        A key of `METHODS`, such as "rise" or "gradcam".
    settings
        Settings of the method; None for the defaults.

    Raises
    ------
    OptionError
        There is no such method, or a setting is out of range.
    """
    if name not in METHODS:
        raise OptionError(f"there is no method {name!r}; choose from: {', '.join(METHODS)}")
    return METHODS[name](settings or MethodSettings())
