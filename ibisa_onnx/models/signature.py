"""Inputs and outputs of a deployed model, as plain data.

Nothing here runs the model; `onnx_session.py` reads signatures from ONNX Runtime, and `find_image`
detects the image input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits, variable

METADATA_KEY = "ibisa"
"""The key of the project's own metadata in an ONNX file, JSON."""


def check_metadata(metadata: Mapping[str, str], model: str, limits: Limits | None = None) -> None:
    """Check that metadata is within the size limit.

    Parameters
    ----------
    metadata
        Values by key.
    model
        Name of the model in error messages.
    limits
        `text_bytes` applies; None: from the environment.

    Raises
    ------
    ModelError
        The metadata has more characters than `text_bytes`.
    """
    most = Limits.of(limits).text_bytes
    total = sum(len(key) + len(value) for key, value in metadata.items())
    if total > most:
        raise ModelError(
            f"{model} has {total:,} characters of metadata, more than {most:,}; set "
            f"{variable('text_bytes')} to allow more"
        )


class Layout(StrEnum):
    """The order of the axes of a batch of images."""

    NCHW = "NCHW"
    NHWC = "NHWC"


def read_layout(name: str | None) -> Layout | None:
    """Return a layout by its name, in any case; None for None, `ModelError` if there is none."""
    if name is None:
        return None
    try:
        return Layout(name.upper())
    except (AttributeError, ValueError):
        raise ModelError(f"unknown layout {name!r}; use NCHW or NHWC") from None


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: name, dtype and shape.

    Attributes
    ----------
    name
        The tensor's name in the graph.
    dtype
        NumPy dtype name.
    shape
        An integer per axis, or a symbol or None if the axis is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype} [{sides}]"

    @property
    def quoted(self) -> str:
        """Name in quotes, dtype and shape: its form within a sentence."""
        return str(replace(self, name=repr(self.name)))


@dataclass(frozen=True)
class ImageInput:
    """The image input of a model.

    Attributes
    ----------
    tensor
        Name, dtype and shape.
    layout
        Order of the axes.
    channels
        Number of channels; 3 if dynamic.
    height
        Height in pixels; None if dynamic.
    width
        Width in pixels; None if dynamic.
    batch
        Batch size; None if dynamic.
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
    """All inputs and outputs of a model, and its image input."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    image: ImageInput


IMAGE_DTYPES = frozenset(
    ("float16", "float32", "float64", "uint8", "int8", "uint16", "int16", "int32", "int64")
)
IMAGE_CHANNELS = (1, 3, 4)
"""Greyscale, RGB and RGBA."""
_MOST_CHANNELS = 16
"""For multispectral images and the like."""


def find_image(
    inputs: Sequence[TensorInfo],
    *,
    name: str | None = None,
    layout: Layout | None = None,
    hint: Layout | None = None,
    model: str = "the model",
) -> ImageInput:
    """Find the image input.

    Parameters
    ----------
    inputs
        All inputs of the model.
    name
        Name of the image input; None: the only one with four axes and 1, 3 or 4 channels or, if
        there is none, up to 16.
    layout
        The order of the axes; None: inferred from the shape.
    hint
        The order to use if the shape is ambiguous.
    model
        Name of the model in error messages.

    Returns
    -------
    ImageInput
        The input.

    Raises
    ------
    ModelError
        No input can hold images, several can, or the layout is ambiguous.
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
            f"{model} has several possible image inputs: {listed}; select one with input="
        )
    if any(len(each.shape) == 3 and _channel_axes(each, (0, 2)) for each in inputs):
        raise ModelError(
            f"{model} has an image input without a batch axis ({listed}); "
            "re-export it with a leading batch axis of 1"
        )
    raise ModelError(
        f"{model} has no image input: that requires four axes, one of them with 1 to 16 channels; "
        f"its inputs are: {listed}"
    )


def _channel_axes(tensor: TensorInfo, axes: Sequence[int], most: int = 0) -> list[int]:
    """Return the axes of size 1, 3 or 4, or of any size up to `most`."""
    counts = range(1, most + 1) if most else IMAGE_CHANNELS
    return [axis for axis in axes if tensor.shape[axis] in counts]


def _may_be_image(tensor: TensorInfo, most: int = 0) -> bool:
    """Return whether dtype and shape are compatible with a batch of images."""
    if len(tensor.shape) != 4 or tensor.dtype not in IMAGE_DTYPES:
        return False
    is_open = any(_is_open(tensor, axis) for axis in (1, 3))
    return is_open or bool(_channel_axes(tensor, (1, 3), most))


def _is_open(tensor: TensorInfo, axis: int) -> bool:
    return not isinstance(tensor.shape[axis], int)


def _as_image(
    tensor: TensorInfo, layout: Layout | None, hint: Layout | None, model: str
) -> ImageInput:
    """Read batch, channels, height and width from a tensor's shape."""
    if not _may_be_image(tensor, _MOST_CHANNELS):
        raise ModelError(
            f"{model}: input {tensor.quoted} is not an image input, "
            "which requires four axes, one of them with 1 to 16 channels"
        )
    layout = layout or _guess_layout(tensor) or hint
    if layout is None:
        raise ModelError(
            f"{model}: ambiguous layout of input {tensor.quoted}; "
            "pass overrides={'layout': 'NCHW'} or overrides={'layout': 'NHWC'}"
        )
    n, *rest = (side if isinstance(side, int) else None for side in tensor.shape)
    channels, height, width = rest if layout is Layout.NCHW else (rest[2], rest[0], rest[1])
    if channels is not None and not 1 <= channels <= _MOST_CHANNELS:
        raise ModelError(
            f"{model}: input {tensor.quoted} would have {channels} channels as {layout}; "
            "1 to 16 are supported"
        )
    return ImageInput(tensor, layout, channels or 3, height, width, n)


def _guess_layout(tensor: TensorInfo) -> Layout | None:
    """Infer the layout from the axis with 1, 3 or 4 (else up to 16) channels, or from its name."""
    axes = _channel_axes(tensor, (1, 3)) or _channel_axes(tensor, (1, 3), _MOST_CHANNELS)
    first, last = (axis in axes for axis in (1, 3))
    if first and last:
        # An image a few pixels wide: a square one is likelier than 3 x 4.
        _, one, two, three = tensor.shape
        first, last = two == three, one == two
    elif not first and not last:
        first, last = ("channel" in str(tensor.shape[axis]).lower() for axis in (1, 3))
    if first == last:
        return None
    return Layout.NCHW if first else Layout.NHWC
