"""Definitions of ONNX Runtime's fused and quantised operators in terms of standard ones.

ONNX Runtime's optimiser and quantiser write them into models. The deployed graph keeps them; types
and derivatives are derived from these definitions, so that no operator here requires a rule.
"""

from __future__ import annotations

from ibisa_onnx.autodiff.definitions import attention, fused, quantised
from ibisa_onnx.autodiff.definitions.writer import Definitions

QUANTISED = quantised.definitions
DEFINITIONS = Definitions(attention.definitions, fused.definitions, QUANTISED)
