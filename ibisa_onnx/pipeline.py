"""A picture that was put to a model, and the answers that are to be explained. Data only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.explanation import ExplainedTarget
from ibisa_onnx.gradients.fidelity import Certified
from ibisa_onnx.io.images import Picture
from ibisa_onnx.methods.base import Method
from ibisa_onnx.methods.masking import Bottleneck
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.models.passes import PassCount
from ibisa_onnx.preprocessing.spec import Geometry, Prepared
from ibisa_onnx.targets.classification import ClassOutput


@dataclass(frozen=True)
class Question:
    """An answer of the model to one picture, to be asked more about.

    Attributes
    ----------
    case
        The picture in model space, the answer, and the model to be asked.
    target
        Which answer.
    geometry
        Where each pixel of the picture fell in the model's input.
    blank
        float32 [C, 1, 1]: the usual mean colour in model space.
    """

    case: Case
    target: ExplainedTarget
    geometry: Geometry
    blank: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """A picture as the model sees it, and what the model answered."""

    picture: Picture
    prepared: Prepared
    output: ClassOutput
    probabilities: npt.NDArray[np.float64]


@dataclass
class Inquiry:
    """Answers to a picture that are to be explained, and what that took so far.

    `begin` is when the work on the answer of the moment began, `spent` the passes it has taken.
    """

    question: Asked
    indices: list[int]
    bottleneck: Bottleneck
    seed: int
    certified: Certified
    begin: float
    spent: PassCount
    method: Method | None = None
