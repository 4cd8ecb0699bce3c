"""The options that say how a map is made, and how a target is read; shared by several verbs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import click

from ibisa_onnx.gradients.selection import GRADIENTS

# Said here again, so that `--help` need not load what they are keys of; a test holds them equal.
PRESETS = ("paper", "fast", "quality")

_OPTIONS = (
    click.option(
        "--preset",
        type=click.Choice(PRESETS),
        default=PRESETS[0],
        show_default=True,
        help="paper: 20 forward + 10 backward passes; fast: 8 + 6, unchecked; quality: 100 + 90. "
        "Lead over RISE-4000 in insertion minus deletion, on SqueezeNet and MobileNetV2: "
        "+.11 and +.07, +.11 and +.04, +.18 and +.12.",
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
        help="A differentiable twin of the model (.pt2).",
    ),
    click.option(
        "--budget",
        type=click.IntRange(13),
        help="At most so many forward passes when forward-only.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option(
        "--no-cache", is_flag=True, help="Keep no gradient for the next time, nor use one."
    ),
)


def explaining_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb `seed`, and other options on how a map is made as `Explainer` takes them."""

    @functools.wraps(function)
    def wrapped(*args: Any, preset: str, no_cache: bool, **options: Any) -> None:
        function(*args, options=preset, cache=not no_cache, **options)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def parse_target(text: str) -> str | int:
    """Tell a class index from a label or top:N."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else text


def method_names(text: str) -> list[str]:
    """Return the methods that `--against` names, each once."""
    return list(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
