"""The main job on real models and photographs."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx import Explainer, Overrides

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["mobilenetv2", "mobilenetv2_int8"])
def two_dogs(request, assets):
    """The maps of the greyhound, on the left, and of the bull, on the right; and what is asked.

    The 8-bit file gives the greyhound a probability in steps of 1/128, which processors round
    apart: on some a fifth of the hottest pixels lie on the other dog.
    """
    preset = "tf" if request.param == "mobilenetv2" else "raw"
    explainer = Explainer(
        assets / "models" / f"{request.param}.onnx",
        overrides=Overrides(preset=preset, resize="stretch"),
        labels=assets / "imagenet_classes_1001.txt",
        threads=1,
    )
    targets = ["Italian greyhound", "Boston bull"]
    found = explainer.explain_all(assets / "detection" / "pets.jpg", targets)
    limits = (2, 0.9) if request.param == "mobilenetv2" else (2, 0.7)
    return [each.map for each in found], limits


@pytest.mark.parametrize(("dog", "half"), [(0, "left"), (1, "right")])
def test_each_dog_is_explained_by_its_own_half_of_the_picture(two_dogs, dog, half):
    maps, (times, share) = two_dogs
    values = maps[dog]
    middle = values.shape[1] // 2
    left, right = values[:, :middle], values[:, middle:]
    own, other = (left, right) if half == "left" else (right, left)
    assert own.sum() > times * other.sum()
    hottest = values >= np.quantile(values, 0.95)
    peak = hottest[:, :middle] if half == "left" else hottest[:, middle:]
    assert peak.sum() > share * hottest.sum()


@pytest.mark.parametrize(
    ("model", "preset", "passes"),
    [
        ("squeezenet", "caffe", (21, 10)),
        ("mobilenetv2", "tf", (21, 10)),
        ("mobilenetv2_int8", None, (33, 10)),
    ],
)
def test_a_westie_is_found_beside_a_man(assets, model, preset, passes):
    explainer = Explainer(assets / "models" / f"{model}.onnx", preprocessing=preset, threads=1)
    photo = assets / "images" / "n02098286_West_Highland_white_terrier.JPEG"
    explanation = explainer.explain(photo)
    assert (explanation.passes.forward, explanation.passes.backward) == passes
    assert explanation.map.shape == explanation.image.shape[:2]
    rows, columns = np.unravel_index(explanation.map.argmax(), explanation.map.shape)
    height, width = explanation.map.shape
    assert rows > height / 3
    assert columns < 0.7 * width
    assert np.median(explanation.map) < 0.1
