"""What all models share: calls that a model rejects as too large are halved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.models.base import RequestRejectedError


class Picky(ibisa.ImageModel):
    """Rejects more than three images at a time, before it runs them."""

    def __init__(self) -> None:
        super().__init__(ibisa.InputSpec((None, 3, 4, 4)).signature("picky"))
        self.sizes: list[int] = []

    def infer(self, feeds: Any, outputs: Any) -> Any:
        images = feeds["images"]
        if len(images) > 3:
            raise RequestRejectedError("too many")
        self.sizes.append(len(images))
        return dict.fromkeys(outputs, images.mean((2, 3)))


def test_calls_that_are_rejected_are_halved_from_then_on():
    model = Picky()
    images = np.random.default_rng(0).random((20, 3, 4, 4), np.float32)
    found = model.run(images)["scores"]
    np.testing.assert_array_equal(found, images.mean((2, 3)))
    assert set(model.sizes) == {2}
    assert model.passes.forward == 20
    assert (model.max_batch, len(model.warnings)) == (2, 1)
    assert "rejects calls of 8 images, so calls have 2" in model.warnings[0]


def test_a_single_image_that_is_rejected_is_an_error():
    class Closed(Picky):
        def infer(self, feeds: Any, outputs: Any) -> Any:
            raise RequestRejectedError("closed")

    with pytest.raises(RequestRejectedError, match="closed"):
        Closed().run(np.zeros((5, 3, 4, 4), np.float32))
