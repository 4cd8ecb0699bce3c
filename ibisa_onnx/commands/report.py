"""The text of an explanation on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibisa_onnx.commands.console import Line, Styled, heading, rows

if TYPE_CHECKING:
    from ibisa_onnx.explanation import Explanation
    from ibisa_onnx.statements import Certificate, Completion, ExplainedTarget, Sufficiency


def explanation_text(
    name: str, explanation: Explanation, paths: Sequence[Path], *, first: bool = True
) -> list[Line]:
    """Return what was explained, the files written, how the map was obtained and its cost.

    `first` is False for further targets of an image, which cost less.
    """
    passes, certificate = explanation.passes, explanation.certificate
    providers = ", ".join(explanation.provenance.providers)
    cost = (
        f"{passes.forward} forward + {passes.backward} backward passes"
        f"{'' if first else _shared_text(certificate)}, {seconds(explanation):.2f} s"
        f"{f' for {explanation.together} maps' if explanation.together > 1 else ''}"
    )
    head = f"{name}: {target_text(explanation.target)}"
    pairs: list[tuple[Line, str]] = [("written", ", ".join(map(str, paths)) or "to stdout")]
    if explanation.baseline is not None:
        pairs += [("baseline", _baseline_text(explanation))]
    pairs += [("sufficiency", _sufficiency_text(explanation))]
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
    """Return how much of the planned work was done."""
    return f"after {completion.done} of {completion.planned} {completion.unit}"


def _shared_text(certificate: Certificate) -> str:
    """Return which passes a further target of an image shares with the first."""
    checked = "" if certificate.difference is None else ", fidelity check"
    return f" (prediction{checked} and baseline shared with the first target)"


def details_text(explanation: Explanation) -> list[Line]:
    """Return details: calls, seconds by stage, settings, hashes, versions."""
    passes, provenance = explanation.passes, explanation.provenance
    pairs = [
        ("calls", f"{passes.forward_calls} forward + {passes.backward_calls} backward"),
        ("seconds", _settings_text(explanation.timings)),
        ("preprocessing", _settings_text(provenance.preprocessing)),
        ("options", _settings_text({"seed": provenance.seed, **provenance.options})),
        ("model sha256", provenance.model_sha256 or "unknown"),
        ("image sha256", provenance.image_sha256 or "unknown"),
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
    """Return a target's caption and its probability or value."""
    return f"{target.caption} {target.reading}"


def class_text(index: int, label: str | None) -> str:
    """Return a class's label and index, or its index alone."""
    return f"{label} ({index})" if label else f"class {index}"


def seconds(explanation: Explanation) -> float:
    """Return the total time of an explanation."""
    timings = explanation.timings
    return timings.get("total", sum(timings.values()))


def _baseline_text(explanation: Explanation) -> str:
    """Return the baseline's name, and the prediction with the whole image replaced by it."""
    from ibisa_onnx.methods.baselines import AUTO

    sufficiency, name = explanation.sufficiency, str(explanation.baseline)
    if explanation.provenance.options.get("baseline") == AUTO:
        name = f"{name} (auto)"
    if sufficiency is None:
        return name
    found = _prediction_text(explanation.target, sufficiency)
    return f"{name}; {found} with the whole image replaced"


def _prediction_text(target: ExplainedTarget, sufficiency: Sufficiency) -> str:
    """Return the prediction on the baseline: a probability, or the fraction of a value retained."""
    from ibisa_onnx.targets.retention import KEPT, retained

    alone, whole = sufficiency.probabilities[0], target.probability
    if target.value is None:
        return f"{_quantity(target)} {100 * alone:.1f}%"
    if alone >= KEPT * whole:
        return "value unchanged"
    return f"{retained(alone):.0%} of the value retained"


def _quantity(target: ExplainedTarget) -> str:
    """Return what pixels retain of a target's prediction."""
    if target.value is not None:
        return "value relative to the baseline"
    return "class probability" if target.kind == "class" else "probability"


def _sufficiency_text(explanation: Explanation) -> str:
    """Return how few pixels retain the prediction, or the most that any subset retained."""
    from ibisa_onnx.targets.retention import KEPT, retained

    sufficiency, target = explanation.sufficiency, explanation.target
    if sufficiency is None:
        return "not checked"
    area = sufficiency.area_for(KEPT * target.probability)
    what = f"{KEPT:.0%} of the {_quantity(target)}"
    if area == 0:
        return f"no pixels needed: the baseline ({explanation.baseline}) alone retains {what}"
    if area is not None:
        return f"the top {100 * area:g}% of pixels alone retain {what}"
    best = max(sufficiency.probabilities, default=0.0)
    highest = f"probability reached: {best:.1%}"
    if target.value is not None:
        highest = f"fraction retained: {retained(best):.0%}"
    return f"not sufficient: no tested subset of pixels retains {what} (highest {highest})"


def _fidelity_text(certificate: Certificate) -> str:
    verdict = "passed" if certificate.holds else "failed"
    difference = certificate.difference or 0.0
    match = "match" if difference <= certificate.tolerance else "do not match"
    off = (certificate.gradient_error or 0) > certificate.gradient_tolerance
    return (
        f"{verdict}: probabilities {match} the deployed model (difference {difference:.1e}, "
        f"tolerance {certificate.tolerance:.0e})"
        f"{f'; the gradient does not: {_gradient_text(certificate)}' if off else ''}"
    )


def _gradient_text(certificate: Certificate) -> str:
    """Return the error of the directional derivative."""
    if certificate.gradient_error is None:
        return "not measurable: the prediction barely changes"
    return (
        f"relative error {certificate.gradient_error:.2f} (tolerance "
        f"{certificate.gradient_tolerance:g})"
    )
