"""`surrogate` from an ONNX file: its exact gradient replaces the deployed model's.

The file must accept the model's input, with a dynamic or fixed batch. Its only output, or the one
with the name of the model's output, stands for the model's. That output must be floats [N, K]
(trailing axes of size 1 are allowed). Neither torch nor code from the file is involved.
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


class OnnxSurrogate:
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
            self._model = DeployedModel.open(
                path, providers=providers, threads=threads, limits=limits
            )
            self._own = _own_output(self._model, output)
            if refused := refused_input(self._model.image):
                raise GradientError(refused)
            self._exact = ExactGradient(self._model, (self._own,), cache)
        except (ModelError, GradientError) as error:
            raise GradientError(
                f"{path} cannot be used as a surrogate: {error.problem}", _INSTEAD
            ) from error
        self.facts = SurrogateFacts.read(self._model.metadata.get(FACTS, ""))

    def warnings(self, model: ImageModel) -> tuple[str, ...]:
        """Return warnings about its use as a surrogate of a deployed model."""
        return tuple(self.facts.warnings(model))

    def __call__(self, masked: MaskedImages, passes: PassCounter) -> _MaskedSurrogate:
        """Return the function from masks [N, 1, h, w] to the raw scores of N images.

        Raises
        ------
        GradientError
            The surrogate requires images of another size.
        """
        image, shape = self._model.image, masked.images.shape[1:]
        wanted = (image.channels, image.height, image.width)
        if any(side not in (None, given) for side, given in zip(wanted, shape, strict=True)):
            sides = ", ".join("any" if side is None else str(side) for side in wanted)
            raise GradientError(
                f"the surrogate requires images [{sides}], but the model's are {list(shape)}; use "
                "a surrogate with the model's input size"
            )
        exact = self._exact(masked, passes)
        if image.batch is None:
            return _MaskedSurrogate(self.output, self._own, [exact], alone=False)
        # Images of a fixed batch may interact, so each image fills a batch of its own.
        parts = [exact.take([row]) for row in range(len(masked))]
        return _MaskedSurrogate(self.output, self._own, parts, alone=True)


class _MaskedSurrogate:
    """The surrogate as a function of masks: a `MaskedModel`.

    `parts` are functions of one image each if `alone`, else a single function of all images.
    """

    def __init__(self, output: str, own: str, parts: Sequence[MaskedModel], *, alone: bool) -> None:
        self._output, self._own, self._parts, self._alone = output, own, parts, alone

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> _MaskedSurrogate:
        """Return the function for a subset of the images."""
        parts = [self._parts[row] for row in rows] if self._alone else [self._parts[0].take(rows)]
        return _MaskedSurrogate(self._output, self._own, parts, alone=self._alone)

    def forward(self, masks: Floats) -> tuple[Raw, Any]:
        """Return raw scores, float32 [N, K], of masks [N, 1, h, w], and state for `backward`."""
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
        raw = [values[self._own] for values, _ in done]
        saved = [(part, each) for part, (_, each) in zip(parts, done, strict=True)]
        return {self._output: self._scores(raw, len(masks))}, (saved, raw[0].shape[1:])

    def differentiated(self, saved: Any) -> Raw | None:
        """Return the scores of the surrogate's float counterpart if it is itself quantised."""
        found = [part.differentiated(each) for part, each in saved[0]]
        told = [values[self._own] for values in found if values is not None]
        return {self._output: self._scores(told, sum(map(len, told)))} if told else None

    def backward(self, saved: Any, cotangents: Mapping[str, Floats]) -> Floats:
        """Return the masks' cotangent, float32 [N, 1, h, w], from the scores' [N, K]."""
        parts, axes = saved
        whole = cotangents[self._output]
        whole = whole.reshape(len(whole), *axes)
        calls = np.split(whole, len(whole)) if self._alone else [whole]
        return np.concatenate(
            [
                part.backward(each, {self._own: call})
                for (part, each), call in zip(parts, calls, strict=True)
            ]
        )

    def class_activation(self, saved: Any) -> None:
        """Return None: the features are the surrogate's, not the deployed model's."""

    def _scores(self, parts: Sequence[npt.NDArray[Any]], count: int) -> Floats:
        """Return the scores of all calls, float32 [N, K]."""
        raw = np.concatenate(parts) if parts[0].ndim else parts[0]
        if raw.shape[:1] != (count,):
            raise GradientError(
                f"the surrogate's output {self._own} has shape {list(raw.shape)} for {count} "
                "image(s); scores [N, K] are required"
            )
        return raw.reshape(count, -1).astype(np.float32)


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
