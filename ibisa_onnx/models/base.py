"""The `Model` protocol, and `ImageModel`, the base class of all explainable models.

`ImageModel` implements everything but `infer`: it checks images, converts them to the input's
dtype and layout, divides them into calls as the batch axis allows, and counts passes. ONNX files
are in `onnx_session.py`, functions in `function.py`. Preprocessing and the meaning of outputs are
not handled here.
"""

from __future__ import annotations

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import (
    IbisaError,
    ModelError,
    OutputError,
    PreprocessingError,
    RemoteError,
)
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.models.signature import ImageInput, Layout, Signature

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.limits import Limits

Images = npt.NDArray[np.float32]
Values = Mapping[str, npt.NDArray[Any]]

_WORKERS = "ibisa-onnx"

_T = TypeVar("_T")
_R = TypeVar("_R")


class RequestRejectedError(RemoteError):
    """A model rejected a call without running it; it may accept fewer images per call."""


class Model(Protocol):
    """Anything that maps named input tensors to named output tensors.

    Attributes
    ----------
    signature
        All inputs and outputs, and the image input.
    max_batch
        Maximum images per call.
    max_concurrency
        Maximum concurrent calls per run; above 1, `infer` is called from several threads.
    identity
        Identifies the model by content; used as a key for stored results.
    """

    signature: Signature
    max_batch: int
    max_concurrency: int

    @property
    def identity(self) -> str:
        """Identifies the model by content."""

    def infer(self, feeds: Values, outputs: Sequence[str]) -> Values:
        """Make one call: values of inputs by name to values of the named outputs."""


class ImageModel(ABC):
    """Base class of image models; a subclass only has to implement `infer`.

    Parameters
    ----------
    signature
        All inputs and outputs, and the image input.
    max_batch
        Maximum images per call if the batch axis is dynamic.
    max_concurrency
        Maximum concurrent calls per run; above 1, `infer` is called from several threads.

    Attributes
    ----------
    signature : Signature
        All inputs and outputs, and the image input.
    max_batch : int
        Maximum images per call; the model's own batch size if that is fixed.
    max_concurrency : int
        Maximum concurrent calls per run.
    passes : PassCounter
        All passes so far; each run counts its own in a scope of it.
    warnings : list of str
        What to know about how this model runs.
    counterpart : ImageModel or None
        The ONNX file that runs behind this model, whose gradient, metadata and folder stand for its
        own.

    Raises
    ------
    ModelError
        `max_batch` or `max_concurrency` is less than 1.

    Examples
    --------
    ```python
    class RemoteModel(ibisa_onnx.ImageModel):
        def infer(self, feeds, outputs):
            return client.predict(feeds["images"])  # {"scores": float32 [N, K]}


    spec = ibisa_onnx.InputSpec((None, 3, 224, 224))
    explainer = ibisa_onnx.Explainer(RemoteModel(spec.signature("remote")))
    ```
    """

    def __init__(self, signature: Signature, max_batch: int = 8, max_concurrency: int = 1) -> None:
        for name, value in (("max_batch", max_batch), ("max_concurrency", max_concurrency)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ModelError(f"{name} is {value!r}; pass an integer, 1 or more")
        self.signature = signature
        self.passes = PassCounter()
        self.max_batch = signature.image.batch or max_batch
        self.max_concurrency = max_concurrency
        self.counterpart: ImageModel | None = None
        self.batch_mixes: bool | None = None  # for a fixed batch; None: unknown
        self.warnings: list[str] = []
        self._worker, self._lock = threading.local(), threading.Lock()
        self._token = uuid.uuid4().hex

    @property
    def image(self) -> ImageInput:
        """The image input."""
        return self.signature.image

    @property
    def preferred_batch(self) -> int:
        """Efficient number of images per call when there are many, at most `max_batch`."""
        return self.max_batch

    @property
    def name(self) -> str | None:
        """The model's name in records; None if it has none."""
        return type(self).__name__

    @property
    def label(self) -> str:
        """The model's name in messages."""
        return self.name or "the model"

    @property
    def identity(self) -> str:
        """Identifies the model; by default unique to this object."""
        return f"{self.name}#{self._token}"

    @property
    def sha256(self) -> str | None:
        """SHA-256 of everything the model consists of; None if unknown."""
        return None

    @property
    def graph_sha256(self) -> str | None:
        """SHA-256 of the computation, without metadata; None if there is no graph."""
        return None

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use; empty if it does not run the model."""
        return ()

    @property
    def limits(self) -> Limits | None:
        """Limits on the model and its images; None: from the environment."""
        return None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model's metadata, by key."""
        return {} if self.counterpart is None else self.counterpart.metadata

    @property
    def folder(self) -> Path | None:
        """The folder of the model's file; None if there is none."""
        return None if self.counterpart is None else self.counterpart.folder

    @property
    def what(self) -> str:
        """What the model is, in messages about what it lacks."""
        return "a function"

    @property
    def why_no_graph(self) -> str:
        """Why `proto` returns None."""
        return f"{self.what} has no graph"

    @property
    def origin(self) -> Mapping[str, str] | None:
        """The server that runs the model, for records; None if it runs in this process."""
        return None

    def proto(self) -> onnx.ModelProto | None:
        """Return the model's graph; None if there is none to read."""
        return None

    def differentiable(self) -> ImageModel | None:
        """Return an ONNX model whose gradient stands for this model's; None if there is none."""
        return self.counterpart

    def extra_feed(self, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Return the values of all inputs but the image, by name, for `batch` images."""
        return {}

    @abstractmethod
    def infer(self, feeds: Values, outputs: Sequence[str]) -> Values:
        """Make one call.

        Parameters
        ----------
        feeds
            Values of all inputs by name, in the inputs' own dtypes and layouts.
        outputs
            Names of the outputs to compute.

        Returns
        -------
        dict of str to ndarray
            The value of each named output.

        Raises
        ------
        ModelError
            The model failed.
        """

    def run(
        self,
        images: Images,
        outputs: Sequence[str] | None = None,
        passes: PassCounter | None = None,
        most: int | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Run images through the model.

        Parameters
        ----------
        images
            float32 [N, C, H, W] in model space. For an integer input they are rounded and clipped
            to its range.
        outputs
            Names of the outputs to return; None: all.
        passes
            The pass counter of the run they belong to; None: only the model's own.
        most
            Maximum images per call; None: `max_batch`.

        Returns
        -------
        dict of str to ndarray
            The values [N, ...] of each output, in the model's own dtype.

        Raises
        ------
        PreprocessingError
            The images do not have the shape the model requires.
        ModelError
            An output does not exist, or the model failed.
        OutputError
            An output does not have one row per image.
        """
        self._check_images(images)
        names = self._check_outputs(outputs)
        size = self.max_batch if most is None else min(most, self.max_batch)
        return self._run_accepted(images, names, size, passes or self.passes)

    def run_raw(self, images: Images, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Run images in a single call, with outputs of any shape; see `run`.

        Raises
        ------
        ModelError
            The model failed, or does not return these outputs.
        """
        self._check_images(images)
        return self._infer(self.filled(images), list(outputs), self.passes)

    def run_one_by_one(self, why: str) -> None:
        """Run one image per call from now on, and warn; `why` describes the problem with batches.

        A fixed batch is filled with copies of the image.
        """
        how = "declares a dynamic batch but", "images run one by one"
        if self.image.batch is not None:
            how = "has a fixed batch and", "each call is filled with copies of one image"
        with self._lock:
            if self.max_batch > 1:
                self.warnings.append(f"{self.label} {how[0]} {why}, so {how[1]}")
            self.max_batch = 1

    def map_concurrently(self, task: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Return a task's results for all items, running up to `max_concurrency` tasks at once.

        Nested calls run sequentially. Each task inherits the caller's context variables, and so its
        time limits.
        """
        items = list(items)
        workers = min(self.max_concurrency, len(items))
        if workers <= 1 or getattr(self._worker, "busy", False):
            return [task(each) for each in items]

        def run(context: Context, item: _T) -> _R:
            return context.run(task, item)

        with ThreadPoolExecutor(workers, _WORKERS, self._begin_work) as pool:
            return list(pool.map(run, [copy_context() for _ in items], items))

    def _begin_work(self) -> None:
        self._worker.busy = True

    def _run_accepted(
        self, images: Images, names: list[str], most: int, passes: PassCounter
    ) -> dict[str, npt.NDArray[Any]]:
        """Run validated images; in smaller calls from then on if the model rejects larger ones."""
        rejected = 0
        while True:
            size = min(most, len(images))
            try:
                results = self._run(images, names, most, passes)
            except RequestRejectedError:
                if size == 1 or self.image.batch is not None:
                    raise
                rejected, most = rejected or size, size // 2
                continue
            with self._lock:
                if rejected and most < self.max_batch:
                    self.warnings.append(
                        f"{self.label} rejects calls of {rejected} images, so calls have {most}"
                    )
                    self.max_batch = most
            return results

    def _run(
        self, images: Images, names: list[str], most: int, passes: PassCounter
    ) -> dict[str, npt.NDArray[Any]]:
        """Run validated images in calls of at most `most`."""

        def call(chunk: Images) -> list[npt.NDArray[Any]]:
            filled = self.filled(chunk)
            return [value[: len(chunk)] for value in self._call(filled, names, passes)]

        chunks = (images[start : start + most] for start in range(0, len(images), most))
        columns = zip(*self.map_concurrently(call, chunks), strict=True)
        return {name: joined(each) for name, each in zip(names, columns, strict=True)}

    def filled(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pad rows [n, ...] to a fixed batch size by repeating the last one."""
        missing = (self.image.batch or 0) - len(rows)
        if missing <= 0:
            return rows
        return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])

    def _call(
        self, images: Images, names: list[str], passes: PassCounter
    ) -> list[npt.NDArray[Any]]:
        """Make one call, count it, and check that outputs have one row per image."""
        found = self._infer(images, names, passes)
        values = [found[name] for name in names]
        for name, value in zip(names, values, strict=True):
            if np.ndim(value) == 0 or len(value) != len(images):
                raise OutputError(
                    f"output {name} of {self.label} has shape {list(np.shape(value))} for "
                    f"{len(images)} image(s): no leading batch axis",
                    "select another with output=NAME" if len(self.signature.outputs) > 1 else "",
                )
        return values

    def _infer(
        self, images: Images, names: list[str], passes: PassCounter
    ) -> dict[str, npt.NDArray[Any]]:
        """Make one call, count it, and check that all requested outputs were returned."""
        batch = to_input(images, self.image)
        try:
            found = self.infer({self.image.name: batch, **self.extra_feed(len(batch))}, names)
        except OutputError:  # it ran, but its output is unusable
            passes.count_forward(len(batch))
            raise
        except IbisaError:
            raise
        except Exception as error:
            raise ModelError(f"{self.label} failed: {type(error).__name__}: {error}") from error
        passes.count_forward(len(batch))
        if not isinstance(found, Mapping) or not set(names) <= set(found):
            raise OutputError(f"{self.label} did not return its output(s) {', '.join(names)}")
        return {name: found[name] for name in names}

    def _check_images(self, images: Images) -> None:
        """Raise `PreprocessingError` unless shape and dtype are what `run` accepts."""
        if images.ndim != 4 or images.dtype != np.float32:
            raise PreprocessingError(
                f"images are {images.dtype} {list(images.shape)}; pass float32 [N, C, H, W]"
            )
        wanted = (None, self.image.channels, self.image.height, self.image.width)
        fits = all(want in (None, got) for want, got in zip(wanted, images.shape, strict=True))
        if not fits or len(images) == 0:
            sides = ", ".join("any" if side is None else str(side) for side in wanted)
            raise PreprocessingError(
                f"images are {list(images.shape)}; {self.label} requires [{sides}]"
            )

    def _check_outputs(self, outputs: Sequence[str] | None) -> list[str]:
        """Return the names of the outputs to compute; raise `ModelError` for unknown ones."""
        known = [output.name for output in self.signature.outputs]
        for name in outputs or ():
            if name not in known:
                raise ModelError(
                    f"{self.label} has no output {name!r}; its outputs are: {', '.join(known)}"
                )
        return known if outputs is None else list(outputs)


def joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate the outputs of several calls along the batch axis.

    If the number of rows per image varies (selected boxes), shorter outputs are padded with zeros,
    that is with boxes of no size and score 0.

    Raises
    ------
    OutputError
        They differ in rank, or in other axes.
    """
    if len({(each.ndim, each.shape[2:]) for each in parts}) > 1:
        shapes = " and ".join(sorted({str([1, *each.shape[1:]]) for each in parts})[:2])
        raise OutputError(
            f"output shapes differ between images of the same size: {shapes}; "
            "explain an output of constant shape"
        )
    if len({each.shape[1:2] for each in parts}) > 1:
        most = max(each.shape[1] for each in parts)
        parts = [
            np.pad(each, [(0, 0), (0, most - each.shape[1]), *[(0, 0)] * (each.ndim - 2)])
            for each in parts
        ]
    return np.concatenate(parts)


def to_input(images: Images, image: ImageInput) -> npt.NDArray[Any]:
    """Convert images to the dtype and layout of the model's input.

    Parameters
    ----------
    images
        float32 [N, C, H, W], model space.
    image
        The image input. For integer dtypes, values are rounded to the nearest and clipped.

    Returns
    -------
    ndarray
        [N, C, H, W] or [N, H, W, C], of the input's dtype, contiguous; may be `images` itself.
    """
    values = images.transpose(0, 2, 3, 1) if image.layout is Layout.NHWC else images
    dtype = np.dtype(image.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return np.ascontiguousarray(values, dtype=dtype)
