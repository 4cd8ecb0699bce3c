"""Distillation of a deployed model into a differentiable student.

For models without a gradient of their own: `distil` queries a model on masked images by forward
passes alone, fits a student in PyTorch, and measures their agreement on other masks and held-out
images. The result is a surrogate for `ibisa_onnx`.
"""

from ibisa_exporters.distillation.agreement import Agreement
from ibisa_exporters.distillation.distil import Progress, distil
from ibisa_exporters.distillation.distilled import Distilled
from ibisa_exporters.distillation.settings import STUDENTS, Settings

__all__ = ["STUDENTS", "Agreement", "Distilled", "Progress", "Settings", "distil"]
