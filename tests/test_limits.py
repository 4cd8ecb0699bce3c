import pytest

from ibisa_onnx.errors import OptionError
from ibisa_onnx.limits import Limits


def test_the_environment_sets_limits():
    limits = Limits.from_environment({"IBISA_ONNX_MAX_PIXELS": "50M", "IBISA_ONNX_MAX_NODES": "7"})
    assert limits == Limits(pixels=50_000_000, nodes=7)
    assert Limits.from_environment({}) == Limits()


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "²", "9" * 5000, "M", "1 0"])
def test_a_variable_that_is_no_number_is_refused(text):
    with pytest.raises(OptionError, match="IBISA_ONNX_MAX_PIXELS is"):
        Limits.from_environment({"IBISA_ONNX_MAX_PIXELS": text})


@pytest.mark.parametrize("value", [0, True, 1.0, None])
def test_a_limit_is_a_whole_number(value):
    with pytest.raises(OptionError, match="limit pixels"):
        Limits(pixels=value)
