"""Text that anyone may have written: what it says, or one ValueError, and never more."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibisa_onnx.io.literals import (
    parse_csv,
    parse_integer,
    parse_json,
    parse_literal,
    parse_number,
    parse_toml,
)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "Expecting"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested more than 64 deep"),
        ("1" * 5000, "integer of 5,000 digits"),
        ("[1" + "0" * 310 + "]", "integer of 311 digits"),
        ('["\\ud800"]', "lone surrogate"),
        ('{"\\udfff": 1}', "lone surrogate"),
    ],
)
def test_what_json_must_not_hold_is_named(text, match):
    with pytest.raises(ValueError, match=match):
        parse_json(text)


def test_json_of_every_day_is_read():
    assert parse_json('{"a": [1, -2.5, null, "\\ud83d\\ude00"], "b": 1e400}') == {
        "a": [1, -2.5, None, "😀"],
        "b": float("inf"),
    }
    assert parse_json("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{0: 'person', 1: \"it's\"}", {0: "person", 1: "it's"}),
        ("['caf\\xe9', 'a\\\\b']", ["café", "a\\b"]),
        (" (8, 8)", (8, 8)),
        ("True", True),
        ("[1, 2]", [1, 2]),
    ],
)
def test_literals_of_python_are_read(text, value):
    assert parse_literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "f()", "{[]: 1}", "'\\d'", "0x" + "f" * 5000, "9" * 5000, "'\\ud800'"),
        *("-" * 10**5 + "1", "1+" * 10**5 + "1", "(" * 10**5, "1" + "[0]" * 10**5),
        *("not " * 10**5 + "1", "lambda:" * 10**5, "[" * 70 + "]" * 70, " " * (1 << 20) + "(1,)"),
    ],
)
def test_what_is_no_literal_is_none_and_says_nothing(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_literal(text) is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a = ", "Invalid value"),
        ("a = " + "[" * 5000, "nested more than 64 deep"),
        (".".join("a" * 100) + " = 1", "nested more than 64 deep"),
        (".".join("a" * 1000) + " = 1", "more than 200 dots"),
        ("a = 0x" + "f" * 5000, "integer of"),
        ("a = '" + "x" * (1 << 18), "characters"),
    ],
)
def test_what_toml_must_not_hold_is_named(text, match):
    with pytest.raises(ValueError, match=match):
        parse_toml(text)
    assert parse_toml("mean = [0.5, 1e400]\n[a]\nb = 'c'") == {
        "mean": [0.5, float("inf")],
        "a": {"b": "c"},
    }


def test_a_cell_without_an_end_is_an_error_of_its_own():
    assert parse_csv('0,cat\n1,"a, b"') == [["0", "cat"], ["1", "a, b"]]
    with pytest.raises(ValueError, match="field limit"):
        parse_csv('"' + "a" * 200_000)


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), (" +7 ", 7), ("-007", -7), ("9" * 18, 10**18 - 1)],
)
def test_whole_numbers_are_read(text, number):
    assert parse_integer(text) == number


@pytest.mark.parametrize("text", ["", "²", "٣", "1_0", "1.0", "0x1", "9" * 19, "9" * 5000, "1 2"])
def test_what_is_no_whole_number_is_none(text):
    assert parse_integer(text) is None


@pytest.mark.parametrize("text", ["", "nan", "-inf", "1e400", "9" * 5000, "²", "1,5"])
def test_what_is_no_finite_number_is_none(text):
    assert parse_number(text) is None
    assert parse_number("1e3") == 1000


@given(st.text(st.characters(categories=["Nd", "No", "Nl", "Zs", "Pd"])))
def test_numbers_of_every_script_raise_nothing(text):
    parse_integer(text)
    parse_number(text)
    parse_literal(text)
