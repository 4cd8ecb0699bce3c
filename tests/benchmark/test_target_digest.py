"""Targets that differ are told apart, and those that are the same are not."""

from __future__ import annotations

import json

import numpy as np

from ibisa_onnx.benchmark.target_digest import digestible
from ibisa_onnx.targets.contrast import ContrastTarget
from ibisa_onnx.targets.detection import BoxTarget
from ibisa_onnx.targets.embedding import SimilarityTarget
from ibisa_onnx.targets.segmentation import RegionTarget
from ibisa_onnx.targets.value import ValueTarget


def text(target: object) -> str:
    return json.dumps(digestible(target), sort_keys=True)


def test_targets_of_all_kinds_differ_and_stay_the_same():
    def targets() -> list[object]:
        mask = np.zeros((4, 4), bool)
        return [
            *(None, 1, "1", "goat", np.int64(2)),
            *(BoxTarget(1), BoxTarget(2), BoxTarget(at=(1.0, 2.0)), RegionTarget("goat")),
            *(RegionTarget(region=(0.0, 0.0, 2.0, 2.0)), RegionTarget(region=mask)),
            *(RegionTarget(region=~mask), SimilarityTarget(like=np.ones(3)), SimilarityTarget()),
            *(ValueTarget("raise"), ValueTarget("lower"), ContrastTarget(1, 2)),
            ContrastTarget(BoxTarget(1), 2),
        ]

    texts = [text(each) for each in targets()]
    assert len(set(texts)) == len(texts)
    assert [text(each) for each in targets()] == texts


def test_a_file_counts_by_what_is_in_it(tmp_path):
    path = tmp_path / "like.png"
    path.write_bytes(b"one")
    one = text(SimilarityTarget(str(path)))
    assert text(SimilarityTarget(str(path))) == one
    path.write_bytes(b"another")
    assert text(SimilarityTarget(str(path))) != one
