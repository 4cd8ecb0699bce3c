"""The library's words for arguments become flags; what users wrote stays."""

from __future__ import annotations

import pytest

from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.commands.run import command as run
from ibisa_onnx.targets import (
    classification,
    depth,
    detection,
    embedding,
    keypoints,
    regression,
    segmentation,
    sequence,
    unread,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("choose with output=NAME", "choose with --output NAME"),
        ("use gradient='forward-only'", "use --gradient forward-only"),
        ("give mean=, std= and channel_order=", "give --mean, --std and --channel-order"),
        ("overrides={'mean': ...}: pass 3 numbers", "--mean: pass 3 numbers"),
        ("argument preprocessing=caffe", "--preprocess caffe"),
        ("give extra_inputs=", "give --extra-input"),
        ("/data/seed=3/img.png: cannot read", "/data/seed=3/img.png: cannot read"),
        ("there is no class 'weights=12kg'", "there is no class 'weights=12kg'"),
        ("or say trust=True if you", "or say --trust if you"),
        ("pass preprocessing='tf', 'unit' or 'raw'", "pass --preprocess tf, unit or raw"),
        ("set overrides={'mean': ..., 'std': ...} or", "set --mean, --std or"),
        ("pass overrides={'resize': 'stretch', 'size': 224}", "pass --resize stretch, --size 224"),
        ("/data/overrides={'mean': 3}", "/data/overrides={'mean': 3}"),
        ("overrides={'colour': 3}", "overrides={'colour': 3}"),
        (
            "rank with Explainer.try_preprocessing(images)",
            "rank with `ibisa-onnx inspect MODEL IMAGES --try`",
        ),
        ("nothing to say", "nothing to say"),
    ],
)
def test_arguments_become_flags(text: str, said: str):
    assert with_flags(text) == said


KINDS = (
    *(classification.ClassifierKind, depth.DepthKind, detection.DetectorKind),
    *(embedding.EmbedderKind, keypoints.KeypointKind, regression.ValueKind),
    *(segmentation.SegmenterKind, sequence.RecogniserKind, unread.UnreadKind),
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_can_be_asked_is_a_target_in_python_and_flags_that_run_takes(kind):
    """Words in capitals stand for what a user knows."""
    known = {name for option in run.params for name in option.opts}
    values = {"CLASS": "cat", "WORD": "cat", "JOINT": "nose", "MASK|L,T,R,B": "1,2,3,4"}
    values["FILE"] = __file__
    for ask in kind.asks:
        assert "-t " not in ask
        assert "--" not in ask
        flags = with_flags(ask).split()
        assert flags[0] in known
        given = [values.get(each, each) for each in flags]
        with run.make_context("run", ["m.onnx", "a.jpg", *given], resilient_parsing=False) as made:
            assert made.params["model"] == "m.onnx"
