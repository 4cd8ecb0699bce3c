"""Stability: does a map stay the same under imperceptible changes to the image?

Variants are derived from the model's input at its own size, and maps are compared at that size, so
that resizing does not smooth them. `metrics.agreement` compares maps made with different seeds.
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
"""Function from an image float32 [C, H, W] in model space to its map [H, W], for a fixed target."""


def _same(map: Map) -> Map:
    return map


@dataclass(frozen=True)
class Variant:
    """An imperceptible change to an image.

    Attributes
    ----------
    name
        "noise", "shift" or "JPEG".
    change
        Applies the change to an image, float32 [C, H, W] in model space.
    original, variant
        Crop the map of the original and of the changed image to corresponding pixels.
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
"""White noise with a standard deviation of 2/255; a shift by one pixel to the right, repeating the
leftmost column; JPEG compression of the 8-bit image at quality 90."""


@dataclass(frozen=True)
class StabilityMetric(Metric):
    """A stability metric of a method on one image; `stability` computes it.

    Attributes
    ----------
    variants
        Changes to the image over which the correlation is averaged.
    """

    variants: tuple[Variant, ...]


def stability(
    explain: Explain,
    image: FloatArray,
    spec: Preprocessing,
    metrics: Sequence[StabilityMetric] | None = None,
) -> dict[str, float]:
    """Measure how stable a method's map is under imperceptible changes to the image.

    Parameters
    ----------
    explain
        Function from an image float32 [C, H, W] in model space to its map [H, W], always for the
        same target. Called once for the image and once per variant.
    image
        float32 [C, H, W] in model space.
    spec
        The preprocessing that produced `image`; its size is ignored.
    metrics
        The metrics to compute. Default: `STABILITIES`.

    Returns
    -------
    dict
        Spearman correlations, from -1 to 1, by name of the metric.

    Raises
    ------
    MetricError
        A map differs in shape from the image, or is not finite.
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
    "mean Spearman correlation with the maps of the image with noise, shifted, and as JPEG",
    VARIANTS,
)
"""Mean over all variants."""
STABILITIES: tuple[StabilityMetric, ...] = (
    STABILITY,
    *(
        StabilityMetric(
            f"stability ({each.name})",
            True,
            (-1.0, 1.0),
            f"Spearman correlation with the map of the image changed by {each.name}",
            (each,),
        )
        for each in VARIANTS
    ),
)
"""The mean over all variants, and each variant alone."""
