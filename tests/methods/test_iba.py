"""IBA's formulas against integrals and differences, its statistics against NumPy, its maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.errors import ImageError, OptionError
from ibisa_onnx.methods.iba import Iba, PreparedIba, divergence, divergence_derivative, estimate
from ibisa_onnx.methods.masking import sigmoid, smooth
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.targets.class_scores import Activation, ClassScores, Quantisation
from ibisa_onnx.targets.classification import ClassObjective

Open = Callable[..., ibisa.Explainer]


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("relative", [-2.0, 0.0, 0.7])
def test_the_divergence_is_that_of_two_gaussians(keep: float, relative: float) -> None:
    mean, deviation = keep * relative, 1 - keep
    z = np.linspace(mean - 12 * deviation, mean + 12 * deviation, 20001)
    log_p = -(((z - mean) / deviation) ** 2) / 2 - math.log(deviation)
    log_q = -(z**2) / 2
    p = np.exp(log_p) / math.sqrt(2 * math.pi)
    expected = np.trapezoid(p * (log_p - log_q), z)
    found = divergence(np.float32([keep]), np.float32([relative]))
    assert found[0] == pytest.approx(expected, abs=1e-4)


def test_the_derivative_of_the_divergence() -> None:
    keep, relative = np.meshgrid(np.linspace(0.01, 0.99, 30), np.linspace(-3, 3, 7))
    step = 1e-6
    expected = (divergence(keep + step, relative) - divergence(keep - step, relative)) / (2 * step)
    np.testing.assert_allclose(
        divergence_derivative(keep, relative), expected, rtol=1e-5, atol=1e-8
    )
    assert np.isfinite(divergence_derivative(np.float32([1.0]), np.float32([2.0]))).all()


def test_statistics_are_numpys() -> None:
    features = np.random.default_rng(0).normal(3, 2, (200, 2, 3, 4)).astype(np.float32)
    features[:, 0, 0, 0] = 5
    features[:, 0, 0, 1] = 0
    features[:2, 0, 0, 1] = 1  # in one image of a hundred, no more
    features[:, 0, 0, 2] = 0
    features[:3, 0, 0, 2] = 1
    found = estimate(iter(features))
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-5)
    deviation = np.maximum(features.astype(np.float64).std(0, ddof=1), 0.01)
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-5)
    assert np.argwhere(~found.active).tolist() == [[0, 0, 1]]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(4)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return paths


def prepared(
    explainer: ibisa.Explainer, method: Iba, picture: np.ndarray
) -> tuple[PreparedIba, Problem]:
    problem = explainer.problem(picture, 1)
    objective, spec = problem.row.objective, explainer.preprocessing.spec
    return method.prepare(explainer.model, objective, spec), problem


class Same:
    """In the place of a generator: always the same noise."""

    def __init__(self, noise: np.ndarray) -> None:
        self.noise = noise

    def standard_normal(self, shape: Any, dtype: Any) -> np.ndarray:
        assert shape == self.noise.shape
        return self.noise


def test_the_gradient_of_the_loss_by_differences(
    explainer: Open, picture: np.ndarray, pictures: list[Path]
) -> None:
    method = Iba(pictures, layer="c1", beta=3.0, draws=11, smoothing=1.5)
    iba, problem = prepared(explainer(deep=True), method, picture)
    statistics, rng = iba.statistics, np.random.default_rng(0)
    statistics.active[0, :4] = False
    features = iba.layer.split.features(problem.image)[0]
    relative = (features - statistics.mean) / statistics.deviation
    parameters = rng.normal(0, 1, relative.shape).astype(np.float32)
    noise = rng.standard_normal((11, *relative.shape)).astype(np.float32)

    def loss(at: np.ndarray) -> float:
        keep = smooth(sigmoid(at.astype(np.float64)), 1.5)
        z = keep * relative + (1 - keep) * noise
        z = (z * statistics.deviation + statistics.mean) * statistics.active
        raw, _ = iba.layer.split.forward(problem.image, z.astype(np.float32), PassCounter())
        log = problem.row.objective.score({iba.layer.split.output: raw})
        left = 1 - keep
        nats = -0.5 * (1 + np.log(left**2) - (keep * relative) ** 2 - left**2)
        return float(-log.mean() + 3.0 * (nats * statistics.active).mean())

    slope = iba._loss_gradient(problem, parameters, relative, Same(noise))
    assert np.abs(slope[0, :2]).max() < np.abs(slope).max() / 10
    for _ in range(4):
        direction = rng.normal(size=slope.shape) * np.abs(slope).max()
        direction += 3 * slope
        size = 0.02 / np.abs(direction).max()
        expected = (loss(parameters + size * direction) - loss(parameters - size * direction)) / (
            2 * size
        )
        usual = float(np.linalg.norm(slope) * np.linalg.norm(direction)) / math.sqrt(slope.size)
        assert float((slope * direction).sum()) == pytest.approx(expected, abs=0.02 * usual)


def test_the_map_is_the_information_of_each_place(
    explainer: Open, picture: np.ndarray, pictures: list[Path]
) -> None:
    """Without a step's length nothing moves: lambda is the sigmoid of the start."""
    method = Iba(pictures, layer="features", learning_rate=0.0, steps=1, draws=2, start=1.0)
    iba, problem = prepared(explainer(), method, picture)
    features = iba.layer.split.features(problem.image)[0]
    relative = (features - iba.statistics.mean) / iba.statistics.deviation
    keep = 1 / (1 + math.exp(-1))
    nats = np.where(iba.statistics.active, divergence(np.float64(keep), relative), 0).sum(0)
    found = explainer().explain(picture, 1, method=method)
    np.testing.assert_allclose(found.map, nats / nats.max(), atol=1e-5)


def test_the_steps_are_those_of_pytorch(
    explainer: Open,
    picture: np.ndarray,
    pictures: list[Path],
    network_weights: dict[str, np.ndarray],
    torch_smooth: Callable[[torch.Tensor, float], torch.Tensor],
) -> None:
    method = Iba(pictures, layer="features", steps=6, draws=5, learning_rate=0.7, start=1.5)
    iba, problem = prepared(explainer(deep=True), method, picture)
    features = iba.layer.split.features(problem.image)
    noise = np.random.default_rng(3).standard_normal((5, *features.shape[1:])).astype(np.float32)
    (found,) = iba.run_one(problem, Same(noise), Control())  # type: ignore[arg-type]

    def double(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float64))

    kernel, matrix = double(network_weights["k2"]), double(network_weights["w"])
    mean, deviation = double(iba.statistics.mean), double(iba.statistics.deviation)
    active, relative = double(iba.statistics.active), (double(features[0]) - mean) / deviation

    def nats(keep: torch.Tensor) -> torch.Tensor:
        left = 1 - keep
        return -0.5 * (1 + torch.log(left**2) - (keep * relative) ** 2 - left**2) * active

    alpha = torch.full(relative.shape, 1.5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([alpha], lr=0.7)
    for _ in range(6):
        keep = torch_smooth(torch.sigmoid(alpha), 1.0)
        z = ((keep * relative + (1 - keep) * double(noise)) * deviation + mean) * active
        deep = F.softplus(F.conv2d(z, kernel, padding=1, stride=2))
        log = torch.log_softmax(deep.mean((2, 3)) @ matrix, 1)[:, 1]
        adam.zero_grad()
        (-log.mean() + 10 * nats(keep).mean()).backward()
        adam.step()
    bits = nats(torch_smooth(torch.sigmoid(alpha), 1.0)).sum(0).detach().numpy()
    np.testing.assert_allclose(found.cells, np.maximum(bits, 0) / bits.max(), atol=1e-3)


def test_the_peak_is_on_the_object(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        scene = draw_scene(np.random.default_rng(100 + number), count=2)
        cv2.imwrite(str(path), scene.image[..., ::-1])
    explainer, method = ibisa.Explainer(model_path(), threads=1, providers=["cpu"]), Iba(paths)
    hits, shares = [], []
    for seed in range(6):
        scene = draw_scene(np.random.default_rng(6000 + seed), count=1)
        (item,) = scene.objects
        found = explainer.explain(scene.image, item.index, method=method)
        near = cv2.dilate(item.mask.astype(np.uint8), np.ones((9, 9))) > 0  # a feature is 8 pixels
        hits.append(near[np.unravel_index(found.map.argmax(), found.map.shape)])
        shares.append(found.map[item.mask].mean() / found.map[~near].mean())
    assert np.mean(hits) >= 5 / 6
    assert min(shares) > 2
    assert "64 x 16 x 16" in found.certificate.reason


def test_a_list_of_pictures_is_meant_too(
    explainer: Open, picture: np.ndarray, pictures: list[Path]
) -> None:
    model = explainer()
    one = model.explain(picture, method=Iba(pictures, steps=2))
    other = model.explain(picture, method=Iba(tuple(pictures), steps=2))
    assert Iba(pictures) == Iba(tuple(pictures))
    assert len(model._pipeline._prepared.values()) == 1  # so statistics are taken once
    np.testing.assert_array_equal(one.map, other.map)
    assert one.provenance.options["images"] == len(pictures)


def test_no_more_draws_at_once_than_the_model_takes(
    explainer: Open, picture: np.ndarray, pictures: list[Path]
) -> None:
    maps = []
    for most, calls in ((8, 2), (3, 4), (1, 10)):
        model = DeployedModel.open(
            explainer(deep=True).model.file.data, providers=["cpu"], max_batch=most
        )
        found = ibisa.Explainer(model, preprocessing="unit").explain(
            picture, 1, method=Iba(pictures, steps=3)
        )
        assert (found.passes.backward, found.passes.backward_calls) == (30, 3 * calls)
        maps.append(found.map)
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-3)
    np.testing.assert_allclose(maps[0], maps[2], atol=1e-3)


def test_a_deadline_ends_it_early(
    explainer: Open, picture: np.ndarray, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, method = explainer(), Iba(pictures)
    model.explain(picture, method=method)
    ticks = iter(range(1000))  # a second passes whenever anybody looks
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    found = model.explain(picture, method=method, deadline=12.0)
    assert 1 <= found.completion.done < found.completion.planned == 10
    assert found.completion.cut_short == "deadline"
    assert any("cut short by the deadline" in each for each in found.warnings)


REFUSED = {
    "one image": ({"images": ["a.png"]}, "iba needs 2 or more images, got 1"),
    "a folder": ({"images": "folder"}, "iba's images is 'folder'; pass a sequence"),
    "no steps": ({"steps": 0}, "steps is 0; pass 1 or more"),
    "half a draw": ({"draws": 0.5}, "draws is 0.5; pass 1 or more"),
    "beta": ({"beta": -1.0}, "beta is -1.0; pass 0 or more"),
    "not a number": ({"learning_rate": math.nan}, "learning_rate is nan; pass 0 or more"),
}


@pytest.mark.parametrize(("values", "match"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_be_meant(values: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        Iba(**{"images": ["a.png", "b.png"], **values})


def test_pictures_that_cannot_be_read(
    explainer: Open, picture: np.ndarray, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for path in ("text.png", "none.png"):
        with pytest.raises(ImageError, match=path):
            explainer().explain(picture, method=Iba([*pictures, tmp_path / path]))


def test_integers_of_an_output_are_reals_to_the_loss() -> None:
    """The slope of log p is with respect to reals; of integers it is a step's share of that."""
    output = ClassScores("y", 2, Activation.SOFTMAX, Quantisation(0.5, 10))
    given: list[np.ndarray] = []
    split = SimpleNamespace(
        output="y",
        forward=lambda image, mixed, passes: (np.array([[12, 10]], np.uint8), None),
        backward=lambda saved, cotangent, passes: given.append(cotangent) or cotangent,
    )
    iba = PreparedIba(Iba(["a", "b"]), SimpleNamespace(split=split), None)
    problem = SimpleNamespace(
        image=None,
        row=SimpleNamespace(objective=ClassObjective(output, 0)),
        model=SimpleNamespace(max_batch=8),
        passes=PassCounter(),
    )
    iba._score_gradient(problem, np.zeros((1, 1)))
    p = math.exp(1) / (math.exp(1) + 1)
    np.testing.assert_allclose(given[0], [[0.5 * (1 - p), -0.5 * (1 - p)]], rtol=1e-5)
