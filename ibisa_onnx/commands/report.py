"""How a result reads on a terminal. Words only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibisa_onnx.commands.console import Line, Styled, heading, rows

if TYPE_CHECKING:
    from ibisa_onnx.explanation import (
        Certificate,
        Completion,
        ExplainedTarget,
        Explanation,
        Sufficiency,
    )


def explanation_text(
    name: str, explanation: Explanation, paths: Sequence[Path], *, first: bool = True
) -> list[Line]:
    """Say what was explained, where the result is, how it was obtained and what it cost.

    `first` is False for a further target of one picture, which costs less.
    """
    passes, certificate = explanation.passes, explanation.certificate
    providers = ", ".join(explanation.provenance.providers)
    cost = (
        f"{passes.forward} forward + {passes.backward} backward image passes"
        f"{'' if first else _shared_text(certificate)}, {seconds(explanation):.2f} s"
        f"{f' for all {explanation.together}' if explanation.together > 1 else ''}"
    )
    head = f"{name}: {target_text(explanation.target)}"
    pairs: list[tuple[Line, str]] = [("written", ", ".join(map(str, paths)) or "to stdout")]
    if explanation.baseline is not None:
        pairs += [("baseline", _baseline_text(explanation))]
    pairs += [("sufficient", _sufficiency_text(explanation))]
    if explanation.completion.cut_short:
        pairs += [("cut short", completion_text(explanation.completion))]
    pairs += [("gradient", f"{certificate.gradient}: {certificate.reason}")]
    if certificate.difference is not None:
        check = "fidelity check"
        key = check if certificate.holds else Styled(check, colour="yellow")
        pairs += [(key, _fidelity_text(certificate))]
    pairs += [("cost", f"{cost} on {providers}" if providers else cost)]
    return [heading(head), *rows(pairs)]


def completion_text(completion: Completion) -> str:
    """Say how much of the work was done."""
    return f"after {completion.done} of {completion.planned} {completion.unit}"


def _shared_text(certificate: Certificate) -> str:
    """Say which passes a further target of one picture does without."""
    checked = "" if certificate.difference is None else ", fidelity check"
    return f" (prediction{checked} and baseline came with the first target)"


def details_text(explanation: Explanation) -> list[Line]:
    """Say what else there is to know: calls, seconds by stage, settings, hashes, versions."""
    passes, provenance = explanation.passes, explanation.provenance
    pairs = [
        ("calls", f"{passes.forward_calls} forward + {passes.backward_calls} backward"),
        ("seconds", _settings_text(explanation.timings)),
        ("preprocessing", _settings_text(provenance.preprocessing)),
        ("options", _settings_text({"seed": provenance.seed, **provenance.options})),
        ("model sha256", provenance.model_sha256 or "not known"),
        ("image sha256", provenance.image_sha256 or "not known"),
    ]
    if explanation.certificate.gradient_tolerance:
        pairs += [("directional derivative", _gradient_text(explanation.certificate))]
    if provenance.baseline_sha256:
        pairs += [("baseline sha256", provenance.baseline_sha256)]
    pairs += [("versions", _settings_text(provenance.versions))]
    return [*rows(pairs)]


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
    )


def target_text(target: ExplainedTarget) -> str:
    """Name a target: what it is called, and its probability, or its value where it has one."""
    return f"{target.caption} {target.reading}"


def class_text(index: int, label: str | None) -> str:
    """Name a class: its label and index, or its index alone."""
    return f"{label} ({index})" if label else f"class {index}"


def seconds(explanation: Explanation) -> float:
    """Return how long the explanation took in all."""
    timings = explanation.timings
    return timings.get("total", sum(timings.values()))


def _baseline_text(explanation: Explanation) -> str:
    """Name what stands where the picture is hidden, and what the model says of it alone."""
    from ibisa_onnx.methods.baselines import AUTO

    sufficiency, name = explanation.sufficiency, str(explanation.baseline)
    chosen = " (chosen)" if explanation.provenance.options.get("baseline") == AUTO else ""
    if sufficiency is None:
        return f"{name}{chosen}"
    return f"{name}{chosen}, which alone {_said_of(explanation.target, sufficiency)}"


def _said_of(target: ExplainedTarget, sufficiency: Sufficiency) -> str:
    """Say what the model says of a baseline: how probable the answer is, or what is left of it."""
    from ibisa_onnx.targets.retention import KEPT, retained

    alone, whole = sufficiency.probabilities[0], target.probability
    if target.value is None:
        return f"gives {100 * alone:.1f}%"
    if alone >= KEPT * whole:
        return "gives as much as the picture"
    return f"keeps {retained(alone):.0%} of what hiding the picture changes"


def _sufficiency_text(explanation: Explanation) -> str:
    """Say how little of the picture gives the answer back, or the most that was reached."""
    from ibisa_onnx.targets.retention import KEPT, retained

    sufficiency, target = explanation.sufficiency, explanation.target
    if sufficiency is None:
        return "not checked"
    area = sufficiency.area_for(KEPT * target.probability)
    gives, that = ("give", "that probability") if target.value is None else ("keep", "that")
    if area is not None and area > 0:
        return f"the hottest {100 * area:g}% of the picture alone {gives} {KEPT:.0%} of {that}"
    if area == 0:
        return f"the answer needs no pixel: the baseline ({explanation.baseline}) gives it too"
    best = max(sufficiency.probabilities, default=0.0)
    said = f"{best:.1%}" if target.value is None else f"{retained(best):.0%}"
    return f"no part that was tried {gives}s {KEPT:.0%} of {that} (best {said})"


def _fidelity_text(certificate: Certificate) -> str:
    verdict = "passed" if certificate.holds else "failed"
    off = (certificate.gradient_error or 0) > certificate.gradient_tolerance
    return (
        f"{verdict}: differs from ONNX Runtime by {certificate.difference:.1e} in probability "
        f"(tolerance {certificate.tolerance:.0e})"
        f"{f'; its gradient is off: {_gradient_text(certificate)}' if off else ''}"
    )


def _gradient_text(certificate: Certificate) -> str:
    """Say how far the directional derivative is off."""
    if certificate.gradient_error is None:
        return "nothing tells: the answer hardly changes"
    return (
        f"relative error {certificate.gradient_error:.2f} (tolerance "
        f"{certificate.gradient_tolerance:g})"
    )
