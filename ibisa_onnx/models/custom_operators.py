"""Operators that ONNX Runtime lacks: which package has them, and how they are registered.

Those of onnxruntime-extensions are registered if the package is installed, in the model's session
and in those of derived graphs. Nothing else is loaded: an operator library is native code, and a
model file must not choose what runs.
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
    """Return the library with the operator a session lacks; None if none is installed."""
    found = _ABSENT.search(str(error))
    if found is None or found[1] not in _EXTENSIONS:
        return None
    try:
        return str(importlib.import_module("onnxruntime_extensions").get_library_path())
    except ImportError:
        return None


def explain_absent(model: onnx.ModelProto, error: Exception) -> str | None:
    """Return which operator is missing and what to do; None if none is.

    An operator may also be missing from an installed package that is too old.
    """
    found = _ABSENT.search(str(error))
    if found is None:
        return None
    domain, operator = found.groups()
    used = sorted({node.op_type for node in model.graph.node if node.domain == domain})
    which = f"the operators {', '.join(used or [operator])} of {domain}"
    if domain in _EXTENSIONS:
        if library_for(error) is None:
            return f"it requires {which}: pip install {PACKAGE}, or 'ibisa-onnx[extensions]'"
        return (
            f"it requires {which}, but the installed {PACKAGE} has no {operator}: update it; an "
            "operator defined in Python (onnx_op) works only in Python: pass the open "
            "InferenceSession as model"
        )
    if domain.startswith(("com.microsoft", "ai.onnx")):
        return f"it requires {which}, but this ONNX Runtime has no {operator}: update it"
    return (
        f"it requires {which}, which ONNX Runtime does not have; in Python, register their library "
        "(SessionOptions.register_custom_ops_library) and pass the open InferenceSession as model"
    )
