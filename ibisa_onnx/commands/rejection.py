"""What `run` would reject, found out by `inspect`: the model itself, or one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibisa_onnx.errors import AbsentTargetError, DeadlineError, IbisaError, ImageError

if TYPE_CHECKING:
    from ibisa_onnx.io.images import Source
    from ibisa_onnx.pipeline import Pipeline


_LONGEST = 10.0  # seconds


def rejection(
    pipeline: Pipeline, image: Source, confidence: float | None = None
) -> IbisaError | None:
    """Return the error that `run` would report for an image, before any map; None for none.

    Costs a forward pass. `confidence` is the minimum score of a detector's boxes; None: the usual.
    """
    from ibisa_onnx.methods.baselines import baseline_named
    from ibisa_onnx.methods.ibisa.options import Options
    from ibisa_onnx.targets.arguments import target_specs
    from ibisa_onnx.targets.detection import BoxTarget

    usual = Options()
    baseline = baseline_named(usual.baseline, usual.blur, pipeline.preprocessing)
    target = None if confidence is None else BoxTarget(confidence=confidence)
    try:
        pipeline.ask([image], [target_specs(target)], baseline)
    except DeadlineError:  # says nothing about the model
        raise
    except IbisaError as error:
        return error
    return None


def rejection_of_model(pipeline: Pipeline) -> IbisaError | None:
    """Return the error that `run` would report for any image; None if it would explain some.

    Tried on noise and, if that is rejected, on grey. None also if the model takes too long.
    """
    import numpy as np

    from ibisa_onnx.models.running import time_limit
    from ibisa_onnx.targets.facts import noise

    size = pipeline.preprocessing.size
    found: IbisaError | None = None
    try:
        with time_limit(_LONGEST):
            for image in (noise(size), np.full((*size, 3), 128, np.uint8)):
                found = rejection(pipeline, image)
                if found is None or isinstance(found, AbsentTargetError | ImageError):
                    return None
    except DeadlineError:
        return None
    return found
