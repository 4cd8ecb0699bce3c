"""Options on how a map is computed, shared by several verbs."""

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
from ibisa_onnx.commands.usage import usage_errors
from ibisa_onnx.errors import GradientError, OptionError
from ibisa_onnx.gradients.selection import GRADIENTS
from ibisa_onnx.methods.registry import METHODS

if TYPE_CHECKING:
    from ibisa_onnx import Explainer
    from ibisa_onnx.methods import Method

# Repeated here so that `--help` need not import the presets; a test keeps them equal.
PRESETS = ("standard", "fast", "quality")


class PresetChoice(click.Choice[str]):
    """The presets, by an earlier name too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the preset's name."""
        return super().convert(PRESETS[0] if value == "paper" else value, param, ctx)


SEED = click.option(
    "--seed",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    show_default=True,
    help="Random seed.",
)
TRUST = click.option(
    "--trust",
    "--trust-surrogate",
    "trust",
    is_flag=True,
    help="Allow code in PyTorch (.pt2) and Keras files to run; otherwise they are rejected.",
)
_OPTIONS = (
    click.option(
        "--preset",
        type=PresetChoice(PRESETS),
        default=PRESETS[0],
        show_default=True,
        help="Trade-off of cost and quality. standard: 21 forward + 10 backward passes; fast: "
        "13 + 6, without the sufficiency check; quality: 101 + 90.",
    ),
    click.option(
        "--gradient",
        type=click.Choice(GRADIENTS),
        default="auto",
        show_default=True,
        help="Source of the gradient. auto: the surrogate if there is one, else exact if every "
        "operator has a gradient rule, else forward-only.",
    ),
    click.option(
        "--surrogate",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="Differentiable surrogate of the model (.onnx, or .pt2 with --trust).",
    ),
    click.option(
        "--gradient-from",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="Model on a server: the ONNX file it runs, whose gradient is used and checked against "
        "the server's predictions.",
    ),
    TRUST,
    click.option(
        "--baseline",
        metavar="NAME",
        help="Replacement for hidden pixels: auto (chosen for each image), blur, mean, border, "
        "noise, inpaint, a colour (#808080) or an image file. Default: auto.",
    ),
    click.option(
        "--blur",
        type=FiniteRange(0),
        metavar="FRACTION",
        help="Standard deviation of the blur, as a fraction of the longer side. Default: 0.045.",
    ),
    click.option(
        "--budget",
        type=click.IntRange(13),
        metavar="N",
        help="Maximum forward passes for forward-only. Default: 200.",
    ),
    SEED,
    click.option("--no-cache", is_flag=True, help="Do not read or write the gradient cache."),
)


def explaining_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add options on how a map is computed to a verb: `seed`, and arguments of `Explainer`."""

    @functools.wraps(function)
    def wrapped(
        *args: Any,
        preset: str,
        baseline: str | None,
        blur: float | None,
        no_cache: bool,
        **options: Any,
    ) -> None:
        from ibisa_onnx.gradients.selection import check_gradient
        from ibisa_onnx.methods.ibisa.options import options_named

        with usage_errors(GradientError):
            check_gradient(options["gradient"], options["surrogate"], options["gradient_from"])
        if baseline is not None:
            from ibisa_onnx.methods.baselines import check_name

            with usage_errors(OptionError):
                check_name(baseline)
        given: dict[str, Any] = {"baseline": baseline, "blur": blur}
        changed = {name: value for name, value in given.items() if value is not None}
        settings = replace(options_named(preset), **changed)
        function(*args, options=settings, cache=not no_cache, **options)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


IBISA = "ibisa"
METHOD_NAMES = (IBISA, *METHODS)
SIGNED_METHODS = (IBISA, *(name for name, each in METHODS.items() if each.signed))
"""Methods that also find evidence against a prediction."""

_OPTION_OF = {  # the methods that use an option
    "masks": ("rise", "centred-rise", "drise"),
    "gradcam_layer": ("gradcam",),
    "iba_layer": ("iba",),
    "iba_images": ("iba",),
}
_METHOD_OPTIONS = (
    click.option(
        "--masks",
        type=click.IntRange(1),
        metavar="N",
        default=4000,
        show_default=True,
        help="Number of masks for RISE and D-RISE.",
    ),
    click.option(
        "--gradcam-layer",
        metavar="TENSOR",
        help="Grad-CAM layer. Default: the last before pooling, or before a detector's heads.",
    ),
    click.option(
        "--iba-layer",
        metavar="TENSOR",
        help="IBA layer. Default: the last one with a stride of about 8 pixels.",
    ),
    click.option(
        "--iba-images",
        metavar="FOLDER",
        type=click.Path(exists=True, file_okay=False),
        help="Images for IBA's feature statistics. Default: all IMAGEs.",
    ),
)


def method_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of methods other than IBISA to a verb, passed on as `methods`."""

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
    """IBA has fewer images than its feature statistics require."""


@dataclass(frozen=True)
class MethodChoice:
    """Options of methods other than IBISA."""

    masks: int
    gradcam_layer: str | None
    iba_layer: str | None
    iba_images: str | None

    def check(self, names: Sequence[str]) -> None:
        """Raise `click.UsageError` for an option of a method that is not in `names`."""
        unknown = [name for name in names if name not in METHOD_NAMES]
        if unknown:
            raise click.UsageError(
                f"there is no method {unknown[0]!r}; choose from: {', '.join(METHODS)}"
            )
        context = click.get_current_context()
        for option, owners in _OPTION_OF.items():
            given = context.get_parameter_source(option) is ParameterSource.COMMANDLINE
            if given and not set(owners) & set(names):
                flag = f"--{option.replace('_', '-')}"
                raise click.UsageError(f"{flag} applies to {', '.join(owners)} only")

    def named(
        self,
        name: str,
        explainer: Explainer,
        pictures: Sequence[Path],
        warn: Callable[[Path, str], None],
    ) -> tuple[Method, Sequence[Path]]:
        """Return a method and the files it reads; IBISA is the explainer's own.

        Parameters
        ----------
        pictures
            Images for IBA's feature statistics, unless --iba-images was passed.
        warn
            Called for each image that cannot be read.

        Raises
        ------
        TooFewPicturesError
            The method is IBA, and fewer than two images can be read.
        """
        from ibisa_onnx.methods.registry import MethodSettings, method_named

        if name == IBISA:
            return explainer.method, ()
        files: Sequence[Path] = ()
        if name == "iba":  # the only one that reads other images
            given = expand([self.iba_images]) if self.iba_images else list(map(str, pictures))
            files = _readable([Path(each) for each in given], warn)
            if len(files) < 2:
                raise TooFewPicturesError(
                    f"iba requires at least 2 readable images, found {len(files)}; pass "
                    "--iba-images FOLDER, or omit iba"
                )
        settings = MethodSettings(self.masks, self.gradcam_layer, self.iba_layer, files)
        return method_named(name, settings), files


def _readable(images: Sequence[Path], warn: Callable[[Path, str], None]) -> list[Path]:
    """Return the images that can be read."""
    from ibisa_onnx.errors import ImageError
    from ibisa_onnx.io.images import read_picture

    found = []
    for image in images:
        try:
            read_picture(image)
            found.append(image)
        except ImageError:
            warn(image, "cannot be read; not used by iba")
    return found


def parse_target(text: str) -> str | int:
    """Return a class index as an integer, a label or top:N as text."""
    from ibisa_onnx.io.literals import parse_integer

    index = parse_integer(text)
    return text if index is None else index


def method_names(text: str) -> list[str]:
    """Return the methods that `--against` names, without duplicates."""
    return list(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
