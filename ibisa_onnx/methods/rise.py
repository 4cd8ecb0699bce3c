"""RISE: the score averaged over random masks (Petsiuk et al., arXiv 1806.07421).

Masks are drawn and discarded batch by batch, so memory does not grow with their number.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_flag
from ibisa_onnx.errors import OptionError
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.base import AttributionResult, RowByRow, no_gradient
from ibisa_onnx.methods.budget import Queries
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.scaling import min_max_scaled
from ibisa_onnx.methods.settings import is_whole
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.base import Objective

_BATCH = 8

Score = Callable[[Floats], npt.NDArray[np.floating[Any]]]
"""Maps images, float32 [N, C, H, W] in model space, to scores [N]."""


@dataclass(frozen=True)
class Rise:
    """RISE saliency; one forward pass per mask.

    Petsiuk et al., arXiv 1806.07421. Masked pixels become the default mean colour.

    Attributes
    ----------
    masks
        Number of masks. The paper uses 4000 for VGG-16 and 8000 for ResNet-50.
    grid
        Cells per side of the masks' grid.
    keep
        Probability that a cell is kept.
    centred
        Whether to subtract the mean mask and the mean score, which reduces the variance; see
        `rise`.

    Raises
    ------
    OptionError
        A value is out of range.
    """

    masks: int = 4000
    grid: int = 7
    keep: float = 0.5
    centred: bool = False

    def __post_init__(self) -> None:
        """Raise `OptionError` if a value is out of range."""
        check_flag("centred", self.centred)
        for name in ("masks", "grid"):
            if not is_whole(getattr(self, name), 1):
                raise OptionError(
                    f"RISE: {name} is {getattr(self, name)!r:.80}; pass an integer, at least 1"
                )
        if not isinstance(self.keep, numbers.Real) or not 0 < self.keep < 1:
            raise OptionError(
                f"RISE: keep is {self.keep!r:.80}; pass a probability greater than 0, less than 1"
            )

    @property
    def name(self) -> str:
        """Name of the method: "rise" or "centred-rise"."""
        return "centred-rise" if self.centred else "rise"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by name."""
        return asdict(self)

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedRise:
        """Return the prepared method; the model needs no preparation."""
        return PreparedRise(self)


@dataclass(frozen=True)
class PreparedRise(RowByRow):
    """RISE for one model; masked pixels become the default mean colour."""

    method: Rise

    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Query all masks, or as many as there is time for."""
        problem.check_batch_independence()
        method, image = self.method, problem.image[0]
        queries = Queries(problem, control, method.masks)
        saliency = rise(
            queries,
            image,
            rng=rng,
            masks=method.masks,
            grid=method.grid,
            keep=method.keep,
            centred=method.centred,
            blank=problem.blank,
            over=lambda: queries.over(_BATCH),
        )
        certificate = no_gradient("RISE needs forward passes only")
        yield AttributionResult(
            min_max_scaled(saliency), problem.size, queries.completion, certificate
        )


def rise(
    score: Score,
    image: Floats,
    *,
    rng: np.random.Generator,
    masks: int = 4000,
    grid: int = 7,
    keep: float = 0.5,
    centred: bool = False,
    batch: int = _BATCH,
    blank: Floats | None = None,
    over: Callable[[], bool] = lambda: False,
) -> npt.NDArray[np.float32]:
    """Compute RISE's saliency map for any score function.

    Parameters
    ----------
    score
        Maps images, float32 [N, C, H, W] in model space, to scores [N].
    image
        float32 [C, H, W] in model space.
    rng
        Draws the masks.
    masks, grid, keep
        Number of masks, cells per side, and probability that a cell is kept (N, h = w and p in the
        paper's section 3).
    centred
        Subtract the mean mask and the mean score (the covariance instead of the raw moment): the
        same expectation up to a constant, at far smaller variance. The paper's estimator does not.
    batch
        Masks per call of `score`.
    blank
        Value of masked pixels, float32 [C, 1, 1]; None for zeros in model space, as in the paper.
    over
        Called between batches; returning True ends the estimate early.

    Returns
    -------
    ndarray
        float32 [H, W], equation 6 of the paper: the sum of score times mask, over N p.
    """
    height, width = image.shape[1:]
    weighted = np.zeros((height, width))
    total = np.zeros((height, width))
    score_sum, used = 0.0, 0
    hidden = np.zeros((1, 1, 1), np.float32) if blank is None else blank
    for block in _masks(rng, masks, grid, keep, height, width, batch):
        shown = block[:, None]
        scores = np.asarray(score(shown * image + (1 - shown) * hidden), np.float64)
        for mask, one in zip(block, scores, strict=True):  # in this order for every batch size
            weighted += one * mask
            total += mask
            score_sum += float(one)
        used += len(block)
        if used < masks and over():
            break
    if centred:
        weighted -= total * score_sum / used
    return (weighted / (used * keep)).astype(np.float32)


def _masks(
    rng: np.random.Generator,
    masks: int,
    grid: int,
    keep: float,
    height: int,
    width: int,
    batch: int,
) -> Iterator[Floats]:
    """Yield batches [n, H, W] of binary grids, upsampled bilinearly and shifted (section 3.2)."""
    import cv2

    cell_height, cell_width = -(-height // grid), -(-width // grid)
    size = ((grid + 1) * cell_width, (grid + 1) * cell_height)
    for begin in range(0, masks, batch):
        block = np.empty((min(batch, masks - begin), height, width), np.float32)
        for mask in block:
            cells = (rng.random((grid, grid)) < keep).astype(np.float32)
            top, left = rng.integers(cell_height), rng.integers(cell_width)
            large = cv2.resize(cells, size, interpolation=cv2.INTER_LINEAR)
            mask[:] = large[top : top + height, left : left + width]
        yield block
