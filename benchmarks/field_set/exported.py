"""Files of random weights by frameworks' own exporters: what they are found to be, what maps cost.

`field_exports.py` writes them. Where such a map falls means nothing, so it is not measured.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import ibisa_onnx as ibisa
from field_set.rows import Row, kind_of, told_by
from ibisa_onnx.errors import IbisaError

UNSURE = 0.01  # the score from which a box counts where none reaches the usual one

_YOLO = (
    *("v5nu", "v8n", "v10n", "11n", "12n", "26n", "v8n_nms", "v10n_e2e", "26n_e2e"),
    *("11n-seg", "11n-seg_nms", "26n-seg_e2e", "11n-pose", "11n-pose_nms", "26n-pose_e2e"),
    *("11n-obb", "11n-obb_nms", "26n-obb_e2e", "11n-cls", "26n-sem", "26n-depth"),
)
_SQUARE = {"overrides": {"size": (320, 320)}}
_SMALL = {"overrides": {"size": (224, 224)}}
_PROMPT = {
    "extra_inputs": {
        "input_ids": np.array([[1, 5, 9, 2]]),
        "attention_mask": np.ones((1, 4), np.int64),
    },
}

EXPORTED: Mapping[str, Mapping[str, Any]] = {
    **{f"yolo{name}": {} for name in _YOLO},
    "yolov8n_dyn": _SQUARE,
    "rtdetr-l": {},
    "tv_ssdlite320": {},
    "tv_retinanet_r50": {},
    "tv_fasterrcnn_mnv3_320": {},
    "tv_deeplabv3_mnv3": _SMALL,
    "tv_lraspp_mnv3": _SMALL,
    "hf_detr": _SMALL,
    "hf_yolos": {},
    "hf_rtdetr": {},
    "hf_rtdetr_v2": {},
    "hf_segformer": _SMALL,
    "hf_clip_vision": {},
    "hf_clip": _PROMPT,
    "hf_siglip_vision": {},
    "hf_dinov2": {},
    "hf_dpt_depth": {},
    "hf_depth_anything": {},
    "hf_vitpose": {},
    "hf_swin2sr": {"kind": "regression"},
}
"""By name, what `Explainer` is given besides the file."""


def explained(path: Path, settings: Mapping[str, Any], photograph: Path) -> Row:
    """Explain what a model says first of a photograph; what goes wrong stands in the row."""
    start, row = time.perf_counter(), Row(model=path.name, kind="not opened")
    try:
        explainer = ibisa.Explainer(path, **settings)
        row = replace(row, family=explainer.kind.family, kind=kind_of(explainer))
        row = replace(row, answers=len(explainer.answers(photograph)))
        target = None
        if explainer.kind.name == "detector" and not row.answers:
            row = replace(row, where=f"no detection; explained is the surest box above {UNSURE}")
            target = ibisa.BoxTarget(confidence=UNSURE)
        row = replace(row, **told_by(explainer.explain(photograph, target)))
    except Exception as error:  # the row says so, and the other files are explained all the same
        row = replace(row, where=_fault(error))
    return replace(row, seconds=time.perf_counter() - start)


def _fault(error: Exception) -> str:
    """Return what went wrong, in a line; a crash with its kind."""
    said = textwrap.shorten(str(error), 200, placeholder=" ...")
    return said if isinstance(error, IbisaError) else f"{type(error).__name__}: {said}"
