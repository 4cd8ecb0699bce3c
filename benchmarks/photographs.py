"""The photographs as a model sees them, and RISE's maps of them: what several benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ibisa_onnx import Explainer, Options
from ibisa_onnx.io.images import read_image
from ibisa_onnx.methods.rise import rise
from ibisa_onnx.metrics import deletion, insertion
from ibisa_onnx.preprocessing.spec import prepare, unprepare
from ibisa_onnx.targets.class_scores import read_output

PRESETS = {"squeezenet": "caffe", "mobilenetv2": "tf", "mobilenetv2_int8": "raw"}
# IBISA's earlier steps: the base of the study, and those of the estimators' curves.
EARLIER = Options(
    first_smoothing=8.0,
    wave_amplitude=2.0,
    first_wave_amplitude=1.0,
    beta=20.0,
    first_beta=1.0,
    learning_rate=1.0,
    first_learning_rate=1.0,
    penalty_exponent=0.0,
    pooling=4.0,
    evidence_smoothing=1.0,
    softness=0.0,
    activation=0.0,
    baseline="blur",
)
Score = Callable[[np.ndarray], np.ndarray]


def explainer_of_crops(
    assets: Path, model: str, threads: int, **options: Any
) -> tuple[Explainer, Explainer]:
    """Return the explainer of photographs, and the one of pictures that already fit the model."""
    path = assets / "models" / f"{model}.onnx"
    whole = Explainer(path, preprocessing=PRESETS[model], threads=threads)
    fitting = replace(whole.preprocessing.spec, resize="none")
    return whole, Explainer(whole.model, preprocessing=fitting, **options)


@dataclass(frozen=True)
class Photograph:
    """A photograph as a model sees it: `fitted` explains the crop, which is what it sees of it."""

    number: int
    path: Path
    whole: Explainer
    fitted: Explainer

    @cached_property
    def crop(self) -> np.ndarray:
        """The part that the model sees, rounded to pixels, uint8 [H, W, 3]."""
        spec = self.whole.preprocessing.spec
        return unprepare(prepare(read_image(self.path), spec).tensor, spec)

    @cached_property
    def image(self) -> np.ndarray:
        """The same in model space, float32 [C, H, W]."""
        return prepare(self.crop, self.fitted.preprocessing.spec).tensor[0]

    @cached_property
    def score(self) -> Score:
        """The probability of the class that is predicted for it."""
        return score_of(self.fitted, self.image)


def photographs(assets: Path, whole: Explainer, fitted: Explainer) -> list[Photograph]:
    """Return all of them, in order."""
    paths = sorted((assets / "images").glob("*.JPEG"))
    return [Photograph(number, path, whole, fitted) for number, path in enumerate(paths)]


def score_of(explainer: Explainer, image: np.ndarray) -> Score:
    """Return the probability of the class predicted for an image [C, H, W], as a function."""
    model = explainer.model
    name = model.signature.outputs[0].name
    raw = model.run(image[None], [name])[name]
    output = read_output(name, raw, graph=model.proto().graph)
    index = int(output.probabilities(raw)[0].argmax())
    return lambda images: output.probabilities(model.run(images, [name])[name])[:, index]


def measure(score: Score, image: np.ndarray, saliency: np.ndarray) -> tuple[float, float]:
    """Return insertion and deletion."""
    return insertion(score, image, saliency).auc, deletion(score, image, saliency).auc


def rise_map(file: Path, score: Score, image: np.ndarray, masks: int, seed: int) -> np.ndarray:
    """Return RISE's map, kept in `file`."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        saliency = rise(score, image, rng=np.random.default_rng(seed), masks=masks)
        temporary = file.with_suffix(".tmp.npy")
        np.save(temporary, saliency)
        temporary.replace(file)
    return np.load(file)
