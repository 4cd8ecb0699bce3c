"""What was found, brought back to the picture, with all that there is to know about it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from ibisa_onnx.explanation import (
    Certificate,
    ExplainedTarget,
    Explanation,
    Passes,
    Provenance,
    Sufficiency,
)
from ibisa_onnx.methods.ibisa.method import Found
from ibisa_onnx.methods.stopping import DEADLINE
from ibisa_onnx.pipeline import Inquiry

_FLAT = 0.01  # a map that goes up to no more


def report(
    inquiry: Inquiry,
    found: Found,
    sufficiency: Sufficiency | None,
    times: Mapping[str, float],
    *,
    target: ExplainedTarget,
    provenance: Provenance,
    warnings: tuple[str, ...],
) -> Explanation:
    """Return the explanation.

    Parameters
    ----------
    sufficiency
        What the check told; None where there was none.
    times
        When each stage but the last ended, by `time.perf_counter`.
    warnings
        Those of the model; of the map there are more.
    """
    question, certified, now = inquiry.question, inquiry.certified, time.perf_counter()
    restore = question.prepared.geometry.restore
    per_pixel = float(np.prod(question.prepared.geometry.scale))  # of the picture
    timings, since = {}, inquiry.begin
    for stage, end in {**times, ("check" if sufficiency else "optimise"): now}.items():
        timings[stage], since = end - since, end
    effects = (found.effect, found.deviation)
    effect, uncertainty = (each if each is None else per_pixel * restore(each) for each in effects)
    if found.difference is not None:
        certified = replace(certified, difference=found.difference)
    certificate, method = certified.certificate, inquiry.method
    return Explanation(
        map=restore(found.keep),
        image=question.picture.pixels,
        target=target,
        sufficiency=sufficiency,
        completion=found.completion,
        passes=Passes(**asdict(inquiry.spent)),
        timings={**timings, "total": now - inquiry.begin},
        certificate=certificate,
        provenance=provenance,
        warnings=(*warnings, *_warnings(found, certificate)),
        effect=effect,
        uncertainty=uncertainty,
        method="ibisa" if method is None else method.name,
    )


def _warnings(found: Found, certificate: Certificate) -> tuple[str, ...]:
    """Return what a reader of this map must know."""
    warnings, completion = [], found.completion
    if float(np.ptp(found.keep)) < _FLAT:
        warnings.append("the map is flat: no part of the picture is worth its information")
    if not certificate.holds:
        warnings.append(
            f"the {certificate.gradient} path differs from the deployed model by "
            f"{certificate.difference:.1e} on this image: the map may not be true to it"
        )
    if completion.cut_short:
        why = "the deadline" if completion.cut_short == DEADLINE else "an interruption"
        warnings.append(
            f"cut short by {why} after {completion.done} of {completion.planned} "
            f"{completion.unit}: the map is rougher than it would be"
        )
    return tuple(warnings)
