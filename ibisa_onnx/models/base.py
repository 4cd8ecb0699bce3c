"""What can be explained: the protocol of models, and what all models of images have in common.

`Model` is the protocol. `ImageModel` implements all of it but `infer`: images are checked,
converted to what the input takes, cut into calls as the batch allows, and counted. An ONNX file is
`onnx_session.py`, a function `function.py`. What images mean is in `preprocessing`; what outputs
mean is not known here.
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

from ibisa_onnx.errors import IbisaError, ModelError, OutputError, PreprocessingError
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


class Model(Protocol):
    """Whatever answers to tensors by name.

    Attributes
    ----------
    signature
        All inputs and outputs, and which input takes the image.
    max_batch
        The most images in one call.
    max_concurrency
        The most calls at once that one run makes; above 1, `infer` is called from several threads.
    identity
        Tells this model from all others, by content; what results are kept under.
    """

    signature: Signature
    max_batch: int
    max_concurrency: int

    @property
    def identity(self) -> str:
        """Tells this model from all others."""

    def infer(self, feeds: Values, outputs: Sequence[str]) -> Values:
        """Make one call: values of inputs by name to values of the outputs named."""


class ImageModel(ABC):
    """A model of images, whatever runs it. A subclass needs `infer` alone.

    Attributes
    ----------
    signature
        All inputs and outputs, and which input takes the image.
    max_batch
        The most images in one call: the model's own number where its batch is fixed.
    max_concurrency
        The most calls at once that one run makes.
    passes
        All images and calls so far; each run counts its own in a scope of it.
    warnings
        What a user should know about how this model runs.

    Raises
    ------
    ModelError
        `max_batch` or `max_concurrency` is less than 1.
    """

    def __init__(self, signature: Signature, max_batch: int = 8, max_concurrency: int = 1) -> None:
        for name, value in (("max_batch", max_batch), ("max_concurrency", max_concurrency)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ModelError(f"{name} is {value!r}; give a whole number, 1 or more")
        self.signature = signature
        self.passes = PassCounter()
        self.max_batch = signature.image.batch or max_batch
        self.max_concurrency = max_concurrency
        self.batch_mixes: bool | None = None  # of a fixed batch; None: it is not known
        self.warnings: list[str] = []
        self._worker, self._lock = threading.local(), threading.Lock()
        self._token = uuid.uuid4().hex

    @property
    def image(self) -> ImageInput:
        """The input that takes the image."""
        return self.signature.image

    @property
    def preferred_batch(self) -> int:
        """Images in one call that are worth it where there are many: `max_batch`, or fewer."""
        return self.max_batch

    @property
    def name(self) -> str | None:
        """What the model is called in a record; None where it has no name."""
        return type(self).__name__

    @property
    def label(self) -> str:
        """What to call the model in an error."""
        return self.name or "the model"

    @property
    def identity(self) -> str:
        """Tells this model from all others; here from those of other processes, too."""
        return f"{self.name}#{self._token}"

    @property
    def sha256(self) -> str | None:
        """Hash of all that the model is made of; None where that is not known."""
        return None

    @property
    def graph_sha256(self) -> str | None:
        """Hash of what it computes, whatever it says of itself; None where there is no graph."""
        return None

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use; none where it does not run the model."""
        return ()

    @property
    def limits(self) -> Limits | None:
        """What it may ask for; None: as the environment says."""
        return None

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the model says of itself."""
        return {}

    @property
    def folder(self) -> Path | None:
        """Where the model's file lies; None where there is none."""
        return None

    def proto(self) -> onnx.ModelProto | None:
        """Return the model's graph; None where there is none to read."""
        return None

    def extra_feed(self, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Return the values of all inputs but the image, by name, for so many images."""
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
            The values of each output named.

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
        """Push images forward.

        Parameters
        ----------
        images
            float32 [N, C, H, W] in model space. For an integer input they are rounded and clipped
            to its range.
        outputs
            Names of the outputs to return; None: all.
        passes
            The counter of the run that they belong to; None: only the model's own.
        most
            Images in one call, fewer than `max_batch`; None: as many as that.

        Returns
        -------
        dict of str to ndarray
            For each output its values [N, ...], in the model's own dtype.

        Raises
        ------
        PreprocessingError
            The images do not have the shape that the model takes.
        ModelError
            There is no such output, or the model failed.
        OutputError
            An output does not have a row for each image.
        """
        self._check_images(images)
        names = self._check_outputs(outputs)
        size = self.max_batch if most is None else min(most, self.max_batch)
        return self._run(images, names, size, passes or self.passes)

    def run_raw(self, images: Images, outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Push images forward as one call, whatever the shapes of its outputs; see `run`.

        Raises
        ------
        ModelError
            The model failed, or does not give these outputs.
        """
        self._check_images(images)
        return self._infer(self.filled(images), list(outputs), self.passes)

    def run_one_by_one(self, why: str) -> None:
        """Put one image in a call from here on, with a warning; `why` says what a batch does.

        A fixed batch is filled with copies of it.
        """
        how = "declares an open batch but", "images run one by one"
        if self.image.batch is not None:
            how = "takes a fixed batch and", "each call is filled with copies of one image"
        with self._lock:
            if self.max_batch > 1:
                self.warnings.append(f"{self.label} {how[0]} {why}, so {how[1]}")
            self.max_batch = 1

    def map_concurrently(self, task: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Return a task's results, as many tasks at once as the model takes calls.

        Tasks within tasks run one after the other. Each has the caller's context variables, and so
        its time limits.
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

    def _run(
        self, images: Images, names: list[str], most: int, passes: PassCounter
    ) -> dict[str, npt.NDArray[Any]]:
        """Run on images that were checked, in calls of at most `most`."""

        def call(chunk: Images) -> list[npt.NDArray[Any]]:
            filled = self.filled(chunk)
            return [value[: len(chunk)] for value in self._call(filled, names, passes)]

        chunks = (images[start : start + most] for start in range(0, len(images), most))
        columns = zip(*self.map_concurrently(call, chunks), strict=True)
        return {name: joined(each) for name, each in zip(names, columns, strict=True)}

    def filled(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Repeat the last of some rows [n, ...] up to the model's batch, where that is fixed."""
        missing = (self.image.batch or 0) - len(rows)
        if missing <= 0:
            return rows
        return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])

    def _call(
        self, images: Images, names: list[str], passes: PassCounter
    ) -> list[npt.NDArray[Any]]:
        """Make one call, and count it."""
        found = self._infer(images, names, passes)
        values = [found[name] for name in names]
        for name, value in zip(names, values, strict=True):
            if np.ndim(value) == 0 or len(value) != len(images):
                raise OutputError(
                    f"output {name} of {self.label} has shape {list(np.shape(value))} for "
                    f"{len(images)} image(s): no leading batch axis",
                    "choose another with output=NAME" if len(self.signature.outputs) > 1 else "",
                )
        return values

    def _infer(
        self, images: Images, names: list[str], passes: PassCounter
    ) -> dict[str, npt.NDArray[Any]]:
        """Make one call, count it, and see that it gave what was asked for."""
        batch = to_input(images, self.image)
        try:
            found = self.infer({self.image.name: batch, **self.extra_feed(len(batch))}, names)
        except OutputError:  # it ran, and its answer is of no use
            passes.count_forward(len(batch))
            raise
        except IbisaError:
            raise
        except Exception as error:
            raise ModelError(f"{self.label} failed: {type(error).__name__}: {error}") from error
        passes.count_forward(len(batch))
        if not isinstance(found, Mapping) or not set(names) <= set(found):
            raise OutputError(f"{self.label} did not give its output(s) {', '.join(names)}")
        return {name: found[name] for name in names}

    def _check_images(self, images: Images) -> None:
        """Raise where shape or dtype are not what `run` promises to take."""
        if images.ndim != 4 or images.dtype != np.float32:
            raise PreprocessingError(
                f"images are {images.dtype} {list(images.shape)}; give float32 [N, C, H, W]"
            )
        wanted = (None, self.image.channels, self.image.height, self.image.width)
        fits = all(want in (None, got) for want, got in zip(wanted, images.shape, strict=True))
        if not fits or len(images) == 0:
            sides = ", ".join("any" if side is None else str(side) for side in wanted)
            raise PreprocessingError(
                f"images are {list(images.shape)}; {self.label} takes [{sides}]"
            )

    def _check_outputs(self, outputs: Sequence[str] | None) -> list[str]:
        """Return the names of the outputs to compute."""
        known = [output.name for output in self.signature.outputs]
        for name in outputs or ():
            if name not in known:
                raise ModelError(
                    f"{self.label} has no output {name!r}; its outputs are: {', '.join(known)}"
                )
        return known if outputs is None else list(outputs)


def joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Put the values of several calls together, [N, ...].

    Of rows that were selected each call has as many as it found: zeros fill up the shorter ones,
    which are boxes without a size and with no score.

    Raises
    ------
    OutputError
        They have not as many axes, or differ in other sides.
    """
    if len({(each.ndim, each.shape[2:]) for each in parts}) > 1:
        shapes = " and ".join(sorted({str([1, *each.shape[1:]]) for each in parts})[:2])
        raise OutputError(
            f"the model's answers to images of one size are of shape {shapes}; "
            "explain an output whose shape stays"
        )
    if len({each.shape[1:2] for each in parts}) > 1:
        most = max(each.shape[1] for each in parts)
        parts = [
            np.pad(each, [(0, 0), (0, most - each.shape[1]), *[(0, 0)] * (each.ndim - 2)])
            for each in parts
        ]
    return np.concatenate(parts)


def to_input(images: Images, image: ImageInput) -> npt.NDArray[Any]:
    """Convert images to what the model's input takes.

    Parameters
    ----------
    images
        float32 [N, C, H, W], model space.
    image
        The input: its layout and dtype. Integers are rounded to the nearest and clipped.

    Returns
    -------
    ndarray
        [N, C, H, W] or [N, H, W, C], of the input's dtype, contiguous; it may be `images` itself.
    """
    values = images.transpose(0, 2, 3, 1) if image.layout is Layout.NHWC else images
    dtype = np.dtype(image.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return np.ascontiguousarray(values, dtype=dtype)
