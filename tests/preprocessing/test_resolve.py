"""What is believed about preprocessing: every source, their order, and what contradicts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import ModelProto

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.models.signature import ImageInput, Layout, Signature, TensorInfo
from ibisa_onnx.preprocessing.annotate import annotate
from ibisa_onnx.preprocessing.resolve import Overrides, resolve_preprocessing
from ibisa_onnx.preprocessing.spec import prepare

THIRD = (0.1, 0.2, 0.3)


def _signature(
    channels=3, side=224, dtype="float32", layout=Layout.NCHW, output=("n", 1000)
) -> Signature:
    sides = ("n", channels, side or "h", side or "w")
    shape = sides if layout is Layout.NCHW else (sides[0], sides[2], sides[3], sides[1])
    tensor = TensorInfo("image", dtype, shape)
    image = ImageInput(tensor, layout, channels, side, side, None)
    return Signature((tensor,), (TensorInfo("scores", "float32", output),), image)


def _resolve(signature=None, metadata=None, file=None, folder=None, **flags):
    return resolve_preprocessing(
        signature or _signature(),
        metadata or {},
        overrides=Overrides(**flags),
        file=file,
        folder=folder,
    )


def _sources(resolved):
    return {field.field: field.source for field in resolved.resolved_fields}


def _ibisa(**preprocessing):
    return {"ibisa": json.dumps({"version": 1, "preprocessing": preprocessing})}


class TestOrder:
    def test_each_source_gives_way_to_the_one_above(self, tmp_path):
        metadata = _ibisa(scale=0.25, mean=[0.5], std=[0.5], channel_order="BGR")
        file = tmp_path / "spec.toml"
        file.write_text("scale = 0.5\nmean = 0.25\nstd = [0.5, 0.5, 0.25]\n")

        resolved = _resolve(metadata=metadata, file=file, mean=THIRD, preset="unit")

        assert resolved.spec.mean == THIRD
        assert resolved.spec.scale == 1 / 255  # the preset is a flag, and above the file
        assert _sources(resolved)["mean"] == "overrides={'mean': ...}"
        assert _sources(resolved)["scale"] == "argument preprocessing=unit"

        resolved = _resolve(metadata=metadata, file=file, mean=THIRD)
        assert (resolved.spec.mean, resolved.spec.scale) == (THIRD, 0.5)
        assert resolved.spec.std == (0.5, 0.5, 0.25)
        assert resolved.spec.channel_order == "BGR"
        sources = _sources(resolved)
        assert sources["std"] == "file spec.toml"
        assert sources["channel_order"] == "metadata key ibisa"
        assert sources["size"] == "input type and shape"
        assert resolved.warnings == ()

    def test_every_field_of_the_spec_has_a_belief_with_its_value(self):
        resolved = _resolve()
        fields = resolved.spec.to_dict()
        guessed = [field.field for field in resolved.resolved_fields if field.is_guess]
        assert fields.pop("guessed") == guessed
        assert {b.field: b.value for b in resolved.resolved_fields} == fields | {
            "size": resolved.spec.size,
            "mean": resolved.spec.mean,
            "std": resolved.spec.std,
        }


class TestGuesses:
    def test_imagenet_is_a_guess_and_says_so_loudly(self):
        resolved = _resolve()
        assert resolved.spec.mean == (0.485, 0.456, 0.406)
        assert "(assumed)" in _sources(resolved)["mean"]
        (warning,) = resolved.warnings
        assert "no preprocessing information found" in warning
        assert "preprocessing='caffe', 'tf', 'unit' or 'raw'" in warning
        assert "Explainer.try_preprocessing" in warning

    @pytest.mark.parametrize("preset", ["imagenet", "caffe", "tf", "unit", "raw"])
    def test_saying_a_preset_is_enough(self, preset):
        assert _resolve(preset=preset).warnings == ()
        assert _resolve(preset=preset.upper()).spec == _resolve(preset=preset).spec

    def test_one_channel_is_grey_in_0_to_1(self):
        resolved = _resolve(_signature(channels=1, side=28))
        assert resolved.spec.channel_order == "GRAY"
        assert (resolved.spec.scale, resolved.spec.mean) == (1 / 255, (0.0,))
        assert "0..1" in resolved.warnings[0]

    def test_a_preset_on_one_channel_takes_the_mean_of_its_colours(self):
        spec = _resolve(_signature(channels=1), preset="caffe").spec
        assert spec.mean == (pytest.approx(114.495),)

    def test_four_channels_take_an_opaque_alpha(self):
        assert _resolve(_signature(channels=4), preset="unit").spec.channel_order == "RGBA"
        spec = _resolve(_signature(channels=4), preset="imagenet").spec
        assert spec.mean == (0.485, 0.456, 0.406, 0.0)
        assert spec.std == (0.229, 0.224, 0.225, 1.0)
        spec = _resolve(_signature(channels=4), preset="imagenet", channel_order="BGRA").spec
        assert spec.mean == (0.406, 0.456, 0.485, 0.0)
        assert _resolve(_signature(channels=4)).spec.channel_order == "RGBA"

    def test_mean_and_std_of_a_preset_stay_with_their_colours(self):
        spec = _resolve(preset="imagenet", channel_order="bgr").spec
        assert spec.channel_order == "BGR"
        assert spec.mean == (0.406, 0.456, 0.485)
        assert _resolve(channel_order="BGR").spec.mean == (0.406, 0.456, 0.485)

    def test_scale_follows_from_the_size_of_the_mean(self):
        resolved = _resolve(mean=(103.5, 116.3, 123.7))
        assert (resolved.spec.scale, resolved.spec.std) == (1.0, (1.0,))
        assert "scale = 1.0" in resolved.warnings[0]
        assert _resolve(mean=(0.5,), std=(0.5,)).spec.scale == 1 / 255


class TestType:
    def test_uint8_takes_the_bytes_as_they_are(self):
        resolved = _resolve(_signature(dtype="uint8", layout=Layout.NHWC))
        spec = resolved.spec
        assert (spec.scale, spec.mean, spec.std) == (1.0, (0.0,), (1.0,))
        assert (spec.dtype, spec.layout, spec.channel_order) == ("uint8", "NHWC", "RGB")
        assert "bytes, unchanged" in _sources(resolved)["scale"]
        assert resolved.warnings == ()

    def test_int8_takes_them_less_128(self):
        resolved = _resolve(_signature(dtype="int8"))
        assert resolved.spec.mean == (128.0,)
        assert resolved.warnings == ()

    def test_flags_reach_integer_inputs_too(self):
        spec = _resolve(_signature(dtype="uint8"), channel_order="BGR").spec
        assert (spec.channel_order, spec.scale) == ("BGR", 1.0)


class TestGeometry:
    @pytest.mark.parametrize("output", [("n", 1000), ("n", 1001), ("n", 1000, 1, 1)])
    @pytest.mark.parametrize(("side", "shorter"), [(192, 219), (224, 256), (299, 342)])
    def test_imagenets_classifiers_are_cropped_from_256_for_224(self, output, side, shorter):
        spec = _resolve(_signature(side=side, output=output)).spec
        assert (spec.size, spec.resize, spec.shorter_side) == ((side,) * 2, "shortest", shorter)
        assert spec.is_guess("resize")
        assert spec.is_guess("shorter_side")

    def test_scores_last_in_four_axes_are_a_classifiers_too(self):
        assert _resolve(_signature(output=(1, 1, 1, 1000))).spec.resize == "shortest"

    @pytest.mark.parametrize(
        ("side", "output"),
        [
            (224, ("n", 10)),
            (224, ("n", "k")),
            (128, ("n", 1000)),
            (384, ("n", 1000)),
            (224, ("n", 513, 513)),
            (224, ("n", 4420, 2)),
            (224, ("n", 21, 65, 65)),
        ],
    )
    def test_others_get_the_whole_picture(self, side, output):
        resolved = _resolve(_signature(side=side, output=output))
        assert (resolved.spec.resize, resolved.spec.shorter_side) == ("stretch", None)
        assert "shorter_side" not in _sources(resolved)
        assert "(assumed)" in _sources(resolved)["resize"]

    def test_the_usual_shorter_side_where_a_crop_is_said(self):
        shorter = [
            _resolve(_signature(side=side), resize="shortest").spec.shorter_side
            for side in (32, 384)
        ]
        assert shorter == [32, 439]

    def test_an_open_size_is_224_until_it_is_said(self):
        resolved = _resolve(_signature(side=None), preset="unit")
        assert resolved.spec.size == (224, 224)
        assert "'size': ..." in resolved.warnings[0]
        said = _resolve(_signature(side=None), preset="unit", size=(96, 96))
        assert said.spec.size == (96, 96)
        assert said.warnings == ()

    def test_resize_by_flag(self):
        assert _resolve(resize="letterbox").spec.shorter_side is None


class TestGuessesOfOthers:
    """What metadata mark as guesses stays one, and gives way to whatever anybody says."""

    GUESSED = _ibisa(
        preset="tf",
        size=[224, 224],
        resize="shortest",
        shorter_side=240,
        interpolation="bicubic",
        guessed=["resize", "shorter_side"],
    )

    def test_they_are_read_as_guesses(self):
        resolved = _resolve(metadata=self.GUESSED)
        spec = resolved.spec
        assert (spec.resize, spec.shorter_side, spec.interpolation) == ("shortest", 240, "bicubic")
        assert spec.guessed == ("resize", "shorter_side")
        assert _sources(resolved)["resize"] == "metadata key ibisa (assumed)"
        assert _sources(resolved)["scale"] == "metadata key ibisa"
        assert resolved.warnings == ()

    def test_files_beside_the_model_go_before_them(self, tmp_path):
        size = {"size": {"height": 224, "width": 224}}
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps(TestBeside.HUGGING_FACE | size)
        )
        resolved = _resolve(metadata=self.GUESSED, folder=tmp_path)
        assert (resolved.spec.resize, resolved.spec.scale) == ("stretch", 1 / 127.5)
        assert not resolved.spec.is_guess("resize")

    def test_a_shorter_side_that_a_flag_makes_impossible_is_guessed_anew(self):
        metadata = _ibisa(preset="tf", shorter_side=256, guessed=["shorter_side"])
        resolved = _resolve(_signature(side=None), metadata, size=(288, 288), resize="shortest")
        assert resolved.spec.shorter_side == round(288 * 256 / 224)

    def test_what_is_no_list_is_ignored_with_a_warning(self):
        resolved = _resolve(metadata=_ibisa(preset="tf", guessed="resize"))
        assert "expected a list of field names" in resolved.warnings[0]


class TestChannels:
    @pytest.mark.parametrize("channels", [2, 5, 6, 16])
    def test_other_channels_than_colours_are_taken_as_they_are(self, channels):
        resolved = _resolve(_signature(channels=channels))
        spec = resolved.spec
        assert (spec.channel_order, spec.channels) == ("AS-IS", channels)
        assert (spec.scale, spec.mean) == (1 / 255, (0.0,))
        assert _sources(resolved)["channels"] == "input type and shape"
        assert "no preprocessing information found" in resolved.warnings[0]

    def test_presets_have_one_mean_for_them(self):
        spec = _resolve(_signature(channels=6), preset="caffe").spec
        assert spec.mean == (pytest.approx(114.495),)

    def test_each_may_have_its_own(self):
        mean = tuple(map(float, range(6)))
        assert _resolve(_signature(channels=6), mean=mean, scale=1.0).spec.mean == mean

    def test_colours_may_be_taken_as_they_are(self):
        spec = _resolve(preset="caffe", channel_order="as-is").spec
        assert (spec.channel_order, spec.channels) == ("AS-IS", 3)
        assert spec.mean == (123.675, 116.28, 103.53)  # pictures are RGB
        assert (
            _resolve(_signature(channels=4), channel_order="AS-IS", preset="tf").spec.channels == 4
        )

    def test_metadata_of_another_number_are_not_believed(self):
        metadata = _ibisa(preset="raw", channel_order="AS-IS", channels=5)
        resolved = _resolve(_signature(channels=6), metadata)
        assert "sets 5 channels" in resolved.warnings[0]

    def test_deeper_integers_are_values(self):
        resolved = _resolve(_signature(channels=1, dtype="uint16"))
        assert "values, unchanged" in _sources(resolved)["scale"]

    def test_depth_by_flag_and_by_metadata(self):
        assert _resolve(preset="unit", depth="full").spec.depth == "full"
        assert _resolve(metadata=_ibisa(preset="unit", depth="full")).spec.takes_own_values
        with pytest.raises(
            PreprocessingError, match="depth is '12-bit', expected one of 8-bit, full"
        ):
            _resolve(depth="12-bit")


class TestContradictions:
    @pytest.mark.parametrize(
        ("flags", "match"),
        [
            ({"size": (100, 100)}, r"'size': .* sets size 100x100, but model input 'image' .* 224"),
            ({"layout": "NHWC"}, "'layout': .* sets layout NHWC"),
            ({"layout": "CHWN"}, "'layout': .* sets layout CHWN"),
            ({"mean": (1.0, 2.0)}, r"values from: overrides=\{'mean': \.\.\.\}\)"),
            ({"std": (0.0,)}, "cannot be 0"),
            (
                {"channel_order": "GRAY"},
                r"channel order GRAY, but model input 'image' .* requires 3 channel",
            ),
            ({"shorter_side": 100}, r"shorter side 100 .* less than the model's 224"),
            ({"preset": "vgg"}, "choose from: imagenet, caffe, tf, unit, raw"),
            ({"resize": "squash"}, "choose from: shortest"),
        ],
    )
    def test_flags(self, flags, match):
        with pytest.raises(PreprocessingError, match=match) as error:
            _resolve(**flags)
        assert "\n" not in str(error.value)

    def test_a_normalized_preset_on_bytes(self):
        match = r"uint8, which cannot hold .*preprocessing=im"
        with pytest.raises(PreprocessingError, match=match):
            _resolve(_signature(dtype="uint8"), preset="imagenet")

    def test_metadata_of_another_type(self):
        """The owner of a picture cannot mend the file: it is not believed, and that is said."""
        resolved = _resolve(metadata=_ibisa(dtype="uint8", scale=0.5), preset="tf")
        assert resolved.spec == _resolve(preset="tf").spec
        (warning,) = resolved.warnings
        assert "ignored: metadata key ibisa sets dtype uint8, but model input 'image'" in warning

    def test_half_precision_is_no_contradiction(self):
        resolved = _resolve(_signature(dtype="float16"), _ibisa(dtype="float32", preset="unit"))
        assert resolved.spec.dtype == "float16"


class TestMetadata:
    def test_all_fields_of_the_projects_own(self):
        said = {
            "size": [224, 224],
            "resize": "shortest",
            "shorter_side": 232,
            "interpolation": "bicubic",
            "channel_order": "RGB",
            "layout": "NCHW",
            "dtype": "float32",
            "scale": 0.5,
            "mean": [1.0, 2.0, 3.0],
            "std": [4.0, 5.0, 6.0],
        }
        resolved = _resolve(metadata=_ibisa(**said))
        assert resolved.spec.to_dict() == said
        assert resolved.warnings == ()

    @pytest.mark.parametrize(
        "text", ["{", '{"version": 2}', '{"version": 1, "preprocessing": {"means": 3}}', "[]"]
    )
    def test_what_is_broken_is_ignored_with_a_warning(self, text):
        resolved = _resolve(metadata={"ibisa": text}, preset="tf")
        assert resolved.spec == _resolve(preset="tf").spec
        assert "ignored: " in resolved.warnings[0]

    def test_onnx_image_keys(self):
        resolved = _resolve(
            metadata={
                "Image.BitmapPixelFormat": "Bgr8",
                "Image.NominalPixelRange": "Normalized_1_1",
            }
        )
        spec = resolved.spec
        assert (spec.channel_order, spec.scale, spec.mean) == ("BGR", 1 / 127.5, (1.0,))
        assert resolved.warnings == ()
        (mean,) = _resolve(metadata={"Image.NominalPixelRange": "Normalized_0_1"}).spec.mean
        assert str(mean) == "0.0"  # not -0.0, which `inspect` would show
        unknown = _resolve(metadata={"Image.NominalPixelRange": "NominalRange_16_235"})
        assert "NominalRange_16_235" in unknown.warnings[0]

    def test_onnx_keys_are_of_any_case(self):
        metadata = {
            "image.BITMAPPIXELFORMAT": "bgr8",
            "IMAGE.NominalPixelRange": "normalized_0_1",
        }
        resolved = _resolve(metadata=metadata)
        assert (resolved.spec.channel_order, resolved.spec.scale) == ("BGR", 1 / 255)

    @pytest.mark.parametrize(
        "said",
        [
            {"mean": [1.0, 2.0]},
            {"std": [0.0]},
            {"scale": 0.0},
            {"mean": [float("nan")]},
            {"shorter_side": 100},
            {"channel_order": "GRAY"},
        ],
    )
    def test_what_cannot_be_is_ignored_with_a_warning(self, said):
        resolved = _resolve(metadata=_ibisa(**said), preset="tf")
        assert resolved.spec == _resolve(preset="tf").spec
        (warning,) = resolved.warnings
        assert warning.startswith("ignored: ")
        assert "metadata key ibisa" in warning


ULTRALYTICS = {
    "description": "Ultralytics YOLOv8n-cls model trained on imagenet",
    "author": "Ultralytics",
    "date": "2026-01-31T10:20:30.123456",
    "version": "8.3.0",
    "license": "AGPL-3.0 License (https://ultralytics.com/license)",
    "docs": "https://docs.ultralytics.com",
    "stride": "1",
    "task": "classify",
    "batch": "1",
    "imgsz": "[224, 224]",
    "names": "{0: 'tench, Tinca', 1: \"carpenter's kit\"}",
    "args": "{'batch': 1, 'half': False, 'dynamic': True, 'simplify': True, 'nms': False}",
    "channels": "3",
    "end2end": "False",
}


class TestUltralytics:
    @pytest.mark.parametrize(
        ("task", "resize"), [("classify", "shortest"), ("detect", "letterbox")]
    )
    def test_as_it_writes(self, task, resize):
        resolved = _resolve(metadata=ULTRALYTICS | {"task": task})
        spec = resolved.spec
        assert (spec.resize, spec.size) == (resize, (224, 224))
        assert (spec.scale, spec.mean, spec.std) == (1 / 255, (0.0,), (1.0,))
        assert resolved.warnings == ()
        assert _sources(resolved)["scale"] == "Ultralytics metadata"

    @pytest.mark.parametrize(
        ("imgsz", "size"), [("640", (640, 640)), ("[480, 640]", (480, 640)), ("(96, 96)", (96, 96))]
    )
    def test_the_size_of_an_open_input(self, imgsz, size):
        spec = _resolve(_signature(side=None), ULTRALYTICS | {"imgsz": imgsz}).spec
        assert (spec.size, spec.shorter_side) == (size, min(size))

    def test_grey_models(self):
        metadata = ULTRALYTICS | {"channels": "1"}
        assert _resolve(_signature(channels=1), metadata).spec.channel_order == "GRAY"
        contradicted = _resolve(metadata=metadata, preset="tf")
        assert "sets channel order GRAY" in contradicted.warnings[0]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("imgsz", "big"),
            ("imgsz", "[1, 2, 3]"),
            ("imgsz", "[0, 9]"),
            ("imgsz", "__import__('os')"),
            ("channels", "7"),
            ("channels", "[3]"),
        ],
    )
    def test_what_is_damaged_is_told_and_the_rest_taken(self, key, value):
        resolved = _resolve(metadata=ULTRALYTICS | {key: value})
        assert resolved.spec.scale == 1 / 255
        (warning,) = resolved.warnings
        assert f"metadata key {key} is {value!r}" in warning

    def test_another_size_than_the_models(self):
        """The size is the input's, and how the picture is brought to it is still Ultralytics'."""
        resolved = _resolve(metadata=ULTRALYTICS | {"imgsz": "[640, 640]"})
        assert resolved.spec == _resolve(metadata=ULTRALYTICS | {"imgsz": "[224, 224]"}).spec
        assert "Ultralytics metadata sets size 640x640, but model input" in resolved.warnings[0]


MODEL_API = {
    "model_info model_type": "Classification",
    "model_info mean_values": "123.675 116.28 103.53",
    "model_info scale_values": "58.395 57.12 57.375",
    "model_info reverse_input_channels": "True",
    "model_info resize_type": "standard",
    "model_info pad_value": "0",
    "model_info confidence_threshold": "0.35",
}


class TestModelApi:
    def test_bytes_less_a_mean_divided_by_a_scale(self):
        resolved = _resolve(metadata=MODEL_API)
        spec = resolved.spec
        assert (spec.scale, spec.mean) == (1.0, (123.675, 116.28, 103.53))
        assert (spec.std, spec.channel_order) == ((58.395, 57.12, 57.375), "RGB")
        assert spec.resize == "stretch"
        assert resolved.warnings == ()
        assert _sources(resolved)["std"] == "metadata keys model_info ..."

    def test_one_number_for_all_channels_and_one_of_the_two_alone(self):
        spec = _resolve(metadata={"model_info scale_values": "[255.0]"}).spec
        assert (spec.scale, spec.mean, spec.std) == (1.0, (0.0,), (255.0,))

    def test_channels_left_as_they_are_say_nothing_of_their_order(self):
        metadata = MODEL_API | {"model_info reverse_input_channels": "False"}
        resolved = _resolve(metadata=metadata)
        assert "(assumed)" in _sources(resolved)["channel_order"]
        assert "channel_order = RGB" in resolved.warnings[0]

    @pytest.mark.parametrize(
        ("name", "resize", "shorter", "warnings"),
        [
            ("standard", "stretch", None, 0),
            ("fit_to_window_letterbox", "letterbox", None, 0),
            ("fit_to_window", "letterbox-corner", None, 0),
            ("crop", "shortest", 224, 0),
            ("squash", "shortest", 256, 1),
        ],
    )
    def test_resizing(self, name, resize, shorter, warnings):
        resolved = _resolve(metadata=MODEL_API | {"model_info resize_type": name})
        assert (resolved.spec.resize, resolved.spec.shorter_side) == (resize, shorter)
        assert len(resolved.warnings) == warnings
        assert all(repr(name) in warning for warning in resolved.warnings)

    @pytest.mark.parametrize(("said", "value"), [({}, 0), ({"pad_value": "114"}, 114)])
    def test_margins_have_the_value_that_it_says(self, said, value):
        keys = {"resize_type": "fit_to_window", **said}
        metadata = MODEL_API | {f"model_info {key}": text for key, text in keys.items()}
        assert _resolve(metadata=metadata).spec.pad_value == value

    def test_intensity_is_scaled_to_one_first(self):
        metadata = {
            "model_info intensity_mode": "scale_to_unit",
            "model_info mean_values": "0.5",
            "model_info scale_values": "0.25",
        }
        spec = _resolve(metadata=metadata).spec
        assert (spec.scale, spec.mean, spec.std) == (1 / 255, (0.5,), (0.25,))

    def test_what_the_graph_does_itself_is_not_done_twice(self):
        spec = _resolve(metadata=MODEL_API | {"model_info embedded_processing": "True"}).spec
        assert (spec.scale, spec.mean, spec.std) == (1.0, (0.0,), (1.0,))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("mean_values", "a b c"),
            ("mean_values", "nan"),
            ("scale_values", "0"),
            ("intensity_mode", "window"),
        ],
    )
    def test_values_that_make_no_sense_are_told_and_none_is_taken(self, key, value):
        metadata = MODEL_API | {f"model_info {key}": value}
        resolved = _resolve(metadata=metadata, preset="tf")
        assert resolved.spec.resize == "stretch"
        (warning,) = resolved.warnings
        assert f"metadata key model_info {key} is {value!r}" in warning
        assert _resolve(metadata=metadata).spec.mean == (0.485, 0.456, 0.406)

    def test_two_numbers_for_three_channels(self):
        metadata = MODEL_API | {"model_info mean_values": "1 2"}
        assert "requires 1 or 3 numbers" in _resolve(metadata=metadata).warnings[0]

    def test_the_projects_own_key_goes_before_all_others(self):
        metadata = _ibisa(scale=0.5, mean=[0.0], std=[1.0]) | MODEL_API | ULTRALYTICS
        assert _resolve(metadata=metadata).spec.scale == 0.5
        image = {"Image.NominalPixelRange": "Normalized_0_1"}
        assert _resolve(metadata=image | MODEL_API).spec.scale == 1.0
        assert _resolve(metadata=MODEL_API | ULTRALYTICS).spec.scale == 1 / 255


@pytest.mark.parametrize("preset", ["imagenet", "caffe", "tf", "unit", "raw"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shortest"])
def test_what_annotate_writes_is_read_back_also_without_the_own_key(preset, resize):
    """The words of others say the same picture for picture, as far as they go."""
    proto = ModelProto()
    spec = _resolve(preset=preset, resize=resize, shorter_side=224).spec
    annotate(proto, spec, None)
    metadata = {each.key: each.value for each in proto.metadata_props}
    assert _resolve(metadata=metadata).spec == spec
    del metadata["ibisa"]
    others = _resolve(metadata=metadata).spec
    assert (others.resize, others.channel_order) == (resize, spec.channel_order)
    picture = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    np.testing.assert_allclose(
        prepare(picture, others).tensor, prepare(picture, spec).tensor, rtol=0, atol=1e-4
    )


class TestFiles:
    def _read(self, tmp_path, name, content, signature=None):
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return _resolve(signature, file=file)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("spec.toml", 'preset = "tf"\nresize = "stretch"'),
            ("spec.toml", '[preprocessing]\npreset = "TF"\nresize = "stretch"'),
            ("spec.json", {"preset": "tf", "resize": "stretch"}),
            ("spec.json", {"version": 1, "preprocessing": {"preset": "tf", "resize": "stretch"}}),
        ],
    )
    def test_own_notation(self, tmp_path, name, content):
        resolved = self._read(tmp_path, name, content)
        assert resolved.spec == _resolve(preset="tf", resize="stretch").spec
        assert _sources(resolved)["scale"] == f"file {name}"

    @pytest.mark.parametrize(
        ("name", "content", "match"),
        [
            ("spec.toml", "mean = ", "is not valid TOML or JSON"),
            ("spec.json", "[1, 2]", "does not contain a table"),
            ("spec.toml", "meen = 3", "unknown key 'meen'; did you mean mean"),
            ("spec.toml", 'mean = "three"', "mean is 'three', expected a number"),
            ("spec.toml", "size = [1, 2, 3]", r"expected \[height, width\]"),
            ("spec.toml", "resize = 3", "expected a string"),
            ("spec.toml", 'resize = "squash"', "expected one of letterbox, letterbox-corner"),
            ("spec.toml", 'dtype = "bfloat16"', "expected one of float16"),
            ("spec.json", {"do_normalize": True, "size": {"width": 3}}, "invalid configuration"),
            (
                "config.json",
                '{"architectures": ["SegformerModel"], "model_type": "segformer"}',
                "is a transformers model configuration, .* preprocessor_config.json beside it",
            ),
        ],
    )
    def test_what_is_wrong_with_a_file(self, tmp_path, name, content, match):
        with pytest.raises(PreprocessingError, match=match) as error:
            self._read(tmp_path, name, content)
        assert name in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(PreprocessingError, match=r"preprocessing file .* does not exist"):
            _resolve(file=tmp_path / "no.toml")


class TestHuggingFace:
    VIT = {  # noqa: RUF012
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": 224,
    }

    def _spec(self, tmp_path, config):
        file = tmp_path / "preprocessor_config.json"
        file.write_text(json.dumps(config))
        return _resolve(file=file)

    def test_vit_of_old(self, tmp_path):
        spec = self._spec(tmp_path, self.VIT).spec
        assert (spec.resize, spec.size, spec.interpolation) == ("stretch", (224, 224), "bilinear")
        assert (spec.scale, spec.mean, spec.std) == (1 / 255, (0.5,) * 3, (0.5,) * 3)

    def test_shortest_edge_and_crop(self, tmp_path):
        config = self.VIT | {
            "size": {"shortest_edge": 256},
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 0.5,
        }
        spec = self._spec(tmp_path, config).spec
        assert (spec.resize, spec.shorter_side, spec.size) == ("shortest", 256, (224, 224))
        assert (spec.interpolation, spec.scale) == ("bicubic", 0.5)

    def test_convnext_crops_by_a_percentage(self, tmp_path):
        config = self.VIT | {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
        spec = self._spec(tmp_path, config).spec
        assert (spec.shorter_side, spec.size) == (256, (224, 224))

    @pytest.mark.parametrize(("width", "warned"), [(256, False), (300, True)])
    def test_stretch_then_crop(self, tmp_path, width, warned):
        config = self.VIT | {"size": {"height": 256, "width": width}}
        config |= {"do_center_crop": True, "crop_size": 224}
        resolved = self._spec(tmp_path, config)
        spec = resolved.spec
        assert (spec.resize, spec.shorter_side, spec.size) == ("stretch-crop", 256, (224, 224))
        assert ["aspect" in each for each in resolved.warnings] == [True] * warned

    def test_no_normalization_and_flipped_channels(self, tmp_path):
        config = {"do_normalize": False, "do_flip_channel_order": True, "do_rescale": False}
        spec = self._spec(tmp_path, config).spec
        assert (spec.channel_order, spec.scale, spec.mean) == ("BGR", 1.0, (0.0,))


TIMM = {
    "architecture": "convnext_tiny",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.48, 0.46, 0.41],
        "std": [0.23, 0.22, 0.21],
        "num_classes": 1000,
    },
}


class TestTimm:
    def _spec(self, tmp_path, signature=None, **cfg):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | cfg}))
        return _resolve(signature, file=file)

    def test_config(self, tmp_path):
        resolved = self._spec(tmp_path)
        spec = resolved.spec
        assert (spec.resize, spec.size, spec.shorter_side) == ("shortest", (224, 224), 235)
        assert (spec.interpolation, spec.scale) == ("bicubic", 1 / 255)
        assert (spec.mean, spec.std) == ((0.48, 0.46, 0.41), (0.23, 0.22, 0.21))
        assert resolved.warnings == ()
        assert _sources(resolved)["mean"] == "file config.json"

    def test_a_data_config_by_itself(self, tmp_path):
        inner = {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bilinear"}
        for content in (inner, {"data_config": inner}):
            file = tmp_path / "data.json"
            file.write_text(json.dumps(content))
            spec = _resolve(file=file).spec
            assert (spec.shorter_side, spec.interpolation) == (256, "bilinear")
            assert spec.mean == (0.485, 0.456, 0.406)

    @pytest.mark.parametrize(
        ("mode", "pct", "resize", "warning"),
        [
            ("squash", 1.0, "stretch", None),
            ("squash", 0.875, "stretch-crop", None),
            ("border", 1.0, "letterbox", "mean colour"),
            ("border", 0.875, "letterbox", "nothing is cropped"),
        ],
    )
    def test_other_crops_and_where_ours_only_comes_near(self, tmp_path, mode, pct, resize, warning):
        resolved = self._spec(tmp_path, crop_mode=mode, crop_pct=pct)
        assert resolved.spec.resize == resize
        assert [warning in each for each in resolved.warnings] == [True] * (warning is not None)

    def test_one_channel(self, tmp_path):
        cfg = {"input_size": [1, 28, 28], "mean": [0.5], "std": [0.5]}
        spec = self._spec(tmp_path, _signature(channels=1, side=28), **cfg).spec
        assert (spec.channel_order, spec.mean) == ("GRAY", (0.5,))

    @pytest.mark.parametrize("cfg", [{"input_size": [5, 9, 9]}, {"crop_pct": 0}, {"mean": "x"}])
    def test_nonsense_is_one_line(self, tmp_path, cfg):
        with pytest.raises(PreprocessingError, match=r"file config.json") as error:
            self._spec(tmp_path, **cfg)
        assert "\n" not in str(error.value)


class TestTorchvision:
    PRESET = {  # noqa: RUF012
        "crop_size": [224],
        "resize_size": [232],
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "InterpolationMode.BICUBIC",
    }

    def _resolved(self, tmp_path, **changed):
        file = tmp_path / "transforms.json"
        file.write_text(json.dumps(self.PRESET | changed))
        return _resolve(file=file)

    def test_preset(self, tmp_path):
        resolved = self._resolved(tmp_path)
        spec = resolved.spec
        assert (spec.resize, spec.size, spec.shorter_side) == ("shortest", (224, 224), 232)
        assert (spec.interpolation, spec.scale) == ("bicubic", 1 / 255)
        assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        assert resolved.warnings == ()

    @pytest.mark.parametrize("interpolation", ["bilinear", "BILINEAR", 2])
    def test_interpolation_as_a_word_or_pillows_number(self, tmp_path, interpolation):
        spec = self._resolved(tmp_path, interpolation=interpolation).spec
        assert spec.interpolation == "bilinear"

    def test_both_sides(self, tmp_path):
        spec = self._resolved(tmp_path, resize_size=[224, 224]).spec
        assert (spec.resize, spec.size) == ("stretch", (224, 224))
        spec = self._resolved(tmp_path, resize_size=[240, 240]).spec
        assert (spec.resize, spec.size, spec.shorter_side) == ("stretch-crop", (224, 224), 240)

    def test_no_resize(self, tmp_path):
        assert self._resolved(tmp_path, resize_size=None).spec.size == (224, 224)


class TestBeside:
    """Files that nobody named, found where the model lies."""

    HUGGING_FACE = {  # noqa: RUF012
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"height": 224, "width": 224},
    }

    def _write(self, folder, name, content):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    def test_hugging_face_is_found_and_named(self, tmp_path):
        self._write(tmp_path, "config.json", {"model_type": "vit", "id2label": {"0": "cat"}})
        self._write(tmp_path, "preprocessor_config.json", self.HUGGING_FACE)
        resolved = _resolve(folder=tmp_path)
        assert (resolved.spec.mean, resolved.spec.resize) == ((0.5, 0.4, 0.3), "stretch")
        assert _sources(resolved)["mean"] == "preprocessor_config.json beside the model"
        assert resolved.warnings == ()

    def test_timm_is_found_and_named(self, tmp_path):
        resolved = _resolve(folder=self._write(tmp_path, "config.json", TIMM))
        assert resolved.spec.mean == (0.48, 0.46, 0.41)
        assert _sources(resolved)["mean"] == "config.json beside the model"

    def test_one_folder_up_from_a_folder_of_exports(self, tmp_path):
        self._write(tmp_path, "preprocessor_config.json", self.HUGGING_FACE)
        (tmp_path / "onnx").mkdir()
        (tmp_path / "other").mkdir()
        resolved = _resolve(folder=tmp_path / "onnx")
        source = _sources(resolved)["mean"]
        assert source == "preprocessor_config.json above the folder onnx"
        assert _resolve(folder=tmp_path / "other").spec.mean == (0.485, 0.456, 0.406)

    def test_each_source_above_goes_first(self, tmp_path):
        self._write(tmp_path, "preprocessor_config.json", self.HUGGING_FACE)
        file = tmp_path / "mine.toml"
        file.write_text("mean = 0.125")
        metadata = _ibisa(mean=[0.25, 0.25, 0.25])
        assert _resolve(folder=tmp_path, metadata=metadata).spec.mean == (0.25,) * 3
        assert _resolve(folder=tmp_path, file=file, metadata=metadata).spec.mean == (0.125,)
        assert _resolve(folder=tmp_path, mean=THIRD, file=file).spec.mean == THIRD

    def test_another_size_is_told_and_the_rest_stands(self, tmp_path):
        """As beside a network that was exported for larger pictures than it was trained with."""
        size = {"size": {"height": 384, "width": 384}, "do_resize": True}
        self._write(tmp_path, "preprocessor_config.json", self.HUGGING_FACE | size)
        resolved = _resolve(folder=tmp_path)
        assert resolved.spec.size == _resolve(preset="tf").spec.size
        assert resolved.spec.mean == tuple(self.HUGGING_FACE["image_mean"])
        assert "sets size 384x384, but model input 'image'" in resolved.warnings[0]

    def test_a_crop_for_another_size_is_taken_in_proportion(self, tmp_path):
        config = {"input_size": [3, 160, 160], "crop_pct": 0.8, "mean": [0.5] * 3, "std": [0.5] * 3}
        self._write(tmp_path, "config.json", {"pretrained_cfg": config})
        spec = _resolve(folder=tmp_path).spec
        assert (spec.shorter_side, spec.mean) == (round(200 * spec.size[0] / 160), (0.5,) * 3)

    @pytest.mark.parametrize(
        ("changed", "match"),
        [
            ({"image_mean": [0.5, 0.5]}, "requires 1 or 3 numbers"),
            ({"size": {"width": 3}}, "invalid configuration"),
        ],
    )
    def test_what_contradicts_or_makes_no_sense_is_told_and_left(self, tmp_path, changed, match):
        content = self.HUGGING_FACE | changed
        self._write(tmp_path, "preprocessor_config.json", content)
        resolved = _resolve(folder=tmp_path, preset="tf")
        assert resolved.spec == _resolve(preset="tf").spec
        (warning,) = resolved.warnings
        assert warning.startswith("ignored: ")
        assert "preprocessor_config.json beside the model" in warning
        assert match in warning

    def test_an_input_of_bytes_is_not_normalized(self, tmp_path):
        self._write(tmp_path, "preprocessor_config.json", self.HUGGING_FACE)
        resolved = _resolve(_signature(dtype="uint8"), folder=tmp_path)
        assert (resolved.spec.scale, resolved.spec.mean) == (1.0, (0.0,))
        assert "cannot hold" in resolved.warnings[0]

    @pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
    def test_no_json(self, tmp_path, content):
        (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        resolved = _resolve(folder=tmp_path, preset="tf")
        assert resolved.spec == _resolve(preset="tf").spec
        assert "config.json" in resolved.warnings[0]

    def test_somebody_elses_config_is_nothing(self, tmp_path):
        self._write(tmp_path, "config.json", {"port": 8080, "mean": "streets"})
        assert _resolve(folder=tmp_path, preset="tf").warnings == ()


def test_hugging_face_with_an_offset(tmp_path):
    config = TestHuggingFace.VIT | {"rescale_offset": True, "rescale_factor": 1 / 127.5}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(config))
    spec = _resolve(file=file).spec
    white = prepare(np.full((224, 224, 3), 255, np.uint8), spec).tensor
    np.testing.assert_allclose(white, (1 - 0.5) / 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "shorter"),
    [
        ({"image_processor_type": "LevitImageProcessor"}, 256),
        ({"feature_extractor_type": "LevitFeatureExtractor"}, 256),
        ({"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.9}, 248),
    ],
)
def test_hugging_face_processors_that_resize_larger_than_they_say(tmp_path, said, shorter):
    crop = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(
        json.dumps(TestHuggingFace.VIT | {"size": {"shortest_edge": 224}} | crop | said)
    )
    spec = _resolve(file=file).spec
    assert (spec.shorter_side, spec.size) == (shorter, (224, 224))


def test_hugging_face_efficientnet_divides_twice(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(TestHuggingFace.VIT | {"include_top": True}))
    assert _resolve(file=file).spec.std == (0.25,) * 3


def test_hugging_face_convnext_of_384_is_not_cropped(tmp_path):
    config = TestHuggingFace.VIT | {"size": {"shortest_edge": 384}, "crop_pct": 0.875}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(config))
    spec = _resolve(_signature(side=384), file=file).spec
    assert (spec.resize, spec.size) == ("stretch", (384, 384))
