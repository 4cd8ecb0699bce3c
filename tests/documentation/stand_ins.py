"""Files that stand in for a reader's own: small planted models, and images that they know.

The documentation's commands run on them, so each takes the flags that the page shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx import Preprocessing
from ibisa_onnx.preprocessing.annotate import annotate

SIDE = 64
CELL = 16
NAMES = ("person", "dog", "bird")
LABELS = {164: "bloodhound", 171: "Italian greyhound", 195: "Boston bull"}
OWLS = """import torch


def owls():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 7, stride=4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 12),
    )


owls.input_size = 224
owls.preprocessing = {"preset": "imagenet", "size": [224, 224], "shorter_side": 256}
owls.labels = [f"owl {number}" for number in range(12)]
"""
Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, list[int | str]]


def write_all(folder: Path) -> None:
    """Write the models, images and other files that the documentation's commands name."""
    models = {
        "model.onnx": classifier(),
        "mobilenetv2.onnx": classifier(),
        "detector.onnx": detector(),
        "segmenter.onnx": segmenter(),
        "recogniser.onnx": recogniser(),
        "embedder.onnx": embedder(),
        "regression.onnx": regression(),
        "pose.onnx": pose(),
    }
    for name, model in models.items():
        if name not in ("model.onnx", "mobilenetv2.onnx"):  # whose preprocessing the pages specify
            size = model.graph.input[0].type.tensor_type.shape.dim[2:]
            height, width = (each.dim_value for each in size)
            annotate(model, Preprocessing((height, width), resize="stretch", scale=1 / 255), None)
        onnx.save(model, folder / name)
    quantised(folder / "model.onnx", folder / "model_int8.onnx")
    for number, name in enumerate(("photo.jpg", "street.jpg", "a.jpg", "b.jpg", "c.jpg")):
        _write(folder / name, photograph(number))
    (folder / "photos").mkdir()
    for number in range(3):
        _write(folder / "photos" / f"{number}.jpg", photograph(number))
    _write(folder / "line.png", line())
    mask = np.zeros((160, 200, 3), np.uint8)
    mask[40:80, :50] = 255  # the red patch of street.jpg
    _write(folder / "mask.png", mask)
    np.save(folder / "embedding.npy", np.ones(16, np.float32))
    (folder / "preprocessing.toml").write_text('preset = "caffe"\nresize = "stretch"\n')
    (folder / "classes.csv").write_text("0.jpg,bloodhound\n1.jpg,164\n2.jpg,Boston bull\n")
    labels = [LABELS.get(index, f"class {index}") for index in range(1000)]
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")
    (folder / "owls.py").write_text(OWLS)


def photograph(seed: int, size: tuple[int, int] = (160, 200)) -> np.ndarray:
    """A noisy grey field with a red, a green and a blue patch, uint8 [H, W, 3] RGB.

    Each patch is a sixteenth of it, and a cell of the detector.
    """
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(90, 12, (*size, 3)), 0, 255).astype(np.uint8)
    height, width = (side // 4 for side in size)
    for channel in range(3):
        top, left = height * ((channel + seed) % 4), width * channel
        patch = pixels[top : top + height, left : left + width]
        patch[:] = [250 - 40 * channel if each == channel else 10 for each in range(3)]
    return pixels


def line() -> np.ndarray:
    """Four characters of a colour each on black, uint8 [16, 96, 3] RGB."""
    pixels = np.zeros((16, 96, 3), np.uint8)
    for place, channel in enumerate((0, 1, 2, 0)):
        pixels[:, 8 + 24 * place : 16 + 24 * place, channel] = 255
    return pixels


def classifier() -> onnx.ModelProto:
    """1000 classes of 224 x 224, by how much there is of some random patterns."""
    rng = np.random.default_rng(0)
    constants = {
        "kernel": rng.normal(0, 0.3, (16, 3, 8, 8)).astype(np.float32),
        "weights": rng.normal(0, 1.0, (16, 1000)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["patterns"], strides=[8, 8]),
        helper.make_node("Relu", ["patterns"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    return _model(nodes, constants, {"logits": ["n", 1000]}, (224, 224))


def detector(side: int = SIDE, cell: int = CELL, names: tuple[str, ...] = NAMES) -> onnx.ModelProto:
    """Boxes are cells of so many pixels, their scores how red, green and blue these are."""
    count = side // cell
    rows, columns = np.mgrid[:count, :count].reshape(2, -1) * cell
    corners = np.stack([columns, rows, columns + cell, rows + cell], 1)[None].astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["m"], strides=[cell, cell]),
        helper.make_node("Reshape", ["m", "flat"], ["means"]),
        helper.make_node("Relu", ["means"], ["scores"]),
        helper.make_node("Gather", ["means", "first"], ["one"], axis=1),
        helper.make_node("Mul", ["one", "zero"], ["zeros"]),
        helper.make_node("Transpose", ["zeros"], ["column"], perm=[0, 2, 1]),
        helper.make_node("Add", ["column", "corners"], ["boxes"]),
    ]
    constants = {"kernel": colours(cell), "flat": np.array([0, 3, -1]), "first": np.array([0])}
    constants |= {"zero": np.array(0, np.float32), "corners": corners}
    shapes: Shapes = {"boxes": ["n", count**2, 4], "scores": ["n", 3, count**2]}
    return _model(nodes, constants, shapes, (side, side), {"names": str(list(names))})


def segmenter() -> onnx.ModelProto:
    """How red, green and blue each place of 2 pixels is, beside a background."""
    kernel = np.concatenate([np.zeros((1, 3, 2, 2), np.float32), 12 * colours(2)])
    nodes = [helper.make_node("Conv", ["image", "kernel", "bias"], ["scores"], strides=[2, 2])]
    constants = {"kernel": kernel, "bias": np.array([0, -4, -4, -4], np.float32)}
    names = str(["background", *NAMES])
    return _model(
        nodes, constants, {"scores": ["n", 4, SIDE // 2, SIDE // 2]}, metadata={"names": names}
    )


def pose() -> onnx.ModelProto:
    """Heat maps of three joints: how red, green and blue each place of 2 pixels is."""
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["heatmaps"], strides=[2, 2])]
    names = str(["nose", "left eye", "right eye"])
    shapes: Shapes = {"heatmaps": ["n", 3, SIDE // 2, SIDE // 2]}
    return _model(nodes, {"kernel": colours(2)}, shapes, metadata={"names": names})


def recogniser() -> onnx.ModelProto:
    """Reads r, g and b at each of 12 steps; black is the blank."""
    kernel, bias = np.zeros((4, 3, 16, 8), np.float32), np.array([18, 0, 0, 0], np.float32)
    for channel in range(3):
        kernel[channel + 1, channel] = 24 / (16 * 8)
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["row"], strides=[1, 8]),
        helper.make_node("Squeeze", ["row", "axis"], ["line"]),
        helper.make_node("Transpose", ["line"], ["steps"], perm=[0, 2, 1]),
        helper.make_node("Softmax", ["steps"], ["scores"], axis=2),
    ]
    constants = {"kernel": kernel, "bias": bias, "axis": np.array([2])}
    shapes: Shapes = {"scores": ["n", 12, 4]}
    return _model(nodes, constants, shapes, (16, 96), metadata={"character": "r\ng\nb"})


def embedder() -> onnx.ModelProto:
    """A unit vector of 16: how red each cell is, and a constant."""
    kernel = np.zeros((1, 3, CELL, CELL), np.float32)
    kernel[0, 0] = 1 / CELL**2
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["m"], strides=[CELL, CELL]),
        helper.make_node("Flatten", ["m"], ["flat"]),
        helper.make_node("ReduceL2", ["flat"], ["length"], axes=[1]),
        helper.make_node("Div", ["flat", "length"], ["embedding"]),
    ]
    constants = {"kernel": kernel, "bias": np.array([0.02], np.float32)}
    return _model(nodes, constants, {"embedding": ["n", (SIDE // CELL) ** 2]})


def regression() -> onnx.ModelProto:
    """An age that grows with the redness of the image's left half."""
    weights = np.zeros((3, SIDE, SIDE), np.float32)
    weights[0, :, : SIDE // 2] = 40 / SIDE**2
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["age"]),
    ]
    constants = {"weights": weights.reshape(-1, 1), "bias": np.array([20], np.float32)}
    return _model(nodes, constants, {"age": ["n", 1]})


def quantised(source: Path, target: Path) -> None:
    """Write an 8-bit copy of a model, as ONNX Runtime's own tool makes it."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.left = [rng.normal(0, 1, (1, 3, 224, 224)).astype(np.float32) for _ in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"image": self.left.pop()} if self.left else None

    quantize_static(source, target, Images())


def colours(side: int) -> np.ndarray:
    """A kernel [3, 3, side, side]: the mean of red less green less blue, and so on."""
    kernel = np.broadcast_to((2 * np.eye(3) - 1)[..., None, None] / side**2, (3, 3, side, side))
    return kernel.astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto],
    constants: Arrays,
    shapes: Shapes,
    size: tuple[int, int] = (SIDE, SIDE),
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A model of images float32 [n, 3, H, W]."""
    image, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {"image": ["n", 3, *size], **shapes}.items()
    )
    tensors = [numpy_helper.from_array(each, name) for name, each in constants.items()]
    graph = helper.make_graph(nodes, "stand_in", [image], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    return model


def _write(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(path), pixels[..., ::-1])
