"""Stability: does a map stay as it is where the picture changes by less than anybody sees?

Variants are made of what the model sees, at its own input size, and maps are compared there, so
that no resizing in between smooths them. `metrics.agreement` compares maps of several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ibisa_onnx.metrics.agreement import spearman
from ibisa_onnx.metrics.maps import Map, Saliency, checked_map
from ibisa_onnx.metrics.metric import Metric
from ibisa_onnx.metrics.subject import FloatArray
from ibisa_onnx.preprocessing.spec import Preprocessing, prepare, unprepare

_AMPLITUDE = 2.0  # of the noise, in steps of 8 bits
_QUALITY = 90  # of the JPEG
_SEED = (2, 255)

Explain = Callable[[FloatArray], Saliency]
"""An image float32 [C, H, W] in model space to its map [H, W], for the same answer each time."""


def _same(map: Map) -> Map:
    return map


@dataclass(frozen=True)
class Variant:
    """A picture that looks the same, and where its pixels went.

    Attributes
    ----------
    name
        "noise", "shift" or "JPEG".
    change
        Makes it of an image, float32 [C, H, W] in model space.
    original, variant
        The parts of both maps that show the same.
    """

    name: str
    change: Callable[[FloatArray, Preprocessing], FloatArray]
    original: Callable[[Map], Map] = _same
    variant: Callable[[Map], Map] = _same


def _noisy(image: FloatArray, spec: Preprocessing) -> FloatArray:
    noise = np.random.default_rng(_SEED).standard_normal(image.shape, np.float32)
    step = np.abs(np.float32(spec.scale) / np.asarray(spec.std, np.float32)).reshape(-1, 1, 1)
    return np.asarray(image + _AMPLITUDE * step * noise, np.float32)


def _shifted(image: FloatArray, spec: Preprocessing) -> FloatArray:
    return np.concatenate([image[..., :1], image[..., :-1]], axis=-1)


def _as_jpeg(image: FloatArray, spec: Preprocessing) -> FloatArray:
    import cv2

    pixels = unprepare(image, spec)[..., ::-1]
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    height, width = image.shape[1:]
    as_it_is = replace(spec, size=(height, width), resize="none")
    return np.asarray(prepare(decoded, as_it_is).tensor[0])


VARIANTS: tuple[Variant, ...] = (
    Variant("noise", _noisy),
    Variant("shift", _shifted, lambda map: map[:, :-1], lambda map: map[:, 1:]),
    Variant("JPEG", _as_jpeg),
)
"""White noise with a standard deviation of 2/255; one pixel to the right, the left column twice;
JPEG of quality 90 of the picture in 8 bits."""


@dataclass(frozen=True)
class StabilityMetric(Metric):
    """A metric of a method on one picture; `stability` measures it.

    Attributes
    ----------
    variants
        Over which the correlation is averaged.
    """

    variants: tuple[Variant, ...]


def stability(
    explain: Explain,
    image: FloatArray,
    spec: Preprocessing,
    metrics: Sequence[StabilityMetric] | None = None,
) -> dict[str, float]:
    """Return how stable a method is on a picture, by name of the metric.

    Parameters
    ----------
    explain
        Makes a map, always for the answer that is explained; asked once for the picture and once
        for each variant that is needed.
    image
        float32 [C, H, W] in model space.
    spec
        How pictures became such images; its size is not looked at.
    metrics
        `STABILITIES` unless given.

    Raises
    ------
    MetricError
        A map is not finite, or does not fit the image.
    """
    wanted, size = STABILITIES if metrics is None else metrics, image.shape[1:]
    original = checked_map(explain(image), size)
    found: dict[str, float] = {}
    for each in VARIANTS:
        if any(each in metric.variants for metric in wanted):
            map = checked_map(explain(each.change(image, spec)), size)
            found[each.name] = spearman(each.original(original), each.variant(map))
    return {
        metric.name: float(np.mean([found[each.name] for each in metric.variants]))
        for metric in wanted
    }


STABILITY = StabilityMetric(
    "stability",
    True,
    (-1.0, 1.0),
    "mean Spearman correlation with the maps of the picture with noise, shifted, and as JPEG",
    VARIANTS,
)
STABILITIES: tuple[StabilityMetric, ...] = (
    STABILITY,
    *(
        StabilityMetric(
            f"stability ({each.name})",
            True,
            (-1.0, 1.0),
            f"Spearman correlation with the map of the picture changed by {each.name}",
            (each,),
        )
        for each in VARIANTS
    ),
)
