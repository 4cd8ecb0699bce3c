"""Choice of the source of gradients, and its reason."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.errors import DeadlineError, GradientError, IbisaError
from ibisa_onnx.gradients.precision import refused_input, rounds_coarsely
from ibisa_onnx.logs import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ibisa_onnx.gradients.base import GradientSource
    from ibisa_onnx.gradients.onnx_surrogate import OnnxSurrogate
    from ibisa_onnx.gradients.surrogate import SurrogateGradient
    from ibisa_onnx.models.base import ImageModel

    Surrogate = str | os.PathLike[str] | torch.nn.Module

_log = logger(__name__)

ESTIMATED = ("forward-only", "finite-difference")
Gradient = Literal["auto", "exact", "surrogate", "forward-only", "finite-difference"]
"""Where gradients come from, for type checkers."""
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
_REFUSAL = "no exact gradient: "
# Largest deviation of a probability by rounding alone. In 8 bits, a value rounded the other way is
# off by a whole step: about 0.06 for logits, 0.016 for probabilities.
_IN_SINGLE, _IN_HALF, _IN_8_BITS = 1e-3, 1e-2, 2e-2
_OF_SURROGATES = 0.05
# Largest relative error of a directional derivative by rounding and step length: a factor of two.
# That of a float counterpart or a surrogate may differ in size, but must have the same sign.
_OF_GRADIENTS, _OF_OTHER_GRADIENTS = 0.5, 0.97


@dataclass(frozen=True)
class GradientPath:
    """A source of gradients, by name, with the reason for it.

    `source` opens the function from masks [N, 1, h, w] to raw outputs; None without a gradient.
    `tolerance` is the largest accepted difference of probabilities from the deployed model's,
    `gradient_tolerance` the largest relative error of a directional derivative. `coarse` is true if
    rounding or the difference between the models may hide small changes of the image. `warnings`
    are for the user. `fallback` is true for forward passes in place of an expected gradient.
    """

    name: str
    reason: str
    source: GradientSource | None = None
    tolerance: float = 0.0
    gradient_tolerance: float = 0.0
    coarse: bool = False
    warnings: tuple[str, ...] = ()
    fallback: bool = False


def forward_only(reason: str, *, fallback: bool = False) -> GradientPath:
    """Return the path that needs no gradient; `fallback` if one was expected."""
    return GradientPath("forward-only", reason, fallback=fallback)


def check_gradient(
    wanted: str, surrogate: object | None, counterpart: object | None = None
) -> None:
    """Raise `GradientError` for an unknown gradient, or one that contradicts the other arguments.

    `counterpart` is the file that runs behind the model, if its gradient is used.
    """
    if wanted not in GRADIENTS:
        raise GradientError(f"gradient is {wanted!r}; choose from: {', '.join(GRADIENTS)}")
    if surrogate is not None and counterpart is not None:
        raise GradientError("surrogate= and gradient_from= are two gradients; omit one of them")
    if wanted in ("exact", *ESTIMATED) and counterpart is not None:
        raise GradientError(
            f"gradient={wanted!r} does not use gradient_from=",
            "omit one of them, or pass gradient='surrogate'",
        )
    if wanted == "surrogate" and surrogate is None and counterpart is None:
        raise GradientError("gradient='surrogate' requires a surrogate", "pass surrogate=FILE")
    if wanted in ("exact", *ESTIMATED) and surrogate is not None:
        raise GradientError(f"gradient={wanted!r} does not use a surrogate; omit one of them")


class GradientSelection:
    """The requested source of gradients, opened once per output.

    Parameters
    ----------
    wanted
        One of `GRADIENTS`; "auto" uses the best available.
    surrogate
        An ONNX file, a `.pt2` file or an `nn.Module` that approximates the model's raw output;
        None: no surrogate.
    cache
        Folder of the gradient cache; None: no caching.
    trust
        Whether code in the surrogate's file may be executed, which `.pt2` files require.
    counterpart
        The ONNX file that runs behind the model, whose gradient is used; None: there is none.

    Raises
    ------
    GradientError
        `wanted` is unknown or conflicts with `surrogate`, or the surrogate's file cannot be read or
        is not trusted.
    """

    def __init__(
        self,
        wanted: str = "auto",
        surrogate: Surrogate | None = None,
        cache: Path | None = None,
        *,
        trust: bool = False,
        counterpart: ImageModel | None = None,
    ) -> None:
        check_gradient(wanted, surrogate, counterpart)
        self.counterpart = counterpart
        self.wanted, self.surrogate, self._cache = wanted, surrogate, cache
        self._trust = trust
        if isinstance(surrogate, str | os.PathLike):
            from ibisa_onnx.gradients.surrogate_file import trusted_archive

            trusted_archive(Path(surrogate), "surrogate", trust)
        self._opened: BuiltOnce[GradientPath] = BuiltOnce()

    @property
    def auto(self) -> bool:
        """Whether to fall back to forward passes if a source fails."""
        return self.wanted == "auto"

    @property
    def surrogate_name(self) -> str | None:
        """Name of the surrogate or counterpart in a record."""
        if self.counterpart is not None:
            return self.counterpart.name
        if self.surrogate is None or isinstance(self.surrogate, str | os.PathLike):
            return None if self.surrogate is None else Path(self.surrogate).name
        return type(self.surrogate).__name__

    @cached_property
    def surrogate_identity(self) -> str | None:
        """Identity of the surrogate: the SHA-256 of its file, or of its weights."""
        if self.counterpart is not None:
            return self.counterpart.identity
        if self.surrogate is None:
            return None
        if not isinstance(self.surrogate, str | os.PathLike):
            digest = hashlib.sha256(repr(self.surrogate).encode())
            for name, value in self.surrogate.state_dict().items():
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
            return f"{self.surrogate_name}#{digest.hexdigest()}"
        from ibisa_onnx.gradients.surrogate_file import file_digest

        return file_digest(Path(self.surrogate))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the open sources."""
        return tuple(text for path in self._opened.values() for text in path.warnings)

    def open(
        self, model: ImageModel, outputs: tuple[str, ...], size: tuple[int, int] | None = None
    ) -> GradientPath:
        """Return the source of gradients of some outputs.

        Parameters
        ----------
        model
            The deployed model.
        outputs
            Names of the tensors to differentiate.
        size
            Height and width of the model's input, to compute class activation maps with an exact
            gradient; None: without them.

        Raises
        ------
        GradientError
            The source was requested by name and is not available.
        """
        key = (model.identity, outputs, size)
        return self._opened.get(key, lambda: self._open(model, outputs, size))

    def _open(
        self, model: ImageModel, outputs: tuple[str, ...], size: tuple[int, int] | None
    ) -> GradientPath:
        path = self._choose(model, outputs, size)
        _log.info("gradient of %s: %s (%s)", ", ".join(outputs), path.name, path.reason)
        return path

    def _choose(
        self, model: ImageModel, outputs: tuple[str, ...], size: tuple[int, int] | None
    ) -> GradientPath:
        if self.surrogate is not None:
            return _surrogate(model, outputs, self.surrogate, self._trust, self._cache)
        if self.counterpart is not None:
            return self._or_without(model, lambda: _counterpart(model, outputs, self._cache, size))
        if self.wanted == "forward-only":
            return forward_only("requested")
        if self.wanted in ESTIMATED:
            coarse = any(rounds_coarsely(model, each) for each in outputs)
            return GradientPath(self.wanted, "requested", coarse=coarse)
        if not self.auto:
            return _exact(model, outputs, "requested", self._cache, size)
        why = "every operator has a gradient rule"
        return self._or_without(model, lambda: _exact(model, outputs, why, self._cache, size))

    def _or_without(self, model: ImageModel, open_: Callable[[], GradientPath]) -> GradientPath:
        """Open a source of gradients; forward passes instead if it fails under "auto"."""
        try:
            return open_()
        except DeadlineError:  # not a property of the model, so it must not be remembered
            raise
        except IbisaError as error:
            if not self.auto:
                raise
            from ibisa_onnx.models.onnx_session import DeployedModel

            expected = isinstance(model, DeployedModel) or self.counterpart is not None
            return forward_only(error.problem.removeprefix(_REFUSAL), fallback=expected)


def _surrogate(
    model: ImageModel, outputs: tuple[str, ...], given: Any, trust: bool, cache: Path | None
) -> GradientPath:
    from ibisa_onnx.gradients.surrogate_file import trusted_archive

    if len(outputs) != 1:
        raise GradientError(
            f"a surrogate has one output, but this target reads {len(outputs)}; omit surrogate="
        )
    file = Path(given) if isinstance(given, str | os.PathLike) else None
    opened: OnnxSurrogate | SurrogateGradient
    if file is not None and not trusted_archive(file, "surrogate", trust):
        opened = _of_file(file, model, outputs[0], cache)
    else:
        from ibisa_onnx.imports import import_extra

        import_extra("torch", "torch")
        from ibisa_onnx.gradients.surrogate import SurrogateGradient

        opened = SurrogateGradient(given, outputs[0], trust=trust)
    return GradientPath(
        "surrogate",
        "a surrogate was provided",
        opened,
        tolerance=_OF_SURROGATES,
        gradient_tolerance=_OF_OTHER_GRADIENTS,
        coarse=True,
        warnings=opened.warnings(model),
    )


def _counterpart(
    model: ImageModel,
    outputs: tuple[str, ...],
    cache: Path | None,
    size: tuple[int, int] | None,
) -> GradientPath:
    """Open the gradient of the file that runs behind a model."""
    from ibisa_onnx.gradients.cache import GradientCache
    from ibisa_onnx.gradients.onnx_surrogate import CounterpartGradient
    from ibisa_onnx.models.onnx_session import DeployedModel

    file = model.differentiable()
    if not isinstance(file, DeployedModel):
        raise GradientError(f"{_REFUSAL}{model.what} has no gradient", "pass gradient_from=FILE")
    only, kept = len(model.signature.outputs) == 1, GradientCache(cache) if cache else None
    opened = CounterpartGradient(file, outputs, only, kept, size)
    return GradientPath(
        "surrogate",
        f"the gradient of {file.label}",
        opened,
        tolerance=_IN_8_BITS,  # the server's precision is unknown
        gradient_tolerance=_OF_OTHER_GRADIENTS,
        coarse=True,
    )


def _of_file(file: Path, model: ImageModel, output: str, cache: Path | None) -> OnnxSurrogate:
    """Open an ONNX file as a surrogate, with the deployed model's runtime settings."""
    from ibisa_onnx.gradients.cache import GradientCache
    from ibisa_onnx.gradients.onnx_surrogate import OnnxSurrogate
    from ibisa_onnx.models.onnx_session import DeployedModel

    threads, limits = None, None
    if isinstance(model, DeployedModel):
        threads = model.session.get_session_options().intra_op_num_threads or None
        limits = model.limits
    return OnnxSurrogate(
        file,
        output,
        providers=model.providers,
        threads=threads,
        limits=limits,
        cache=GradientCache(cache) if cache else None,
    )


def _exact(
    model: ImageModel,
    outputs: tuple[str, ...],
    reason: str,
    cache: Path | None,
    size: tuple[int, int] | None,
) -> GradientPath:
    from ibisa_onnx.models.onnx_session import DeployedModel

    if not isinstance(model, DeployedModel):
        raise GradientError(
            f"{_REFUSAL}{model.what} has no gradient", "use a surrogate or gradient='forward-only'"
        )
    from ibisa_onnx.gradients.cache import GradientCache
    from ibisa_onnx.gradients.masked_graph import BYTES
    from ibisa_onnx.gradients.onnx_backward import ExactGradient

    refused = refused_input(model.image)
    if refused is not None:
        raise GradientError(f"{_REFUSAL}{refused}", "use gradient='forward-only'")
    opened = ExactGradient(model, outputs, GradientCache(cache) if cache else None, size)
    tolerance = _IN_8_BITS if opened.quantised else _IN_HALF if opened.half else _IN_SINGLE
    coarse = opened.quantised or opened.half or model.image.dtype in BYTES
    of_gradient = _OF_OTHER_GRADIENTS if coarse else _OF_GRADIENTS
    return GradientPath("exact", reason, opened, tolerance, of_gradient, coarse)
