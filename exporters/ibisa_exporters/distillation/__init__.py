"""A differentiable student of a deployed model, fitted to the model's own answers.

For models that have no gradient of their own: `distil` asks a model about masked pictures, by
forward passes alone, fits a student in PyTorch, and measures on other masks and other pictures how
far the two agree. What it gives is a surrogate for `ibisa_onnx`.
"""

from ibisa_exporters.distillation.agreement import Agreement
from ibisa_exporters.distillation.distil import Progress, distil
from ibisa_exporters.distillation.distilled import Distilled
from ibisa_exporters.distillation.settings import STUDENTS, Settings

__all__ = ["STUDENTS", "Agreement", "Distilled", "Progress", "Settings", "distil"]
