"""`surrogate` from an ONNX file: its exact gradient replaces the deployed model's.

A surrogate approximates one output of the model; a counterpart is the file that runs behind a
function or a model server, and stands for all of its outputs.

A surrogate's file must accept the model's input, with a dynamic or fixed batch. Its only output, or
the one with the name of the model's output, stands for the model's. That output must be floats
[N, K] (trailing axes of size 1 are allowed). Neither torch nor code from the file is involved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import GradientError, ModelError
from ibisa_onnx.gradients.base import MaskedModel, Raw
from ibisa_onnx.gradients.cache import GradientCache
from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.gradients.onnx_backward import ExactGradient
from ibisa_onnx.gradients.precision import refused_input
from ibisa_onnx.gradients.surrogate_file import FACTS, SurrogateFacts
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCounter

_INSTEAD = "use a file written by `distill` or `export --surrogate`"


class _FileGradient:
    """The exact gradient of a file as that of another model.

    `names` are the file's outputs by the other model's names. If `flat`, values are scores [N, K].
    """

    def __init__(
        self, file: DeployedModel, names: Mapping[str, str], exact: ExactGradient, *, flat: bool
    ) -> None:
        self._file, self._names, self._exact, self._flat = file, dict(names), exact, flat

    @property
    def coarse(self) -> bool:
        """Whether the file rounds coarsely: it is quantised or in half precision."""
        return self._exact.quantised or self._exact.half

    def __call__(self, masked: MaskedImages, passes: PassCounter) -> _MaskedFile:
        """Return the function from masks [N, 1, h, w] to the raw outputs of N images.

        Raises
        ------
        GradientError
            The file requires images of another size.
        """
        image, shape = self._file.image, masked.images.shape[1:]
        wanted = (image.channels, image.height, image.width)
        if any(side not in (None, given) for side, given in zip(wanted, shape, strict=True)):
            sides = ", ".join("any" if side is None else str(side) for side in wanted)
            raise GradientError(
                f"{self._what} requires images [{sides}], but the model's are {list(shape)}; use "
                f"{self._kind} with the model's input size"
            )
        exact = self._exact(masked, passes)
        if image.batch is None:
            return _MaskedFile(self._names, [exact], flat=self._flat, alone=False)
        # Images of a fixed batch may interact, so each image fills a batch of its own.
        parts = [exact.take([row]) for row in range(len(masked))]
        return _MaskedFile(self._names, parts, flat=self._flat, alone=True)

    @property
    def _what(self) -> str:
        """The file's name in errors."""
        return "the surrogate"

    @property
    def _kind(self) -> str:
        """What the file is."""
        return "a surrogate"


class CounterpartGradient(_FileGradient):
    """The gradient of the ONNX file that runs behind a model, for any of the model's outputs.

    Outputs go by the same names. If the file has no output of that name, its only output stands for
    the model's only one.

    Parameters
    ----------
    file
        The file, opened.
    outputs
        Names of the model's outputs to differentiate.
    only
        Whether the model has a single output.
    cache
        Cache of backward graphs; None: no caching.
    size
        Height and width of the model's input, for class activation maps; None: without them.

    Raises
    ------
    GradientError
        The file has no such output, or no exact gradient.
    """

    def __init__(
        self,
        file: DeployedModel,
        outputs: Sequence[str],
        only: bool,
        cache: GradientCache | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._label = file.label
        known = [each.name for each in file.signature.outputs]
        names = {each: each for each in outputs}
        if not set(outputs) <= set(known):
            if len(known) > 1 or not only:
                raise GradientError(
                    f"{file.label} has the output(s) {', '.join(known)}, but the target reads "
                    f"{', '.join(outputs)} of the model"
                )
            names = {outputs[0]: known[0]}
        if refused := refused_input(file.image):
            raise GradientError(f"no exact gradient of {file.label}: {refused}")
        exact = ExactGradient(file, tuple(names.values()), cache, size)
        super().__init__(file, names, exact, flat=False)

    @property
    def _what(self) -> str:
        return self._label

    @property
    def _kind(self) -> str:
        return "a file"


class OnnxSurrogate(_FileGradient):
    """An ONNX file as a source of another model's gradients.

    Parameters
    ----------
    path
        The file.
    output
        Name of the deployed model's output that it approximates.
    providers, threads, limits
        As for the deployed model, see `DeployedModel.open`.
    cache
        Cache of backward graphs; None: no caching.

    Raises
    ------
    GradientError
        The file cannot be opened, has no such output, or has no exact gradient.
    """

    def __init__(
        self,
        path: Path,
        output: str,
        *,
        providers: Sequence[str] = (),
        threads: int | None = None,
        limits: Limits | None = None,
        cache: GradientCache | None = None,
    ) -> None:
        self.output = output
        try:
            file = DeployedModel.open(path, providers=providers, threads=threads, limits=limits)
            own = _own_output(file, output)
            if refused := refused_input(file.image):
                raise GradientError(refused)
            exact = ExactGradient(file, (own,), cache)
        except (ModelError, GradientError) as error:
            raise GradientError(
                f"{path} cannot be used as a surrogate: {error.problem}", _INSTEAD
            ) from error
        super().__init__(file, {output: own}, exact, flat=True)
        self.facts = SurrogateFacts.read(file.metadata.get(FACTS, ""))

    def warnings(self, model: ImageModel) -> tuple[str, ...]:
        """Return warnings about its use as a surrogate of a deployed model."""
        return tuple(self.facts.warnings(model))


class _MaskedFile:
    """The file as a function of masks: a `MaskedModel`.

    `names` and `flat` are those of `_FileGradient`. `parts` are functions of one image each if
    `alone`, else a single function of all images.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        parts: Sequence[MaskedModel],
        *,
        flat: bool,
        alone: bool,
    ) -> None:
        self._names, self._parts, self._flat, self._alone = names, parts, flat, alone

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> _MaskedFile:
        """Return the function for a subset of the images."""
        parts = [self._parts[row] for row in rows] if self._alone else [self._parts[0].take(rows)]
        return _MaskedFile(self._names, parts, flat=self._flat, alone=self._alone)

    def forward(self, masks: Floats) -> tuple[Raw, Any]:
        """Return the raw outputs, [N, ...], of masks [N, 1, h, w], and state for `backward`."""
        calls = np.split(masks, len(masks)) if self._alone else [masks]
        last = len(self._parts) - 1  # one image may have several masks
        parts = [self._parts[min(place, last)] for place in range(len(calls))]
        try:
            done = [part.forward(call) for part, call in zip(parts, calls, strict=True)]
        except ModelError as error:
            raise GradientError(
                f"the surrogate failed on {len(masks)} image(s): {error.problem}",
                "use a surrogate with the model's input",
            ) from error
        raw = [values for values, _ in done]
        saved = [(part, each) for part, (_, each) in zip(parts, done, strict=True)]
        axes = {own: raw[0][own].shape[1:] for own in self._names.values()}
        return self._joined(raw, len(masks)), (saved, axes)

    def differentiated(self, saved: Any) -> Raw | None:
        """Return the outputs of the file's float counterpart if it is quantised."""
        found = [part.differentiated(each) for part, each in saved[0]]
        told = [values for values in found if values is not None]
        count = sum(len(next(iter(values.values()))) for values in told)
        return self._joined(told, count) if told else None

    def backward(self, saved: Any, cotangents: Mapping[str, Floats]) -> Floats:
        """Return the masks' cotangent, float32 [N, 1, h, w], from those of the outputs."""
        parts, axes = saved
        whole = {
            own: cotangents[name].reshape(len(cotangents[name]), *axes[own])
            for name, own in self._names.items()
        }
        calls = [whole]
        if self._alone:
            count = len(parts)
            calls = [
                {own: values[row : row + 1] for own, values in whole.items()}
                for row in range(count)
            ]
        pairs = zip(parts, calls, strict=True)
        return np.concatenate([part.backward(each, call) for (part, each), call in pairs])

    def class_activation(self, saved: Any) -> Floats | None:
        """Return the class activation of the last `backward`; None for a surrogate.

        The features of a surrogate are not the deployed model's.
        """
        if self._flat:
            return None
        found = [part.class_activation(each) for part, each in saved[0]]
        known = [each for each in found if each is not None]
        return np.concatenate(known) if len(known) == len(found) else None

    def _joined(self, parts: Sequence[Raw], count: int) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs of all calls by the model's names."""
        return {
            name: self._values([each[own] for each in parts], own, count)
            for name, own in self._names.items()
        }

    def _values(self, parts: Sequence[npt.NDArray[Any]], own: str, count: int) -> npt.NDArray[Any]:
        """Return one output of all calls."""
        raw = np.concatenate(parts) if parts[0].ndim else parts[0]
        if raw.shape[:1] != (count,):
            raise GradientError(
                f"the surrogate's output {own} has shape {list(raw.shape)} for {count} "
                "image(s); scores [N, K] are required"
            )
        return raw.reshape(count, -1).astype(np.float32) if self._flat else raw


def _own_output(model: DeployedModel, output: str) -> str:
    """Return the surrogate's output that stands for the deployed model's."""
    known = {each.name: each for each in model.signature.outputs}
    if output not in known and len(known) != 1:
        raise GradientError(
            f"none of its outputs ({', '.join(known)}) has the name of the model's output {output}"
        )
    own = known[output] if output in known else next(iter(known.values()))
    if not own.dtype.startswith("float"):
        raise GradientError(
            f"its output {own.name} has dtype {own.dtype}; a float dtype is required"
        )
    return own.name
