"""What operators beyond ONNX's own compute, in plain ones: fused and quantised operators.

ONNX Runtime's optimiser leaves them in saved models. The deployed graph keeps them; types are
inferred and derivatives taken through these definitions, so that no operator here needs a rule.
"""

from __future__ import annotations

from ibisa_onnx.autodiff.definitions import attention, fused, quantised
from ibisa_onnx.autodiff.definitions.writer import Definitions

QUANTISED = quantised.definitions
DEFINITIONS = Definitions(attention.definitions, fused.definitions, QUANTISED)
