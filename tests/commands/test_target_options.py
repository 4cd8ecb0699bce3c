"""What is explained, as flags say it: which go together, and what they mean."""

from __future__ import annotations

import click
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.commands.target_options import AskedTargets


@pytest.mark.parametrize(
    ("flags", "targets"),
    [
        ({}, None),
        ({"words": ("cat", "7")}, ["cat", 7]),
        ({"boxes": (3,)}, [ibisa.BoxTarget(3)]),
        ({"boxes": ("all",)}, [ibisa.BoxTarget(every=True)]),
        ({"confidence": 0.1}, [ibisa.BoxTarget(confidence=0.1)]),
        (
            {"confidence": 0.1, "boxes": (3, "all")},
            [ibisa.BoxTarget(3, confidence=0.1), ibisa.BoxTarget(every=True, confidence=0.1)],
        ),
        (
            {"confidence": 0.1, "words": ("dog", "all")},
            [
                ibisa.BoxTarget(label="dog", confidence=0.1),
                ibisa.BoxTarget(every=True, confidence=0.1),
            ],
        ),
        (
            {"confidence": 0.1, "points": ((1.0, 2.0),), "words": ("dog",)},
            [ibisa.BoxTarget(at=(1.0, 2.0), label="dog", confidence=0.1)],
        ),
        ({"points": ((1.0, 2.0),)}, [ibisa.PointTarget((1.0, 2.0))]),
        ({"points": ((1.0, 2.0),), "words": ("dog",)}, [ibisa.PointTarget((1.0, 2.0), "dog")]),
        ({"text": True, "characters": (2,)}, [ibisa.TextTarget(2), ibisa.TextTarget()]),
        ({"like": "a.jpg"}, [ibisa.SimilarityTarget("a.jpg", output="out")]),
        ({"like": "a.jpg", "unlike": "b.npy"}, [ibisa.SimilarityTarget("a.jpg", "b.npy", "out")]),
        ({"direction": "raise", "index": "0,:"}, [ibisa.ValueTarget("raise", "out", "0,:")]),
        (
            {"direction": "keep", "points": ((1.0, 2.0),)},
            [ibisa.ValueTarget("keep", "out", at=(1.0, 2.0))],
        ),
        (
            {"direction": "lower", "reduce": "max"},
            [ibisa.ValueTarget("lower", "out", reduce="max")],
        ),
        ({"words": ("cat",), "versus": "dog"}, [ibisa.ContrastTarget("cat", "dog")]),
        ({"versus": "5"}, [ibisa.ContrastTarget(None, 5)]),
        ({"boxes": (1,), "versus": "dog"}, [ibisa.ContrastTarget(ibisa.BoxTarget(1), "dog")]),
    ],
)
def test_each_flag_is_a_target(flags, targets):
    asked = AskedTargets(**flags)
    asked.check()
    assert repr(asked.targets("out")) == repr(targets)


@pytest.mark.parametrize(
    ("flags", "several"),
    [
        ({}, False),
        ({"words": ("cat",)}, False),
        ({"words": ("top:3",)}, True),
        ({"words": ("cat", "dog")}, True),
        ({"boxes": (1,)}, False),
        ({"boxes": ("all",)}, True),
        ({"boxes": (1, 2)}, True),
        ({"words": ("all",)}, True),
        ({"points": ((1.0, 2.0),), "words": ("dog",)}, False),
        ({"points": ((1.0, 2.0),), "direction": "keep"}, False),
        ({"text": True, "characters": (1,)}, True),
    ],
)
def test_whether_there_may_be_several(flags, several):
    assert AskedTargets(**flags).several == several


@pytest.mark.parametrize(
    "flags",
    [
        {"unlike": "b.jpg"},
        {"index": "0"},
        {"boxes": (1,), "words": ("cat",)},
        {"points": ((1.0, 2.0),), "words": ("cat", "dog")},
        {"points": ((1.0, 2.0), (3.0, 4.0)), "direction": "raise"},
        {"reduce": "max"},
        {"boxes": ("all",), "versus": "dog"},
        {"boxes": (1,), "direction": "raise"},
        {"words": ("cat",), "direction": "keep"},
        {"characters": (1,), "direction": "lower"},
        {"text": True, "direction": "raise"},
        {"regions": ("mask.png",), "direction": "raise"},
        {"like": "a.jpg", "direction": "raise"},
        {"versus": "dog", "direction": "raise", "index": "0"},
        {"confidence": 0.1, "text": True},
        {"confidence": 0.1, "direction": "raise"},
    ],
)
def test_what_does_not_go_together(flags):
    with pytest.raises(click.UsageError):
        AskedTargets(**flags).check()


@pytest.mark.parametrize("flag", ["--target", "--versus", "--like", "--index"])
def test_an_empty_word_is_not_taken_for_none(cli, flag):
    given = ("--raise", flag, "") if flag == "--index" else (flag, "")
    result = cli("run", "m.onnx", "a.jpg", *given)
    assert result.code == 2
    assert f"{flag} is empty" in result.err


@pytest.mark.parametrize(
    "words",
    [
        ("--box", "0"),
        ("--box", "x"),
        ("--box", "-1"),
        ("--at", "1"),
        ("--at", "a,b"),
        ("--char", "0"),
        ("--region", "1,2,3"),
        ("--region", "nowhere.png"),
        ("--reduce", "median"),
        ("--kind", "robot"),
        ("--confidence", "2"),
        ("--confidence", "nan"),
    ],
)
def test_words_that_are_none_are_usage_errors(cli, words):
    result = cli("run", "m.onnx", "a.jpg", *words)
    assert result.code == 2
    assert words[0] in result.err


def test_directions_that_contradict_each_other(cli):
    result = cli("run", "m.onnx", "a.jpg", "--raise", "--lower")
    assert result.code == 2
    assert "--raise and --lower cannot be combined" in result.err


@pytest.mark.parametrize("flag", ["--like", "--unlike", "--versus", "--index"])
def test_what_is_asked_once_is_not_given_twice(cli, flag):
    result = cli("run", "m.onnx", "a.jpg", "--like", __file__, flag, __file__, flag, __file__)
    assert result.code == 2
    assert f"'{flag}': passed " in result.err
    assert "times; pass it once" in result.err
