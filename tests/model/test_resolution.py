"""What is believed about preprocessing: every source, their order, and what contradicts."""

from __future__ import annotations

import json

import pytest

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.model import (
    ImageInput,
    Layout,
    Overrides,
    Signature,
    TensorInfo,
    resolve_preprocessing,
)

THIRD = (0.1, 0.2, 0.3)


def _signature(
    channels=3, side=224, dtype="float32", layout=Layout.NCHW, output=("n", 1000)
) -> Signature:
    sides = ("n", channels, side or "h", side or "w")
    shape = sides if layout is Layout.NCHW else (sides[0], sides[2], sides[3], sides[1])
    tensor = TensorInfo("image", dtype, shape)
    image = ImageInput(tensor, layout, channels, side, side, None)
    return Signature((tensor,), (TensorInfo("scores", "float32", output),), image)


def _resolve(signature=None, metadata=None, file=None, **flags):
    return resolve_preprocessing(
        signature or _signature(), metadata or {}, overrides=Overrides(**flags), file=file
    )


def _sources(resolved):
    return {belief.field: belief.source for belief in resolved.beliefs}


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
        assert _sources(resolved)["mean"] == "flag --mean"
        assert _sources(resolved)["scale"] == "flag --preprocess unit"

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
        assert {b.field: b.value for b in resolved.beliefs} == resolved.spec.to_dict() | {
            "size": resolved.spec.size,
            "mean": resolved.spec.mean,
            "std": resolved.spec.std,
        }


class TestGuesses:
    def test_imagenet_is_a_guess_and_says_so_loudly(self):
        resolved = _resolve()
        assert resolved.spec.mean == (0.485, 0.456, 0.406)
        assert "guess" in _sources(resolved)["mean"]
        (warning,) = resolved.warnings
        assert "is not known" in warning
        assert "--preprocess caffe, tf, unit or raw" in warning

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
        assert "bytes as they are" in _sources(resolved)["scale"]
        assert resolved.warnings == ()

    def test_int8_takes_them_less_128(self):
        resolved = _resolve(_signature(dtype="int8"))
        assert resolved.spec.mean == (128.0,)
        assert resolved.warnings == ()

    def test_flags_reach_integer_inputs_too(self):
        spec = _resolve(_signature(dtype="uint8"), channel_order="BGR").spec
        assert (spec.channel_order, spec.scale) == ("BGR", 1.0)


class TestGeometry:
    def test_a_classifier_is_cropped_from_256_for_224(self):
        spec = _resolve().spec
        assert (spec.size, spec.resize, spec.shorter_side) == ((224, 224), "shortest", 256)
        assert _resolve(_signature(side=384)).spec.shorter_side == 439
        assert _resolve(_signature(side=32)).spec.shorter_side == 32

    @pytest.mark.parametrize("output", [("n", 1000, 1, 1), (1, 1, 1, 1000), ("n", "k")])
    def test_scores_in_four_axes_are_a_classifiers_too(self, output):
        assert _resolve(_signature(output=output)).spec.resize == "shortest"

    @pytest.mark.parametrize("output", [("n", 513, 513), ("n", 4420, 2), ("n", 21, 65, 65)])
    def test_others_get_the_whole_picture(self, output):
        resolved = _resolve(_signature(output=output))
        assert (resolved.spec.resize, resolved.spec.shorter_side) == ("stretch", None)
        assert "shorter_side" not in _sources(resolved)

    def test_an_open_size_is_224_until_it_is_said(self):
        resolved = _resolve(_signature(side=None), preset="unit")
        assert resolved.spec.size == (224, 224)
        assert "--size" in resolved.warnings[0]
        said = _resolve(_signature(side=None), preset="unit", size=(96, 96))
        assert said.spec.size == (96, 96)
        assert said.warnings == ()

    def test_resize_by_flag(self):
        assert _resolve(resize="letterbox").spec.shorter_side is None


class TestContradictions:
    @pytest.mark.parametrize(
        ("flags", "match"),
        [
            ({"size": (100, 100)}, r"--size says size 100 x 100, but input image .* 224 x 224"),
            ({"layout": "NHWC"}, "--layout says layout NHWC"),
            ({"layout": "CHWN"}, "--layout says layout CHWN"),
            ({"mean": (1.0, 2.0)}, r"values from: .*flag --mean"),
            ({"std": (0.0,)}, "cannot be 0"),
            ({"channel_order": "GRAY"}, r"channel order GRAY, but input image .* takes 3 channel"),
            ({"shorter_side": 100}, r"shorter side 100 .* less than the model's 224"),
            ({"preset": "vgg"}, "choose from: imagenet, caffe, tf, unit, raw"),
            ({"resize": "squash"}, "choose from: shortest"),
        ],
    )
    def test_flags(self, flags, match):
        with pytest.raises(PreprocessingError, match=match) as error:
            _resolve(**flags)
        assert "\n" not in str(error.value)

    def test_a_normalised_preset_on_bytes(self):
        with pytest.raises(PreprocessingError, match=r"uint8, which cannot hold .*--preprocess im"):
            _resolve(_signature(dtype="uint8"), preset="imagenet")

    def test_metadata_of_another_type(self):
        """The owner of a picture cannot mend the file: it is not believed, and that is said."""
        resolved = _resolve(metadata=_ibisa(dtype="uint8", scale=0.5), preset="tf")
        assert resolved.spec == _resolve(preset="tf").spec
        (warning,) = resolved.warnings
        assert "ignored: metadata key ibisa says dtype uint8, but input image" in warning

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
        unknown = _resolve(metadata={"Image.NominalPixelRange": "NominalRange_16_235"})
        assert "NominalRange_16_235" in unknown.warnings[0]

    @pytest.mark.parametrize(
        ("task", "resize"), [("classify", "shortest"), ("detect", "letterbox")]
    )
    def test_ultralytics(self, task, resize):
        metadata = {"author": "Ultralytics", "task": task, "imgsz": "[224, 224]"}
        resolved = _resolve(metadata=metadata)
        assert resolved.spec.resize == resize
        assert resolved.spec.scale == 1 / 255
        assert resolved.warnings == ()


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
            ("spec.json", "[1, 2]", "holds no table"),
            ("spec.toml", "meen = 3", "unknown key 'meen'; did you mean mean"),
            ("spec.toml", 'mean = "three"', "mean is 'three', expected a number"),
            ("spec.toml", "size = [1, 2, 3]", r"expected \[height, width\]"),
            ("spec.toml", "resize = 3", "expected a word"),
            ("spec.toml", 'resize = "squash"', "expected one of letterbox, none, shortest"),
            ("spec.toml", 'dtype = "bfloat16"', "expected one of float16"),
            ("spec.json", {"do_normalize": True, "size": {"width": 3}}, "cannot make sense"),
        ],
    )
    def test_what_is_wrong_with_a_file(self, tmp_path, name, content, match):
        with pytest.raises(PreprocessingError, match=match) as error:
            self._read(tmp_path, name, content)
        assert name in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(PreprocessingError, match="cannot read preprocessing file"):
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

    def test_stretch_then_crop_is_not_quite_ours_and_says_so(self, tmp_path):
        config = self.VIT | {"size": {"height": 256, "width": 256}}
        config |= {"do_center_crop": True, "crop_size": 224}
        resolved = self._spec(tmp_path, config)
        assert resolved.spec.shorter_side == 256
        assert "stretches and then crops" in resolved.warnings[0]

    def test_no_normalisation_and_flipped_channels(self, tmp_path):
        config = {"do_normalize": False, "do_flip_channel_order": True, "do_rescale": False}
        spec = self._spec(tmp_path, config).spec
        assert (spec.channel_order, spec.scale, spec.mean) == ("BGR", 1.0, (0.0,))
