"""Parity with the frameworks themselves: their own configuration, their own preprocessing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ibisa_onnx.models.signature import ImageInput, Layout, Signature, TensorInfo
from ibisa_onnx.preprocessing.resolve import resolve_preprocessing
from ibisa_onnx.preprocessing.spec import prepare

# Pillow rounds to bytes between its two passes: two steps of a byte, of the smallest std (0.22).
CLOSE = 2.5 / 255 / 0.22


def _resolve(channels, height, width, **said):
    tensor = TensorInfo("image", "float32", ("n", channels, height, width))
    image = ImageInput(tensor, Layout.NCHW, channels, height, width, None)
    scores = TensorInfo("scores", "float32", ("n", 1000))
    return resolve_preprocessing(Signature((tensor,), (scores,), image), {}, **said)


@pytest.fixture
def picture():
    """A smooth picture, higher than wide, as Pillow has it."""
    image = pytest.importorskip("PIL.Image")
    rows, columns = np.mgrid[:500, :331] / 100
    planes = [np.sin(rows * a + columns * b) for a, b in ((1, 2), (3, 1), (2, 5))]
    return image.fromarray(np.uint8(127.5 + 120 * np.stack(planes, axis=2)))


def _assert_same(resolved, picture, wanted):
    assert resolved.warnings == ()
    got = prepare(np.asarray(picture), resolved.spec).tensor[0]
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet50", "vit_base_patch16_224"])
def test_timm(tmp_path, picture, name):
    timm = pytest.importorskip("timm")
    hub = pytest.importorskip("timm.models._hub")
    model = timm.create_model(name, pretrained=False)
    hub.save_config_for_hf(model, tmp_path / "config.json")
    config = timm.data.resolve_data_config({}, model=model)
    resolved = _resolve(*config["input_size"], folder=tmp_path)
    _assert_same(resolved, picture, timm.data.create_transform(**config)(picture))


@pytest.mark.parametrize("size", [(224, 224), (200, 280)])
def test_timm_squashes(tmp_path, picture, size):
    data = pytest.importorskip("timm.data")
    said = {"input_size": (3, *size), "crop_pct": 0.9, "crop_mode": "squash"}
    config = data.resolve_data_config(said)
    (tmp_path / "data.json").write_text(json.dumps(config))
    resolved = _resolve(3, *size, file=tmp_path / "data.json")
    _assert_same(resolved, picture, data.create_transform(**config)(picture))


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3"])
def test_torchvision(tmp_path, picture, name):
    models = pytest.importorskip("torchvision.models")
    preset = models.get_model_weights(name).DEFAULT.transforms()
    fields = ("crop_size", "resize_size", "mean", "std")
    said = {each: getattr(preset, each) for each in fields}
    file = tmp_path / "transforms.json"
    file.write_text(json.dumps(said | {"interpolation": str(preset.interpolation)}))
    side = preset.crop_size[0]
    _assert_same(_resolve(3, side, side, file=file), picture, preset(picture))


@pytest.mark.parametrize(
    "name",
    [
        "BitImageProcessor",
        "CLIPImageProcessor",
        "ConvNextImageProcessor",
        "DeiTImageProcessor",
        "EfficientNetImageProcessor",
        "LevitImageProcessor",
        "PoolFormerImageProcessor",
        "ViTImageProcessor",
    ],
)
def test_hugging_face(tmp_path, picture, name):
    processor = getattr(pytest.importorskip("transformers"), name)()
    processor.save_pretrained(tmp_path)
    wanted = processor(images=picture, return_tensors="np")["pixel_values"][0]
    _assert_same(_resolve(*wanted.shape, folder=tmp_path), picture, wanted)
