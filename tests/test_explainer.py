"""The whole way from a picture to its map, on scenes whose truth is known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.demo import LABELS, model_path, scene_path
from ibisa_onnx.demo.scenes import Scene, SceneObject, draw_scene
from ibisa_onnx.errors import (
    GradientError,
    IbisaError,
    ImageError,
    ModelError,
    OptionError,
    OutputError,
    PreprocessingError,
    TargetError,
)
from ibisa_onnx.gradients.selection import GradientPath, GradientSelection
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.models.base import ImageModel

SIDE = 128
FORWARD, BACKWARD = 21, 10
"""What an explanation costs, predicting, certifying and checking included."""


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=1, providers=["cpu"])


def scene(seed: int, **options: Any) -> Scene:
    return draw_scene(np.random.default_rng(seed), **options)


def outline(item: SceneObject) -> np.ndarray:
    """The convex hull of an object, bool [H, W].

    A ring's hole, the bay of a crescent and the gaps of a star are part of what tells the object
    from others, and the map's cells are coarser than they are, so the peak may fall there; nothing
    beyond the object's own contour is granted.
    """
    hull = cv2.convexHull(cv2.findNonZero(item.mask.astype(np.uint8)))
    return cv2.fillConvexPoly(np.zeros(item.mask.shape, np.uint8), hull, 1) > 0


def peak(explanation: ibisa.Explanation) -> tuple[int, int]:
    row, column = np.unravel_index(explanation.map.argmax(), explanation.map.shape)
    return int(row), int(column)


@pytest.fixture(scope="module")
def explained(
    explainer: ibisa.Explainer,
) -> list[tuple[Scene, SceneObject, ibisa.Explanation]]:
    """Every object of 36 scenes, a third each with one, two and three objects."""
    found = []
    for seed in range(36):
        drawn = scene(5000 + seed, count=1 + seed % 3)
        targets = [item.index for item in drawn.objects]
        explanations = explainer.explain_all(drawn.image, targets)
        found += [(drawn, *each) for each in zip(drawn.objects, explanations, strict=True)]
    return found


def test_the_peak_falls_on_the_right_object(
    explained: list[tuple[Scene, SceneObject, ibisa.Explanation]],
) -> None:
    hits = [bool(outline(item)[peak(explanation)]) for _, item, explanation in explained]
    assert len(hits) == 72
    assert np.mean(hits) >= 0.95


def test_each_map_prefers_its_own_object(
    explained: list[tuple[Scene, SceneObject, ibisa.Explanation]],
) -> None:
    own = [explanation.map[item.mask].mean() for _, item, explanation in explained]
    others = [
        max(explanation.map[other.mask].mean() for other in drawn.objects if other is not item)
        for drawn, item, explanation in explained
        if len(drawn.objects) > 1
    ]
    of_many = [
        own[place] for place, (drawn, _, _) in enumerate(explained) if len(drawn.objects) > 1
    ]
    assert np.mean(np.array(of_many) > np.array(others)) >= 0.95
    assert np.mean(others) < 0.5 * np.mean(of_many)


def test_the_background_reads_near_zero(
    explained: list[tuple[Scene, SceneObject, ibisa.Explanation]],
) -> None:
    medians = []
    for drawn, _, explanation in explained:
        anywhere = np.any([item.mask for item in drawn.objects], 0).astype(np.uint8)
        far = cv2.dilate(anywhere, np.ones((15, 15), np.uint8)) == 0
        medians.append(np.median(explanation.map[far]))
    assert np.mean(medians) < 0.05


def test_what_is_shown_first_is_enough(
    explained: list[tuple[Scene, SceneObject, ibisa.Explanation]],
) -> None:
    """The deployed model, shown a fifth of the picture by the map, is as sure as of the whole."""
    shares = [
        explanation.sufficiency.area_for(0.9 * explanation.target.probability)
        for drawn, _, explanation in explained
        if len(drawn.objects) == 1
    ]
    assert all(share is not None for share in shares)
    assert np.mean([share <= 0.2 for share in shares if share is not None]) >= 0.9


def test_the_demo_picture_has_two_maps_on_two_objects(explainer: ibisa.Explainer) -> None:
    ball, star = explainer.explain_all(scene_path(), ["striped ball", "star"])
    assert ball.target.label == "striped ball"
    assert star.target.label == "star"
    distance = np.hypot(*np.subtract(peak(ball), peak(star)))
    assert distance > 0.2 * min(ball.map.shape)
    assert np.corrcoef(ball.map.ravel(), star.map.ravel())[0, 1] < 0.3


def test_same_seed_same_map_bit_for_bit(explainer: ibisa.Explainer) -> None:
    image = scene(1, count=2).image
    asked = {"gradient": "forward-only", "budget": 60}
    drawn = ibisa.Explainer(explainer.model, **asked)
    one, other = (drawn.explain(image, seed=seed) for seed in (3, 4))
    fresh = ibisa.Explainer(model_path(), threads=1, providers=["cpu"], **asked)
    assert one.map.tobytes() == drawn.explain(image, seed=3).map.tobytes()
    assert one.map.tobytes() == fresh.explain(image, seed=3).map.tobytes()
    assert one.map.tobytes() != other.map.tobytes()
    assert one.provenance.seed == 3


def test_with_a_gradient_every_seed_gives_the_same_map(explainer: ibisa.Explainer) -> None:
    image = scene(1, count=2).image
    one, other = (explainer.explain(image, seed=seed) for seed in (3, 4))
    assert one.map.tobytes() == other.map.tobytes()


@pytest.mark.parametrize(
    ("preset", "passes", "checked"),
    [
        ("standard", (21, 10), True),
        ("paper", (21, 10), True),
        ("fast", (13, 6), False),
        ("quality", (101, 90), True),
    ],
)
def test_a_preset_takes_the_passes_that_it_promises(
    preset: str, passes: tuple[int, int], checked: bool
) -> None:
    explainer = ibisa.Explainer(model_path(), providers=["cpu"], threads=1, options=preset)
    found = explainer.explain(scene(1, count=2).image)
    assert (found.passes.forward, found.passes.backward) == passes
    assert (found.sufficiency is not None) == checked
    assert found.completion.done == found.completion.planned == passes[1]


def test_what_is_not_checked_keeps_no_passes_for_a_check() -> None:
    """Of 100 passes one is the prediction and four settle the baseline; the check takes four."""
    spent = []
    for check in (True, False):
        options = ibisa.Options(check=check, budget=100)
        explainer = ibisa.Explainer(
            model_path(), providers=["cpu"], gradient="forward-only", options=options
        )
        found = explainer.explain(scene(1, count=2).image)
        assert (found.sufficiency is not None) == check
        spent.append((found.completion.planned, found.passes.forward))
    assert spent == [(90, 99), (94, 99)]


def test_an_unknown_preset_is_refused_by_the_names_of_those_there_are() -> None:
    with pytest.raises(ibisa.IbisaError, match="'slow'; choose from: standard, fast, quality"):
        ibisa.Explainer(model_path(), options="slow")


def test_without_noise_the_masks_are_fixed_and_so_is_the_map(explainer: ibisa.Explainer) -> None:
    image = scene(1, count=2).image
    one, other = (explainer.explain(image, seed=seed).map for seed in (3, 4))
    assert one.tobytes() == other.tobytes()


def test_other_targets_do_not_change_a_map(explainer: ibisa.Explainer) -> None:
    image = scene(1, count=2).image
    together = list(explainer.explain_all(image, [0, 5]))
    assert together[1].map.tobytes() == explainer.explain(image, 5).map.tobytes()


def test_twenty_one_forwards_and_ten_backwards(explainer: ibisa.Explainer) -> None:
    before = explainer.model.passes.count
    passes = explainer.explain(scene(2).image).passes
    after = explainer.model.passes.count
    assert (passes.forward, passes.backward) == (FORWARD, BACKWARD)
    assert (after.forward - before.forward, after.backward - before.backward) == (FORWARD, BACKWARD)
    assert passes.backward_calls == BACKWARD
    assert 0 < passes.forward_calls <= FORWARD


def test_sessions_are_run_no_more_often_than_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"run": 0, "run_with_iobinding": 0}

    def watch(name: str) -> None:
        original = getattr(onnxruntime.InferenceSession, name)

        def counted(self: Any, *args: Any, **options: Any) -> Any:
            calls[name] += 1
            return original(self, *args, **options)

        monkeypatch.setattr(onnxruntime.InferenceSession, name, counted)

    for name in calls:
        watch(name)
    fresh = ibisa.Explainer(model_path(), threads=1, providers=["cpu"])
    passes = fresh.explain(scene(2).image).passes
    assert sum(calls.values()) == passes.forward_calls + passes.backward_calls


def test_a_second_target_costs_no_second_prediction(explainer: ibisa.Explainer) -> None:
    first, second = explainer.explain_all(scene(2, count=2).image, "top:2")
    assert first.passes.forward == FORWARD
    # Neither predicted nor certified anew, nor the four that settle the baseline.
    assert second.passes.forward == FORWARD - 6
    assert second.passes.backward == BACKWARD


@pytest.mark.parametrize("size", [(128, 128), (150, 301), (333, 140)])
def test_the_map_has_the_pictures_size_and_is_zero_where_the_model_never_looked(
    explainer: ibisa.Explainer, size: tuple[int, int]
) -> None:
    drawn = scene(4, size=size, count=1)
    explanation = explainer.explain(drawn.image)
    assert explanation.map.shape == size
    assert explanation.map.dtype == np.float32
    assert explanation.map.min() >= 0
    assert explanation.map.max() <= 1
    np.testing.assert_array_equal(explanation.image, drawn.image)


@pytest.mark.parametrize("size", [(100, 260), (260, 100)])
def test_outside_the_centre_crop_the_map_is_zero(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    row, column = size[0] // 2, size[1] // 2
    image[row - 14 : row + 14, column - 14 : column + 14] = 255
    explainer = open_square(overrides=ibisa.Overrides(resize="shortest"))
    explanation = explainer.explain(image, 1)
    found = explanation.map
    side, left = min(size), (max(size) - min(size)) // 2
    along = found if size[1] > size[0] else found.T
    assert found.shape == size
    assert not along[:, : left - 2].any()
    assert not along[:, left + side + 2 :].any()
    assert along[:, left + 2 : left + side - 2].all()
    assert image[peak(explanation)].all()
    assert found.max() > 10 * np.median(along[:, left + 2 : left + side - 2])


def square_model(side: int, *, last: str = "Identity", batch: int | str = "n") -> bytes:
    """Two logits: none, and one that is high where the middle of the picture is bright."""
    weights = np.zeros((1, 3, side, side), np.float32)
    middle = slice(side * 3 // 8, side * 5 // 8)
    weights[:, :, middle, middle] = 1
    weights /= weights.sum()
    nodes = [
        helper.make_node("Mul", ["image", "weights"], ["w"]),
        helper.make_node("ReduceSum", ["w", "axes"], ["seen"], keepdims=0),
        helper.make_node("Unsqueeze", ["seen", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["sum"]),
        helper.make_node(last, ["sum"], ["scores"]),
    ]
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.array([[0, 30]], np.float32), "gain"),
        numpy_helper.from_array(np.array([0, -25.8], np.float32), "bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "square",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 2])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def square_picture() -> np.ndarray:
    """Bright in the middle, where `square_model` looks."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[24:40, 24:40] = 255
    return picture


def open_square(**options: Any) -> ibisa.Explainer:
    data = options.pop("data", None) or square_model(64)
    settings = {"preprocessing": "unit", "threads": 1, "providers": ["cpu"], **options}
    return ibisa.Explainer(data, **settings)


class Counterpart(torch.nn.Module):
    """`square_model` in PyTorch, off by `error` in its second logit."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = images[:, :, 24:40, 24:40].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), 30 * seen - 25.8 + self.error], 1)


def test_every_field_is_filled(explainer: ibisa.Explainer, tmp_path: Path) -> None:
    drawn = scene(6, count=1)
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), drawn.image[..., ::-1])
    found = explainer.explain(path, drawn.objects[0].label, seed=9)
    target = found.target
    assert (target.index, target.label) == (drawn.objects[0].index, drawn.objects[0].label)
    assert target.activation == "softmax"
    assert target.output in [each.name for each in explainer.model.signature.outputs]
    assert target.probability == pytest.approx(
        next(p.probability for p in explainer.predict(path, 8) if p.index == target.index)
    )
    assert found.sufficiency.areas[0] == 0
    assert len(found.sufficiency.areas) == len(found.sufficiency.probabilities)
    assert all(0 <= share <= 1 for share in found.sufficiency.probabilities)
    assert found.certificate.gradient == "exact"
    assert found.certificate.reason == "every operator has a gradient rule"
    assert found.certificate.difference is not None
    assert found.certificate.difference <= found.certificate.tolerance
    assert found.certificate.holds
    source = found.provenance
    assert (source.model, source.image) == ("model.onnx", "picture.png")
    assert len(source.model_sha256 or "") == len(source.image_sha256 or "") == 64
    assert source.providers == ("CPUExecutionProvider",)
    assert source.preprocessing == explainer.preprocessing.spec.to_dict()
    assert {"python", "numpy", "onnx", "torch"} <= set(source.versions)
    assert source.options["steps"] == explainer.options.steps
    assert min(found.timings.values()) >= 0
    assert found.timings["total"] == pytest.approx(
        sum(seconds for stage, seconds in found.timings.items() if stage != "total"), rel=0.5
    )
    json.dumps(found.record(), allow_nan=False)


def test_what_is_saved_comes_back(explainer: ibisa.Explainer, tmp_path: Path) -> None:
    found = explainer.explain(scene(6).image)
    found.save(tmp_path / "out")
    again = ibisa.Explanation.load(tmp_path / "out")
    np.testing.assert_array_equal(again.map, found.map)
    assert again.record() == found.record()


@pytest.mark.parametrize(
    ("options", "total"), [({}, 10), ({"gradient": "forward-only", "budget": 60}, 50)]
)
def test_progress_rises_one_by_one_to_its_end(options: dict[str, Any], total: int) -> None:
    told: list[tuple[int, int]] = []
    open_square(**options).explain(square_picture(), 1, progress=lambda *each: told.append(each))
    assert told == [(place, total) for place in range(1, total + 1)]


def test_predictions_are_sorted_and_named(explainer: ibisa.Explainer) -> None:
    drawn = scene(7, count=1)
    found = explainer.predict(drawn.image, top=3)
    assert found[0].label == drawn.objects[0].label
    assert [each.label for each in found] == [LABELS[each.index] for each in found]
    assert [each.probability for each in found] == sorted(
        (each.probability for each in found), reverse=True
    )
    assert sum(each.probability for each in explainer.predict(drawn.image, 8)) == pytest.approx(1)
    assert explainer.explain(drawn.image).target.index == found[0].index


def test_paths_bytes_sessions_and_models_are_all_taken() -> None:
    image = scene(8, count=1).image
    session = onnxruntime.InferenceSession(model_path(), providers=["CPUExecutionProvider"])
    live = session, ibisa.DeployedModel.open(model_path(), providers=["cpu"], threads=1)
    for source in (str(model_path()), model_path().read_bytes(), *live):
        found = ibisa.Explainer(source).explain(image)
        assert found.certificate.gradient == "exact"
        assert found.map.max() > 0.5


def test_a_picture_is_the_same_from_path_bytes_and_array(
    explainer: ibisa.Explainer, tmp_path: Path
) -> None:
    image = scene(8).image
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image[..., ::-1])
    maps = [explainer.explain(each).map for each in (str(path), path.read_bytes(), image)]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


# -- gradient paths


def in_the_middle(map: np.ndarray) -> bool:
    row, column = np.unravel_index(map.argmax(), map.shape)
    outside = np.ones(map.shape, bool)
    outside[20:44, 20:44] = False
    return 24 <= row < 40 and 24 <= column < 40 and bool(map[outside].mean() < 0.15)


@pytest.mark.parametrize(
    ("options", "gradient"),
    [
        ({}, "exact"),
        ({"gradient": "exact"}, "exact"),
        ({"surrogate": Counterpart()}, "surrogate"),
        ({"gradient": "forward-only"}, "forward-only"),
        ({"data": square_model(64, batch=1)}, "exact"),
        ({"data": square_model(64, last="Softmax")}, "exact"),
        ({"data": square_model(64, last="Sigmoid")}, "exact"),
        ({"data": square_model(64, last="LogSoftmax")}, "exact"),
    ],
)
def test_every_path_finds_the_square(options: dict[str, Any], gradient: str) -> None:
    found = open_square(**options).explain(square_picture(), 1)
    assert found.certificate.gradient == gradient
    assert found.provenance.options["gradient"] == gradient
    assert in_the_middle(found.map)


def test_the_surrogate_costs_a_pass_more_for_its_check() -> None:
    passes = open_square(surrogate=Counterpart()).explain(square_picture(), 1).passes
    assert (passes.forward, passes.backward) == (FORWARD + 1, BACKWARD)


@pytest.mark.parametrize("gradient", ["auto", "exact", "forward-only"])
def test_torch_is_loaded_only_for_a_surrogate(gradient: str) -> None:
    code = (
        "import sys; import ibisa_onnx; from ibisa_onnx.demo import model_path, scene_path\n"
        f"wishes = dict(providers=['cpu'], gradient={gradient!r})\n"
        "found = ibisa_onnx.Explainer(model_path(), **wishes).explain(scene_path())\n"
        "print(found.certificate.gradient, found.map.max() > 0.5, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    used = "exact" if gradient == "auto" else gradient
    assert done.stdout.split() == [used, "True", "False"]


@pytest.mark.parametrize("budget", [20, 61, 200])
def test_forward_only_keeps_its_budget(budget: int) -> None:
    found = open_square(gradient="forward-only", budget=budget).explain(square_picture(), 1)
    assert budget - 1 <= found.passes.forward <= budget
    assert found.passes.backward == 0
    assert found.certificate.difference is None


def test_under_auto_a_surrogate_of_another_model_is_not_trusted() -> None:
    found = open_square(surrogate=Counterpart(error=-4.0)).explain(square_picture(), 1)
    assert found.certificate.gradient == "forward-only"
    assert (
        "the surrogate gradient's forward pass differs from the deployed model"
        in found.certificate.reason
    )
    assert in_the_middle(found.map)


def test_asked_for_by_name_it_is_used_with_a_warning() -> None:
    explainer = open_square(surrogate=Counterpart(error=-4.0), gradient="surrogate")
    found = explainer.explain(square_picture(), 1)
    assert found.certificate.gradient == "surrogate"
    assert not found.certificate.holds
    assert found.certificate.difference is not None
    assert found.certificate.difference > found.certificate.tolerance
    assert any("receives the same preprocessed values as" in each for each in found.warnings)
    assert any("may not be faithful" in warning for warning in found.warnings)


def passed_off_as_exact(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module) -> None:
    """Have explainers take a module's gradients for the exact ones."""

    def opened(
        _: GradientSelection, __: ImageModel, outputs: tuple[str, ...], size: tuple[int, int]
    ) -> GradientPath:
        source = SurrogateGradient(module, outputs[0])
        return GradientPath("exact", "every operator has a gradient rule", source, 1e-3, 0.5)

    monkeypatch.setattr(GradientSelection, "open", opened)


def test_an_exact_gradient_that_fails_its_certificate_is_dropped_for_that_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Drifting(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return Counterpart(error=-4.0 if images.detach().max() > 0.5 else 0.0)(images)

    passed_off_as_exact(monkeypatch, Drifting())
    explainer = open_square()
    assert explainer.explain(square_picture()).certificate.gradient == "forward-only"
    assert explainer.explain(square_picture() // 4).certificate.gradient == "exact"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient path that is right forward, and NaN backward."""

    class NaNBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, images: torch.Tensor) -> torch.Tensor:
            ctx.shape = images.shape
            return Counterpart()(images)

        @staticmethod
        def backward(ctx: Any, *_: torch.Tensor) -> torch.Tensor:
            return torch.full(ctx.shape, torch.nan)

    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return NaNBackward.apply(images)

    passed_off_as_exact(monkeypatch, Broken())


@pytest.mark.usefixtures("broken")
def test_a_gradient_of_nan_is_an_error_where_it_was_asked_for() -> None:
    with pytest.raises(GradientError, match="NaN"):
        open_square(gradient="exact").explain(square_picture(), 1)


@pytest.mark.usefixtures("broken")
def test_under_auto_a_gradient_of_nan_is_done_without() -> None:
    found = open_square().explain(square_picture(), 1)
    assert found.certificate.gradient == "forward-only"
    assert "NaN" in found.certificate.reason
    assert in_the_middle(found.map)


def test_a_surrogate_with_other_classes_is_refused() -> None:
    surrogate = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 7))
    with pytest.raises(GradientError, match=r"7 scores.*2"):
        open_square(surrogate=surrogate).explain(square_picture())


def test_a_picture_without_anything_gives_a_flat_map_and_says_so() -> None:
    found = open_square().explain(np.full((64, 64, 3), 128, np.uint8), 1)
    assert np.ptp(found.map) < 0.01
    assert any("flat" in warning for warning in found.warnings)


# -- what is refused


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    return path


Wish = Callable[[], object]


def wishes(text: Path) -> Iterator[tuple[type[IbisaError], str, Wish]]:
    picture = square_picture()
    yield TargetError, "several classes", lambda: open_square().explain(picture, "top:2")
    yield TargetError, "out of range", lambda: open_square().explain(picture, 2)
    yield TargetError, "labels=", lambda: open_square().explain(picture, "goat")
    yield TargetError, "3 labels", lambda: open_square(labels=("a", "b", "c")).explain(picture)
    yield ModelError, "notes.txt", lambda: ibisa.Explainer(text)
    yield OutputError, "no output", lambda: open_square(output="logits").explain(picture)
    yield ImageError, "notes.txt", lambda: open_square().explain(text)
    yield ImageError, "shape", lambda: open_square().explain(np.zeros((0, 4, 3), np.uint8))
    yield GradientError, "magic", lambda: open_square(gradient="magic").explain(picture)
    yield PreprocessingError, "caffeine", lambda: open_square(preprocessing="caffeine")
    yield OutputError, "relu", lambda: open_square(activation="relu").explain(picture)
    log = square_model(64, last="Log")
    yield OutputError, "NaN or infinite", lambda: open_square(data=log).explain(picture)


@pytest.mark.parametrize("place", range(12))
def test_what_cannot_be_done_is_said_in_one_line(place: int, text_file: Path) -> None:
    error, says, wish = list(wishes(text_file))[place]
    with pytest.raises(error, match=says) as caught:
        wish()
    assert "\n" not in str(caught.value)


# -- in a service


def test_threads_share_an_explainer_and_count_their_own_passes() -> None:
    explainer = open_square()
    explainer.predict(square_picture())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: explainer.explain(square_picture(), 1), range(12)))
    assert {(each.passes.forward, each.passes.backward) for each in found} == {(FORWARD, BACKWARD)}
    assert len({each.map.tobytes() for each in found}) == 1


def test_images_that_mix_in_a_batch_are_run_one_by_one() -> None:
    """The model subtracts the batch's sum: right for one image, wrong for more at once."""
    mixing = onnx.load_model_from_string(square_model(64))
    axes = numpy_helper.from_array(np.array([0]), "axes_of_images")
    mixing.graph.initializer.append(axes)
    total = helper.make_node("ReduceSum", ["scores0", axes.name], ["total"], keepdims=1)
    less = helper.make_node("Sub", ["scores0", "total"], ["less"])
    more = helper.make_node("Add", ["less", "scores_alone"], ["scores"])
    mixing.graph.node[-1].output[0] = "scores0"
    same = helper.make_node("Identity", ["scores0"], ["scores_alone"])
    mixing.graph.node.extend([total, less, same, more])
    honest = open_square().explain(square_picture(), 1)
    for gradient, spent in (("exact", FORWARD + 4), ("forward-only", 199)):
        explainer = open_square(data=mixing.SerializeToString(), gradient=gradient)
        found = explainer.explain(square_picture(), 1)
        assert found.passes.forward == spent
        assert any("in a batch than alone" in warning for warning in found.warnings)
        np.testing.assert_allclose(
            found.sufficiency.probabilities[-1], honest.sufficiency.probabilities[-1], atol=0.2
        )
        again = explainer.explain(square_picture(), 1)
        assert again.passes.forward == (FORWARD if gradient == "exact" else 199)


def failing(*_: Any) -> None:
    raise ModelError("the gradient graph failed to run: out of memory; use a smaller batch")


def test_a_gradient_graph_that_fails_to_run_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explainer = open_square()
    strict = open_square(gradient="exact")
    monkeypatch.setattr("ibisa_onnx.gradients.onnx_backward.run_bound", failing)
    found = explainer.explain(square_picture(), 1)
    assert found.certificate.gradient == "forward-only"
    assert "out of memory" in found.certificate.reason
    with pytest.raises(ModelError, match="out of memory"):
        strict.explain(square_picture(), 1)


def test_a_graph_that_cannot_be_analysed_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(*_: Any) -> None:
        raise KeyError("no such thing")

    monkeypatch.setattr("ibisa_onnx.autodiff.driver.Graph", trip)
    found = open_square().explain(square_picture(), 1)
    assert found.certificate.gradient == "forward-only"
    assert "cannot be analysed (KeyError" in found.certificate.reason


def test_a_guess_of_the_first_picture_does_not_bind_the_next() -> None:
    model = onnx.load_model_from_string(square_model(64, last="Abs"))
    explainer = open_square(data=model.SerializeToString())
    bright, dark = square_picture(), np.full((64, 64, 3), 219, np.uint8)
    assert explainer.predict(dark)[0].probability < 0.6  # both logits near 0: taken for sigmoids
    assert any("(assumed)" in warning for warning in explainer.warnings)
    alone = open_square(data=model.SerializeToString())
    assert explainer.predict(bright) == alone.predict(bright)
    assert any(
        "contradict the activation assumed before" in warning for warning in explainer.warnings
    )


def test_what_is_believed_of_the_model_stands_in_the_record() -> None:
    explainer = open_square(preprocessing=None)
    assert explainer.warnings
    found = explainer.explain(square_picture(), 1)
    assert set(explainer.warnings) <= set(found.record()["warnings"])


def test_an_explanation_can_be_printed_compared_and_kept_in_a_set() -> None:
    one, other = (open_square().explain(square_picture(), 1) for _ in range(2))
    assert len(repr(one)) < 200
    assert "class 1" in repr(one)
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_a_file_that_changes_under_an_explainer_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(square_model(64))
    explainer = open_square(data=path)
    path.write_bytes(square_model(64, last="Relu"))
    with pytest.raises(ModelError, match="was changed or removed"):
        explainer.explain(square_picture(), 1)


def test_a_relative_path_is_not_lost_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(square_model(64))
    monkeypatch.chdir(tmp_path)
    explainer = open_square(data="model.onnx")
    monkeypatch.chdir(tmp_path.parent)
    found = explainer.explain(square_picture(), 1)
    assert found.certificate.gradient == "exact"
    assert found.provenance.model_sha256 is not None


MEANINGLESS: dict[str, Callable[[ibisa.Explainer], object]] = {
    "target 1.5": lambda e: e.explain(square_picture(), 1.5),  # type: ignore[arg-type]
    "no target": lambda e: list(e.explain_all(square_picture(), [])),
    "picture None": lambda e: e.explain(None),  # type: ignore[arg-type]
    "picture list": lambda e: e.explain([1, 2]),  # type: ignore[arg-type]
    "null byte": lambda e: e.explain("a\0b.png"),
    "long path": lambda e: e.explain("x" * 5000),
    "seed -1": lambda e: e.explain(square_picture(), seed=-1),
    "seed 1.5": lambda e: e.explain(square_picture(), seed=1.5),  # type: ignore[arg-type]
    "preprocessing 3": lambda _: open_square(preprocessing=3),
    "gradient": lambda _: open_square(gradient="exat"),
    "activation": lambda _: open_square(activation="sofmax"),
    "model None": lambda _: ibisa.Explainer(None),  # type: ignore[arg-type]
    "open model": lambda e: ibisa.Explainer(e.model, providers=["cuda"]),
    **{
        f"option {name} {value}": lambda _, n=name, v=value: ibisa.Options(**{n: v})  # type: ignore[misc]
        for name, value in [
            ("steps", 0),
            ("steps", 2.5),
            ("budget", float("inf")),
            ("budget", 10**400),
            ("steps", -(10**400)),
            ("grid", -1),
            ("temperature", 0.0),
            ("smoothing", 0.0),
            ("beta", float("nan")),
            ("start", float("inf")),
            ("blur", "wide"),
        ]
    },
}


@pytest.mark.parametrize("case", MEANINGLESS)
def test_whatever_is_refused_is_an_ibisa_error_of_one_line(case: str) -> None:
    explainer = open_square()
    with pytest.raises(IbisaError) as caught:
        MEANINGLESS[case](explainer)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_index_of_numpy_is_an_index() -> None:
    explainer = open_square()
    one = explainer.explain(square_picture(), np.int64(1))
    assert one.target.index == 1
    (first, second) = explainer.explain_all(square_picture(), np.array([1, 0]))
    assert (first.target.index, second.target.index) == (1, 0)
    assert explainer.explain(square_picture(), "top:1").target.index == one.target.index


@pytest.mark.parametrize(
    "given",
    [
        {"providers": None},
        {"providers": 3},
        {"input": np.ones(3)},
        {"output": []},
        {"labels": 3},
        {"activation": b"softmax"},
        {"kind": np.ones(2)},
        {"gradient": None},
        {"surrogate": 3},
        {"options": []},
        {"threads": "2"},
        {"extra_inputs": 3},
        {"limits": 3},
        {"cache": ""},
    ],
    ids=lambda given: next(iter(given)),
)
def test_an_argument_of_another_type_is_refused_by_its_name(given):
    with pytest.raises(OptionError, match=f"^{next(iter(given))} is .*; pass "):
        ibisa.Explainer(model_path(), **given)
