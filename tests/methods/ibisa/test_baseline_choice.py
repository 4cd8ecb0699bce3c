"""Which baseline stands for an answer, and what is shown where there is nothing to show."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.io.overlay import blend
from ibisa_onnx.methods.ibisa.baseline_choice import for_rounds, settle_baselines

SIDE = 64
RED, GREEN = (slice(20, 36), slice(8, 24)), (slice(20, 36), slice(40, 56))


def network(weights: list[list[float]], bias: list[float]) -> bytes:
    """`scores` [N, 2]: linear in the largest 8 x 8 means of red, green and blue."""
    constants = {"weights": np.array(weights, np.float32), "bias": np.array(bias, np.float32)}
    nodes = [
        helper.make_node("AveragePool", ["image"], ["mean"], kernel_shape=[8, 8], strides=[4, 4]),
        helper.make_node("GlobalMaxPool", ["mean"], ["largest"]),
        helper.make_node("Flatten", ["largest"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "discs",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


LOOKS = network([[8, -8], [-8, 8], [0, 0]], [0, 0])  # red for 0, green for 1
ONE_SIDED = network([[10, 0], [-6, 0], [0, 0]], [-3, 0])  # red for 0, green against it
SURE = network([[12, 0], [0, 0], [0, 0]], [9, 0])  # 0, whatever there is; red makes it surer
BLIND = network([[0, 0]] * 3, [0.3, 0.1])


def explainer(model: bytes, **options: Any) -> ibisa.Explainer:
    return ibisa.Explainer(
        model,
        preprocessing="unit",
        overrides=ibisa.Overrides(resize="stretch"),
        threads=1,
        providers=["cpu"],
        cache=False,
        **options,
    )


@pytest.fixture
def discs() -> np.ndarray:
    """A large red and a large green square, which a blur leaves as they are."""
    picture = np.full((SIDE, SIDE, 3), 60, np.uint8)
    picture[RED], picture[GREEN] = (230, 40, 40), (40, 200, 40)
    return picture


def peak(map: np.ndarray) -> tuple[int, ...]:
    return tuple(int(each) for each in np.unravel_index(map.argmax(), map.shape))


def within(place: tuple[int, ...], box: tuple[slice, slice]) -> bool:
    return all(side.start <= at < side.stop for at, side in zip(place, box, strict=True))


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
@pytest.mark.parametrize(("target", "box"), [(0, RED), (1, GREEN)])
def test_where_a_blur_keeps_the_answer_another_baseline_shows_what_it_needs(
    discs: np.ndarray, gradient: str, target: int, box: tuple[slice, slice]
) -> None:
    found = explainer(LOOKS, gradient=gradient).explain(discs, target)
    assert not found.flat
    assert target or found.baseline in ("mean", "noise")
    assert within(peak(found.map), box)


def test_the_choice_costs_no_pass_more(discs: np.ndarray) -> None:
    chosen = explainer(LOOKS).explain(discs)
    named = explainer(LOOKS, options=ibisa.Options(baseline="mean")).explain(discs)
    assert (chosen.passes.forward, chosen.passes.backward) == (21, 10)
    assert (named.passes.forward, named.passes.backward) == (21, 10)
    assert chosen.sufficiency is not None
    assert named.sufficiency is not None
    assert (len(chosen.sufficiency.areas), len(named.sufficiency.areas)) == (5, 7)


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
@pytest.mark.parametrize("preset", ["standard", "fast"])
def test_a_model_that_does_not_look_gets_no_heat(
    discs: np.ndarray, gradient: str, preset: str
) -> None:
    found = explainer(BLIND, gradient=gradient, options=preset).explain(discs)
    assert found.flat
    assert not found.map.any()
    assert any("does not depend on the image" in text for text in found.warnings)
    drawn = found.overlay()[:, -256:][:200]
    nothing = blend(discs, np.zeros_like(found.map))
    assert np.ptp(drawn.astype(int), axis=2).max() <= np.ptp(nothing.astype(int), axis=2).max()


def test_a_picture_of_nothing_says_nothing_of_the_model() -> None:
    found = explainer(LOOKS).explain(np.full((SIDE, SIDE, 3), 90, np.uint8))
    assert found.flat
    assert not any("does not depend" in text for text in found.warnings)


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
def test_what_speaks_against_an_answer_is_not_lit(discs: np.ndarray, gradient: str) -> None:
    found = explainer(ONE_SIDED, gradient=gradient).explain(discs, 0)
    assert within(peak(found.map), RED)
    assert found.map[GREEN].max() < 0.2 * found.map[RED].max()


def test_an_answer_that_no_baseline_loses_is_explained_by_its_log_odds(discs: np.ndarray) -> None:
    found = explainer(SURE).explain(discs)
    assert found.sufficiency is not None
    assert found.sufficiency.probabilities[0] > 0.99  # the probability does not tell
    assert not found.flat
    assert found.strength < 0.01  # and is drawn faintly
    assert any("not what it depends on" in text for text in found.warnings)
    assert within(peak(found.map), RED)


@pytest.mark.parametrize("name", ["blur", "mean", "border", "noise", "inpaint", "#202020"])
def test_the_baseline_that_was_named_is_taken_and_recorded(discs: np.ndarray, name: str) -> None:
    found = explainer(LOOKS, options=ibisa.Options(baseline=name)).explain(discs)
    assert found.baseline == name
    assert found.record()["baseline"] == name
    assert found.provenance.options["baseline"] == name


def test_a_picture_for_baseline_is_recorded_with_the_hash_of_its_file(
    discs: np.ndarray, tmp_path: Path
) -> None:
    path, found = tmp_path / "empty.png", []
    for grey in (60, 70):
        cv2.imwrite(str(path), np.full_like(discs, grey))
        found.append(explainer(LOOKS, options=ibisa.Options(baseline=str(path))))
    records = [each.explain(discs).record() for each in found]  # the first read it before
    assert [each["baseline"] for each in records] == [str(path)] * 2
    first, second = (each["provenance"]["baseline_sha256"] for each in records)
    assert first != second == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found[0].settings["baseline_sha256"] == first
    plain = found[0].explain(discs, method="random").record()
    assert plain["provenance"]["baseline_sha256"] is None


def test_rounds_take_in_turn_what_loses_the_answer() -> None:
    picture = np.full((SIDE, SIDE, 3), 60, np.uint8)
    picture[20:24, 8:12] = (250, 40, 40)  # small: lost by blur and mean
    problem = explainer(network([[90, 0], [0, 0], [0, 0]], [-35, 0])).problem(picture, 0)
    settled = settle_baselines(problem, "auto")
    assert [each.name for each in settled.row.baselines] == ["blur", "mean"]
    rounds = for_rounds(settled, [0, 1, 2])
    assert len(rounds) == 3
    blur, mean = (each.image for each in settled.row.baselines)
    for place, expected in enumerate((blur, mean, blur)):
        np.testing.assert_array_equal(rounds.masked.baselines[place], expected)
        np.testing.assert_array_equal(rounds.masked.images[place], problem.image[0])


def in_fours(model: bytes) -> bytes:
    """Return a model of batches of four, each image's scores less the others' mean times 20."""
    proto = onnx.load_model_from_string(model)
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 4
    proto.graph.node[-1].output[0] = "own"
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(20), "much"))
    proto.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["own"], ["centre"], axes=[0]),
            helper.make_node("Sub", ["own", "centre"], ["off"]),
            helper.make_node("Mul", ["off", "much"], ["more"]),
            helper.make_node("Add", ["own", "more"], ["scores"]),
        ]
    )
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("gradient", ["exact", "forward-only", "finite-difference"])
@pytest.mark.parametrize("baseline", ["auto", "mean"])
def test_images_of_a_fixed_batch_do_not_mix_in_the_choice_nor_the_check(
    discs: np.ndarray, gradient: str, baseline: str
) -> None:
    """For copies of one image the model is the same as the one that does not mix."""
    options = ibisa.Options(baseline=baseline)
    mixing = explainer(in_fours(LOOKS), gradient=gradient, options=options)
    found = mixing.explain(discs, 1)
    honest = explainer(LOOKS, gradient=gradient, options=options).explain(discs, 1)
    assert found.baseline == honest.baseline
    assert any("copies of one image" in text for text in found.warnings)
    assert found.sufficiency is not None
    assert honest.sufficiency is not None
    alone, expected = (each.sufficiency.probabilities[0] for each in (found, honest))
    assert alone == pytest.approx(expected, abs=1e-5)
    if gradient == "exact":
        np.testing.assert_allclose(found.map, honest.map, atol=1e-3)
    else:
        assert found.passes.forward <= 200
    if gradient != "finite-difference":  # of which 200 passes are too few
        assert within(peak(found.map), GREEN)


def test_the_second_target_shares_the_passes_that_settle_the_baseline(discs: np.ndarray) -> None:
    first, second = explainer(LOOKS).explain_all(discs, [0, 1])
    assert first.passes.forward - second.passes.forward == 6
    alone = explainer(LOOKS).explain(discs, 1)
    np.testing.assert_array_equal(alone.map, second.map)


def test_a_baseline_that_the_model_cannot_read_is_not_taken(discs: np.ndarray) -> None:
    """Over the picture's own spread: of one colour everywhere that is 0 / 0."""
    proto = onnx.load_model_from_string(SURE)
    spread = [
        helper.make_node("ReduceMin", ["mean"], ["low"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("ReduceMax", ["mean"], ["high"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Sub", ["high", "low"], ["spread"]),
        helper.make_node("Div", ["spread", "spread"], ["one"]),
        helper.make_node("Mul", ["largest", "one"], ["scaled"]),
    ]
    nodes = list(proto.graph.node)
    nodes[2].input[0] = "scaled"
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes[:2], *spread, *nodes[2:]])
    grey = np.repeat(discs[..., :1], 3, 2)  # one mean for all channels
    found = explainer(proto.SerializeToString()).explain(grey)
    assert found.baseline in ("blur", "noise")
    with pytest.raises(ibisa.IbisaError, match="for every baseline"):
        explainer(proto.SerializeToString(), options=ibisa.Options(baseline="mean")).explain(grey)


def test_a_map_that_accounts_for_little_is_faint_and_still_drawn(discs: np.ndarray) -> None:
    found = explainer(SURE).explain(discs)
    drawn, nothing = (
        blend(discs, found.map, strength).astype(int) for strength in (found.strength, None)
    )
    assert found.strength < 0.01
    assert np.abs(drawn - nothing).max() > 20


@pytest.mark.parametrize("name", ["blurr", "x" * 5000])
def test_what_is_no_baseline_is_told_of_when_the_model_is_opened(name: str) -> None:
    with pytest.raises(ibisa.IbisaError, match="option baseline is"):
        explainer(LOOKS, options=ibisa.Options(baseline=name))
