"""A function as a model: whatever takes a batch of images and gives numbers can be explained.

A model behind a network, in another framework, or with code around it. It is called as it is, never
more often than is counted, and what goes wrong inside it is told with its cause. It gives class
scores, or what it declares: boxes, maps, text, vectors (`returned.py`).
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ModelError, OutputError
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.base import ImageModel, Values
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.returned import DeclaredOutputs
from ibisa_onnx.models.signature import (
    IMAGE_DTYPES,
    Signature,
    TensorInfo,
    find_image,
    read_layout,
)

INPUT, OUTPUT = "images", "scores"
"""What a function's input is called, and its output unless it declares others."""

Pairs = tuple[tuple[str, tuple[int | str | None, ...]], ...]
"""Names of outputs, and the shape of each."""

_WANTED = "return one score for each class, floats [N, K]"
_DECLARE = "; what gives more declares it, as InputSpec(shape, outputs={'boxes': (None, None, 4)})"
_ONE_BY_ONE = "; where it takes only one image at a time, give InputSpec a batch of 1"


@dataclass(frozen=True)
class InputSpec:
    """What a function takes, and what it gives: as an ONNX file would declare it.

    Parameters
    ----------
    shape
        Four axes, the batch first: (None, 3, 224, 224), (1, 224, 224, 3). None, or a name: open.
    dtype
        NumPy's name or type of the values. Images of integers are rounded and clipped.
    layout
        "NCHW" or "NHWC"; None: read from the shape.
    outputs
        What it returns by name, with the shape of each, the images first: {"boxes": (None, None,
        4), "scores": (None, None)}. None is an open side. None: class scores [N, K] alone. It is
        kept as pairs, so that a spec is a value.

    Raises
    ------
    ModelError
        A value is none of these.
    """

    shape: Sequence[int | str | None]
    dtype: npt.DTypeLike = "float32"
    layout: str | None = None
    outputs: Mapping[str, Sequence[int | str | None]] | Pairs | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _read_shape(self.shape))
        object.__setattr__(self, "outputs", _read_outputs(self.outputs, self.shape[0]))
        object.__setattr__(self, "dtype", _read_dtype(self.dtype))
        object.__setattr__(self, "layout", read_layout(self.layout))

    def signature(self, label: str) -> Signature:
        """Return the inputs and outputs of a function, called `label` in an error.

        Raises
        ------
        ModelError
            The shape is no image's, or does not tell the layout.
        """
        images = TensorInfo(INPUT, str(self.dtype), tuple(self.shape))
        shapes = dict(self.outputs or {OUTPUT: (None, None)})
        outputs = [TensorInfo(n, "float32", (self.shape[0], *s[1:])) for n, s in shapes.items()]
        image = find_image((images,), layout=read_layout(self.layout), model=label)
        return Signature((images,), tuple(outputs), image)


class FunctionModel(ImageModel):
    """A function as a model: called on batches of images, passes counted.

    Parameters
    ----------
    function
        Takes images, an array of the spec's dtype and layout that it may change, in model space:
        preprocessing is done. Returns scores [N, K], or what the spec declares by name: arrays,
        tensors, or lists of numbers. One that is called from several threads is called by them at
        once.
    spec
        What it takes and gives. A fixed batch is filled up.
    max_batch
        The most images in one call where the spec leaves the batch open.
    max_concurrency
        The most calls at once; above 1 it is called from several threads.
    identity
        What tells this function from all others, by content: the version of a remote model, say.
        `bench` keeps scores under it. None: nothing is taken for the same in another process.
    limits
        What its pictures may ask for; None: as the environment says.

    Raises
    ------
    ModelError
        It cannot be called, or not on images.
    """

    def __init__(
        self,
        function: Callable[[npt.NDArray[Any]], Any],
        spec: InputSpec,
        *,
        max_batch: int = 8,
        max_concurrency: int = 1,
        identity: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        _check_function(function)
        if not isinstance(spec, InputSpec):
            raise ModelError(
                f"the input_spec is a {type(spec).__name__}; give InputSpec((None, 3, 224, 224))"
            )
        self._function, self._name = function, name_of(function)
        self._classes: int | None = None
        super().__init__(spec.signature(self._name), max_batch, max_concurrency)
        self._identity, self._limits = identity, limits
        outputs = self.signature.outputs if spec.outputs is not None else ()
        self._declared = DeclaredOutputs(self._name, outputs) if outputs else None

    @property
    def limits(self) -> Limits | None:
        """What its pictures may ask for; None: as the environment says."""
        return self._limits

    @property
    def name(self) -> str:
        """The name that the function was defined by, or its class."""
        return self._name

    @property
    def identity(self) -> str:
        """The function's name with the identity that was given; else no other function's."""
        return super().identity if self._identity is None else f"{self._name}@{self._identity}"

    def infer(self, feeds: Values, outputs: Sequence[str]) -> Values:
        """Call once, and never again where that fails: to try again is the function's business."""
        batch = feeds[INPUT]
        images = batch.copy()  # it may be changed in place, and `batch` be the caller's own
        try:
            returned = self._function(images)
        except Exception as error:
            why = ": ".join(filter(None, (type(error).__name__, essence(error))))
            raise ModelError(
                f"{self._name} failed on a batch of {len(batch)}: {why}{self._advice(len(batch))}"
            ) from error
        if self._declared is not None:
            return self._declared.read(returned, len(batch), self._advice(len(batch)))
        return dict.fromkeys(outputs, self._scores(returned, len(batch)))

    def _scores(self, returned: Any, images: int) -> npt.NDArray[Any]:
        """Read what came back as scores [N, K], or say what it is instead."""
        values = self._as_array(returned)
        said = f"{self._name} returned {_described(returned, values)} for {images} image(s)"
        if isinstance(returned, Mapping):
            raise OutputError(f"{said}; {_WANTED}{_DECLARE}")
        if values.dtype.kind in "iu" and values.dtype != np.uint8:
            raise OutputError(f"{said}, and integers may be class indices; {_WANTED}")
        if values.ndim == 1:
            values = values[None] if images == 1 else values[:, None]
        classes = max(values.shape[1:], default=0)
        if values.dtype.kind not in "fu" or classes == 0 or math.prod(values.shape[1:]) != classes:
            raise OutputError(f"{said}; {_WANTED}")
        if len(values) != images:
            raise OutputError(f"{said}; {_WANTED}{self._advice(images)}")
        if self._classes not in (None, classes):
            raise OutputError(f"{said}, but {self._classes} scores an image before; {_WANTED}")
        if not np.isfinite(values).all():
            raise OutputError(
                f"{said} with NaN or infinite values; check the preprocessing and the function"
            )
        self._classes = classes
        return values.reshape(images, classes)

    def _as_array(self, returned: Any) -> npt.NDArray[Any]:
        """Return a copy of what came back, for the function may use its buffer again."""
        try:
            return np.asarray(returned).copy()
        except Exception as error:
            raise OutputError(
                f"{self._name} returned a {type(returned).__name__} that NumPy cannot read "
                f"({essence(error)}); {_WANTED}"
            ) from error

    def _advice(self, images: int) -> str:
        """Say what to do where the number of images may be what is wrong."""
        return _ONE_BY_ONE if images > 1 and self.image.batch is None else ""


def name_of(function: Any) -> str:
    """Return what to call a function: its own name, what a partial was made of, or the class."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return str(name).rsplit("<locals>.", 1)[-1]


def _check_function(function: Any) -> None:
    """Refuse what cannot be called, and what would only begin when it is."""
    if not callable(function):
        raise ModelError(
            f"the model is a {type(function).__name__}, which cannot be called: an InputSpec goes "
            "with a function; leave it out for an ONNX file"
        )
    if any(map(inspect.iscoroutinefunction, (function, function.__call__))):
        raise ModelError(
            f"{name_of(function)} is asynchronous; give a function that waits for the answer, "
            "with asyncio.run"
        )


def _read_shape(shape: Sequence[int | str | None]) -> tuple[int | str | None, ...]:
    """Return the sides of a shape of four axes, whole numbers as Python's own."""
    example = "give four, the batch first: (None, 3, 224, 224)"
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise ModelError(f"the shape is {shape!r}; {example}")
    if len(shape) != 4:
        raise ModelError(f"the shape {list(shape)} has {len(shape)} axes; {example}")
    return _read_sides(shape, "the shape")


def _read_sides(shape: Sequence[int | str | None], what: str) -> tuple[int | str | None, ...]:
    """Return the sides of a shape, whole numbers as Python's own; `what` names it in an error."""
    sides: list[int | str | None] = []
    for side in shape:
        whole = isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0
        if side is not None and not isinstance(side, str) and not whole:
            raise ModelError(
                f"{what} {list(shape)} has a side of {side!r}; give a number from 1 up, or None "
                "where it is open"
            )
        sides.append(int(side) if isinstance(side, np.integer) else side)
    return tuple(sides)


def _read_outputs(outputs: Any, batch: int | str | None) -> Pairs | None:
    """Return the names of outputs with their shapes; `batch` is how many images are taken."""
    example = "give each one's shape by its name: {'boxes': (None, None, 4)}"
    if outputs is None:
        return None
    try:
        given = dict(outputs)
    except (TypeError, ValueError):
        raise ModelError(f"outputs is {outputs!r}; {example}") from None
    found = []
    for name, shape in given.items():
        listed = isinstance(shape, Sequence) and not isinstance(shape, str)
        if not isinstance(name, str) or not name or not listed:
            raise ModelError(f"outputs has {name!r}: {shape!r}; {example}")
        sides = _read_sides(shape, f"the shape of {name},")
        if len(sides) < 2 or (isinstance(sides[0], int) and sides[0] != batch):
            raise ModelError(
                f"the shape of {name} is {list(sides)}; its first side is the images': None, and "
                "others follow, as in (None, 1) for one number"
            )
        found.append((name, sides))
    if not found:
        raise ModelError(f"outputs is empty; {example}")
    return tuple(found)


def _read_dtype(dtype: npt.DTypeLike) -> str:
    """Return a dtype's name."""
    try:
        name = None if dtype is None else np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in IMAGE_DTYPES:
        raise ModelError(f"dtype is {dtype!r}; choose from: {', '.join(sorted(IMAGE_DTYPES))}")
    return name


def _described(returned: Any, values: npt.NDArray[Any]) -> str:
    """Say what came back: its type, and of numbers their type and shape."""
    if returned is None:
        return "None"
    kind = type(returned).__name__
    return kind if values.dtype.kind in "OUS" else f"{kind} {values.dtype} {list(values.shape)}"
