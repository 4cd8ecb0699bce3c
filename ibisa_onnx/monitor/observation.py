"""What is kept of an explanation: nine numbers, taken from the explanation or from its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import ResultError
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.formats import jsonable
from ibisa_onnx.io.record import Between, Share, read_fields
from ibisa_onnx.monitor.regions import checked_region, fraction_outside
from ibisa_onnx.statements import Certificate, Completion, ExplainedTarget, Passes, Sufficiency

_LARGEST = 1_000_000_000_000  # of values that have no limit of their own


@dataclass(frozen=True)
class Observation:
    """The measures of one explanation; None where an explanation lacks one.

    Attributes
    ----------
    outside
        Fraction of the map's weight outside the region of interest, in 0..1. None without a region,
        for flat maps, and for records, which hold no map.
    sufficiency
        The probability that the highest-ranked half of the image adds to the baseline, as a
        fraction of the target's probability, in 0..1 (`Sufficiency.share_added`). None if
        sufficiency was not checked.
    difference
        Largest difference in probability between the gradient's path and the deployed model. None
        for forward-only explanations.
    unfaithful
        Whether a check of the gradient failed (`certificate.holds` is False).
    fallback
        Whether "auto" fell back to forward passes.
    flat
        Whether the map is flat. None for records.
    warned
        Whether the explanation has warnings.
    cut_short
        Whether a deadline or `stop` ended it early.
    passes
        Forward plus backward passes.
    """

    outside: Share | None = None
    sufficiency: Share | None = None
    difference: Annotated[float, Between(0, _LARGEST)] | None = None
    unfaithful: bool | None = None
    fallback: bool | None = None
    flat: bool | None = None
    warned: bool | None = None
    cut_short: bool | None = None
    passes: Annotated[int, Between(0, _LARGEST)] | None = None

    @staticmethod
    def of(
        explanation: Explanation | Observation | Mapping[str, Any], region: Any = None
    ) -> Observation:
        """Return the measures of an explanation.

        Parameters
        ----------
        explanation
            An explanation; its record (`Explanation.record`, the contents of explanation.json or a
            row of a table with its fields), to which `outside` and `flat` may be added; or an
            observation made elsewhere, which is validated.
        region
            The region of interest, as in `Monitor`; only used for explanations.

        Returns
        -------
        Observation
            The measures; NaN and infinity become None.

        Raises
        ------
        OptionError
            The region is invalid or does not fit the image.
        ResultError
            `explanation` is none of these, or a field is missing or invalid.
        """
        return observation_of(explanation, checked_region(region))


MEASURES = tuple(each.name for each in fields(Observation))
"""Names of the measures, in the order of `Observation`."""


@dataclass(frozen=True)
class _Recorded:
    """The fields of a record that are measured."""

    target: ExplainedTarget
    sufficiency: Sufficiency | None
    completion: Completion
    passes: Passes
    certificate: Certificate
    warnings: tuple[str, ...]
    outside: Share | None = None
    flat: bool | None = None


_RECORDED = tuple(each.name for each in fields(_Recorded))


def observation_of(explanation: Any, region: Any) -> Observation:
    """Return the measures of an explanation, a record or an observation; `region` is checked."""
    if isinstance(explanation, Explanation):
        outside = fraction_outside(explanation, region)
        return _checked(_measured(explanation, outside, explanation.flat))
    if isinstance(explanation, Observation):
        return _checked(explanation)
    if isinstance(explanation, Mapping):
        recorded = _recorded(explanation)
        return _checked(_measured(recorded, recorded.outside, recorded.flat))
    raise ResultError(
        f"explanation is {shown(explanation)}; pass an Explanation, its record or an Observation"
    )


def _recorded(record: Mapping[str, Any]) -> _Recorded:
    """Return the measured fields of a record; `ResultError` if one is missing or invalid."""
    known = jsonable({name: record[name] for name in _RECORDED if name in record})
    try:
        recorded = _Recorded(**read_fields(_Recorded, known, "record"))
    except ValueError as error:
        raise ResultError(f"invalid record: {error}") from error
    found = recorded.sufficiency
    if found and (len(found.areas) != len(found.probabilities) or min(found.areas, default=1) > 0):
        raise ResultError(
            f"invalid record: record.sufficiency has {len(found.areas)} areas and "
            f"{len(found.probabilities)} probabilities; pass one of each, areas from 0"
        )
    return recorded


def _measured(
    source: Explanation | _Recorded, outside: float | None, flat: bool | None
) -> Observation:
    found, certificate = source.sufficiency, source.certificate
    return Observation(
        outside=outside,
        sufficiency=found.share_added(source.target.probability) if found else None,
        difference=certificate.difference,
        unfaithful=not certificate.holds,
        fallback=certificate.fallback,
        flat=flat,
        warned=bool(source.warnings),
        cut_short=source.completion.cut_short is not None,
        passes=source.passes.forward + source.passes.backward,
    )


def _checked(observation: Observation) -> Observation:
    """Return an observation without NaN and infinity; `ResultError` if a value is impossible."""
    try:
        return Observation(**read_fields(Observation, jsonable(observation), "observation"))
    except ValueError as error:
        raise ResultError(f"invalid observation: {error}") from error
