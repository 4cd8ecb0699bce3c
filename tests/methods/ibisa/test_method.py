"""IBISA of several rows: where the gradient of one fails, it alone goes on without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.errors import ModelError, NonFiniteGradientError
from ibisa_onnx.gradients.onnx_backward import _Buffers
from ibisa_onnx.models.passes import PassCount

SIDE = 16
Open = Callable[..., ibisa.Explainer]
PREDICTION, FIDELITY, CHECK = 1, 1, 8


def network(batch: int | str = "n") -> onnx.ModelProto:
    """`scores` [N, 3]: means of the channels under a convolution, and the root of all light.

    The root has no slope in the dark: of a black picture the gradient is NaN, the scores are not.
    """
    rng = np.random.default_rng(0)
    constants = {
        "kernel": rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32),
        "matrix": rng.normal(0, 4, (4, 3)).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        node("Softplus", ["c"], ["s"]),
        node("GlobalAveragePool", ["s"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "matrix"], ["m"]),
        node("ReduceMean", ["image"], ["light"], axes=[1, 2, 3], keepdims=1),
        node("Flatten", ["light"], ["l"]),
        node("Sqrt", ["l"], ["root"]),
        node("Add", ["m", "root"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dark",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture
def opened() -> Open:
    """`opened(batch=4, gradient="exact", ...)`."""

    def make(batch: int | str = "n", concurrency: int = 1, **options: Any) -> ibisa.Explainer:
        settings = {"preprocessing": "unit", "threads": 1, "providers": ["cpu"], "budget": 40}
        data = network(batch).SerializeToString()
        explainer = ibisa.Explainer(data, **{**settings, **options})
        explainer.model.max_concurrency = concurrency
        return explainer

    return make


BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)
LIGHT = [
    np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for seed in range(4)
]


def total(found: Sequence[ibisa.Explanation]) -> PassCount:
    """All passes that explanations say they took."""
    passes = [each.passes for each in found]
    names = ("forward", "backward", "forward_calls", "backward_calls")
    return PassCount(*(sum(getattr(each, name) for each in passes) for name in names))


ROWS = {
    "the first": [BLACK, LIGHT[0], LIGHT[1]],
    "the second": [LIGHT[0], BLACK, LIGHT[1]],
    "the last": [LIGHT[0], LIGHT[1], BLACK],
    "two of five": [BLACK, LIGHT[0], BLACK, LIGHT[1], LIGHT[2]],
    "all": [BLACK, BLACK],
    "the only one": [BLACK],
}


@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize("pictures", ROWS.values(), ids=ROWS)
def test_one_row_without_a_gradient_leaves_the_others_theirs(
    opened: Open, pictures: list[np.ndarray], batch: int | str
) -> None:
    explainer = opened(batch)
    found = explainer.explain_batch(pictures, 1, seed=2)
    for picture, each in zip(pictures, found, strict=True):
        alone = opened(batch).explain(picture, 1, seed=2)
        assert each.certificate.gradient == ("exact" if picture.any() else "forward-only")
        assert each.certificate == alone.certificate
        assert ("NaN" in each.certificate.reason) == (not picture.any())
        assert np.isfinite(each.map).all()
        # Calls of one image are the same ones; in a batch of four the last bits may differ.
        np.testing.assert_allclose(each.map, alone.map, rtol=0, atol=1e-5 if batch == 4 else 0)
        assert (each.sufficiency is None) == (alone.sufficiency is None)
        assert each.completion == alone.completion


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize("pictures", ROWS.values(), ids=ROWS)
def test_passes_add_up_where_a_row_falls_back(
    opened: Open, pictures: list[np.ndarray], batch: int | str, concurrency: int
) -> None:
    """What the failed gradient took is the row's that it failed for."""
    explainer = opened(batch, concurrency)
    found = explainer.explain_batch(pictures, 1)
    assert total(found) == explainer.model.passes.count
    assert all(each.passes.backward > 0 for each in found)


def test_what_each_of_an_open_batch_took(opened: Open) -> None:
    """The row that falls back has its part of the steps, and what it went on with."""
    found = opened().explain_batch([LIGHT[0], BLACK, LIGHT[1], LIGHT[2]], 1)
    assert [each.passes.backward for each in found] == [10] * 4
    assert [each.completion.done for each in found] == [10, 30, 10, 10]
    assert [each.completion.unit for each in found] == ["steps", "queries", "steps", "steps"]
    assert len({found[place].passes.forward for place in (0, 2, 3)}) == 1
    assert found[1].passes.forward >= PREDICTION + FIDELITY + 10 + 30 + CHECK


def test_asked_for_by_name_it_is_an_error(opened: Open) -> None:
    with pytest.raises(NonFiniteGradientError, match="exact gradient is NaN") as caught:
        opened(gradient="exact").explain_batch([LIGHT[0], BLACK], 1)
    assert "\n" not in str(caught.value)


def test_two_answers_to_one_dark_picture(opened: Open) -> None:
    explainer = opened()
    found = explainer.explain_all(BLACK, [0, 2])
    assert [each.certificate.gradient for each in found] == ["forward-only"] * 2
    assert [each.target.index for each in found] == [0, 2]
    assert total(found) == explainer.model.passes.count


@pytest.mark.parametrize("batch", ["n", 4])
def test_a_gradient_graph_that_fails_to_run_is_done_without(
    opened: Open, batch: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the fidelity check, at the third step: all rows go on without."""
    explainer, done = opened(batch), []
    backward = _Buffers.backward

    def fails(self: _Buffers, cotangent: np.ndarray) -> np.ndarray:
        done.append(len(cotangent))
        if sum(done) > 9:
            raise ModelError("the gradient graph failed to run: out of memory")
        return backward(self, cotangent)

    monkeypatch.setattr(_Buffers, "backward", fails)
    found = explainer.explain_batch(LIGHT[:3], 1)
    for each in found:
        assert each.certificate.gradient == "forward-only"
        assert "out of memory" in each.certificate.reason
    assert total(found) == explainer.model.passes.count


def test_a_deadline_is_shared_by_the_rows_that_are_left(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that go on without a gradient begin where the others have ended."""
    ticks = iter(range(100_000))  # a second passes whenever anybody looks
    explainer = opened(budget=400)
    explainer.explain(LIGHT[0], 1)  # opens all
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    found = explainer.explain_batch([BLACK, LIGHT[0], BLACK], 1, deadline=150.0)
    assert found[1].completion.cut_short is None
    first, second = found[0].completion, found[2].completion
    assert first.cut_short == second.cut_short == "deadline"
    assert 0 < first.done < first.planned
    assert abs(first.done - second.done) <= 0.3 * first.done
