"""What else a model is asked beside explanations: maps in model space, and its preprocessing.

Arguments were checked by `explainer`, whose methods these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.io.images import Source, read_picture
from ibisa_onnx.methods.base import Method, Results
from ibisa_onnx.methods.baselines import Baseline
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.stopping import Control, StoppingRule
from ibisa_onnx.pipeline import Pipeline
from ibisa_onnx.preprocessing.trial import TrialRanking, rank_preprocessing
from ibisa_onnx.targets.classification import choose


def map_of(
    pipeline: Pipeline,
    problem: Problem,
    image: Floats | None,
    baseline: Baseline,
    method: Method,
    seed: int,
) -> npt.NDArray[np.float32]:
    """Explain one answer where nothing is resized: a map [h, w] in 0..1, the size of the input.

    Parameters
    ----------
    problem
        Of one picture.
    image
        float32 [C, h, w] in model space, of which the same is asked; None: the problem's own.
    baseline
        What is seen where it is masked.
    """
    shown = problem.image if image is None else image[None]
    masked = MaskedImages(shown, baseline.of(shown))
    problem = replace(problem, masked=masked) if image is None else problem.with_images(masked)
    prepared = pipeline.prepare(method, problem)
    found: Results = {}
    for results in prepared.run(problem, np.random.default_rng(seed), Control(StoppingRule())):
        found |= results
    return found[0].map


def try_preprocessing(
    pipeline: Pipeline, images: Sequence[Source], targets: Sequence[str | int] | None
) -> TrialRanking:
    """Rank presets of preprocessing by what the model makes of pictures.

    `targets` are the class of each, by index or label; None: not known.
    """
    pictures = [read_picture(each) for each in images]
    classes = None
    if targets is not None:
        scores = pipeline.probabilities(pictures[0]) if pictures else np.empty(0)
        labels = pipeline.reader.labels  # some are known once a picture was seen
        classes = [choose(each, scores, labels)[0] for each in targets]
    spec = pipeline.preprocessing
    return rank_preprocessing(spec, pictures, pipeline.probabilities_of, classes)
