"""The library's words for arguments become flags; what users wrote stays."""

from __future__ import annotations

import pytest

from ibisa_onnx.commands.flags import with_flags


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("choose with output=NAME", "choose with --output NAME"),
        ("use gradient='forward-only'", "use --gradient forward-only"),
        ("give mean=, std= and channel_order=", "give --mean, --std and --channel-order"),
        ("argument preprocessing=caffe", "flag --preprocess caffe"),
        ("give extra_inputs=", "give --extra-input"),
        ("/data/seed=3/img.png: cannot read", "/data/seed=3/img.png: cannot read"),
        ("there is no class 'weights=12kg'", "there is no class 'weights=12kg'"),
        ("nothing to say", "nothing to say"),
    ],
)
def test_arguments_become_flags(text: str, said: str):
    assert with_flags(text) == said
