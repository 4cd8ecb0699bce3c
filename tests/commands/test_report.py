"""How a result reads: what the baseline alone gives, of a class and of a value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ibisa_onnx.commands.report import details_text, explanation_text
from ibisa_onnx.statements import Sufficiency
from ibisa_onnx.targets.retention import log_retention
from tests.commands.conftest import FakeExplainer

AREAS = (0.0, 0.05, 0.2, 0.5)


def text(kept: tuple[float, ...], whole: float, *, value: float | None) -> dict[str, str]:
    """The rows of a report by their names; `kept` are probabilities, or what is kept of a value."""
    made = FakeExplainer._explanation(np.zeros((4, 4, 3), np.uint8), 0, 0)
    details = {} if value is None else {"value": value}
    found = replace(
        made,
        target=replace(made.target, probability=whole, details=details),
        sufficiency=Sufficiency(AREAS, kept),
        baseline="blur",
    )
    lines = explanation_text("a.png", found, [])[1:]
    return dict(str(line).strip().split(maxsplit=1) for line in lines)


def as_scores(*kept: float) -> tuple[float, ...]:
    """What an objective of values gives for retentions."""
    return tuple(np.exp(log_retention(np.array(kept))).tolist())


def test_of_a_class_it_is_probability():
    said = text((0.01, 0.3, 0.6, 0.9), 0.9, value=None)
    assert said["baseline"] == "blur; class probability 1.0% with the whole image replaced"
    assert said["sufficiency"] == (
        "the top 50% of pixels alone retain 90% of the class probability"
    )


def test_of_a_value_it_is_what_is_kept_between_picture_and_baseline():
    said = text(as_scores(0, 0.4, 0.95, 1), 1.0, value=0.4407)
    assert said["baseline"] == (
        "blur; 0% of the value retained with the whole image replaced"  # and not exp(-4) = 1.8%
    )
    assert said["sufficiency"] == (
        "the top 20% of pixels alone retain 90% of the value relative to the baseline"
    )


def test_a_value_that_no_part_keeps_names_the_best():
    said = text(as_scores(0, 0.02, 0.3, 0.4), 1.0, value=-2.0)
    assert said["sufficiency"] == (
        "not sufficient: no tested subset of pixels retains 90% of the value relative to the "
        "baseline (highest fraction retained: 40%)"
    )


@pytest.mark.parametrize("whole", [-0.5, 0.0, 0.03])
def test_a_baseline_that_gives_as_much_of_a_value_says_so_in_both_rows(whole: float):
    said = text(as_scores(0.03, 0.4, 0.5, 0.6), *as_scores(whole), value=-0.063)
    assert said["baseline"] == "blur; value unchanged with the whole image replaced"
    assert said["sufficiency"] == (
        "no pixels needed: the baseline (blur) alone retains 90% of the value relative to the "
        "baseline"
    )


@pytest.mark.parametrize(
    ("error", "said"), [(0.04, "0.04"), (1.9, "1.90"), (None, "not measurable")]
)
def test_a_gradient_that_is_off_is_said_and_the_details_say_by_how_much(error, said):
    made = FakeExplainer._explanation(np.zeros((4, 4, 3), np.uint8), 0, 0)
    certificate = replace(
        made.certificate,
        holds=(error or 0) <= 0.5,
        gradient_error=error,
        gradient_tolerance=0.5,
    )
    found = replace(made, certificate=certificate)
    short, long = (
        "\n".join(map(str, each))
        for each in (explanation_text("a.png", found, []), details_text(found))
    )
    assert ("failed" in short) == ("the gradient does not: " in short) == (error == 1.9)
    assert said in next(line for line in long.splitlines() if "directional derivative" in line)
