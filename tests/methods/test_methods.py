"""What all methods share: passes, records, seeds, refusals; and occlusion, RISE and noise."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.commands.explaining import SIGNED_METHODS
from ibisa_onnx.errors import GradientError, NonFiniteGradientError, OptionError
from ibisa_onnx.gradients.layer import SplitModel
from ibisa_onnx.methods.grad_cam import GradCam
from ibisa_onnx.methods.iba import Iba
from ibisa_onnx.methods.occlusion import Occlusion, PreparedOcclusion
from ibisa_onnx.methods.random_map import RandomMap
from ibisa_onnx.methods.rise import PreparedRise, Rise, rise
from ibisa_onnx.methods.scaling import min_max_scaled, negative_part_scaled, positive_part_scaled
from ibisa_onnx.methods.stopping import Control

Open = Callable[..., ibisa.Explainer]
METHODS = ("gradcam", "iba", "occlusion", "random", "rise", "centred-rise")
LOOKS_INSIDE = ("gradcam", "iba")
PASSES = {
    # the prediction, two that show that images do not mix, and the method's own
    "gradcam": (1 + 1, 1),
    "iba": (1 + 2 + 1 + 3 * 4, 3 * 4),
    "occlusion": (1 + 2 + 5 * 5, 0),
    "random": (1, 0),
    "rise": (1 + 2 + 20, 0),
    "centred-rise": (1 + 2 + 20, 0),
}


@pytest.fixture
def methods(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    found = [
        GradCam(),
        Iba(paths, steps=3, draws=4),
        Occlusion(places=5),
        RandomMap(),
        Rise(masks=20),
        Rise(masks=20, centred=True),
    ]
    return {each.name: each for each in found}


@pytest.mark.parametrize("name", METHODS)
def test_passes_and_progress(
    explainer: Open, picture: np.ndarray, methods: dict[str, Any], name: str
) -> None:
    told: list[tuple[int, int]] = []
    found = explainer(deep=True).explain(
        picture, 1, method=methods[name], progress=lambda *each: told.append(each)
    )
    assert (found.passes.forward, found.passes.backward) == PASSES[name]
    assert found.map.shape == picture.shape[:2]
    assert found.map.min() >= 0
    assert 0.5 < found.map.max() <= 1  # 1 is in the middle of a cell, perhaps between pixels
    assert (found.completion.done, found.completion.cut_short) == (found.completion.planned, None)
    assert told[-1] == (found.completion.done, found.completion.planned)
    assert found.sufficiency is None
    assert found.certificate.holds
    assert found.certificate.gradient == ("exact" if name in LOOKS_INSIDE else "none")
    assert (found.against is not None) == (name in SIGNED_METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_saved_is_read_back(
    explainer: Open, picture: np.ndarray, methods: dict[str, Any], name: str, tmp_path: Path
) -> None:
    found = explainer(deep=True).explain(picture, 1, method=methods[name], seed=5)
    found.save(tmp_path / "out")
    read = ibisa.Explanation.load(tmp_path / "out")
    np.testing.assert_array_equal(read.map, found.map)
    assert read.method == found.method == name
    assert read.record() == found.record()
    for setting, value in methods[name].settings.items():
        assert read.provenance.options[setting] == value
    assert read.provenance.seed == 5


@pytest.mark.parametrize("name", METHODS)
def test_seeds_and_several_targets(
    explainer: Open, picture: np.ndarray, methods: dict[str, Any], name: str
) -> None:
    model = explainer(deep=True)
    one, two = model.explain_all(picture, [1, 2], method=methods[name], seed=3)
    assert (one.target.index, two.target.index) == (1, 2)
    assert two.passes.forward == one.passes.forward - 1  # the prediction
    again = explainer(deep=True).explain(picture, 2, method=methods[name], seed=3)
    np.testing.assert_array_equal(two.map, again.map)
    other = model.explain(picture, 2, method=methods[name], seed=4)
    assert np.array_equal(other.map, again.map) == (name in ("gradcam", "occlusion"))


@pytest.mark.parametrize("name", ["iba", "occlusion", "rise", "centred-rise"])
def test_images_that_mix_run_one_by_one(
    explainer: Open, picture: np.ndarray, methods: dict[str, Any], name: str
) -> None:
    """For one image alone the model is the same as the one that does not mix."""
    found = explainer(deep=True, mixing=True).explain(picture, 1, method=methods[name])
    honest = explainer(deep=True).explain(picture, 1, method=methods[name])
    assert any("in a batch than alone" in each for each in found.warnings)
    np.testing.assert_allclose(found.map, honest.map, atol=0.02)
    assert found.passes.forward == honest.passes.forward


@pytest.mark.parametrize("name", METHODS)
def test_functions(methods: dict[str, Any], picture: np.ndarray, name: str) -> None:
    def function(images: np.ndarray) -> np.ndarray:
        return images[:, :, :8, :8].mean((2, 3))

    spec = ibisa.InputSpec((None, 3, 16, 16))
    explainer = ibisa.Explainer(function, spec, preprocessing="unit")
    if name in LOOKS_INSIDE:
        with pytest.raises(
            GradientError, match="requires an ONNX graph, which a function does not have"
        ) as caught:
            explainer.explain(picture, 1, method=methods[name])
        assert "\n" not in str(caught.value)
    else:
        assert explainer.explain(picture, 1, method=methods[name]).map.max() > 0.9


@pytest.mark.parametrize("name", LOOKS_INSIDE)
def test_the_certificate_tells_how_far_the_second_part_is_off(
    explainer: Open,
    picture: np.ndarray,
    methods: dict[str, Any],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = explainer(deep=True).explain(picture, 1, method=methods[name]).certificate
    assert honest.difference == pytest.approx(0, abs=1e-6)
    forward = SplitModel.forward

    def wrong(self: SplitModel, *values: Any) -> Any:
        raw, saved = forward(self, *values)
        return raw + np.array([[0, 0.1, 0]], np.float32), saved

    monkeypatch.setattr(SplitModel, "forward", wrong)
    certificate = explainer(deep=True).explain(picture, 1, method=methods[name]).certificate
    assert 0.01 < certificate.difference < 0.026  # p (1 - p) / 10, at most a fortieth
    assert not certificate.holds


def test_a_method_may_be_named(explainer: Open, picture: np.ndarray) -> None:
    model = explainer()
    by_name, by_object = (
        model.explain(picture, 1, method=method) for method in ("gradcam", GradCam())
    )
    assert by_name.method == "gradcam"
    np.testing.assert_array_equal(by_name.map, by_object.map)
    with pytest.raises(OptionError, match=r"no method 'gradcams'; choose from: .*gradcam, iba"):
        model.explain(picture, 1, method="gradcams")


@pytest.mark.parametrize("method", [GradCam, 3])
def test_what_is_no_method(explainer: Open, picture: np.ndarray, method: Any) -> None:
    with pytest.raises(OptionError, match=r"pass one of ibisa_onnx.methods, such as GradCam\(\)"):
        explainer().explain(picture, method=method)


def test_scaling_keeps_the_order_and_tells_what_is_not_finite() -> None:
    values = np.array([[-2.0, 0.0], [1.0, 6.0]])
    np.testing.assert_allclose(min_max_scaled(values), [[0, 0.25], [0.375, 1]])
    np.testing.assert_allclose(positive_part_scaled(values), [[0, 0], [1 / 6, 1]])
    assert not min_max_scaled(np.full((2, 2), 7.0)).any()
    np.testing.assert_allclose(negative_part_scaled(values), [[2 / 6, 0], [0, 0]])
    np.testing.assert_allclose(negative_part_scaled(-values), [[0, 0], [1 / 6, 1]])
    assert not negative_part_scaled(np.zeros((2, 2))).any()
    for value in (-1, 0):
        np.testing.assert_array_equal(
            positive_part_scaled(np.full((2, 2), value)), np.zeros((2, 2))
        )
    for scaling in (min_max_scaled, negative_part_scaled, positive_part_scaled):
        for value in (np.nan, np.inf):
            with pytest.raises(NonFiniteGradientError, match="NaN or infinite"):
                scaling(np.array([[value, 1.0]]))


def test_what_is_hidden_becomes_the_mean_colour(explainer: Open, picture: np.ndarray) -> None:
    model = explainer()  # whose preprocessing subtracts no mean
    colour = model.problem(picture).blank[:, 0, 0]
    np.testing.assert_allclose(colour, np.array([124, 116, 104]) / 255, atol=1e-6)


# -- occlusion


class Linear:
    """A problem whose probability is linear in the image: weights [C, H, W] times it."""

    def __init__(self, image: np.ndarray, weights: np.ndarray, blank: Any = None) -> None:
        self.weights, self.blank = weights, blank
        self.image, self.size = image[None], image.shape[1:]
        self.row = SimpleNamespace(probability=float(self.score(image[None])[0]))
        self.largest = 0

    def score(self, images: np.ndarray) -> np.ndarray:
        self.largest = max(getattr(self, "largest", 0), len(images))
        return np.einsum("nchw,chw->n", images, self.weights)

    def check_batch_independence(self) -> int:
        return 0

    def filled(self, images: int) -> int:
        return images


@pytest.mark.parametrize("size", [(12, 12), (12, 20), (21, 9)])
def test_occlusion_of_a_linear_model(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image, blank = (
        rng.normal(size=(3, *size)).astype(np.float32),
        np.float32([[[1]], [[-2]], [[3]]]),
    )
    weights = rng.normal(size=(3, *size))
    problem = Linear(image, weights, blank)
    prepared = PreparedOcclusion(Occlusion(window=1 / 3, places=4))
    (found,) = prepared.run_one(problem, rng, Control())  # type: ignore[arg-type]
    each_pixel = (weights * (image - blank)).sum(0)  # by how much hiding it alone lowers the score
    side = round(min(size) / 3)
    tops, lefts = (np.rint(np.linspace(0, length - side, 4)).astype(int) for length in size)
    assert (tops[0], tops[-1], lefts[-1]) == (0, size[0] - side, size[1] - side)
    fall, covered = np.zeros(size), np.zeros(size)
    for top in tops:
        for left in lefts:
            window = (slice(top, top + side), slice(left, left + side))
            fall[window] += each_pixel[window].sum()
            covered[window] += 1
    mean = fall / np.maximum(covered, 1)
    expected = np.maximum(mean, 0)
    np.testing.assert_allclose(found.map, expected / expected.max(), atol=1e-5)
    against = np.maximum(-mean, 0) / np.abs(mean).max()
    np.testing.assert_allclose(found.map_against, against, atol=1e-5)
    assert (found.completion.done, problem.largest) == (16, 8)


@pytest.mark.parametrize(
    "values", [{"window": 0.0}, {"window": 1.0}, {"places": 1}, {"places": 2.5}], ids=str
)
def test_settings_of_occlusion(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"occlusion's {next(iter(values))}"):
        Occlusion(**values)


# -- RISE


@pytest.fixture
def linear() -> Linear:
    rng = np.random.default_rng(1)
    weights = rng.random((3, 32, 32)) / 3000
    return Linear(rng.normal(1, 1, (3, 32, 32)).astype(np.float32), weights)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("colour", [0.0, 0.7])
def test_the_method_is_the_function(linear: Linear, centred: bool, colour: float) -> None:
    blank = np.full((3, 1, 1), colour, np.float32)
    method = Rise(masks=50, grid=5, keep=0.4, centred=centred)
    linear.blank = blank
    prepared, rng = PreparedRise(method), np.random.default_rng(2)
    (found,) = prepared.run_one(linear, rng, Control())  # type: ignore[arg-type]
    saliency = rise(
        linear.score,
        linear.image[0],
        rng=np.random.default_rng(2),
        masks=50,
        grid=5,
        keep=0.4,
        centred=centred,
        blank=blank,
    )
    ordered = found.map.ravel()[np.argsort(saliency, axis=None, kind="stable")]
    assert (np.diff(ordered) >= 0).all()
    np.testing.assert_array_equal(found.map == 1, saliency == saliency.max())


def test_masked_pixels_have_the_blank_colour() -> None:
    colour = np.float32([[[1]], [[-2]], [[3]]])
    seen: list[np.ndarray] = []
    rise(
        lambda images: (seen.append(images), np.ones(len(images)))[1],
        np.zeros((3, 8, 8), np.float32),
        rng=np.random.default_rng(0),
        masks=8,
        blank=colour,
    )
    hidden = seen[0] / colour  # the share that is masked, alike in all channels
    np.testing.assert_allclose(hidden, hidden[:, :1].repeat(3, 1), atol=1e-6)
    assert hidden.min() >= 0
    assert hidden.max() == pytest.approx(1)


def test_memory_does_not_grow_with_the_masks(linear: Linear) -> None:
    def peak(masks: int) -> int:
        tracemalloc.start()
        rise(
            linear.score,
            linear.image[0],
            rng=np.random.default_rng(0),
            masks=masks,
        )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(8)
    assert peak(1000) < 1.1 * peak(100)


@pytest.mark.parametrize("name", ["rise", "centred-rise", "occlusion"])
def test_a_deadline_ends_it_early(
    explainer: Open,
    picture: np.ndarray,
    methods: dict[str, Any],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter(range(1000))  # a second passes whenever anybody looks
    model = explainer()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    found = model.explain(picture, 1, method=methods[name], deadline=5.5)
    completion = found.completion
    assert (completion.done, completion.cut_short) == (16, "deadline")  # none is kept for a check
    assert completion.planned in (20, 25)
    assert found.passes.forward == 1 + 2 + 16
    assert any("cut short by the deadline after 16 of" in each for each in found.warnings)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"masks": 0}, "masks is 0; pass an integer, at least 1"),
        ({"masks": 1.5}, "masks is 1.5; pass an integer, at least 1"),
        ({"grid": 0}, "grid is 0; pass an integer, at least 1"),
        ({"keep": 1.0}, "keep is 1.0; pass a probability greater than 0, less than 1"),
    ],
)
def test_settings_of_rise(values: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Rise(**values)


# -- noise


def test_noise_is_even(explainer: Open) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    model = explainer()
    values = [model.explain(picture, method=RandomMap(), seed=seed).map for seed in range(20)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.02)
    assert np.std(values) == pytest.approx(12**-0.5, abs=0.02)
    assert abs(np.corrcoef(values[0].ravel(), values[1].ravel())[0, 1]) < 0.2
