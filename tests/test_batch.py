"""Several pictures, or several answers, explained together: the same maps, shared passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.methods import GradCam, Rise
from ibisa_onnx.models.base import ImageModel

FORWARD, BACKWARD = 21, 10


def scenes(count: int) -> list[np.ndarray]:
    """Different scenes of two objects each."""
    return [draw_scene(np.random.default_rng(seed), count=2).image for seed in range(count)]


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=2, cache=False)


def fixed_batch(batch: int) -> bytes:
    """The demo model, which takes that number of images and no other."""
    model = onnx.load(model_path())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    return model.SerializeToString()


@pytest.mark.parametrize("options", ["standard", "fast", ibisa.Options(rounds=3, steps=4)])
@pytest.mark.parametrize("threads", [1, 2])
def test_each_map_is_the_one_of_the_picture_alone(options: Any, threads: int):
    explainer = ibisa.Explainer(model_path(), threads=threads, options=options)
    pictures = scenes(3)
    together = explainer.explain_batch(pictures)
    for picture, found in zip(pictures, together, strict=True):
        alone = explainer.explain(picture)
        assert found.map.tobytes() == alone.map.tobytes()
        assert (found.target, found.sufficiency) == (alone.target, alone.sufficiency)
        assert found.certificate == alone.certificate
        assert (found.passes.forward, found.passes.backward) == (
            alone.passes.forward,
            alone.passes.backward,
        )
        assert (found.together, alone.together) == (3, 1)


def test_a_target_for_each_picture_or_one_for_all(explainer: ibisa.Explainer):
    pictures = scenes(2)
    star, arrow = explainer.explain_batch(pictures, ["star", 5])
    assert (star.target.index, arrow.target.index) == (0, 5)
    np.testing.assert_array_equal(arrow.map, explainer.explain(pictures[1], "arrow").map)
    assert [each.target.index for each in explainer.explain_batch(pictures, 3)] == [3, 3]
    assert explainer.explain_batch([]) == []


def test_pictures_of_any_sizes_and_kinds(explainer: ibisa.Explainer):
    large = np.repeat(np.repeat(scenes(1)[0], 2, axis=0), 3, axis=1)
    found = explainer.explain_batch([scene_path(), large, scene_path().read_bytes()])
    assert [each.map.shape for each in found] == [each.image.shape[:2] for each in found]
    np.testing.assert_array_equal(found[0].map, found[2].map)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([1], "1 targets for 2 images"),
        ("top:2", "stands for several classes; explain_batch explains one prediction"),
        ([1, "top:3"], "stands for several classes"),
        ([1, "goat"], "goat"),
        ([[0, 1], 2], "is a sequence"),
        ([ibisa.ClassTarget("top:2"), 1], "names 3 predictions for 2 image"),
    ],
)
def test_targets_that_do_not_fit_are_refused(explainer: ibisa.Explainer, targets: Any, said: str):
    before = explainer.model.passes.backward
    with pytest.raises(ibisa.TargetError, match=said):
        explainer.explain_batch(scenes(2), targets)
    assert explainer.model.passes.backward == before


@pytest.mark.parametrize("images", ["a.png", b"", np.zeros((2, 4, 4, 3), np.uint8), scene_path()])
def test_one_image_is_no_sequence_of_images(explainer: ibisa.Explainer, images: Any):
    with pytest.raises(ibisa.OptionError, match=r"images is .*; pass a sequence"):
        explainer.explain_batch(images)


@pytest.mark.parametrize("target", [[0, 1], [0], ibisa.ClassTarget("top:2"), "top:2"])
def test_explain_takes_one_answer(explainer: ibisa.Explainer, target: Any):
    with pytest.raises(ibisa.TargetError, match="use explain_all"):
        explainer.explain(scene_path(), target)


@pytest.mark.parametrize("wrong", [{"top": 0}, {"top": -1}, {"top": True}, {"top": 1.5}])
def test_predict_takes_a_number_of_classes(explainer: ibisa.Explainer, wrong: Any):
    with pytest.raises(ibisa.OptionError, match="top is"):
        explainer.predict(scene_path(), **wrong)


def test_activations_are_let_go_with_the_explanation(monkeypatch: pytest.MonkeyPatch):
    """Without waiting for the garbage collector, which does not feel their weight."""
    import gc
    import weakref

    from ibisa_onnx.gradients import onnx_backward

    alive: list[weakref.ref[Any]] = []
    real = onnx_backward._Buffers.__init__

    def noted(self: Any, *args: Any) -> None:
        real(self, *args)
        alive.append(weakref.ref(self))

    monkeypatch.setattr(onnx_backward._Buffers, "__init__", noted)
    explainer = ibisa.Explainer(model_path(), threads=2)
    gc.disable()
    try:
        explainer.explain_batch(scenes(3))
        assert alive
        assert not [each for each in alive if each() is not None]
    finally:
        gc.enable()


def test_a_picture_that_cannot_be_read_is_named(explainer: ibisa.Explainer):
    with pytest.raises(ibisa.ImageError, match=r"nowhere\.png"):
        explainer.explain_batch([scene_path(), "nowhere.png"])


def test_the_passes_add_up_to_the_models(explainer: ibisa.Explainer):
    before = explainer.model.passes.count
    found = explainer.explain_batch(scenes(3))
    after = explainer.model.passes.count
    assert sum(each.passes.forward for each in found) == after.forward - before.forward
    assert sum(each.passes.backward for each in found) == after.backward - before.backward
    assert sum(each.passes.forward_calls for each in found) == (
        after.forward_calls - before.forward_calls
    )


@pytest.mark.cpu_provider("one call holds several images")
def test_answers_of_one_picture_share_prediction_and_check(explainer: ibisa.Explainer):
    first, second, third = explainer.explain_all(scene_path(), "top:3")
    assert (first.passes.forward, first.passes.backward) == (FORWARD, BACKWARD)
    assert second.passes == third.passes
    assert (second.passes.forward, second.passes.backward) == (FORWARD - 6, BACKWARD)


def test_a_fixed_batch_is_filled_with_other_pictures():
    """Of four pictures in a model of four each pass is one that a picture needed."""
    single, four = ibisa.Explainer(fixed_batch(1)), ibisa.Explainer(fixed_batch(4))
    pictures = scenes(4)
    alone = [single.explain(each) for each in pictures]
    together = four.explain_batch(pictures)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.map, one.map, atol=1e-4)
    # Backward, nothing is filled up; forward, only what asks about a single picture.
    assert sum(each.passes.backward for each in together) == 4 * BACKWARD
    assert four.explain(pictures[0]).passes.backward == 4 * BACKWARD


def test_methods_explain_them_one_after_the_other(explainer: ibisa.Explainer):
    pictures = scenes(2)
    for method in (GradCam(), Rise(40), "occlusion"):
        together = explainer.explain_batch(pictures, method=method, seed=5)
        for picture, found in zip(pictures, together, strict=True):
            alone = explainer.explain(picture, method=method, seed=5)
            assert found.map.tobytes() == alone.map.tobytes()
            assert found.passes == alone.passes


def test_forward_only_explains_them_one_after_the_other():
    explainer = ibisa.Explainer(model_path(), gradient="forward-only", budget=60, threads=1)
    pictures = scenes(2)
    streamed = explainer.iter_explanations(pictures[0], "top:2", seed=3)
    first = next(streamed)
    passes = explainer.model.passes.forward
    assert first.passes.forward == passes  # the second has not begun
    assert first.sufficiency is not None
    (second,) = streamed
    assert explainer.model.passes.forward > passes
    together = explainer.explain_batch(pictures, seed=3)
    assert together[1].map.tobytes() == explainer.explain(pictures[1], seed=3).map.tobytes()
    assert together[0].effect is not None
    assert second.passes.forward < 61


def test_all_of_them_end_by_the_deadline(monkeypatch: pytest.MonkeyPatch):
    """By a clock on which each image takes a second."""
    import time

    now = [0.0]
    real = ibisa.DeployedModel.run

    def slow(self: ibisa.DeployedModel, images: np.ndarray, *rest: Any) -> dict[str, np.ndarray]:
        now[0] += len(images)
        return real(self, images, *rest)

    monkeypatch.setattr(ibisa.DeployedModel, "run", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    explainer = ibisa.Explainer(model_path(), gradient="forward-only", budget=400, threads=1)
    found = explainer.explain_batch(scenes(3), deadline=120)
    assert now[0] <= 120
    assert {each.completion.cut_short for each in found} == {"deadline"}
    done = [each.completion.done for each in found]
    assert max(done) <= 2 * min(done)  # each had its share


def test_stop_ends_all_with_the_best_so_far(explainer: ibisa.Explainer):
    asked = iter([False, True])
    found = explainer.explain_batch(scenes(2), stop=lambda: next(asked, True))
    assert [each.completion.done for each in found] == [2, 2]
    assert all(each.sufficiency is None for each in found)


class Remote(ImageModel):
    """A model that answers over a pool of its own, as a client of a remote one might."""

    def __init__(self, max_concurrency: int) -> None:
        self._inner = ibisa.DeployedModel.open(model_path(), threads=1)
        super().__init__(self._inner.signature, max_batch=4, max_concurrency=max_concurrency)

    def infer(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        (images,) = feeds.values()
        name = self.image.name
        with ThreadPoolExecutor(4) as pool:
            rows = list(pool.map(lambda x: self._inner.infer({name: x[None]}, outputs), images))
        return {key: np.concatenate([row[key] for row in rows]) for key in outputs}


@pytest.mark.parametrize("max_concurrency", [1, 4])
def test_a_remote_model_on_a_thread_pool_has_all_its_passes_counted(max_concurrency: int):
    local = ibisa.Explainer(model_path(), gradient="forward-only", budget=60, threads=1)
    remote = ibisa.Explainer(
        Remote(max_concurrency),
        preprocessing=local.preprocessing.spec,
        activation="softmax",
        budget=60,
    )
    pictures = scenes(3)
    expected, found = local.explain_batch(pictures), remote.explain_batch(pictures)
    for one, other in zip(expected, found, strict=True):
        assert other.passes.forward == one.passes.forward
        np.testing.assert_allclose(other.map, one.map, atol=1e-5)
    assert remote.model.passes.forward == sum(each.passes.forward for each in found)


@pytest.mark.parametrize("method", ["rise", "random"])
def test_methods_have_names(explainer: ibisa.Explainer, method: str):
    assert explainer.explain(scene_path(), method=method).method == method


def test_ibisa_is_a_method_like_the_others(explainer: ibisa.Explainer):
    fast = replace(
        explainer.method, options=ibisa.Options(steps=6, learning_rate=2.0, beta=90.0, check=False)
    )
    found = explainer.explain(scene_path(), method=fast)
    usual = ibisa.Explainer(model_path(), options="fast", threads=2).explain(scene_path())
    assert found.map.tobytes() == usual.map.tobytes()
    mean = ibisa.Options(baseline="mean")
    found = explainer.explain(scene_path(), method=replace(explainer.method, options=mean))
    usual = ibisa.Explainer(model_path(), options=mean, threads=2).explain(scene_path())
    assert found.map.tobytes() == usual.map.tobytes()
    with pytest.raises(ibisa.OptionError, match="there is no method 'magic'"):
        explainer.explain(scene_path(), method="magic")


def test_an_explanation_shows_itself(explainer: ibisa.Explainer):
    found = explainer.explain(scene_path())
    assert found._repr_png_() == found.encode(".png")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    axes = found.plot()
    assert axes.get_title().startswith(found.target.name)
    (drawn,) = axes.get_images()
    assert drawn.get_array().shape == found.image.shape
    assert found.plot(axes) is axes


def test_wrong_options_are_value_errors(explainer: ibisa.Explainer):
    for wrong in (lambda: ibisa.Options(steps=0), lambda: explainer.explain(scene_path(), seed=-1)):
        with pytest.raises(ValueError, match="pass"):
            wrong()


@pytest.mark.real
@pytest.mark.parametrize("model", ["squeezenet", "mobilenetv2"])
def test_eight_photographs_together_are_eight_alone(
    assets: Path, model: str, photographs: Callable[[int], list[Path]]
):
    explainer = ibisa.Explainer(
        assets / "models" / f"{model}.onnx",
        preprocessing={"squeezenet": "caffe", "mobilenetv2": "tf"}[model],
        threads=2,
    )
    paths = photographs(8)
    for path, found in zip(paths, explainer.explain_batch(paths), strict=True):
        np.testing.assert_allclose(found.map, explainer.explain(path).map, atol=1e-4)


@pytest.fixture
def photographs(assets: Path) -> Callable[[int], list[Path]]:
    return lambda count: sorted((assets / "images").glob("*.JPEG"))[:count]
