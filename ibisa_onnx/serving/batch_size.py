"""The batch size at which a model is explained fastest, found by a short measurement."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.errors import IbisaError, ResultError
from ibisa_onnx.io.private_folder import PrivateFolder
from ibisa_onnx.models.onnx_session import cores

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Explainer

_SIZES = (1, 2, 4, 8)
_SECONDS = 2.0  # of the measurement, about
_SLOWER = 1.05  # seconds per image, of the fastest size, that a smaller batch may take
_DEFAULT = 4  # of models that cannot be measured within the time
_MOST_FILES, _LARGEST = 200, 8
_measured: BuiltOnce[int] = BuiltOnce(256)


def measured_batch(explainer: Explainer) -> int:
    """Return the batch size with the most explanations per second on this machine.

    Measured once for a model, its settings, this machine and the versions of packages, by
    explaining noise for about two seconds, and kept in the explainer's cache. Of sizes that are
    equally fast the smallest is returned; 4 for models that take longer, or that predict nothing
    for noise.

    Parameters
    ----------
    explainer
        The explainer; its gradient is built if it has not been.

    Returns
    -------
    int
        1, 2, 4 or 8.
    """
    machine = [platform.node(), platform.machine(), cores()]
    facts = [explainer.settings, explainer.versions, machine]
    key = hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()
    return _measured.get(key, lambda: _remembered(explainer, key))


def _remembered(explainer: Explainer, key: str) -> int:
    """Return the size that was measured before, or measure it."""
    if explainer.cache is None:
        return _measure(explainer)
    files = PrivateFolder(explainer.cache, ".batch", _MOST_FILES, _LARGEST)
    known = files.load(key)
    if known is not None and known in map(_written, _SIZES):
        return int(known)
    size = _measure(explainer)
    with suppress(ResultError):  # as if there were no cache
        files.store(key, _written(size))
    return size


def _written(size: int) -> bytes:
    return b"%d\n" % size


def _measure(explainer: Explainer) -> int:
    height, width = explainer.preprocessing.spec.size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    begin, found = time.perf_counter(), {}
    try:
        explainer.explain(noise)  # builds the gradient and allocates memory
        for size in _SIZES:
            start = time.perf_counter()
            explainer.explain_batch([noise] * size)
            now = time.perf_counter()
            found[size] = (now - start) / size
            if now - begin + 2 * (now - start) > _SECONDS:
                break
    except IbisaError:  # for instance nothing to explain in noise
        return _DEFAULT
    if found.keys() != set(_SIZES):
        return _DEFAULT
    return next(size for size in _SIZES if found[size] <= _SLOWER * min(found.values()))
