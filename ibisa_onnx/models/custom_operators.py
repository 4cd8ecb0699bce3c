"""Operators that ONNX Runtime does not have itself: whose they are, and how they come in.

Those of onnxruntime-extensions are registered wherever that package is installed, in the model's
session and in those of the graphs made from it. Nothing else is loaded: a library of operators is
native code, and a file may not choose what runs.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

PACKAGE = "onnxruntime-extensions"
_EXTENSIONS = frozenset({"ai.onnx.contrib", "com.microsoft.extensions"})
_ABSENT = re.compile(r"([\w.-]+):(\w+)\(-?\d+\) is not a registered function/op")


def library_for(error: Exception) -> str | None:
    """Return the library with the operator that a session lacks; None where none is installed."""
    found = _ABSENT.search(str(error))
    if found is None or found[1] not in _EXTENSIONS:
        return None
    try:
        return str(importlib.import_module("onnxruntime_extensions").get_library_path())
    except ImportError:
        return None


def explain_absent(model: onnx.ModelProto, error: Exception) -> str | None:
    """Say whose the operator is that a session lacks, and what to do; None where none is absent.

    Where the package is installed, an operator is absent from that too.
    """
    found = _ABSENT.search(str(error))
    if found is None:
        return None
    domain, operator = found.groups()
    used = sorted({node.op_type for node in model.graph.node if node.domain == domain})
    which = f"the operators {', '.join(used or [operator])} of {domain}"
    if domain in _EXTENSIONS:
        if library_for(error) is None:
            return f"it needs {which}: pip install {PACKAGE}, or 'ibisa-onnx[extensions]'"
        return f"it needs {which}, and the {PACKAGE} installed has no {operator}: update it"
    if domain.startswith(("com.microsoft", "ai.onnx")):
        return f"it needs {which}, and this ONNX Runtime has no {operator}: update it"
    return (
        f"it needs {which}, which ONNX Runtime does not have; in Python, register their library "
        "(SessionOptions.register_custom_ops_library) and give the open InferenceSession as model"
    )
