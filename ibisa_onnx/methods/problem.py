"""An answer to be explained, and how the model is asked about it: how many images it takes at once,
and whether those of a batch mix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.methods.masking import Bottleneck
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.targets.classification import ClassOutput, check_scores

_SAME = 0.01  # in probability; more than rounding makes of it, in half precision or in 8 bits


@dataclass(frozen=True)
class Case:
    """An answer to be explained: of which model, to which picture, read off which output."""

    model: ImageModel
    bottleneck: Bottleneck
    output: ClassOutput
    index: int
    answer: float
    """The class's probability for the untouched picture, run alone."""
    check: int = 0
    """Images by which the finished map will be checked, for which passes and time are kept."""

    @property
    def fixed(self) -> int:
        """Images in a call where the model takes no other number, else 1."""
        return self.model.image.batch or 1

    @property
    def pair(self) -> int:
        """The fewest images that are whole pairs and whole calls."""
        return self.fixed if self.fixed % 2 == 0 else 2 * self.fixed

    def filled(self, images: int) -> int:
        """Return how many passes so many images take: a fixed batch is filled up."""
        return -(-images // self.fixed) * self.fixed

    def see_whether_images_mix(self) -> int:
        """Run the untouched picture beside the baseline, where the batch is open.

        Returns the passes that took.
        """
        if self.model.image.batch is not None or self.model.max_batch == 1:
            return 0
        ends = np.array([1, 0], np.float32).reshape(2, 1, 1, 1)
        self.mixes(float(self.probability(self.bottleneck.through(ends))[0]))
        return len(ends)

    def mixes(self, probability: float) -> bool:
        """Tell by what the untouched picture got in a batch whether the images of one mix.

        The model then runs one by one from here on.
        """
        if abs(probability - self.answer) <= _SAME or self.model.max_batch == 1:
            return False
        if self.model.image.batch is not None:  # fixed: there is no other way to run it
            return False
        self.model.run_one_by_one("gives an image other scores in a batch than alone")
        return True

    def probability(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the class's probability [N] by the deployed model, for images [N, C, H, W]."""
        name = self.output.name
        raw = self.model.run(images, [name])[name]
        check_scores(name, raw)
        return self.output.probabilities(raw)[:, self.index]
