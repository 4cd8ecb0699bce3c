"""The deployed model, seen from outside: session, signature, images, preprocessing, labels.

Names are loaded when first asked for, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibisa_onnx.model.annotation import annotate
    from ibisa_onnx.model.function import FunctionModel, InputSpec
    from ibisa_onnx.model.image_model import ImageModel
    from ibisa_onnx.model.images import Picture, image_sha256, read_image, read_picture
    from ibisa_onnx.model.labels import (
        KnownLabels,
        check_labels,
        choose_labels,
        find_label,
        known_labels,
        read_labels,
    )
    from ibisa_onnx.model.passes import PassCounter
    from ibisa_onnx.model.preprocessing import (
        PRESETS,
        Geometry,
        Prepared,
        Preprocessing,
        mean_colour,
        prepare,
    )
    from ibisa_onnx.model.providers import resolve_providers
    from ibisa_onnx.model.resolution import (
        Belief,
        Overrides,
        ResolvedPreprocessing,
        resolve_preprocessing,
        settle_preprocessing,
    )
    from ibisa_onnx.model.runtime import RuntimeReport, cuda_runs_a_node, runtime_report
    from ibisa_onnx.model.session import DeployedModel
    from ibisa_onnx.model.signature import ImageInput, Layout, Signature, TensorInfo

_HOME = {
    "Belief": "resolution",
    "DeployedModel": "session",
    "FunctionModel": "function",
    "Geometry": "preprocessing",
    "ImageInput": "signature",
    "ImageModel": "image_model",
    "InputSpec": "function",
    "KnownLabels": "labels",
    "Layout": "signature",
    "Overrides": "resolution",
    "PRESETS": "preprocessing",
    "PassCounter": "passes",
    "Picture": "images",
    "Prepared": "preprocessing",
    "Preprocessing": "preprocessing",
    "ResolvedPreprocessing": "resolution",
    "RuntimeReport": "runtime",
    "Signature": "signature",
    "TensorInfo": "signature",
    "annotate": "annotation",
    "check_labels": "labels",
    "choose_labels": "labels",
    "cuda_runs_a_node": "runtime",
    "find_label": "labels",
    "image_sha256": "images",
    "known_labels": "labels",
    "mean_colour": "preprocessing",
    "prepare": "preprocessing",
    "read_image": "images",
    "read_labels": "labels",
    "read_picture": "images",
    "resolve_preprocessing": "resolution",
    "resolve_providers": "providers",
    "runtime_report": "runtime",
    "settle_preprocessing": "resolution",
}

__all__ = [
    "PRESETS",
    "Belief",
    "DeployedModel",
    "FunctionModel",
    "Geometry",
    "ImageInput",
    "ImageModel",
    "InputSpec",
    "KnownLabels",
    "Layout",
    "Overrides",
    "PassCounter",
    "Picture",
    "Prepared",
    "Preprocessing",
    "ResolvedPreprocessing",
    "RuntimeReport",
    "Signature",
    "TensorInfo",
    "annotate",
    "check_labels",
    "choose_labels",
    "cuda_runs_a_node",
    "find_label",
    "image_sha256",
    "known_labels",
    "mean_colour",
    "prepare",
    "read_image",
    "read_labels",
    "read_picture",
    "resolve_preprocessing",
    "resolve_providers",
    "runtime_report",
    "settle_preprocessing",
]


def __getattr__(name: str) -> Any:
    """Load the module that holds `name` when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
