"""What a file says of itself: no more of it than is allowed."""

from __future__ import annotations

import pytest

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.onnx_session import DeployedModel


def test_metadata_beyond_the_limit_are_refused_on_opening(mean_model):
    model = mean_model()
    said = model.metadata_props.add()
    said.key, said.value = "names", "[" * 100
    data = model.SerializeToString()
    assert DeployedModel.open(data, limits=Limits(text_bytes=105)).metadata == {"names": "[" * 100}
    with pytest.raises(
        ModelError, match=r"105 characters of metadata, more than 104.*MAX_TEXT_BYTES"
    ):
        DeployedModel.open(data, limits=Limits(text_bytes=104))
