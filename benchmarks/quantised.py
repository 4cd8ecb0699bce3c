"""The gradient of a quantised model beside that of its float counterpart.

    python benchmarks/quantised.py ASSETS

ASSETS has `models/mobilenetv2.onnx`, `models/mobilenetv2_int8.onnx` and photographs in `images/`.
Compared is, for each photograph, the gradient of the log probability of the class that the float
model predicts, with respect to the pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort

from ibisa_onnx.autodiff import differentiate

Array = np.ndarray[Any, Any]
SIDE, RESIZED = 224, 256


class Differentiated:
    """A model file with its gradient."""

    def __init__(self, path: Path, output: str) -> None:
        self.derivative = differentiate(onnx.load(path), "input", output)
        self.forward = ort.InferenceSession(self.derivative.forward.SerializeToString())
        self.backward = ort.InferenceSession(self.derivative.backward.SerializeToString())
        self.plain = ort.InferenceSession(path)

    def __call__(self, x: Array, cotangent: Callable[[Array], Array]) -> tuple[Array, Array]:
        """The output, which has to be the file's own, and the gradient."""
        y, *saved = self.forward.run(None, {"input": x})
        np.testing.assert_array_equal(y, self.plain.run([self.derivative.output], {"input": x})[0])
        feeds = dict(zip(self.derivative.saved, saved, strict=True))
        feeds[self.derivative.cotangent] = cotangent(y).astype(np.float32)
        return y, self.backward.run(None, feeds)[0]


def cosines(models: Path, photographs: Sequence[Path]) -> Iterator[float]:
    """The cosine of both gradients, photograph by photograph."""
    single = Differentiated(models / "mobilenetv2.onnx", "logits")
    quantised = Differentiated(models / "mobilenetv2_int8.onnx", "Identity")
    for path in photographs:
        image = crop(path)
        pixels = image.astype(np.float32) / 127.5 - 1
        logits, exact = single(pixels.transpose(2, 0, 1)[None], log_softmax)
        target = int(logits.argmax())
        _, through = quantised(image[None], lambda q, k=target: log_of(q, k))
        yield cosine(through.transpose(0, 3, 1, 2), exact)


def crop(path: Path) -> Array:
    """The centre of a photograph, RGB uint8 [224, 224, 3]."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    scale = RESIZED / min(image.shape[:2])
    width, height = (round(side * scale) for side in image.shape[1::-1])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    return np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE])


def log_softmax(logits: Array) -> Array:
    """d log p / d logits of the largest: one-hot minus p."""
    p = np.exp(logits - logits.max())
    return (logits == logits.max()) - p / p.sum()


def log_of(probabilities: Array, k: int) -> Array:
    """d log p_k / d p."""
    result = np.zeros(probabilities.shape)
    result[0, k] = 1 / max(float(probabilities[0, k]), 1.0)
    return result


def cosine(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


def main() -> None:
    assets = Path(sys.argv[1])
    photographs = sorted((assets / "images").glob("*.JPEG"))
    values = []
    for path, value in zip(photographs, cosines(assets / "models", photographs), strict=True):
        values.append(value)
        print(f"{path.stem:32} {value:.4f}")
    print(f"mean {np.mean(values):.4f}, lowest {np.min(values):.4f}, of {len(values)} photographs")


if __name__ == "__main__":
    main()
