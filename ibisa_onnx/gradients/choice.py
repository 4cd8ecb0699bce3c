"""Which source of gradients is used, and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ibisa_onnx.errors import GradientError, IbisaError

if TYPE_CHECKING:
    import torch

    from ibisa_onnx.bottleneck import Bottleneck
    from ibisa_onnx.gradients.vector_jacobian import VectorJacobian
    from ibisa_onnx.model.session import DeployedModel

    Source = Callable[[Bottleneck], VectorJacobian]

GRADIENTS = ("auto", "exact", "surrogate", "forward-only")
_REFUSAL = "no exact gradient: "


@dataclass(frozen=True)
class GradientPath:
    """A source of gradients, by name, with the reason for it.

    `source` gives for a bottleneck the function from masks [N, 1, h, w] to raw outputs, which can
    be pulled back through; None where there is no gradient. `tolerance` is how far its
    probabilities may be from the deployed model's.
    """

    name: str
    reason: str
    source: Source | None
    tolerance: float = 0.0


def forward_only(reason: str) -> GradientPath:
    """Return the path that needs no gradient."""
    return GradientPath("forward-only", reason, None)


def check_gradient(wanted: str, surrogate: object) -> None:
    """Raise `GradientError` where what is asked for cannot be meant."""
    if wanted not in GRADIENTS:
        raise GradientError(f"gradient is {wanted!r}; choose from: {', '.join(GRADIENTS)}")
    if wanted == "surrogate" and surrogate is None:
        raise GradientError("gradient surrogate needs a surrogate; give --surrogate FILE")
    if wanted in ("exact", "forward-only") and surrogate is not None:
        raise GradientError(f"gradient {wanted} uses no surrogate; leave one of the two out")


def choose_gradient(
    wanted: str,
    model: DeployedModel,
    output: str,
    surrogate: str | os.PathLike[str] | torch.nn.Module | None,
    cache: Path | None = None,
) -> GradientPath:
    """Open the source of gradients that was asked for, or under "auto" the best there is.

    `cache` is the folder where exact gradients are kept, None for nowhere.

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
    if wanted == "exact":
        return _exact(model, output, "asked for", cache)
    try:
        return _exact(model, output, "every operator has a rule", cache)
    except IbisaError as error:
        return forward_only(_reason(error))


def _reason(error: IbisaError) -> str:
    """Return why there is no exact gradient, without the advice to do what is being done."""
    return str(error).removeprefix(_REFUSAL).split("; use ")[0]


def _surrogate(
    model: DeployedModel, source: str | os.PathLike[str] | torch.nn.Module
) -> GradientPath:
    from ibisa_onnx.gradients.surrogate import SurrogateGradient

    opened = SurrogateGradient(source, model.passes)
    return GradientPath("surrogate", "a surrogate was given", opened, tolerance=0.05)


def _exact(model: DeployedModel, output: str, reason: str, cache: Path | None) -> GradientPath:
    from ibisa_onnx.gradients.cache import GradientCache
    from ibisa_onnx.gradients.exact import ExactGradient

    dtypes = {each.name: each.dtype for each in model.signature.outputs}
    for name, dtype in ((model.image.name, model.image.dtype), (output, dtypes[output])):
        if not dtype.startswith(("float", "bfloat")):
            raise GradientError(
                f"{_REFUSAL}{name} is {dtype}, and integers have no gradient; "
                "use --gradient forward-only"
            )
    opened = ExactGradient(model, output, GradientCache(cache) if cache else None)
    return GradientPath("exact", reason, opened, tolerance=1e-2 if opened.half else 1e-3)
