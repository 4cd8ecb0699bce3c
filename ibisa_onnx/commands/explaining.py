"""The options that say how a map is made, and how a target is read; shared by several verbs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ibisa_onnx.commands.model_options import FiniteRange
from ibisa_onnx.commands.outputs import expand
from ibisa_onnx.gradients.selection import GRADIENTS

if TYPE_CHECKING:
    from ibisa_onnx import Explainer
    from ibisa_onnx.methods import Method

# Said here again, so that `--help` need not load what they are keys of; a test holds them equal.
PRESETS = ("paper", "fast", "quality")

TRUST = click.option(
    "--trust",
    "--trust-surrogate",
    "trust",
    is_flag=True,
    help="Run what code a file of torch (.pt2) or Keras may hold; else it is refused.",
)
_OPTIONS = (
    click.option(
        "--preset",
        type=click.Choice(PRESETS),
        default=PRESETS[0],
        show_default=True,
        help="paper: 21 forward + 10 backward passes; fast: 13 + 6, unchecked; quality: 101 + 90.",
    ),
    click.option(
        "--gradient",
        type=click.Choice(GRADIENTS),
        default="auto",
        show_default=True,
        help="Where the backward steps come from.",
    ),
    click.option(
        "--surrogate",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="A differentiable surrogate of the model (.onnx, or a trusted .pt2).",
    ),
    TRUST,
    click.option(
        "--baseline",
        metavar="NAME",
        help="What stands where the picture is hidden: auto (chosen for the picture), blur, mean, "
        "border, noise, inpaint, a colour (#808080) or a picture. Default: auto.",
    ),
    click.option(
        "--blur",
        type=FiniteRange(0),
        metavar="SHARE",
        help="Standard deviation of the blur, as a share of the longer side. Default: 0.045.",
    ),
    click.option(
        "--budget",
        type=click.IntRange(13),
        help="At most so many forward passes when forward-only.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--no-cache", is_flag=True, help="Do not read or write the gradient cache."),
)


def explaining_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb `seed`, and other options on how a map is made as `Explainer` takes them."""

    @functools.wraps(function)
    def wrapped(
        *args: Any,
        preset: str,
        baseline: str | None,
        blur: float | None,
        no_cache: bool,
        **options: Any,
    ) -> None:
        from ibisa_onnx.methods.ibisa.options import options_named

        given: dict[str, Any] = {"baseline": baseline, "blur": blur}
        changed = {name: value for name, value in given.items() if value is not None}
        settings = replace(options_named(preset), **changed)
        function(*args, options=settings, cache=not no_cache, **options)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


METHOD_NAMES = (
    *("ibisa", "rise", "centred-rise", "drise"),
    *("gradcam", "iba", "occlusion", "random"),
)
SIGNED_METHODS = ("ibisa", "occlusion")
"""Those that tell what speaks against an answer, too."""

_OPTION_OF = {  # the methods that an option means
    "masks": ("rise", "centred-rise", "drise"),
    "gradcam_layer": ("gradcam",),
    "iba_layer": ("iba",),
    "iba_images": ("iba",),
}
_METHOD_OPTIONS = (
    click.option(
        "--masks",
        type=click.IntRange(1),
        default=4000,
        show_default=True,
        help="Of RISE and D-RISE.",
    ),
    click.option(
        "--gradcam-layer",
        metavar="TENSOR",
        help="Default: the last before pooling, or before a detector's heads.",
    ),
    click.option(
        "--iba-layer", metavar="TENSOR", help="Default: the last with some 8 pixels a feature."
    ),
    click.option(
        "--iba-images",
        metavar="FOLDER",
        type=click.Path(exists=True, file_okay=False),
        help="Pictures from which IBA estimates its noise. Default: all IMAGEs.",
    ),
)


def method_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of other methods than IBISA, and pass them on as `methods`."""

    @functools.wraps(function)
    def wrapped(
        *args: Any,
        masks: int,
        gradcam_layer: str | None,
        iba_layer: str | None,
        iba_images: str | None,
        **options: Any,
    ) -> None:
        function(
            *args, methods=MethodChoice(masks, gradcam_layer, iba_layer, iba_images), **options
        )

    for option in reversed(_METHOD_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


class TooFewPicturesError(click.UsageError):
    """IBA has fewer pictures to estimate from than it needs."""


@dataclass(frozen=True)
class MethodChoice:
    """What was given of other methods than IBISA."""

    masks: int
    gradcam_layer: str | None
    iba_layer: str | None
    iba_images: str | None

    def check(self, names: Sequence[str]) -> None:
        """Refuse an option of a method that is not among these."""
        context = click.get_current_context()
        for option, owners in _OPTION_OF.items():
            given = context.get_parameter_source(option) is ParameterSource.COMMANDLINE
            if given and not set(owners) & set(names):
                flag = f"--{option.replace('_', '-')}"
                raise click.UsageError(f"{flag} is an option of {', '.join(owners)} alone")

    def named(
        self,
        name: str,
        explainer: Explainer,
        pictures: Sequence[Path],
        warn: Callable[[Path, str], None],
    ) -> tuple[Method, Sequence[Path]]:
        """Return a method, and the files that it reads; IBISA is the explainer's own.

        Parameters
        ----------
        pictures
            From which IBA estimates unless it was given others.
        warn
            Told of each that cannot be read.

        Raises
        ------
        TooFewPicturesError
            It is IBA, and there are not two pictures that can be read.
        """
        from ibisa_onnx.methods.registry import MethodSettings, method_named

        if name == METHOD_NAMES[0]:
            return explainer.method, ()
        files: Sequence[Path] = ()
        if name == "iba":  # which alone looks at other pictures
            given = expand([self.iba_images]) if self.iba_images else list(map(str, pictures))
            files = _readable([Path(each) for each in given], warn)
            if len(files) < 2:
                raise TooFewPicturesError(
                    f"iba estimates from 2 pictures or more, and {len(files)} can be read; give "
                    "--iba-images FOLDER, or leave iba out"
                )
        settings = MethodSettings(self.masks, self.gradcam_layer, self.iba_layer, files)
        return method_named(name, settings), files


def _readable(images: Sequence[Path], warn: Callable[[Path, str], None]) -> list[Path]:
    """Return the pictures from which something can be learnt."""
    from ibisa_onnx.errors import ImageError
    from ibisa_onnx.io.images import read_picture

    found = []
    for image in images:
        try:
            read_picture(image)
            found.append(image)
        except ImageError:
            warn(image, "cannot be read; iba estimates without it")
    return found


def parse_target(text: str) -> str | int:
    """Tell a class index from a label or top:N."""
    from ibisa_onnx.io.literals import parse_integer

    index = parse_integer(text)
    return text if index is None else index


def method_names(text: str) -> list[str]:
    """Return the methods that `--against` names, each once."""
    return list(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
