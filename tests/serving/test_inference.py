"""Requests and results of a served model, without any server."""

from __future__ import annotations

import base64
import json
from typing import Any

import cv2
import numpy as np
import pytest
from hostile.base import encoded, model, picture

from ibisa_onnx import Explainer
from ibisa_onnx.commands.flags import _CALLS
from ibisa_onnx.errors import DeadlineError, ImageError, OptionError, TargetError
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.methods.ibisa.options import options_named
from ibisa_onnx.serving import Request, ServedModel
from ibisa_onnx.serving.inference import EncodingTime, image_of
from ibisa_onnx.serving.target_text import parse_target, with_keys
from ibisa_onnx.targets.arguments import PointTarget
from ibisa_onnx.targets.contrast import ContrastTarget
from ibisa_onnx.targets.detection import BoxTarget
from ibisa_onnx.targets.segmentation import RegionTarget
from ibisa_onnx.targets.sequence import TextTarget
from ibisa_onnx.targets.value import ValueTarget

LABELS = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(model().SerializeToString(), preprocessing="unit", labels=LABELS, cache=False)


def test_every_form_of_an_image_is_the_same_image() -> None:
    data, pixels = encoded(), picture()
    text = base64.b64encode(data)
    for form in (data, bytearray(data), text, text.decode(), [text], np.array([[data]], object)):
        assert image_of(form) == data
    for form in (pixels, pixels[None], pixels.tolist(), pixels[None].astype(np.int64)):
        assert np.array_equal(image_of(form), pixels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "no image"),
        ("", "empty"),
        ("@@@", "not valid base64"),
        (b"abc", "not a supported image"),
        ("abc", "not valid base64"),
        ([b"a", b"b"], "2 elements"),
        (np.zeros((2, 4, 4, 3), np.uint8), "2 images"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.full((4, 4, 3), np.nan, np.float32), "float32"),
        ([[[1, 2, 300]]], "1 to 300"),
        ([[[1, 2, 3]], [[1, 2]]], "pass an image file's bytes"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
    ],
)
def test_other_images_are_rejected(explainer: Explainer, image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        ServedModel(explainer).answer(Request.of(image))


@pytest.mark.parametrize(
    ("given", "target"),
    [
        (None, None),
        ("", None),
        ("3", 3),
        (b"dog", "dog"),
        ("top:1", "top:1"),
        ({"target": "dog", "versus": "cat"}, ContrastTarget("dog", "cat")),
        ('{"box": 2}', BoxTarget(2)),
        ({"box": 2, "confidence": 0.5}, BoxTarget(2, confidence=0.5)),
        ({"at": [3, 4], "target": "dog"}, PointTarget((3.0, 4.0), "dog")),
        ({"region": [0, 1, 2, 3]}, RegionTarget(region=(0.0, 1.0, 2.0, 3.0))),
        ({"text": True}, TextTarget()),
        ({"char": 2}, TextTarget(2)),
        ({"raise": True, "index": "0"}, ValueTarget("raise", index="0")),
    ],
)
def test_targets_as_text(given: object, target: object) -> None:
    assert repr(parse_target(given)) == repr(target)  # some compare by identity


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("top:3", "several classes"),
        ('{"box":', "not valid JSON"),
        ({"box": "all"}, "pass its number"),
        ({"box": 1, "char": 2}, "cannot be combined"),
        ({"region": "/etc/passwd"}, "LEFT, TOP"),
        ({"region": [0, 1, 2, float("nan")]}, "LEFT, TOP"),
        ({"like": "/etc/passwd"}, "none of the keys"),
        ({"text": 1}, "pass true"),
        ({"target": ["dog"]}, "class index or a label"),
        (1.5, "class index"),
        (b"\xff", "UTF-8"),
    ],
)
def test_other_targets_are_rejected(given: object, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        parse_target(given)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "best"}, "no preset 'best'"),
        ({"preset": 1}, "preset is 1"),
        ({"deadline_ms": 0}, "deadline_ms is 0"),
        ({"deadline_ms": "soon"}, "deadline_ms is 'soon'"),
        ({"deadline_ms": float("inf")}, "deadline_ms is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"sed": 1}, "unknown parameter 'sed'"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Request.of(encoded(), parameters=parameters)


def test_parameters_of_the_protocol_are_ignored() -> None:
    assert Request.of(encoded(), parameters={"binary_data_output": True}).preset is None


def test_results_are_those_of_the_explainer(explainer: Explainer) -> None:
    served = ServedModel(explainer)
    found = served.answer(Request.of(encoded(), "dog", {"seed": 3, "preset": "fast"}))
    fast = Explainer(
        model().SerializeToString(),
        preprocessing="unit",
        labels=LABELS,
        cache=False,
        options="fast",
    ).explain(encoded(), "dog", seed=3)
    assert np.array_equal(found["map"], fast.map)
    assert found["overlay"][0] == fast.encode(".png")
    record = json.loads(found["explanation"][0])
    assert (record["target"]["label"], record["provenance"]["seed"]) == ("dog", 3)
    assert record["provenance"]["options"]["steps"] == options_named("fast").steps


def test_an_output_that_is_not_requested_is_not_computed(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Explanation, "overlay", None)  # a call would fail
    found = ServedModel(explainer).answer(Request.of(encoded(), outputs=["map", "explanation"]))
    assert list(found) == ["map", "explanation"]
    with pytest.raises(OptionError, match="no output 'maps'"):
        ServedModel(explainer).answer(Request.of(encoded(), outputs=["maps"]))


def test_predictions_are_those_of_the_explainer(explainer: Explainer) -> None:
    found = ServedModel(explainer).predict(Request.of(encoded()))
    expected = explainer.predict(encoded(), top=5)
    assert found["probabilities"].dtype == np.float32
    assert int(found["probabilities"].argmax()) == expected[0].index
    answers = json.loads(found["predictions"][0])
    assert [each["label"] for each in answers] == [each.label for each in expected]
    (shape,) = (each.shape for each in ServedModel(explainer).predict_outputs[:1])
    assert shape == found["probabilities"].shape


def test_the_deadline_counts_from_arrival(explainer: Explainer) -> None:
    late = Request.of(encoded(), parameters={"deadline_ms": 1000}, received=-1e6)
    for call in (ServedModel(explainer).answer, ServedModel(explainer).predict):
        with pytest.raises(DeadlineError, match="passed before"):
            call(late)


def test_a_longer_deadline_is_shortened() -> None:
    request = Request.of(encoded(), parameters={"deadline_ms": 60_000})
    left = request.seconds_left(None, 2.0)
    assert left is not None
    assert left <= 2
    assert Request.of(encoded()).seconds_left(None, None) is None


def test_messages_name_what_a_request_passes() -> None:
    """Every call that the library's messages name, as `commands.flags` knows them."""
    made = [call for call in _CALLS if "Target(" in call and not call.startswith("Similarity")]
    assert len(made) > 8
    for call in made:
        text = with_keys(f"supported targets: {call}, and more")
        assert "Target(" not in text
    assert with_keys("target=CLASS, target='top:3', BoxTarget(3)") == 'CLASS, top:1, {"box": 3}'


def test_an_output_that_the_request_chose_is_the_callers_error(explainer: Explainer) -> None:
    request = Request.of(encoded(), {"raise": True, "output": "nope"})
    with pytest.raises(TargetError, match="nope"):
        ServedModel(explainer).answer(request)


# --- deadlines reserve what encoding takes ---


def _request(side: int, *outputs: str, **given: Any) -> Request:
    return Request.of(np.zeros((side, side, 3), np.uint8), outputs=outputs, **given)


def test_the_time_of_encoding_is_learnt_by_size_and_outputs() -> None:
    known = EncodingTime()
    small, large = _request(100, "map"), _request(1000, "map")
    assert known.expected(_request(1000, "explanation")) == 0.0
    assert 0 < known.expected(small) < known.expected(large) < known.expected(_request(1000))
    known.note(large, "tensors", 0.5)
    known.note(large, "v1", 2.0)
    known.note(large, "v2", 0.1)
    assert known.expected(large) == pytest.approx(2.5)  # whichever protocol it will be
    assert known.expected(_request(1000, "overlay")) < 1
    assert known.expected(small) < 0.1
    for _ in range(30):
        known.note(large, "tensors", 0.1)
    assert known.expected(large) == pytest.approx(2.1, abs=1e-3)


def test_a_file_is_as_large_as_its_header_says() -> None:
    known, request = EncodingTime(), _request(600, "map")
    png = cv2.imencode(".png", request.image)[1].tobytes()
    assert known.expected(Request.of(png, outputs=["map"])) == known.expected(request) > 0
    assert known.expected(Request.of(b"no image", outputs=["map"])) == 0.0


def test_no_map_is_begun_if_its_encoding_would_be_late(explainer: Explainer) -> None:
    served = ServedModel(explainer)
    slow = {"deadline_ms": 2000}
    served.encoding.note(_request(64, "map"), "tensors", 10.0)
    before = explainer.model.passes.count.forward
    with pytest.raises(DeadlineError, match="encoding the results of this image takes"):
        served.submit(_request(64, "map", parameters=slow))
    assert explainer.model.passes.count.forward == before
    assert served.submit(_request(64, "explanation", parameters=slow)).result().map.shape == (
        64,
        64,
    )
    assert served.submit(_request(64, "map")).result().map.shape == (64, 64)  # no deadline
    # One slow time does not reject such images for ever.
    for _ in range(20):
        try:
            served.submit(_request(64, "map", parameters=slow))
            break
        except DeadlineError:
            continue
    else:
        pytest.fail("all requests are rejected")


def test_clients_are_not_told_to_pass_labels() -> None:
    from ibisa_onnx.demo import scene_path

    unlabelled = Explainer(model().SerializeToString(), preprocessing="unit", cache=False)
    with pytest.raises(TargetError) as error:
        ServedModel(unlabelled).answer(Request.of(scene_path().read_bytes(), "unicorn"))
    said = with_keys(str(error.value))
    assert "labels=" not in said
    assert "pass a class index" in said
