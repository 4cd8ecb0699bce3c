"""What speaks against an answer lies in the planted cue against it, and nowhere without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.methods.ibisa.against import EvidenceAgainst
from ibisa_onnx.methods.ibisa.forward_only import estimates
from ibisa_onnx.methods.ibisa.optimizer import LogitGradient, optimise, pathwise
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.masking import sigmoid
from ibisa_onnx.methods.problem import MaskGradient

SIDE = 64
RED, BLUE = (slice(10, 24), slice(8, 22)), (slice(36, 50), slice(40, 54))
GRADIENTS = ("exact", "forward-only")


def network() -> onnx.ModelProto:
    """`scores` [N, 2]: red speaks for class 0 and blue against it."""
    kernel = np.array([[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1]], np.float32)
    constants = {
        "matrix": np.array([[120, 0], [0, 0], [-120, 0]], np.float32),
        "kernel": kernel[..., None, None],
        "bias": np.array([1, 3], np.float32),
    }
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 13]>
        colours (float[n, 3, {SIDE}, {SIDE}] image) => (float[n, 2] scores) {{
            c = Conv(image, kernel)
            features = Relu(c)
            g = GlobalAveragePool(features)
            f = Flatten(g)
            m = MatMul(f, matrix)
            scores = Add(m, bias)
        }}""")
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return model


def scene(*, blue: bool) -> np.ndarray:
    """A red square on grey noise, and a blue one where asked for."""
    grey = np.random.default_rng(0).integers(90, 130, (SIDE, SIDE, 1)).astype(np.uint8)
    picture = np.repeat(grey, 3, 2)
    picture[RED] = (230, 40, 40)
    if blue:
        picture[BLUE] = (40, 40, 230)
    return picture


@pytest.fixture(params=GRADIENTS)
def explain(request: pytest.FixtureRequest) -> Callable[..., ibisa.Explanation]:
    def run(picture: np.ndarray) -> ibisa.Explanation:
        explainer = ibisa.Explainer(
            network().SerializeToString(),
            preprocessing="unit",
            providers=["cpu"],
            threads=1,
            gradient=request.param,
            budget=400,
        )
        return explainer.explain(picture, 0)

    return run


def peak_is_in(map: np.ndarray, place: tuple[slice, slice], margin: int = 3) -> bool:
    """Whether the highest pixel lies in a square, or next to it."""
    inside = np.zeros(map.shape, bool)
    rows, columns = place
    inside[
        rows.start - margin : rows.stop + margin, columns.start - margin : columns.stop + margin
    ] = True
    return bool(inside[np.unravel_index(map.argmax(), map.shape)])


def test_each_cue_gets_its_own_sign(explain: Callable[..., ibisa.Explanation]) -> None:
    found = explain(scene(blue=True))
    assert found.against is not None
    assert (found.against.dtype, found.against.shape) == (np.float32, found.map.shape)
    assert 0 <= found.against.min() <= found.against.max() <= 1
    assert peak_is_in(found.map, RED)
    assert peak_is_in(found.against, BLUE)
    assert found.against.max() > 0.3 * found.map.max()
    signed = found.signed
    assert signed[RED].mean() > 0 > signed[BLUE].mean()
    assert -1 <= signed.min() < 0 < signed.max() <= 1


def test_without_a_cue_against_next_to_nothing_is_shown(
    explain: Callable[..., ibisa.Explanation],
) -> None:
    found = explain(scene(blue=False))
    assert found.against is not None
    assert peak_is_in(found.map, RED)
    assert found.against.max() < 0.25 * found.map.max()
    assert np.median(found.against) < 0.01 * found.map.max()


def test_an_answer_that_looks_nowhere_has_nothing_against_it() -> None:
    blind = ibisa.Explainer(
        lambda images: np.tile([[0.7, 0.3]], (len(images), 1)),
        ibisa.InputSpec((None, 3, SIDE, SIDE)),
        preprocessing="unit",
    )
    found = blind.explain(scene(blue=True))
    assert found.flat
    assert found.against is not None
    assert not found.against.any()
    np.testing.assert_array_equal(found.overlay(signed=True)[:SIDE], found.overlay()[:SIDE])


# -- the sums over the steps


def step_of(slope: np.ndarray, activation: np.ndarray | None) -> Any:
    """A step whose gradient and class activation are the same at every mask."""

    def gradient(masks: np.ndarray) -> MaskGradient:
        active = None
        if activation is not None:
            active = np.repeat([[activation, np.maximum(activation, 0)]], len(masks), 0)
        return MaskGradient(np.repeat(slope[None], len(masks), 0), np.ones(len(masks)), active)

    return pathwise(gradient, 1.0)


def slope_with(*blobs: tuple[int, int, float]) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.sum(
        [s * np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 40) for r, c, s in blobs], 0
    ).astype(np.float32)


def against_of(
    activation: np.ndarray | None, *, together: bool = True, options: Options | None = None
) -> np.ndarray:
    slope = slope_with((16, 16, 1.0), (44, 44, -1.0), (16, 44, -0.8))
    options = options or Options(grid=SIDE)
    noted = EvidenceAgainst(2)
    step = noted.watch(step_of(slope, activation))
    maps = list(
        optimise(
            lambda _: step,
            2,
            (SIDE, SIDE),
            options,
            together=together,
        )
    )[-1]
    found = noted.below(maps)
    assert found.shape == maps.shape
    np.testing.assert_array_equal(found[0], found[1])
    assert found.max() <= maps.max()
    return found[0]


def test_evidence_alone_where_there_are_no_feature_maps() -> None:
    found = against_of(None)
    assert found[44, 44] > found[16, 44] > 0.3 * found[44, 44]
    assert found[16, 16] == 0


def test_class_activation_tells_the_cue_from_what_only_moves_the_slope() -> None:
    """Both places lower the answer, but the features of the other class are at one alone."""
    active = np.zeros((8, 8), np.float32)
    active[1:3, 1:3], active[1:3, 5:7] = 1, -1
    found = against_of(active)
    assert found[16, 44] > 3 * found[44, 44]
    assert found[16, 16] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_class_activation_that_is_not_finite_is_left_out(value: float) -> None:
    found = against_of(np.full((8, 8), value, np.float32))
    np.testing.assert_array_equal(found, against_of(None))


def test_rounds_side_by_side_are_those_one_after_the_other() -> None:
    options = Options(grid=SIDE, rounds=3)
    one, other = (against_of(None, together=each, options=options) for each in (True, False))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_before_the_first_step_and_without_a_slope_there_is_nothing_against() -> None:
    noted = EvidenceAgainst(1)
    maps = np.ones((1, 8, 8), np.float32)
    assert not noted.below(maps).any()
    step = noted.watch(lambda smoothed, _: LogitGradient(0 * smoothed, np.ones(1)))
    step(maps, maps)
    assert not noted.below(maps).any()


# -- forward passes alone


def test_effects_against_are_measured_by_the_strongest_of_either_sign() -> None:
    size = 28
    effect = np.zeros((size, size))
    effect[4:9, 4:9], effect[18:23, 18:23] = 0.01, -0.01

    def query(images: np.ndarray) -> np.ndarray:
        return np.asarray(sigmoid((images[:, 0] * effect).sum((1, 2))), np.float64)

    image = np.ones((1, 1, size, size), np.float32)
    masked = MaskedImages(image, np.zeros_like(image))
    *_, found = estimates(query, masked, 400, np.random.default_rng(0))
    assert 0 <= found.against.min() <= found.against.max() <= 1
    assert (found.against[found.effect >= 0] == 0).all()
    assert np.unravel_index(found.against.argmax(), (size, size)) >= (15, 15)
    assert found.against[18:23, 18:23].mean() > 0.5
    assert found.against[4:9, 4:9].max() == 0
