"""What every deployed model is to the rest of the package: run on float32 images, passes counted.

Images are checked, converted to what the input takes, and cut into calls as the batch allows. How a
call is made is for those below: an ONNX file in `session.py`, a function in `function.py`. What the
images mean is in `preprocessing.py`; what the outputs mean is not known here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ModelError, PreprocessingError
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.models.signature import ImageInput, Layout, Signature

if TYPE_CHECKING:
    import onnx

Images = npt.NDArray[np.float32]


class ImageModel(ABC):
    """A model of images, whatever runs it.

    Attributes
    ----------
    signature
        All inputs and outputs, and which input takes the image.
    passes
        Images and calls so far; whoever runs gradients of this model adds to it.
    max_batch
        The most images in one call: the model's own number where its batch is fixed.
    warnings
        What a user should know about how this model runs.
    """

    def __init__(self, signature: Signature, max_batch: int) -> None:
        if max_batch < 1:
            raise ModelError(f"max_batch is {max_batch}; give 1 or more")
        self.signature = signature
        self.passes = PassCounter()
        self.max_batch = signature.image.batch or max_batch
        self.warnings: list[str] = []

    @property
    def image(self) -> ImageInput:
        """The input that takes the image."""
        return self.signature.image

    @property
    @abstractmethod
    def name(self) -> str | None:
        """What the model is called in a record; None where it has no name."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What to call the model in an error."""

    @property
    @abstractmethod
    def sha256(self) -> str | None:
        """Hash of all that the model is made of; None where that is not known."""

    @property
    def graph_sha256(self) -> str | None:
        """Hash of what it computes, whatever it says of itself; None where there is no graph."""
        return None

    @property
    @abstractmethod
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use; none where it does not run the model."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """What the model says of itself."""

    @property
    def folder(self) -> Path | None:
        """Where the model's file lies; None where there is none."""
        return None

    @abstractmethod
    def proto(self) -> onnx.ModelProto | None:
        """Return the model's graph; None where there is none to read."""

    @abstractmethod
    def _call(self, batch: npt.NDArray[Any], names: list[str]) -> Sequence[npt.NDArray[Any]]:
        """Make one call on images as the input takes them, and count it.

        Returns the values of each output named, one row for each image.
        """

    def run(
        self, images: Images, outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Push images forward.

        Parameters
        ----------
        images
            float32 [N, C, H, W] in model space. For an integer input they are rounded and clipped
            to its range.
        outputs
            Names of the outputs to return; None: all.

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
        return self._run(images, self._check_outputs(outputs))

    def run_one_by_one(self, why: str) -> None:
        """Put one image in a call from here on, with a warning; `why` says what a batch does."""
        self.warnings.append(
            f"{self.label} declares an open batch but {why}, so images run one by one"
        )
        self.max_batch = 1

    def _run(self, images: Images, names: list[str]) -> dict[str, npt.NDArray[Any]]:
        """Run on images that were checked."""
        return self._run_chunks(images, names, self.max_batch)

    def _run_chunks(
        self, images: Images, names: list[str], most: int
    ) -> dict[str, npt.NDArray[Any]]:
        """Run in calls of at most `most` images, and put the results together."""
        parts = [
            [value[:kept] for value in self._call(to_input(chunk, self.image), names)]
            for chunk, kept in self._chunks(images, most)
        ]
        columns = zip(*parts, strict=True)
        return {name: np.concatenate(each) for name, each in zip(names, columns, strict=True)}

    def _chunks(self, images: Images, most: int) -> Iterator[tuple[Images, int]]:
        """Yield chunks of images and how many of each count; a fixed batch is filled up."""
        for start in range(0, len(images), most):
            chunk = images[start : start + most]
            kept = len(chunk)
            if self.image.batch and kept < self.image.batch:
                padding = np.repeat(chunk[-1:], self.image.batch - kept, axis=0)
                chunk = np.concatenate([chunk, padding])
            yield chunk, kept

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
