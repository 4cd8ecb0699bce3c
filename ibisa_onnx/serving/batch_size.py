"""The batch size at which a model is explained fastest, found by a short measurement."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING

import numpy as np

from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.errors import IbisaError

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Explainer

_SIZES = (1, 2, 4, 8)
_SECONDS = 2.0  # of the measurement, about
_SLOWER = 1.05  # seconds per image, of the fastest size, that a smaller batch may take
_DEFAULT = 4  # of models that cannot be measured within the time
_measured: BuiltOnce[int] = BuiltOnce(256)


def measured_batch(explainer: Explainer) -> int:
    """Return the batch size with the most explanations per second on this machine.

    Measured once per process for a model and its settings, by explaining noise for about two
    seconds. Of sizes that are equally fast the smallest is returned; 4 for models that take longer,
    or that predict nothing for noise.

    Parameters
    ----------
    explainer
        The explainer; its gradient is built if it has not been.

    Returns
    -------
    int
        1, 2, 4 or 8.
    """
    settings = json.dumps(explainer.settings, default=str, sort_keys=True)
    key = hashlib.sha256(settings.encode()).hexdigest()
    return _measured.get(key, lambda: _measure(explainer))


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
