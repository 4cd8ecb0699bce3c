"""What the decoders' tests share: the planted detector, and what is checked of each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from field_set.formats import CLASSES, OBJECTS, Planted, scene

import ibisa_onnx as ibisa


@pytest.fixture
def planted() -> type[Planted]:
    return Planted


@pytest.fixture
def picture() -> np.ndarray:
    return scene()


Check = Callable[..., ibisa.Explainer]


@pytest.fixture
def check() -> Check:
    """See that a planted file's boxes are read, and that their maps fall on the squares."""

    def see(
        data: bytes,
        family: str,
        *,
        preprocessing: Any = "unit",
        labels: Sequence[str] | None = CLASSES,
        gradient: str = "exact",
        classes: Mapping[str, int] | None = None,
    ) -> ibisa.Explainer:
        explainer = ibisa.Explainer(
            data,
            preprocessing=preprocessing,
            overrides={"resize": "stretch"},
            labels=labels,
            threads=1,
            options=ibisa.Options(baseline="mean"),
        )
        assert explainer.kind.name == "detector"
        assert family in explainer.kind.reason
        answers = explainer.answers(scene())
        assert len(answers) == len(OBJECTS)
        found = explainer.explain_all(scene(), "all")
        for answer, (name, (*box, level)) in zip(answers, OBJECTS.items(), strict=True):
            index = CLASSES.index(name) if classes is None else classes[name]
            assert answer.index == index
            assert answer.score == pytest.approx(level / 255, abs=1e-3)
            assert answer.box == pytest.approx(box, abs=1e-2)
        for explanation, (*box, level) in zip(found, OBJECTS.values(), strict=True):
            left, top, right, bottom = box
            assert explanation.certificate.gradient == gradient
            assert explanation.target.probability == pytest.approx(level / 255, abs=1e-3)
            assert explanation.target.box == pytest.approx(box, abs=0.1)
            inside = explanation.map[top:bottom, left:right]
            assert inside.sum() > 0.6 * explanation.map.sum()
            assert inside.max() == explanation.map.max()
        return explainer

    return see
