"""A model that looks at a square and nothing else, and the maps whose worth is known."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.metrics import Subject

SIDE = 12


@pytest.fixture
def square() -> np.ndarray:
    """The pixels that the model looks at, bool [12, 12]: 20 of 144."""
    region = np.zeros((SIDE, SIDE), bool)
    region[3:7, 5:10] = True
    return region


@pytest.fixture
def share(square: np.ndarray) -> float:
    return float(square.mean())


@pytest.fixture
def subject(square: np.ndarray) -> Subject:
    """A white picture, whose score is the part of the square that is still there."""
    return Subject(
        score=lambda images: images[:, 0, square].mean(1), image=np.ones((1, SIDE, SIDE))
    )
