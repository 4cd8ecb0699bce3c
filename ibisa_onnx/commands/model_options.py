"""Options on the model and its preprocessing, shared by the verbs that open a model.

Each verb receives them as one `ModelChoice`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.stdin import piped_model
from ibisa_onnx.commands.usage import FILE, usage_errors
from ibisa_onnx.escaping import shortened
from ibisa_onnx.io.literals import parse_integer, parse_number

if TYPE_CHECKING:
    import numpy.typing as npt

    from ibisa_onnx import Explainer, InputSpec
    from ibisa_onnx.models.base import ImageModel
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.preprocessing.resolve import Overrides, ResolvedPreprocessing
    from ibisa_onnx.targets.labels import KnownLabels
    from ibisa_onnx.targets.reader import OutputReader

# Repeated here so that `--help` need not import the registries; a test keeps them equal.
PRESETS = ("imagenet", "caffe", "tf", "unit", "raw")
_TENSOR = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")
_CHANNELS = {"GRAY": 1, "RGB": 3, "BGR": 3, "RGBA": 4, "BGRA": 4}
CHANNEL_ORDERS = ("RGB", "BGR", "GRAY", "RGBA", "BGRA", "AS-IS")
DEPTHS = ("8-bit", "full")
RESIZES = ("shortest", "stretch", "stretch-crop", "letterbox", "letterbox-corner", "none")
_MOST_SIDE = 2**31 - 1  # pixels
CLASSIFIER = "classifier"
KINDS = (
    *("detector", "text recogniser", "segmenter", "embedder", "regression", "depth", "keypoints"),
    CLASSIFIER,
)
ACTIVATIONS = ("softmax", "log-probability", "probability", "sigmoid", "sigmoid-logit")
INTERPOLATIONS = ("nearest", "box", "bilinear", "bicubic", "lanczos")


def quoted(value: Any) -> str:
    """Return a value as quoted in an error, shortened."""
    return shortened(repr(value), 200)


def numbers(text: str) -> tuple[float, ...] | None:
    """Parse comma-separated finite numbers; return None for any other text."""
    found = [number for number in map(parse_number, text.split(",")) if number is not None]
    return tuple(found) if len(found) == text.count(",") + 1 else None


class Finite(click.types.FloatParamType):
    """A finite number; click's own accept NaN and infinity."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:  # noqa: D102
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number")
        return number


class FiniteRange(click.FloatRange, Finite):
    """A range of finite numbers."""


class _Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        found = numbers(value)
        if found is None:
            self.fail(f"{quoted(value)} is not a list of numbers such as 0.485,0.456,0.406")
        return found


class _Size(click.ParamType[tuple[int, int]]):
    """A height and a width, or one number for a square."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        sides = value.lower().split("x")
        found = [side for side in map(parse_integer, sides) if side and 0 < side <= _MOST_SIDE]
        if len(sides) > 2 or len(found) < len(sides):
            self.fail(
                f"{quoted(value)} is not a size in pixels; use 224 or HEIGHTxWIDTH, e.g. 240x320"
            )
        return found[0], found[-1]


class _NamedValue(click.ParamType[tuple[str, "npt.NDArray[Any]"]]):
    """An input's name and its value: a number, comma-separated numbers, or a .npy file."""

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


class _Header(click.ParamType[tuple[str, str]]):
    """A header's name and value; errors do not quote the value, which may be secret."""

    name = "header"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        name, colon, text = value.partition(":")
        if not colon or not name.strip() or not text.strip():
            self.fail("not NAME:VALUE, such as 'X-Tenant: 7'")
        return name.strip(), text.strip()


class _Spec(click.ParamType["InputSpec"]):
    """The image input of a model, and its outputs: dtype and shape, then names and shapes."""

    name = "spec"

    def convert(self, value: Any, param: Any, ctx: Any) -> InputSpec:
        from ibisa_onnx.errors import ModelError
        from ibisa_onnx.models.function import InputSpec

        found = [_TENSOR.fullmatch(each) for each in value.split()]
        if not found or None in found:
            self.fail(
                f"{quoted(value)} is not DTYPE[SHAPE] NAME[SHAPE]..., such as "
                "'float32[N,3,224,224] scores[N,1000]'"
            )
        (dtype, shape), *outputs = ((each[1], _sides(each[2])) for each in found if each)
        try:
            return InputSpec(shape, dtype, outputs=dict(outputs) or None)
        except ModelError as error:
            self.fail(str(error))


def _sides(text: str) -> tuple[int | str | None, ...]:
    """Return the sides of a shape: integers, and names of dynamic axes."""
    sides = (each.strip() for each in text.split(","))
    return tuple(parse_integer(each) if each.lstrip("-").isdigit() else each for each in sides)


@dataclass(frozen=True)
class ModelChoice:
    """Model options from the command line.

    `preprocess` is a preset or a preprocessing file; the values in `flags` take precedence over it.
    `remote` holds the arguments of `RemoteModel` for a model on a server.
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
    remote: Mapping[str, Any] = field(default_factory=dict)

    def for_values(self, of_values: bool) -> ModelChoice:
        """Return the choice without `output` if a value target uses that option."""
        return replace(self, output=None) if of_values else self

    def source(self) -> str | bytes:
        """Return the model's path, or its bytes from stdin."""
        return piped_model() if self.model == STDIO else self.model

    @property
    def is_remote(self) -> bool:
        """Whether the model is on a server."""
        from ibisa_onnx.models.endpoint import is_server_url

        return is_server_url(self.model)

    def open(self, gradient_from: str | None = None) -> ImageModel:
        """Open the model without an explainer.

        `gradient_from` is the ONNX file that runs behind a model on a server.
        """
        return self._open_remote(gradient_from) if self.is_remote else self.open_file()

    def open_file(self) -> DeployedModel:
        """Open an ONNX file; an error for a model on a server."""
        from ibisa_onnx.models.onnx_session import DeployedModel

        return DeployedModel.open(
            self.source(), layout=self.flags.get("layout"), **self._on_opening()
        )

    def _open_remote(self, gradient_from: str | None) -> ImageModel:
        """Open a model on a server."""
        from ibisa_onnx.models.remote import RemoteModel

        if self.providers or self.threads:
            raise click.UsageError(
                "--provider and --threads do not apply to a model on a server; omit them"
            )
        remote = dict(self.remote)
        return RemoteModel(
            self.model,
            remote.pop("input_spec", None),
            input=self.input,
            layout=self.flags.get("layout"),
            extra_inputs=dict(self.extra_inputs),
            gradient_from=gradient_from,
            **remote,
        )

    def explainer(self, model: ImageModel | None = None, **options: Any) -> Explainer:
        """Return an `Explainer` of the model, or of an open one; `options` are its arguments."""
        from ibisa_onnx import Explainer

        if model is None and self.is_remote:
            model = self.open(options.pop("gradient_from", None))
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
        """Return the arguments that only opening a model uses."""
        return {
            "providers": self.providers,
            "input": self.input,
            "threads": self.threads,
            "extra_inputs": dict(self.extra_inputs),
        }

    def read(self, model: ImageModel) -> tuple[ResolvedPreprocessing, OutputReader]:
        """Resolve the preprocessing of an open model and return it with an output reader.

        Raises
        ------
        IbisaError
            An option conflicts with the model.
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
        """Return the labels of an open model, and warnings about labels that do not fit it.

        Raises
        ------
        TargetError
            The labels from --labels do not fit the model.
        """
        found, warnings = reader.declared_labels()
        if found is not None and self.labels is not None:
            found = replace(found, source=f"--labels {self.labels}")
        return found, warnings

    def _overrides(self) -> Overrides:
        from ibisa_onnx.preprocessing.resolve import Overrides

        return Overrides(**self.flags)


def _check_preprocess(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Return a preset in lower case or the path of a file; raise for anything else."""
    if value is None or value.lower() in PRESETS:
        return value and value.lower()
    from ibisa_onnx.io.files import is_regular

    if not is_regular(value):
        raise click.BadParameter(
            f"{quoted(value)} is not a preset ({', '.join(PRESETS)}) or an existing file"
        )
    return value


SIZE = _Size()
PREPROCESS = click.option(
    "--preprocess",
    metavar="PRESET|FILE",
    callback=_check_preprocess,
    help=f"Preset ({', '.join(PRESETS)}) or preprocessing file: TOML, JSON or a framework's own.",
)
RESIZE = click.option(
    "--resize", type=click.Choice(RESIZES), help="How to fit the image to the input size."
)
_FLAGS = (
    click.option(
        "--size", type=SIZE, help="Model input size: one number for square, or HEIGHTxWIDTH."
    ),
    RESIZE,
    click.option(
        "--shorter-side",
        type=click.IntRange(1),
        metavar="N",
        help="Shorter side before the crop, in pixels (shortest and stretch-crop).",
    ),
    click.option(
        "--pad-value",
        type=click.IntRange(0, 255),
        metavar="N",
        help="Pixel value of letterbox padding.",
    ),
    click.option(
        "--interpolation", type=click.Choice(INTERPOLATIONS), help="Interpolation for resizing."
    ),
    click.option(
        "--channel-order",
        type=click.Choice(CHANNEL_ORDERS, case_sensitive=False),
        help="Channel order of the model input.",
    ),
    click.option(
        "--depth",
        type=click.Choice(DEPTHS),
        help="16-bit and float images: convert to 0..255 (8-bit) or keep the values (full).",
    ),
    click.option(
        "--scale",
        type=Finite(),
        metavar="NUMBER",
        help="Pixel scale; the input is (pixel * scale - mean) / std.",
    ),
    click.option(
        "--mean",
        type=_Numbers(),
        help="Mean after scaling: one number, or one per channel (a,b,c).",
    ),
    click.option(
        "--std",
        type=_Numbers(),
        help="Standard deviation after scaling: one number, or one per channel (a,b,c).",
    ),
    click.option(
        "--layout",
        type=click.Choice(("NCHW", "NHWC"), case_sensitive=False),
        help="Axis order of the model input.",
    ),
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
    click.option(
        "--labels", type=FILE, metavar="FILE", help="Text file of class names, one per line."
    ),
    PREPROCESS,
    *_FLAGS,
    click.option("--input", metavar="NAME", help="Model input that accepts the image."),
    click.option(
        "--extra-input",
        "extra_inputs",
        type=_NamedValue(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Value of another input: a number, numbers with commas, or a .npy file. Repeatable.",
    ),
    click.option(
        "--output", metavar="NAME", help="Output or inner tensor that holds the class scores."
    ),
    click.option(
        "--kind", type=click.Choice(KINDS), help="Kind of model, if detected incorrectly."
    ),
)
_ON_RUNNING = (
    click.option(
        "--provider",
        "providers",
        multiple=True,
        metavar="NAME",
        help="Execution provider: cuda, tensorrt, openvino, dml, coreml, cpu … Repeatable. "
        "Default: CUDA if it works, otherwise CPU.",
    ),
    click.option(
        "--activation",
        type=click.Choice(ACTIVATIONS),
        help="How scores become probabilities, if detected incorrectly.",
    ),
    click.option(
        "--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads per operator."
    ),
)
_REMOTE = (
    click.option(
        "--header",
        "headers",
        type=_Header(),
        multiple=True,
        metavar="NAME:VALUE",
        help="Model on a server: header of each request. Repeatable. Authorization is better set "
        "in IBISA_ONNX_AUTHORIZATION.",
    ),
    click.option(
        "--timeout-ms",
        type=click.IntRange(1),
        metavar="MS",
        help="Model on a server: maximum time of a request. Default: 60000.",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="Model on a server: maximum concurrent requests. Default: 4.",
    ),
    click.option(
        "--images-per-request",
        type=click.IntRange(1, 4096),
        metavar="N",
        help="Model on a server: maximum images per request. Default: 8, or the server's maximum.",
    ),
    click.option(
        "--ca-file",
        type=FILE,
        metavar="FILE",
        help="Model on a server: certificate authorities to trust (PEM). Default: the system's.",
    ),
    click.option(
        "--input-spec",
        type=_Spec(),
        metavar="SPEC",
        help="Model on a server that declares no tensors: 'float32[N,3,224,224]', followed by its "
        "outputs unless they are class scores: 'float32[N,3,64,64] boxes[N,M,4] scores[N,M]'.",
    ),
)
_OF_REMOTE = {  # arguments of `RemoteModel` by option
    "headers": "headers",
    "timeout_ms": "timeout",
    "concurrency": "max_concurrency",
    "images_per_request": "max_batch",
    "ca_file": "certificates",
    "input_spec": "input_spec",
}
_GIVEN = ("input", "output", "labels", "kind", "extra_inputs")
# Their values for a verb that only reads the model.
_READ_ONLY: dict[str, Any] = {"providers": ("cpu",), "activation": None, "threads": None}


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options on MODEL to a verb, passed on as `choice`."""
    return _with_options(function, (*_OPTIONS, *_ON_RUNNING, *_REMOTE))


def described_model_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that describe MODEL to a verb that only reads it, always on the CPU."""
    return _with_options(function, _OPTIONS)


def _check_values(flags: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise `click.UsageError` for values that no model can have, or that contradict each other."""
    names = [name for name, _ in mine["extra_inputs"]]
    if len(set(names)) < len(names):
        raise click.UsageError("--extra-input names one input twice; pass one value for each")
    for name in ("scale", "std"):
        if flags.get(name) == 0 or (name == "std" and 0 in flags.get(name, ())):
            raise click.UsageError(f"--{name} cannot be 0; pass another number")
    wanted = _CHANNELS.get(flags.get("channel_order", ""))
    counts = {len(flags[name]) for name in ("mean", "std") if len(flags.get(name, "1")) > 1}
    if len(counts) > 1 or (wanted and counts - {wanted}):
        raise click.UsageError("--mean and --std require one number, or one for each channel")
    _check_providers(mine["providers"])


def _check_providers(names: Sequence[str]) -> None:
    """Raise `click.UsageError` if ONNX Runtime has no provider of that name in any build."""
    if not names:
        return
    from ibisa_onnx.errors import ProviderError
    from ibisa_onnx.models.ort import import_onnxruntime
    from ibisa_onnx.models.providers import full_name

    runtime = import_onnxruntime()
    known = [*runtime.get_all_providers(), *runtime.get_available_providers()]
    with usage_errors(ProviderError):
        for name in names:
            full_name(name, known)


def _remote_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `RemoteModel`, and remove their options."""
    given = {name: options.pop(name, None) for name in _OF_REMOTE}
    found = {_OF_REMOTE[name]: value for name, value in given.items() if value}
    if "headers" in found:
        found["headers"] = dict(found["headers"])
    if "timeout" in found:
        found["timeout"] /= 1000
    return found


def _with_options(
    function: Callable[..., None], given: Sequence[Callable[..., Any]]
) -> Callable[..., None]:
    """Add options to a verb, passed on as one `ModelChoice`."""

    @functools.wraps(function)
    def wrapped(*args: Any, preprocess: str | None, model: str = "", **options: Any) -> None:
        flags = {name: options.pop(name) for name in _FLAG_NAMES}
        given_flags = {name: value for name, value in flags.items() if value is not None}
        mine = {name: options.pop(name) for name in _GIVEN}
        mine |= {name: options.pop(name, default) for name, default in _READ_ONLY.items()}
        _check_values(given_flags, mine)
        remote = _remote_arguments(options)
        choice = ModelChoice(
            model=model, preprocess=preprocess, flags=given_flags, remote=remote, **mine
        )
        if remote and model and not choice.is_remote:
            raise click.UsageError(
                "--header, --timeout-ms, --concurrency, --images-per-request, --ca-file and "
                "--input-spec apply to a model on a server; omit them"
            )
        function(*args, choice=choice, **options)

    for option in reversed(given):
        wrapped = option(wrapped)
    return wrapped
