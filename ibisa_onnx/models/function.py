"""Functions as models: anything that maps a batch of images to numbers can be explained.

For a remote model, another framework, or a model with code around it. The function is called
exactly as often as is counted, and its exceptions are reported with their cause. It returns class
scores, or the outputs it declares: boxes, maps, text, vectors (`returned.py`).
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from ibisa_onnx.models.onnx_session import DeployedModel

INPUT, OUTPUT = "images", "scores"
"""Names of a function's input, and of its output unless it declares others."""

Pairs = tuple[tuple[str, tuple[int | str | None, ...]], ...]
"""Names and shapes of outputs."""

_WANTED = "return one score per class, floats [N, K]"
_DECLARE = "; declare other outputs, as InputSpec(shape, outputs={'boxes': (None, None, 4)})"
_ONE_BY_ONE = "; if it accepts only one image at a time, pass InputSpec a batch of 1"


@dataclass(frozen=True)
class InputSpec:
    """Inputs and outputs of a function, as an ONNX file would declare them.

    Parameters
    ----------
    shape
        Shape of a batch of images, four axes with the batch first: (None, 3, 224, 224) or
        (1, 224, 224, 3). None or a name: dynamic.
    dtype
        NumPy dtype of the images. Values of integer dtypes are rounded and clipped.
    layout
        "NCHW" or "NHWC"; None: inferred from the shape.
    outputs
        Shape of each output by name, batch axis first: {"boxes": (None, None, 4), "scores": (None,
        None)}; None is a dynamic axis. Stored as pairs, so that specs are hashable. None: a single
        output of class scores [N, K].

    Raises
    ------
    ModelError
        A value is not one of these.

    Examples
    --------
    ```python
    spec = ibisa_onnx.InputSpec((None, 3, 224, 224))
    explainer = ibisa_onnx.Explainer(predict, spec)  # predict: float32 [N, 3, 224, 224] -> [N, K]
    ```
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
        """Return the function's inputs and outputs.

        Parameters
        ----------
        label
            Name of the function in error messages.

        Returns
        -------
        Signature
            The inputs and outputs.

        Raises
        ------
        ModelError
            The shape is not an image's, or its layout is ambiguous.
        """
        images = TensorInfo(INPUT, str(self.dtype), tuple(self.shape))
        shapes = dict(self.outputs or {OUTPUT: (None, None)})
        outputs = [TensorInfo(n, "float32", (self.shape[0], *s[1:])) for n, s in shapes.items()]
        image = find_image((images,), layout=read_layout(self.layout), model=label)
        return Signature((images,), tuple(outputs), image)


class FunctionModel(ImageModel):
    """A function as a model: called on batches of images, with passes counted.

    `Explainer(function, spec)` creates one with the defaults; create it yourself to set
    `max_batch`, `max_concurrency` or `identity`.

    Parameters
    ----------
    function
        Called with preprocessed images, an array of the spec's dtype and layout that it may modify.
        Returns scores [N, K], or the declared outputs by name: arrays, tensors, or lists of
        numbers. Concurrent explanations call it from several threads at once.
    spec
        Its inputs and outputs. A fixed batch is padded.
    max_batch
        Maximum images per call if the batch axis is dynamic.
    max_concurrency
        Maximum concurrent calls; above 1, it is called from several threads.
    identity
        Identifies the function by content, for example the version of a remote model; `bench`
        stores scores under it. None: unique to this object, so stored results are not reused.
    gradient_from
        The ONNX file that runs behind the function, or a `DeployedModel` of it. Its gradient is
        used, checked against the function on each image; its metadata, and files beside it, supply
        preprocessing and labels.
    limits
        Limits on images; None: from the environment.

    Raises
    ------
    ModelError
        It is not callable, is asynchronous, or `spec` does not describe images.

    Examples
    --------
    ```python
    def classify(images):  # float32 [N, 3, 224, 224]
        return requests.post(url, data=images.tobytes()).json()  # [N, K]


    spec = ibisa_onnx.InputSpec((None, 3, 224, 224))
    model = ibisa_onnx.FunctionModel(classify, spec, max_batch=32, identity="classifier-7")
    explanation = ibisa_onnx.Explainer(model).explain("dog.jpg")
    ```
    """

    def __init__(
        self,
        function: Callable[[npt.NDArray[Any]], Any],
        spec: InputSpec,
        *,
        max_batch: int = 8,
        max_concurrency: int = 1,
        identity: str | None = None,
        gradient_from: str | os.PathLike[str] | DeployedModel | None = None,
        limits: Limits | None = None,
    ) -> None:
        _check_function(function)
        if not isinstance(spec, InputSpec):
            raise ModelError(
                f"input_spec is a {type(spec).__name__}; pass InputSpec((None, 3, 224, 224))"
            )
        self._function, self._name = function, name_of(function)
        self._classes: int | None = None
        super().__init__(spec.signature(self._name), max_batch, max_concurrency)
        self._identity, self._limits = identity, limits
        if gradient_from is not None:
            from ibisa_onnx.models.onnx_session import counterpart_of

            self.counterpart = counterpart_of(gradient_from, limits)
        outputs = self.signature.outputs if spec.outputs is not None else ()
        self._declared = DeclaredOutputs(self._name, outputs) if outputs else None

    @property
    def limits(self) -> Limits | None:
        """Limits on images; None: from the environment."""
        return self._limits

    @property
    def name(self) -> str:
        """The function's name, or its class."""
        return self._name

    @property
    def identity(self) -> str:
        """The function's name with the given identity, else unique to this object."""
        return super().identity if self._identity is None else f"{self._name}@{self._identity}"

    def infer(self, feeds: Values, outputs: Sequence[str]) -> Values:
        """Call the function once; retrying after a failure is up to the function."""
        batch = feeds[INPUT]
        images = batch.copy()  # may be modified in place, while `batch` may be the caller's
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
        """Read the returned value as scores [N, K]; raise OutputError if it is not."""
        values = self._as_array(returned)
        said = f"{self._name} returned {_described(returned, values)} for {images} image(s)"
        if isinstance(returned, Mapping):
            raise OutputError(f"{said}; {_WANTED}{_DECLARE}")
        if values.dtype.kind in "iu" and values.dtype != np.uint8:
            raise OutputError(f"{said}, which may be class indices; {_WANTED}")
        if values.ndim == 1:
            values = values[None] if images == 1 else values[:, None]
        classes = max(values.shape[1:], default=0)
        if values.dtype.kind not in "fu" or classes == 0 or math.prod(values.shape[1:]) != classes:
            raise OutputError(f"{said}; {_WANTED}")
        if len(values) != images:
            raise OutputError(f"{said}; {_WANTED}{self._advice(images)}")
        if self._classes not in (None, classes):
            raise OutputError(f"{said}, but {self._classes} scores per image before; {_WANTED}")
        if not np.isfinite(values).all():
            raise OutputError(
                f"{said} with NaN or infinite values; check the preprocessing and the function"
            )
        self._classes = classes
        return values.reshape(images, classes)

    def _as_array(self, returned: Any) -> npt.NDArray[Any]:
        """Return a copy of the returned value, since the function may reuse its buffer."""
        try:
            return np.asarray(returned).copy()
        except Exception as error:
            raise OutputError(
                f"{self._name} returned a {type(returned).__name__} that NumPy cannot convert "
                f"({essence(error)}); {_WANTED}"
            ) from error

    def _advice(self, images: int) -> str:
        """Return advice for the case that the number of images may be the problem."""
        return _ONE_BY_ONE if images > 1 and self.image.batch is None else ""


def name_of(function: Any) -> str:
    """Return a function's display name: its own, that of a partial's function, or the class."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return str(name).rsplit("<locals>.", 1)[-1]


def _check_function(function: Any) -> None:
    """Raise ModelError for objects that are not callable, and for coroutine functions."""
    if not callable(function):
        raise ModelError(
            f"the model is a {type(function).__name__}, which is not callable: an InputSpec "
            "requires a function; leave it out for an ONNX file"
        )
    if any(map(inspect.iscoroutinefunction, (function, function.__call__))):
        raise ModelError(
            f"{name_of(function)} is asynchronous; pass a function that awaits the result, "
            "for example with asyncio.run"
        )


def _read_shape(shape: Sequence[int | str | None]) -> tuple[int | str | None, ...]:
    """Validate a shape of four axes, and return it with Python integers."""
    example = "pass four axes, the batch first: (None, 3, 224, 224)"
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise ModelError(f"shape is {shape!r}; {example}")
    if len(shape) != 4:
        raise ModelError(f"shape {list(shape)} has {len(shape)} axes; {example}")
    return _read_sides(shape, "shape")


def _read_sides(shape: Sequence[int | str | None], what: str) -> tuple[int | str | None, ...]:
    """Validate a shape's axes, and return them with Python integers; `what` names it in errors."""
    sides: list[int | str | None] = []
    for side in shape:
        whole = isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0
        if side is not None and not isinstance(side, str) and not whole:
            raise ModelError(
                f"{what} {list(shape)} has an axis of {side!r}; pass an integer, 1 or more, or "
                "None if it is dynamic"
            )
        sides.append(int(side) if isinstance(side, np.integer) else side)
    return tuple(sides)


def _read_outputs(outputs: Any, batch: int | str | None) -> Pairs | None:
    """Return names and shapes of outputs as pairs; `batch` is the batch size of the images."""
    example = "pass shapes by name: {'boxes': (None, None, 4)}"
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
                f"the shape of {name} is {list(sides)}; it requires the batch axis, None, and at "
                "least one more: (None, 1) for one number per image"
            )
        found.append((name, sides))
    if not found:
        raise ModelError(f"outputs is empty; {example}")
    return tuple(found)


def _read_dtype(dtype: npt.DTypeLike) -> str:
    """Return a dtype's name; raise ModelError if images cannot have it."""
    try:
        name = None if dtype is None else np.dtype(dtype).name
    except (TypeError, ValueError):
        name = None
    if name not in IMAGE_DTYPES:
        raise ModelError(f"dtype is {dtype!r}; choose from: {', '.join(sorted(IMAGE_DTYPES))}")
    return name


def _described(returned: Any, values: npt.NDArray[Any]) -> str:
    """Describe a returned value: its type and, for numbers, dtype and shape."""
    if returned is None:
        return "None"
    kind = type(returned).__name__
    return kind if values.dtype.kind in "OUS" else f"{kind} {values.dtype} {list(values.shape)}"
