"""From picture to model space and back: values by hand, geometry by round trips."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibisa_onnx.errors import ImageError, PreprocessingError
from ibisa_onnx.io.images import read_image
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.preprocessing.resampling import KERNELS, resample
from ibisa_onnx.preprocessing.resolve import Overrides, resolve_preprocessing
from ibisa_onnx.preprocessing.spec import (
    CROPPING,
    PRESETS,
    Preprocessing,
    check_sizes,
    prepare,
    unprepare,
)


def _preset(name: str, size=(1, 1), **changes) -> Preprocessing:
    return Preprocessing(size, **(dataclasses.asdict(PRESETS[name]) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"size": each}
            for each in ((0, 1), (1,), "ab", 3, None, (1.5, 2), (True, 1), (2**31, 1))
        ),
        *({"shorter_side": each} for each in (0, -1, 1.5, "8", 10**400)),
        *({"scale": each} for each in (0, math.nan, math.inf, "1", True, None, 10**400, 1e300)),
        *({"mean": each} for each in ((), (1, 2), "abc", 1.0, (math.nan,), (10**400,), ("1",))),
        *({"std": each} for each in ((0,), (0, 1, 1), (1e-320,), (math.inf,), [None])),
        *({"resize": each} for each in (None, [], "none at all")),
        *({"channels": each, "channel_order": "AS-IS"} for each in (0, 17, "3", 2.0)),
        {"dtype": "float32", "layout": 7},
        {"pad_value": "0"},
        {"size": None, "depth": ["full"]},
    ],
)
def test_a_value_that_makes_no_sense_is_named_in_one_line(changes):
    values = {"size": (4, 4), **changes}
    for build in (Preprocessing.from_dict, lambda given: Preprocessing(**given)):
        with pytest.raises(PreprocessingError) as caught:
            build(values)
        assert "\n" not in str(caught.value)


def test_a_spec_without_a_size_is_none():
    with pytest.raises(PreprocessingError, match="no size"):
        Preprocessing.from_dict({"resize": "stretch"})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": (20_000, 20_000)}, r"20000 x 20000 \(a file\), 400,000,000 pixels.*MAX_PIXELS"),
        ({"shorter_side": 10**9}, r"shorter side of 1000000000 \(a file\).*MAX_PIXELS"),
        ({"size": (13_000, 13_000), "channel_order": "RGBA"}, r"2,704,000,000 bytes.*MAX_MEMORY"),
    ],
)
def test_sizes_beyond_the_limits_are_refused_with_their_numbers(changes, match):
    spec = Preprocessing(**{"size": (4, 4), **changes})
    with pytest.raises(PreprocessingError, match=match):
        check_sizes(spec, Limits(), "a file")
    check_sizes(spec, Limits(pixels=10**18, memory=10**12))
    check_sizes(dataclasses.replace(spec, size=(4, 4), shorter_side=None), Limits())


class TestValues:
    PIXEL = np.array([[[255, 51, 0]]], np.uint8)

    @pytest.mark.parametrize(
        ("preset", "expected"),
        [
            ("imagenet", [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225]),
            ("caffe", [0 - 103.53, 51 - 116.28, 255 - 123.675]),
            ("tf", [1.0, -0.6, -1.0]),
            ("unit", [1.0, 0.2, 0.0]),
            ("raw", [255, 51, 0]),
        ],
    )
    def test_presets_by_hand(self, preset, expected):
        tensor = prepare(self.PIXEL, _preset(preset)).tensor
        assert tensor.dtype == np.float32
        assert tensor.shape == (1, 3, 1, 1)
        np.testing.assert_allclose(tensor.ravel(), expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("order", "expected"),
        [
            ("RGB", [255, 51, 0]),
            ("BGR", [0, 51, 255]),
            ("RGBA", [255, 51, 0, 255]),
            ("BGRA", [0, 51, 255, 255]),
            ("GRAY", [round(0.299 * 255 + 0.587 * 51)]),
        ],
    )
    def test_channel_orders(self, order, expected):
        spec = Preprocessing((1, 1), channel_order=order)
        prepared = prepare(self.PIXEL, spec).tensor
        np.testing.assert_array_equal(prepared.ravel(), expected)
        back = unprepare(prepared, spec)
        wanted = self.PIXEL if order != "GRAY" else np.full((1, 1, 3), expected[0])
        np.testing.assert_array_equal(back, wanted)

    @pytest.mark.parametrize("preset", PRESETS)
    def test_unprepare_brings_every_picture_back(self, rng, preset):
        image = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        spec = _preset(preset, (9, 7), resize="none")
        np.testing.assert_array_equal(unprepare(prepare(image, spec).tensor, spec), image)


class TestResampling:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(2, 40),  # a side of one pixel is not safe in torch: it mistakes the layout
        st.integers(2, 40),
        st.integers(2, 40),
        st.integers(2, 40),
        st.sampled_from(["bilinear", "bicubic"]),
    )
    def test_agrees_with_torch(self, height, width, out_height, out_width, kernel):
        image = np.random.default_rng(0).random((height, width))
        ours = resample(image, (out_height, out_width), KERNELS[kernel])
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(image)[None, None],
            (out_height, out_width),
            mode=kernel,
            antialias=True,
        )[0, 0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def test_a_picture_one_pixel_wide(self):
        column = np.array([[10.0], [20.0]])
        np.testing.assert_allclose(resample(column, (3, 1)), [[10], [15], [20]], atol=1e-5)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_a_flat_picture_stays_flat(self, kernel):
        flat = np.full((13, 17, 3), 77, np.uint8)
        for size in ((5, 5), (40, 3), (13, 17), (1, 1)):
            np.testing.assert_allclose(resample(flat, size, KERNELS[kernel]), 77, rtol=1e-5)

    def test_nearest_and_box_by_hand(self):
        row = np.array([[0.0, 1, 2, 3, 4, 5]])
        np.testing.assert_array_equal(resample(row, (1, 3), KERNELS["nearest"])[0], [1, 3, 5])
        np.testing.assert_allclose(resample(row, (1, 3), KERNELS["box"])[0], [0.5, 2.5, 4.5])

    def test_a_box_is_the_part_of_the_whole(self, rng):
        image = rng.random((20, 30))
        whole = resample(image, (40, 60))
        part = resample(image, (20, 10), box=(5, 10, 15, 15))
        np.testing.assert_allclose(part, whole[10:30, 20:30], atol=1e-6)

    def test_agrees_with_pillow_on_bytes(self, rng):
        pillow = pytest.importorskip("PIL.Image")
        image = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)
        for name, code in (("bilinear", 2), ("bicubic", 3), ("lanczos", 1), ("box", 4)):
            theirs = np.asarray(pillow.fromarray(image).resize((31, 23), code)).astype(float)
            ours = np.clip(np.rint(resample(image, (23, 31), KERNELS[name])), 0, 255)
            assert np.abs(ours - theirs).max() <= 2  # Pillow rounds between rows and columns


class TestGeometry:
    @pytest.mark.parametrize("resize", ["shortest", "stretch", "stretch-crop", "letterbox"])
    @pytest.mark.parametrize("picture", [(60, 90), (90, 60), (300, 200), (17, 21)])
    @pytest.mark.parametrize("size", [(32, 32), (24, 40)])
    def test_a_slope_comes_back_to_its_place(self, resize, picture, size):
        """Half a pixel of misplacement anywhere would shift a slope of known steepness."""
        spec = Preprocessing(size, resize, shorter_side=40 if resize in CROPPING else None)
        rows, columns = np.mgrid[: picture[0], : picture[1]]
        slope = np.rint(255 * (rows + columns) / (sum(picture) - 2)).astype(np.uint8)
        prepared = prepare(np.repeat(slope[..., None], 3, axis=2), spec)
        geometry = prepared.geometry
        restored = geometry.restore(prepared.tensor[0, 0])
        seen = geometry.restore(np.ones(size)) > 0
        edge = int(2 / min(*geometry.scale, 1)) + 1
        inside = cv2.erode(np.pad(seen, 1).astype(np.uint8), np.ones((2 * edge + 1,) * 2)) > 0
        inside = inside[1:-1, 1:-1]
        assert restored.shape == picture
        assert restored.dtype == np.float32
        assert inside.any()
        assert np.abs(restored - slope)[inside].max() <= 1.2
        assert (restored[~seen] == 0).all()

    @pytest.mark.parametrize("resize", ["shortest", "stretch", "stretch-crop", "letterbox"])
    def test_a_single_pixel_gets_the_middle_of_the_map(self, resize):
        prepared = prepare(np.full((1, 1, 3), 200, np.uint8), Preprocessing((8, 8), resize))
        assert (prepared.tensor == 200).all()
        np.testing.assert_allclose(prepared.geometry.restore(np.full((8, 8), 3.0)), [[3.0]])

    def test_centre_crop_by_hand(self):
        """100 x 200, shorter side 50: 50 x 100, of which columns 25..75, picture 50..150."""
        spec = Preprocessing((50, 50), "shortest", 50)
        image = np.zeros((100, 200, 3), np.uint8)
        image[:, :50] = 255
        image[:, 150:] = 255
        prepared = prepare(image, spec)
        # The antialiasing kernel reaches across the edge by half a pixel.
        assert prepared.tensor[0, :, :, 1:-1].max() == 0
        restored = prepared.geometry.restore(np.ones((50, 50)))
        assert (restored[:, 50:150] == 1).all()
        assert (restored[:, :50] == 0).all()
        assert (restored[:, 150:] == 0).all()

    def test_stretch_crop_by_hand(self):
        """100 x 200 stretched to 64 x 82, of which rows 7..56 and columns 9..72 are seen."""
        image = np.zeros((100, 200, 3), np.uint8)
        image[:, :100] = 200
        image[50:] += 40
        prepared = prepare(image, Preprocessing((50, 64), "stretch-crop", 64))
        whole = prepare(image, Preprocessing((64, 82), "stretch")).tensor
        np.testing.assert_array_equal(prepared.tensor, whole[:, :, 7:57, 9:73])
        seen = prepared.geometry.restore(np.ones((50, 64))) == 1
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        assert (rows[0], rows[-1]) == (11, 88)  # from 7 * 100 / 64 to 57 * 100 / 64
        assert (columns[0], columns[-1]) == (22, 177)  # from 9 * 200 / 82 to 73 * 200 / 82
        assert seen.sum() == len(rows) * len(columns)

    def test_a_letterbox_in_the_corner_by_hand(self):
        image = np.full((33, 100, 3), 9, np.uint8)
        spec = Preprocessing((50, 50), "letterbox-corner", pad_value=7)
        prepared = prepare(image, spec)
        assert (prepared.tensor[0, :, :16] == 9).all()  # 16.5, rounded down
        assert (prepared.tensor[0, :, 16:] == 7).all()
        assert prepared.geometry.offset == (0, 0)
        assert prepared.geometry.scale == (16 / 33, 0.5)

    @pytest.mark.parametrize("value", [-1, 256, 1.5, True])
    def test_margins_are_of_a_byte(self, value):
        with pytest.raises(PreprocessingError, match="pad value is"):
            Preprocessing((8, 8), "letterbox", pad_value=value)

    def test_letterbox_by_hand(self):
        """100 x 200 in 50 x 50: 25 x 50, 12 grey rows above and 13 below."""
        spec = Preprocessing((50, 50), "letterbox")
        prepared = prepare(np.full((100, 200, 3), 255, np.uint8), spec)
        assert (prepared.tensor[0, :, :12] == 114).all()
        assert (prepared.tensor[0, :, 12:37] == 255).all()
        assert (prepared.tensor[0, :, 37:] == 114).all()
        inside = np.zeros((50, 50))
        inside[12:37] = 1
        restored = prepared.geometry.restore(inside)
        assert (restored[2:-2] > 0.99).all()

    def test_a_size_the_resized_picture_does_not_fill_is_padded_black(self):
        spec = Preprocessing((20, 60), "shortest", 20)
        prepared = prepare(np.full((40, 40, 3), 255, np.uint8), spec)
        assert (prepared.tensor[0, 0, :, :20] == 0).all()
        assert (prepared.tensor[0, 0, :, 20:40] == 255).all()
        assert (prepared.geometry.restore(np.ones((20, 60))) == 1).all()

    def test_as_it_is_must_fit(self):
        spec = Preprocessing((20, 30), "none")
        assert prepare(np.zeros((20, 30, 3), np.uint8), spec).tensor.shape == (1, 3, 20, 30)
        with pytest.raises(ImageError, match=r"30x20 .* requires 20x30"):
            prepare(np.zeros((30, 20, 3), np.uint8), spec)

    @pytest.mark.parametrize("guessed", [("resize", "shorter_side"), ("shorter_side",)])
    def test_what_has_the_inputs_size_is_not_resized_by_a_guess(self, rng, guessed):
        image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        said = Preprocessing((64, 64), "shortest", 73)
        prepared = prepare(image, dataclasses.replace(said, guessed=guessed))
        np.testing.assert_array_equal(prepared.tensor[0].transpose(1, 2, 0), image)
        assert prepared.warnings == ()
        assert prepared.geometry.scale == (1, 1)
        assert not np.array_equal(prepare(image, said).tensor, prepared.tensor)

    @pytest.mark.parametrize(
        ("picture", "resize", "said"),
        [
            (
                (512, 512),
                "shortest",
                "the resize mode is assumed (shortest): 23% of the image is cropped",
            ),
            ((300, 600), "shortest", "62% of the image is cropped; pass overrides={'resize'"),
            ((300, 600), "stretch", "its height is stretched 2.00x; pass overrides={'resize'"),
            ((600, 300), "stretch", "its width is stretched 2.00x"),
            ((112, 112), "stretch", "the image is enlarged 2x"),
            ((128, 128), "shortest", "23% of the image is cropped and the image is enlarged 2x"),
            ((448, 448), "stretch", None),
            ((300, 600), "letterbox", "(letterbox): 50% of the input is margin; pass overrides="),
            ((300, 600), "letterbox-corner", "50% of the input is margin; pass overrides="),
            ((448, 448), "letterbox", None),
        ],
    )
    def test_a_guess_that_changes_what_is_seen_is_said(self, picture, resize, said):
        spec = Preprocessing((224, 224), resize, 256, guessed=("resize", "shorter_side"))
        image = np.zeros((*picture, 3), np.uint8)
        warnings = prepare(image, spec).warnings
        if said is None:
            assert warnings == ()
        else:
            (warning,) = warnings
            assert said in warning
        assert prepare(image, dataclasses.replace(spec, guessed=())).warnings == ()

    def test_a_crop_that_was_said_to_a_shorter_side_that_was_not(self):
        spec = Preprocessing((224, 224), "shortest", 256, guessed=("shorter_side",))
        (warning,) = prepare(np.zeros((512, 512, 3), np.uint8), spec).warnings
        assert warning == (
            "the shorter side is assumed (256): 23% of the image is cropped; "
            "pass overrides={'shorter_side': ...} to change it"
        )

    def test_restore_wants_the_models_size(self):
        geometry = prepare(np.zeros((20, 30, 3), np.uint8), Preprocessing((8, 8))).geometry
        with pytest.raises(PreprocessingError, match=r"\[8, 8\]"):
            geometry.restore(np.zeros((9, 8)))

    def test_torchvision_agrees(self, rng):
        pillow = pytest.importorskip("PIL.Image")
        transforms = pytest.importorskip("torchvision.transforms")
        for shape in ((61, 83, 3), (83, 61, 3), (64, 64, 3), (50, 101, 3)):
            image = rng.integers(0, 256, shape, dtype=np.uint8)
            resized = transforms.Resize(40)(pillow.fromarray(image))
            theirs = np.asarray(transforms.CenterCrop(33)(resized)).astype(float)
            ours = prepare(image, Preprocessing((33, 33), "shortest", 40)).tensor[0]
            assert np.abs(ours.transpose(1, 2, 0) - theirs).max() <= 1


class TestSpec:
    def test_dict_round_trip_through_json(self):
        spec = _preset("imagenet", (224, 192), shorter_side=256, layout="NHWC", dtype="float16")
        text = json.dumps(spec.to_dict())
        assert Preprocessing.from_dict(json.loads(text)) == spec

    def test_unknown_fields_are_refused(self):
        with pytest.raises(PreprocessingError, match="'colour'"):
            Preprocessing.from_dict({"size": [2, 2], "colour": "RGB"})

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"size": (0, 4)}, "size"),
            ({"resize": "squash"}, "choose from: .* letterbox, letterbox-corner, none"),
            ({"interpolation": "magic"}, "interpolation"),
            ({"channel_order": "RBG"}, "channel order"),
            ({"layout": "CHWN"}, "layout"),
            ({"dtype": "bfloat16"}, "dtype"),
            ({"shorter_side": 0}, "shorter side"),
            ({"scale": 0.0}, "scale"),
            ({"scale": float("nan")}, "scale"),
            ({"mean": (1.0, 2.0)}, "RGB requires 1 or 3 numbers"),
            ({"std": (1.0, 1.0, 0.0)}, "cannot be 0"),
            ({"channel_order": "GRAY", "mean": (1.0, 2.0, 3.0)}, "GRAY requires 1 or 1 numbers"),
            ({"dtype": "uint8", "scale": 1 / 255}, "uint8, which cannot hold"),
            ({"dtype": "uint8", "mean": (128.0,)}, "uint8, which cannot hold"),
            ({"dtype": "int8"}, "int8, which cannot hold"),
        ],
    )
    def test_what_is_impossible_is_refused(self, changes, match):
        with pytest.raises(PreprocessingError, match=match):
            Preprocessing(**({"size": (4, 4)} | changes))

    def test_pictures_that_are_none_are_refused(self):
        for image in (
            np.zeros((4, 4, 3)),
            np.zeros((4, 4), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
        ):
            with pytest.raises(ImageError, match=r"pass uint8 \[H, W, 3\]"):
                prepare(image, Preprocessing((4, 4)))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "preset", "offset", "least"),
    [
        ("squeezenet", "caffe", 0, 0.6),
        ("mobilenetv2", "tf", 1, 0.87),
        ("mobilenetv2_int8", None, 1, 0.86),
    ],
)
def test_photographs_are_recognised(assets, name, preset, offset, least):
    model = DeployedModel.open(assets / "models" / f"{name}.onnx", providers=["cpu"], threads=1)
    resolved = resolve_preprocessing(
        model.signature, model.metadata, overrides=Overrides(preset=preset)
    )
    assert resolved.warnings == ()
    rows = list(csv.DictReader(io.StringIO((assets / "images" / "labels.csv").read_text())))
    right = 0
    for row in rows:
        picture = read_image(assets / "images" / row["file"])
        scores = model.run(prepare(picture, resolved.spec).tensor)[model.signature.outputs[0].name]
        right += int(scores.argmax()) == int(row["class_index"]) + offset
    assert right >= least * len(rows)


@pytest.mark.real
def test_the_bird_is_segmented_in_its_place(assets):
    model = DeployedModel.open(assets / "models" / "deeplabv3_int8.onnx", providers=["cpu"])
    spec = resolve_preprocessing(model.signature, model.metadata).spec
    prepared = prepare(read_image(assets / "segmentation" / "bird_segmentation.bmp"), spec)
    found = prepared.geometry.restore(model.run(prepared.tensor)["ArgMax"][0] == 3) > 0.5
    bird = read_image(assets / "segmentation" / "bird_segmentation_mask.bmp")[..., 0] == 3
    assert (found & bird).sum() / (found | bird).sum() > 0.85
