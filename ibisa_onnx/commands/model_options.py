"""The options that say which model is meant and how pictures are put to it.

Shared by the verbs that open a model; each gets them as one `ModelChoice`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.stdin import piped_model
from ibisa_onnx.escaping import shortened
from ibisa_onnx.io.literals import parse_integer, parse_number

if TYPE_CHECKING:
    import numpy.typing as npt

    from ibisa_onnx import Explainer
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.preprocessing.resolve import Overrides, ResolvedPreprocessing
    from ibisa_onnx.targets.labels import KnownLabels
    from ibisa_onnx.targets.reader import OutputReader

# Said here again, so that `--help` need not load what they are keys of; a test holds them equal.
PRESETS = ("imagenet", "caffe", "tf", "unit", "raw")
CHANNEL_ORDERS = ("RGB", "BGR", "GRAY", "RGBA", "BGRA", "AS-IS")
DEPTHS = ("8-bit", "full")
RESIZES = ("shortest", "stretch", "stretch-crop", "letterbox", "letterbox-corner", "none")
CLASSIFIER = "classifier"
KINDS = (
    *("detector", "text recogniser", "segmenter", "embedder", "regression", "depth", "keypoints"),
    CLASSIFIER,
)
ACTIVATIONS = ("softmax", "log-probability", "probability", "sigmoid", "sigmoid-logit")
INTERPOLATIONS = ("nearest", "box", "bilinear", "bicubic", "lanczos")


def quoted(value: Any) -> str:
    """Return what was given as an error quotes it."""
    return shortened(repr(value), 200)


def numbers(text: str) -> tuple[float, ...] | None:
    """Read finite numbers with commas between them; None of other text."""
    found = [number for number in map(parse_number, text.split(",")) if number is not None]
    return tuple(found) if len(found) == text.count(",") + 1 else None


class FiniteRange(click.FloatRange):
    """A range of numbers; NaN, which is in each of click's own, and infinity are none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:  # noqa: D102
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number")
        return number


class _Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        found = numbers(value)
        if found is None:
            self.fail(f"{quoted(value)} is not a number or several with commas: 0.485,0.456,0.406")
        return found


class _Size(click.ParamType[tuple[int, int]]):
    """A height and a width, or one number for both."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        sides = value.lower().split("x")
        found = [side for side in map(parse_integer, sides) if side is not None and side > 0]
        if len(sides) > 2 or len(found) < len(sides):
            self.fail(f"{quoted(value)} is not a size in pixels: 224 or, height first, 240x320")
        return found[0], found[-1]


class _NamedValue(click.ParamType[tuple[str, "npt.NDArray[Any]"]]):
    """An input's name and its value: a number, several with commas, or a .npy file."""

    name = "named value"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, npt.NDArray[Any]]:
        import numpy as np

        from ibisa_onnx.errors import OptionError
        from ibisa_onnx.io.arrays import load_npy

        name, _, text = value.partition("=")
        if name and text.endswith(".npy"):
            try:
                return name, load_npy(text, "input", OptionError)
            except OptionError as error:
                self.fail(str(error))
        found = numbers(text)
        if not name or found is None:
            self.fail(f"{quoted(value)} is not NAME=NUMBER, NAME=NUMBER,NUMBER or NAME=FILE.npy")
        return name, np.array(found)


@dataclass(frozen=True)
class ModelChoice:
    """What was said of the model on the command line.

    `preprocess` is a preset or a spec file, `flags` the single values that go before it.
    """

    model: str
    providers: tuple[str, ...]
    input: str | None
    output: str | None
    activation: str | None
    labels: str | None
    kind: str | None
    threads: int | None
    extra_inputs: tuple[tuple[str, npt.NDArray[Any]], ...]
    preprocess: str | None
    flags: dict[str, Any]

    def for_values(self, of_values: bool) -> ModelChoice:
        """Return the choice with its output left to a target of values, where one is asked for."""
        return replace(self, output=None) if of_values else self

    def source(self) -> str | bytes:
        """Return the model's path, or its bytes from stdin."""
        return piped_model() if self.model == STDIO else self.model

    def open(self) -> DeployedModel:
        """Open the model alone."""
        from ibisa_onnx.models.onnx_session import DeployedModel

        return DeployedModel.open(
            self.source(), layout=self.flags.get("layout"), **self._on_opening()
        )

    def explainer(self, model: DeployedModel | None = None, **options: Any) -> Explainer:
        """Open the model, or take an open one, to be explained; `options` are `Explainer`'s."""
        from ibisa_onnx import Explainer

        return Explainer(
            self.source() if model is None else model,
            output=self.output,
            activation=self.activation,
            preprocessing=self.preprocess,
            overrides=self._overrides(),
            labels=self.labels,
            kind=self.kind,
            **(self._on_opening() if model is None else {}),
            **options,
        )

    def _on_opening(self) -> dict[str, Any]:
        """Return what counts while a model is opened, and not after."""
        return {
            "providers": self.providers,
            "input": self.input,
            "threads": self.threads,
            "extra_inputs": dict(self.extra_inputs),
        }

    def read(self, model: DeployedModel) -> tuple[ResolvedPreprocessing, OutputReader]:
        """Settle the preprocessing of an open model, and what reads its outputs.

        Raises
        ------
        IbisaError
            What is said contradicts the model.
        """
        from ibisa_onnx.targets.opening import open_reader

        return open_reader(
            model,
            self.preprocess,
            self._overrides(),
            output=self.output,
            activation=self.activation,
            labels=self.labels,
            kind=self.kind,
        )

    def find_labels(self, reader: OutputReader) -> tuple[KnownLabels | None, list[str]]:
        """Return the labels of an open model, and warnings of those that do not fit it.

        Raises
        ------
        TargetError
            Those that were given do not fit.
        """
        found, warnings = reader.declared_labels()
        if found is not None and self.labels is not None:
            found = replace(found, source=f"flag --labels {self.labels}")
        return found, warnings

    def _overrides(self) -> Overrides:
        from ibisa_onnx.preprocessing.resolve import Overrides

        return Overrides(**self.flags)


def _check_preprocess(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Tell a preset from a file, and see that it is one of the two."""
    if value is None or value.lower() in PRESETS:
        return value and value.lower()
    from ibisa_onnx.io.files import is_regular

    if not is_regular(value):
        raise click.BadParameter(
            f"{quoted(value)} is neither a preset ({', '.join(PRESETS)}) nor a file"
        )
    return value


SIZE = _Size()
PREPROCESS = click.option(
    "--preprocess",
    metavar="PRESET|FILE",
    callback=_check_preprocess,
    help=f"{', '.join(PRESETS)}, or a file: TOML, JSON, or a framework's.",
)
RESIZE = click.option(
    "--resize", type=click.Choice(RESIZES), help="How a picture is brought to the input's size."
)
_FLAGS = (
    click.option("--size", type=SIZE, help="Of the model's input: 224, or 240x320 (height)."),
    RESIZE,
    click.option(
        "--shorter-side",
        type=click.IntRange(1),
        help="Before the crop of 'shortest' and 'stretch-crop'.",
    ),
    click.option("--pad-value", type=click.IntRange(0, 255), help="Of a letterbox's margins."),
    click.option("--interpolation", type=click.Choice(INTERPOLATIONS)),
    click.option("--channel-order", type=click.Choice(CHANNEL_ORDERS, case_sensitive=False)),
    click.option(
        "--depth",
        type=click.Choice(DEPTHS),
        help="16-bit and float pictures: brought to 0..255, or their own values.",
    ),
    click.option("--scale", type=float, help="The model gets (pixel * scale - mean) / std."),
    click.option("--mean", type=_Numbers(), help="One number, or one for each channel: a,b,c."),
    click.option("--std", type=_Numbers(), help="One number, or one for each channel: a,b,c."),
    click.option("--layout", type=click.Choice(("NCHW", "NHWC"), case_sensitive=False)),
)
_FLAG_NAMES = (
    "size",
    "resize",
    "shorter_side",
    "pad_value",
    "interpolation",
    "channel_order",
    "depth",
    "scale",
    "mean",
    "std",
    "layout",
)
_OPTIONS = (
    click.option("--labels", metavar="FILE", help="Names of the classes, one a line."),
    PREPROCESS,
    *_FLAGS,
    click.option("--input", metavar="NAME", help="The model's input that takes the image."),
    click.option(
        "--extra-input",
        "extra_inputs",
        type=_NamedValue(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Value of another input: a number, several with commas, or a .npy file. Repeatable.",
    ),
    click.option(
        "--output", metavar="NAME", help="What holds class scores: an output or inner tensor."
    ),
    click.option(
        "--kind", type=click.Choice(KINDS), help="What the model is, where that is told wrongly."
    ),
)
_ON_RUNNING = (
    click.option(
        "--provider",
        "providers",
        multiple=True,
        metavar="NAME",
        help="cuda, tensorrt, openvino, dml, coreml, cpu … Repeatable. Default: CUDA if it works.",
    ),
    click.option(
        "--activation",
        type=click.Choice(ACTIVATIONS),
        help="How scores become probabilities, where that is read wrongly.",
    ),
    click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads for each operator."),
)
_GIVEN = ("input", "output", "labels", "kind", "extra_inputs")
# What holds of these where a model is only read.
_READ_ONLY: dict[str, Any] = {"providers": ("cpu",), "activation": None, "threads": None}


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options on its MODEL, and pass them to it as `choice`."""
    return _with_options(function, (*_OPTIONS, *_ON_RUNNING))


def described_model_options(function: Callable[..., None]) -> Callable[..., None]:
    """The same for a verb that opens MODEL only to read it: on the CPU, whatever it runs on."""
    return _with_options(function, _OPTIONS)


def _with_options(
    function: Callable[..., None], given: Sequence[Callable[..., Any]]
) -> Callable[..., None]:
    """Give a verb options, and pass all that they say to it as `choice`."""

    @functools.wraps(function)
    def wrapped(*args: Any, model: str, preprocess: str | None, **options: Any) -> None:
        flags = {name: options.pop(name) for name in _FLAG_NAMES}
        said = {name: value for name, value in flags.items() if value is not None}
        mine = {name: options.pop(name) for name in _GIVEN}
        mine |= {name: options.pop(name, unsaid) for name, unsaid in _READ_ONLY.items()}
        choice = ModelChoice(model=model, preprocess=preprocess, flags=said, **mine)
        function(*args, choice=choice, **options)

    for option in reversed(given):
        wrapped = option(wrapped)
    return wrapped
