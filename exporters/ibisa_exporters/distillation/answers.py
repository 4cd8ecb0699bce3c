"""Predictions of the deployed model for masked images: masks and scores.

The masks are of the kinds used by explanations, on the same grid: samples of IBISA's ten steps,
which are smooth logits modulated by plane waves, and the smooth random masks of `forward-only` with
their complements. Only forward passes are made here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.methods.ibisa.optimizer import amplitudes
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.ibisa.random_masks import smooth_masks
from ibisa_onnx.methods.masking import grid_shape, plane_waves, sample, smooth
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.targets.class_scores import check_scores
from ibisa_onnx.targets.classification import ClassObjective

_BATCH = 8
_CELLS = (5, 7, 9)  # per side of the random masks' own grids, as in forward-only
_DEEPEST, _HIGHEST = -4.0, 3.0  # mean logits, from almost hidden to almost fully visible
_LEAST = 1e-6  # standard deviation, for a field of one cell
_ANGLES = np.linspace(0, np.pi / 5, 8, endpoint=False)  # few, because designs are cached
_CONTRAST = 2.5  # largest standard deviation of the logits of one mask


@dataclass(frozen=True, eq=False)
class Answers:
    """The deployed model's predictions for one image under masks.

    Attributes
    ----------
    masked
        The image and its baseline, [1, C, H, W] in model space.
    index
        The class predicted for the unmodified image.
    masks
        float16 [M, 1, h, w] in 0..1 on a grid; the first shows the whole image.
    scores
        float32 [M, width], the output's real values.
    """

    masked: MaskedImages
    index: int
    masks: npt.NDArray[np.float16]
    scores: Floats

    def images(self, chosen: npt.NDArray[np.intp] | slice) -> Floats:
        """Return the image under some of the masks, float32 [n, C, H, W]."""
        return self.masked.through(self.masks[chosen].astype(np.float32))


def draw_masks(
    rng: np.random.Generator, count: int, size: tuple[int, int], options: Options
) -> Floats:
    """Draw masks [count, 1, h, w] in 0..1, half of each kind; the first is all ones.

    Values are float32, but exactly representable in float16.
    """
    shape = grid_shape(*size, options.grid)
    random = list(_random_masks(rng, (count + 3) // 4, shape))
    steps = [_step_mask(rng, shape, options) for _ in range(count - 2 * len(random))]
    masks = np.concatenate([*random, np.stack(steps)[:, None]]) if steps else np.concatenate(random)
    masks = masks[rng.permutation(len(masks))[:count]].astype(np.float16)
    masks[0] = 1
    return masks.astype(np.float32)


def _random_masks(rng: np.random.Generator, pairs: int, shape: tuple[int, int]) -> Iterator[Floats]:
    """Yield masks of `forward-only`, each with its complement, [2, 1, h, w]."""
    for _ in range(pairs):
        (mask,) = smooth_masks(rng, 1, shape, 1, cells=int(rng.choice(_CELLS)))
        yield np.concatenate([mask, 1 - mask])


def _step_mask(rng: np.random.Generator, shape: tuple[int, int], options: Options) -> Floats:
    """Draw a mask as sampled by one of IBISA's steps, [h, w]."""
    spread = np.geomspace(options.smoothing, options.first_smoothing, 4)
    field = smooth(rng.standard_normal(shape).astype(np.float32), float(rng.choice(spread)))
    logits = rng.uniform(_DEEPEST, _HIGHEST) + rng.uniform(0, _CONTRAST) * field / (
        field.std() + _LEAST
    )
    waves = plane_waves(options.steps, shape, options.wave_frequency, float(rng.choice(_ANGLES)))
    step = int(rng.integers(len(waves)))
    noise = amplitudes(options)[step] * waves[step]
    return sample(logits.astype(np.float32), noise, options.temperature)


def predicted_class(problem: Problem) -> ClassObjective:
    """Return the objective of a problem, which is the class predicted for its image."""
    objective = problem.row.objective
    assert isinstance(objective, ClassObjective)
    return objective


def ask(problem: Problem, masks: Floats) -> Answers:
    """Query the deployed model on an image under masks [M, 1, h, w]."""
    objective, scores = predicted_class(problem), []
    reading = objective.reading
    for begin in range(0, len(masks), _BATCH):
        images = problem.masked.through(masks[begin : begin + _BATCH])
        raw = problem.model.run(images, [reading.name], problem.passes)[reading.name]
        check_scores(reading.name, raw)
        scores.append(reading.reals(raw).astype(np.float32))
    return Answers(
        problem.masked, objective.index, masks.astype(np.float16), np.concatenate(scores)
    )
