"""What goes into a deployed model and what comes out, as plain data.

Nothing here runs the model; `onnx_session.py` reads these from ONNX Runtime, and `find_image` tells
which input takes the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits, variable

METADATA_KEY = "ibisa"
"""The key of the project's own metadata in an ONNX file, JSON."""


def check_metadata(metadata: Mapping[str, str], model: str, limits: Limits | None = None) -> None:
    """See that metadata are few enough to be read; `model` is what to call the model in an error.

    Raises
    ------
    ModelError
        They have more characters than the limit has bytes.
    """
    most = (limits or Limits.from_environment()).text_bytes
    total = sum(len(key) + len(value) for key, value in metadata.items())
    if total > most:
        raise ModelError(
            f"{model} has metadata of {total:,} characters, more than {most:,}; set "
            f"{variable('text_bytes')} to allow more"
        )


class Layout(StrEnum):
    """The order of the axes of a batch of images."""

    NCHW = "NCHW"
    NHWC = "NHWC"


def read_layout(name: str | None) -> Layout | None:
    """Read a layout's name, of any case; None where nothing is said, ModelError if it is none."""
    if name is None:
        return None
    try:
        return Layout(name.upper())
    except (AttributeError, ValueError):
        raise ModelError(f"layout {name!r} is neither NCHW nor NHWC") from None


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: name, NumPy dtype name, and shape (int, symbol, or None: unknown)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype} [{sides}]"


@dataclass(frozen=True)
class ImageInput:
    """The input that takes the image.

    `batch`, `height` and `width` are None where the model leaves them open.
    """

    tensor: TensorInfo
    layout: Layout
    channels: int
    height: int | None
    width: int | None
    batch: int | None

    @property
    def name(self) -> str:
        """The tensor's name in the graph."""
        return self.tensor.name

    @property
    def dtype(self) -> str:
        """The tensor's NumPy dtype name."""
        return self.tensor.dtype


@dataclass(frozen=True)
class Signature:
    """All inputs and outputs of a model, and which input is the image."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    image: ImageInput


IMAGE_DTYPES = frozenset(
    ("float16", "float32", "float64", "uint8", "int8", "uint16", "int16", "int32", "int64")
)
IMAGE_CHANNELS = (1, 3, 4)
"""Grey, colours, and colours with transparency."""
_MOST_CHANNELS = 16
"""Of pictures that are not made for eyes."""


def find_image(
    inputs: Sequence[TensorInfo],
    *,
    name: str | None = None,
    layout: Layout | None = None,
    hint: Layout | None = None,
    model: str = "the model",
) -> ImageInput:
    """Find the input that takes the image.

    Parameters
    ----------
    inputs
        All inputs of the model.
    name
        The input to take; None: the only one with four axes and 1, 3 or 4 channels, or where there
        is none, with up to 16.
    layout
        The order of the axes; None: read from the shape.
    hint
        The order to take where the shape does not tell.
    model
        What to call the model in an error.

    Raises
    ------
    ModelError
        No input is an image, several may be, or the shape does not tell the layout.
    """
    listed = ", ".join(map(str, inputs)) or "none"
    if name is not None:
        tensor = next((each for each in inputs if each.name == name), None)
        if tensor is None:
            raise ModelError(f"{model} has no input {name!r}; its inputs are: {listed}")
        return _as_image(tensor, layout, hint, model)
    candidates = [each for each in inputs if _may_be_image(each)]
    candidates = candidates or [each for each in inputs if _may_be_image(each, _MOST_CHANNELS)]
    if len(candidates) == 1:
        return _as_image(candidates[0], layout, hint, model)
    if candidates:
        raise ModelError(
            f"{model} has several inputs that may be the image: {listed}; name it with input="
        )
    if any(len(each.shape) == 3 and _channel_axes(each, (0, 2)) for each in inputs):
        raise ModelError(
            f"{model} takes a picture without a batch axis ({listed}); "
            "export it with a leading batch axis of 1"
        )
    raise ModelError(
        f"{model} takes no picture: an image input has four axes, one of them 1 to 16 channels; "
        f"its inputs are: {listed}"
    )


def _channel_axes(tensor: TensorInfo, axes: Sequence[int], most: int = 0) -> list[int]:
    """Return those of `axes` that hold 1, 3 or 4 channels, or any number up to `most`."""
    counts = range(1, most + 1) if most else IMAGE_CHANNELS
    return [axis for axis in axes if tensor.shape[axis] in counts]


def _may_be_image(tensor: TensorInfo, most: int = 0) -> bool:
    """Tell whether nothing in type and shape speaks against a batch of images."""
    if len(tensor.shape) != 4 or tensor.dtype not in IMAGE_DTYPES:
        return False
    is_open = any(_is_open(tensor, axis) for axis in (1, 3))
    return is_open or bool(_channel_axes(tensor, (1, 3), most))


def _is_open(tensor: TensorInfo, axis: int) -> bool:
    return not isinstance(tensor.shape[axis], int)


def _as_image(
    tensor: TensorInfo, layout: Layout | None, hint: Layout | None, model: str
) -> ImageInput:
    """Read batch, channels, height and width off the shape of `tensor`."""
    if not _may_be_image(tensor, _MOST_CHANNELS):
        raise ModelError(
            f"{model}: input {tensor} is not a picture; "
            "an image input has four axes, one of them 1 to 16 channels"
        )
    layout = layout or _guess_layout(tensor) or hint
    if layout is None:
        raise ModelError(
            f"{model}: the shape of input {tensor} does not tell where the channels are; "
            "give layout=NCHW or layout=NHWC"
        )
    n, *rest = (side if isinstance(side, int) else None for side in tensor.shape)
    channels, height, width = rest if layout is Layout.NCHW else (rest[2], rest[0], rest[1])
    if channels is not None and not 1 <= channels <= _MOST_CHANNELS:
        raise ModelError(f"{model}: input {tensor} has no 1 to 16 channels as {layout}")
    return ImageInput(tensor, layout, channels or 3, height, width, n)


def _guess_layout(tensor: TensorInfo) -> Layout | None:
    """Tell the layout from which axis holds 1, 3 or 4 channels, or up to 16, or is called so."""
    axes = _channel_axes(tensor, (1, 3)) or _channel_axes(tensor, (1, 3), _MOST_CHANNELS)
    first, last = (axis in axes for axis in (1, 3))
    if first and last:
        # A picture a few pixels wide: a square one is likelier than 3 x 4.
        _, one, two, three = tensor.shape
        first, last = two == three, one == two
    elif not first and not last:
        first, last = ("channel" in str(tensor.shape[axis]).lower() for axis in (1, 3))
    if first == last:
        return None
    return Layout.NCHW if first else Layout.NHWC
