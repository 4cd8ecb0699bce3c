"""Targets that differ are told apart, and those that are the same are not."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from ibisa_onnx import Explainer
from ibisa_onnx.benchmark.target_digest import digestible, request_digest
from ibisa_onnx.demo import model_path
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.random_map import RandomMap
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_more_than_its_name(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert text(SimilarityTarget(str(tmp_path / "pipe")))


def test_all_that_a_map_depends_on_is_in_the_digest_and_nothing_else(tmp_path):
    def digest(target=None, seed=0, method=None, files=(), more=None, **options):
        explainer = Explainer(options.pop("model", model_path()), cache=False, **options)
        return request_digest(explainer, method or explainer.method, target, seed, files, more)

    model, like = tmp_path / "model.onnx", tmp_path / "like.png"
    shutil.copy(model_path(), model)
    like.write_bytes(b"one")
    base = digest()
    assert digest(model=model) == base  # wherever it lies
    labels = [str(number) for number in range(len(Explainer(model_path()).labels))]
    changes = [
        *({"target": "star"}, {"seed": 1}, {"method": RandomMap()}, {"files": [like]}),
        *({"more": {"deadline": 1}}, {"labels": labels}, {"kind": "classifier"}),
        *({"options": "fast"}, {"options": Options(baseline="blur")}, {"budget": 50}),
        *({"gradient": "exact"}, {"threads": 1}, {"activation": "softmax"}),
        *({"overrides": {"mean": 0.4}}, {"input": Explainer(model_path()).model.image.name}),
    ]
    digests = [digest(**change) for change in changes]
    assert len({base, *digests}) == 1 + len(changes)
    assert [digest(**change) for change in changes] == digests
    like.write_bytes(b"another")
    assert digest(files=[like]) != digests[3]
    companion = {"id2label": dict(enumerate(labels))}
    (tmp_path / "config.json").write_text(json.dumps(companion))
    assert digest(model=model) != base
