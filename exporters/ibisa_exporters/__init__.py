"""Export of trained networks to ONNX files with embedded preprocessing and labels.

`export.export` writes and verifies one file; `distillation.distil` fits a differentiable surrogate
to a deployed model. Everything here requires torch (the extra `export`); `ibisa_onnx` imports it
only in the commands `export` and `distill`.
"""

from ibisa_onnx.imports import import_extra

import_extra("torch", "export")  # a one-line error, whichever module is imported first
