"""What a service around a live model needs: the served prediction, bytes, cancellation."""

from __future__ import annotations

import asyncio
import io
import mmap
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.io.colormap import colormap


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=1, providers=["cpu"])


@pytest.fixture(scope="module")
def found(explainer: ibisa.Explainer) -> ibisa.Explanation:
    return explainer.explain(scene_path())


def probabilities(explainer: ibisa.Explainer) -> np.ndarray:
    classes = explainer.predict(scene_path(), top=1000)
    return np.array([each.probability for each in sorted(classes, key=lambda each: each.index)])


# --- the prediction that is explained ---


def test_top_is_what_predict_returns(explainer, found) -> None:
    assert list(found.top) == explainer.predict(scene_path(), top=5)
    assert found.record()["top"][0]["label"] == found.top[0].label


def test_top_is_saved_and_loaded(found, tmp_path: Path) -> None:
    found.save(tmp_path)
    assert ibisa.Explanation.load(tmp_path).top == found.top


def test_the_served_prediction_is_the_explained_one(explainer, found) -> None:
    served = probabilities(explainer)
    for each in (served, served.tolist(), found.top[0].index, found.top[0].label):
        again = explainer.explain(scene_path(), served=each)
        np.testing.assert_array_equal(again.map, found.map)


@pytest.mark.parametrize("kind", ["probabilities", "index", "label"])
def test_another_prediction_is_an_error(explainer, found, kind: str) -> None:
    other = {
        "probabilities": np.roll(probabilities(explainer), 1),
        "index": found.top[1].index,
        "label": found.top[1].label,
    }[kind]
    before = explainer.model.passes.count
    with pytest.raises(ibisa.PredictionMismatchError, match="the model predicts"):
        explainer.explain(scene_path(), served=other)
    assert explainer.model.passes.count.forward == before.forward + 1  # nothing was explained


@pytest.mark.parametrize("served", [[0.5], object(), [float("nan")] * 12, True])
def test_what_is_no_prediction_is_rejected(explainer, served) -> None:
    with pytest.raises(ibisa.OptionError, match="served"):
        explainer.explain(scene_path(), served=served)


# --- a prepared tensor ---


def test_a_prepared_tensor_is_explained_unchanged(explainer, found) -> None:
    tensor = explainer.problem(scene_path()).masked.images
    pixels = cv2.imread(str(scene_path()))[..., ::-1].copy()
    restored = explainer.explain(ibisa.PreparedImage(tensor, pixels))
    np.testing.assert_array_equal(restored.map, found.map)
    assert restored.top == found.top
    alone = explainer.explain(ibisa.PreparedImage(tensor[0]))
    assert alone.map.shape == tensor.shape[2:] == alone.image.shape[:2]
    assert alone.top == found.top


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((2, 3, 8, 8), np.float32),
        np.zeros((3, 8, 8)),
        np.full((3, 8, 8), np.nan, np.float32),
        np.zeros((8, 8), np.float32),
        "photo.jpg",
    ],
)
def test_what_is_no_tensor_is_rejected(tensor) -> None:
    with pytest.raises(ibisa.ImageError, match="tensor"):
        ibisa.PreparedImage(tensor)


def test_a_tensor_of_another_size_is_rejected(explainer) -> None:
    with pytest.raises(ibisa.ImageError, match="model's input"):
        explainer.explain(ibisa.PreparedImage(np.zeros((3, 8, 8), np.float32)))


def test_any_buffer_holds_an_image(explainer, found, tmp_path: Path) -> None:
    data = scene_path().read_bytes()
    with scene_path().open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        for each in (bytearray(data), memoryview(data), mapped):
            np.testing.assert_array_equal(explainer.explain(each).map, found.map)


# --- the map alone ---


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_the_heat_map_alone(found, format: str) -> None:
    image = Image.open(io.BytesIO(found.heat_map(format, size=(90, 60))))
    assert (image.format.lower(), image.size, image.mode) == (format, (90, 60), "RGB")


def test_the_heat_map_shows_the_map(found) -> None:
    drawn = np.asarray(Image.open(io.BytesIO(found.heat_map())))
    assert drawn.shape == found.image.shape
    highest, lowest = (
        np.unravel_index(f(found.map), found.map.shape) for f in (np.argmax, np.argmin)
    )
    assert (drawn[highest] == colormap()[-1]).all()
    assert (drawn[lowest] == colormap()[0]).all()


@pytest.mark.parametrize(
    "given",
    [{"format": "gif"}, {"size": (0, 5)}, {"size": 5}, {"size": (5, 99999)}, {"size": "ab"}],
)
def test_an_impossible_heat_map_is_one_line(found, given) -> None:
    with pytest.raises(ibisa.OptionError, match=next(iter(given))):
        found.heat_map(**given)


# --- gradients that must be there ---


def test_a_missing_exact_gradient_is_reported_at_once() -> None:
    with pytest.raises(ibisa.GradientError, match="no exact gradient"):
        ibisa.Explainer(
            lambda images: images.mean((2, 3)),
            ibisa.InputSpec((None, 3, 8, 8)),
            preprocessing="unit",
            gradient="exact",
        )


def test_a_function_does_not_fall_back() -> None:
    explainer = ibisa.Explainer(
        lambda images: images.mean((2, 3)),
        ibisa.InputSpec((None, 3, 8, 8)),
        preprocessing="unit",
        budget=30,
    )
    found = explainer.explain(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    assert found.certificate.gradient == "forward-only"
    assert not found.certificate.fallback


# --- cancellation and warm start ---


class Halting:
    """A model of the demo that reports each call, and waits in one of them."""

    def __init__(self, wait_in: int) -> None:
        self.calls, self.wait_in = 0, wait_in
        self.reached, self.released = threading.Event(), threading.Event()
        self.model = ibisa.DeployedModel.open(model_path(), threads=1, providers=["cpu"])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.wait_in:
            self.reached.set()
            assert self.released.wait(30)
        (name,) = [each.name for each in self.model.signature.outputs]
        return self.model.run(images, [name])[name]


def test_a_cancelled_task_ends_its_work() -> None:
    halting = Halting(wait_in=4)
    shape = halting.model.image
    explainer = ibisa.Explainer(
        halting, ibisa.InputSpec((None, 3, shape.height, shape.width)), preprocessing="unit"
    )

    async def cancel() -> None:
        task = asyncio.create_task(explainer.explain_async(scene_path()))
        await asyncio.to_thread(halting.reached.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        halting.released.set()

    asyncio.run(cancel())  # which waits for the thread
    assert halting.calls <= halting.wait_in + 3  # the rest of its batch; 199 passes otherwise


def test_a_task_returns_what_explain_does(explainer, found) -> None:
    again = asyncio.run(explainer.explain_async(scene_path(), seed=0))
    np.testing.assert_array_equal(again.map, found.map)


def test_warm_up_leaves_nothing_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    explainer = ibisa.Explainer(model_path(), threads=1, providers=["cpu"])
    explainer.warm_up()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a session is opened")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    explainer.explain(scene_path())


def test_max_batch_limits_a_call() -> None:
    explainer = ibisa.Explainer(model_path(), threads=1, providers=["cpu"], max_batch=1)
    assert explainer.model.max_batch == 1
    with pytest.raises(ibisa.OptionError, match="max_batch"):
        ibisa.Explainer(model_path(), max_batch=0)


# --- the model ---


def test_any_buffer_is_a_model(found, tmp_path: Path) -> None:
    data = model_path().read_bytes()
    with (tmp_path / "m.onnx").open("w+b") as file:
        file.write(data)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0)
        for each in (data, bytearray(data), memoryview(data), mapped):
            explainer = ibisa.Explainer(each, threads=1, providers=["cpu"])
            np.testing.assert_array_equal(explainer.explain(scene_path()).map, found.map)
        mapped.close()
    with pytest.raises(ibisa.ModelError, match="the model is empty"):
        ibisa.Explainer(bytearray())
    closed = memoryview(bytearray(data))
    closed.release()
    with pytest.raises(ibisa.ModelError, match="the model is a memoryview"):
        ibisa.Explainer(closed)
