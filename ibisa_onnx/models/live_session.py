"""Whether the file of a live session is still the model that the session runs.

A service opens a session, and the file is replaced or removed while it runs. The new file must
never lend the session its hash, its graph or its gradient. One forward pass of both on noise tells
them apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.ort import CPU
from ibisa_onnx.models.session_options import open_file

if TYPE_CHECKING:
    import onnxruntime

_SIDE = 224  # of a dynamic height or width
# Of the largest value: rounding. Other providers may compute in half precision.
_SAME, _SAME_ELSEWHERE = 1e-3, 0.05
_DTYPES = {"float": np.float32, "double": np.float64, "float16": np.float16}


def file_of_session(session: onnxruntime.InferenceSession, limits: Limits | None) -> ModelFile:
    """Return the model file of a live session; it is never read if it is another model by now.

    Costs one forward pass of the session, and one of its file on the CPU.
    """
    file = ModelFile.of_session(session, limits)
    if file.path is None:
        return file
    if not file.path.exists():
        return replace(file, lost=f"the session's file {file.path} no longer exists")
    if _differs(session, file):
        return replace(
            file, lost=f"the session's file {file.path} has changed since the session was opened"
        )
    return file


def _differs(session: onnxruntime.InferenceSession, file: ModelFile) -> bool:
    """Return whether a session and its file return different values for the same noise."""
    try:
        opened = open_file(file, [CPU], None)
    except IbisaError:
        return True
    if _ports(opened) != _ports(session):
        return True
    feeds = {each.name: _noise(each) for each in session.get_inputs()}
    try:
        ours, theirs = session.run(None, feeds), opened.run(None, feeds)
    except Exception:  # noise does not suit every model; the fidelity check compares images
        return False
    tolerance = _SAME if session.get_providers() == [CPU] else _SAME_ELSEWHERE
    return any(_apart(*pair, tolerance) for pair in zip(ours, theirs, strict=True))


def _ports(session: onnxruntime.InferenceSession) -> list[tuple[str, str, list[Any]]]:
    """Return name, type and shape of all inputs and outputs."""
    return [
        (e.name, e.type, list(e.shape)) for e in (*session.get_inputs(), *session.get_outputs())
    ]


def _noise(port: Any) -> npt.NDArray[Any]:
    """Return random values for an input; integers are 0 or 1."""
    images = len(port.shape) == 4
    shape = [
        side if isinstance(side, int) and side > 0 else (_SIDE if images and axis > 1 else 1)
        for axis, side in enumerate(port.shape)
    ]
    rng = np.random.default_rng(0)
    kind = port.type.removeprefix("tensor(").removesuffix(")")
    if kind in _DTYPES:
        return rng.normal(size=shape).astype(_DTYPES[kind])
    high = 256 if images else 2
    return rng.integers(0, high, shape).astype(np.dtype(kind if kind != "string" else "str"))


def _apart(ours: Any, theirs: Any, tolerance: float) -> bool:
    """Return whether two values of one output differ by more than rounding."""
    if not (isinstance(ours, np.ndarray) and ours.dtype.kind == "f" and ours.size):
        return False
    if ours.shape != np.shape(theirs):
        return True
    largest = float(np.abs(theirs).max())
    return not float(np.abs(ours.astype(np.float64) - theirs).max()) <= tolerance * largest
