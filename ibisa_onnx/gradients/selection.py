"""Which source of gradients is used, and why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ibisa_onnx.errors import GradientError, IbisaError
from ibisa_onnx.gradients.precision import rounds_coarsely
from ibisa_onnx.imports import import_extra

if TYPE_CHECKING:
    import torch

    from ibisa_onnx.gradients.base import VectorJacobian
    from ibisa_onnx.methods.masking import Bottleneck
    from ibisa_onnx.models.base import ImageModel
    from ibisa_onnx.targets.classification import Quantisation

    Source = Callable[[Bottleneck], VectorJacobian]

ESTIMATED = ("forward-only", "finite-difference", "spsa", "rloo")
GRADIENTS = ("auto", "exact", "surrogate", *ESTIMATED)
_REFUSAL = "no exact gradient: "
# How far rounding alone may take a probability. In 8 bits a value that falls on the other side is a
# whole step off, and a step of the logits is about 0.06, of a probability 0.016.
_IN_SINGLE, _IN_HALF, _IN_8_BITS = 1e-3, 1e-2, 2e-2


@dataclass(frozen=True)
class GradientPath:
    """A source of gradients, by name, with the reason for it.

    `source` gives for a bottleneck the function from masks [N, 1, h, w] to raw outputs, which can
    be pulled back through; None where there is no gradient. `tolerance` is how far its
    probabilities may be from the deployed model's; `coarse` whether small changes of the image may
    be lost in its rounding, where that matters; `warnings` what a user should know of it.
    """

    name: str
    reason: str
    source: Source | None
    tolerance: float = 0.0
    coarse: bool = False
    warnings: tuple[str, ...] = ()


def forward_only(reason: str) -> GradientPath:
    """Return the path that needs no gradient."""
    return GradientPath("forward-only", reason, None)


def check_gradient(wanted: str, surrogate: object) -> None:
    """Raise `GradientError` where what is asked for cannot be meant."""
    if wanted not in GRADIENTS:
        raise GradientError(f"gradient is {wanted!r}; choose from: {', '.join(GRADIENTS)}")
    if wanted == "surrogate" and surrogate is None:
        raise GradientError("gradient surrogate needs a surrogate; give --surrogate FILE")
    if wanted in ("exact", *ESTIMATED) and surrogate is not None:
        raise GradientError(f"gradient {wanted} uses no surrogate; leave one of the two out")


def choose_gradient(
    wanted: str,
    model: ImageModel,
    output: str,
    surrogate: str | os.PathLike[str] | torch.nn.Module | None,
    cache: Path | None = None,
    quantisation: Quantisation | None = None,
) -> GradientPath:
    """Open the source of gradients that was asked for, or under "auto" the best there is.

    `cache` is the folder where exact gradients are kept, None for nowhere; `quantisation` how the
    output's integers stand for reals, None where it holds floats.

    Raises
    ------
    GradientError
        What was asked for by name cannot be had, and why.
    """
    check_gradient(wanted, surrogate)
    if surrogate is not None:
        return _surrogate(model, surrogate)
    if wanted == "forward-only":
        return forward_only("asked for")
    if wanted in ESTIMATED:
        return GradientPath(wanted, "asked for", None, coarse=rounds_coarsely(model, output))
    if wanted == "exact":
        return _exact(model, output, "asked for", cache, quantisation)
    try:
        return _exact(model, output, "every operator has a rule", cache, quantisation)
    except IbisaError as error:
        return forward_only(_reason(error))


def _reason(error: IbisaError) -> str:
    """Return why there is no exact gradient, without the advice to do what is being done."""
    return str(error).removeprefix(_REFUSAL).split("; use ")[0]


def _surrogate(model: ImageModel, source: str | os.PathLike[str] | torch.nn.Module) -> GradientPath:
    import_extra("torch", "torch")
    from ibisa_onnx.gradients.surrogate import SurrogateGradient

    opened = SurrogateGradient(source, model.passes)
    return GradientPath(
        "surrogate",
        "a surrogate was given",
        opened,
        tolerance=0.05,
        warnings=opened.warnings(model),
    )


def _exact(
    model: ImageModel,
    output: str,
    reason: str,
    cache: Path | None,
    quantisation: Quantisation | None,
) -> GradientPath:
    from ibisa_onnx.models.onnx_session import DeployedModel

    if not isinstance(model, DeployedModel):
        raise GradientError(
            f"{_REFUSAL}a function has no gradient; use a surrogate or forward-only"
        )
    from ibisa_onnx.gradients.cache import GradientCache
    from ibisa_onnx.gradients.masked_graph import BYTES
    from ibisa_onnx.gradients.onnx_backward import ExactGradient

    dtype = model.image.dtype
    if not dtype.startswith(("float", "bfloat")) and dtype not in BYTES:
        raise GradientError(
            f"{_REFUSAL}{model.image.name} is {dtype}, and such integers have no gradient; "
            "use --gradient forward-only"
        )
    kept = GradientCache(cache) if cache else None
    opened = ExactGradient(model, output, kept, quantisation)
    tolerance = _IN_8_BITS if opened.quantised else _IN_HALF if opened.half else _IN_SINGLE
    return GradientPath("exact", reason, opened, tolerance)


def surrogate_name(surrogate: str | os.PathLike[str] | torch.nn.Module | None) -> str | None:
    """Return what to call a surrogate in a record."""
    if surrogate is None or isinstance(surrogate, str | os.PathLike):
        return None if surrogate is None else Path(surrogate).name
    return type(surrogate).__name__


def surrogate_identity(surrogate: str | os.PathLike[str] | torch.nn.Module | None) -> str | None:
    """Return what tells a surrogate from others: of a file the SHA-256, else its name."""
    if not isinstance(surrogate, str | os.PathLike):
        return surrogate_name(surrogate)
    with Path(surrogate).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
