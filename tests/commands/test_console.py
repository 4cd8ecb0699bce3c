"""What reaches a terminal: a line for each line, whatever it holds, and of bounded length."""

from __future__ import annotations

import errno
import json
import sys
import unicodedata

import pytest

from ibisa_onnx.commands import main
from ibisa_onnx.commands.console import Console, Styled, heading, report_error, rows

EVIL = "cat\n\r\x1b[2J\x9b31m\u202e\u2028\x7f\ud800ibisa-onnx: error: forged"
SHOWN = r"cat\n\r\x1b[2J\x9b31m\u202e\u2028\x7f\ud800ibisa-onnx: error: forged"


def test_what_comes_from_files_is_escaped_in_every_kind_of_line(capsys):
    console = Console(verbose=True)
    console.result([heading(EVIL), EVIL, Styled(EVIL, colour="red"), *rows([(EVIL, EVIL)])], {})
    console.note([EVIL])
    console.warn([EVIL])
    Console(quiet=True).result([], {}, bare=[EVIL])
    out, err = capsys.readouterr()
    assert out.splitlines() == [SHOWN] * 3 + [f"  {SHOWN}  {SHOWN}", SHOWN]
    spaced = SHOWN.replace(r"\n\r", " ").replace(r"\u2028", " ")  # a message is one line of words
    assert err.splitlines() == [SHOWN, f"ibisa-onnx: warning: {spaced}"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_is_valid_and_plain_to_a_terminal(capsys, monkeypatch, encoding):
    monkeypatch.setattr(type(sys.stdout), "encoding", encoding, raising=False)
    Console(as_json=True).result([], {"label": EVIL + "é🐕\U000e0001"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"label": EVIL + "é🐕\U000e0001"}
    assert not [each for each in out[:-1] if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl")]
    assert ("é🐕" in out) == (encoding == "utf-8")
    assert out.count("\n") == 1


def test_a_message_has_a_bounded_length_and_ends_in_what_to_do(capsys):
    report_error(f"there is no class {'x' * 5000}; give another")
    Console().warn([f"ignored: {'y' * 5000}; give --labels"])
    error, warning = capsys.readouterr().err.splitlines()
    assert len(error) < 1100
    assert error.endswith("; give another")
    assert len(warning) < 1100
    assert warning.endswith("; give --labels")


def test_a_usage_error_quotes_the_users_words_in_one_bounded_line(cli):
    result = cli("run", "m.onnx", "p.png", f"--no{EVIL}{'x' * 5000}")
    error, hint = result.err.splitlines()
    assert error.startswith("ibisa-onnx: error: No such option")
    assert len(error) < 1100
    assert hint == "Try 'ibisa-onnx run --help'."
    assert result.code == 2


def test_a_bar_is_one_short_line(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console().progress(EVIL * 9) as bar:
        bar(1, 2)
        drawn = capsys.readouterr().err
    assert drawn.startswith("\r")
    assert drawn[1:].isprintable()
    assert len(drawn) < 100


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory; use a smaller image or model, or free memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/d/x"), "/d/x: No space left on device"),
        (RecursionError("maximum recursion depth exceeded"), "this is a bug"),
    ],
)
def test_errors_of_the_machine_are_one_line(cli, monkeypatch, error, said):
    def report():
        raise error

    monkeypatch.setattr("ibisa_onnx.models.environment.runtime_report", report)
    result = cli("doctor")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert said in line


def test_a_traceback_cannot_forge_lines(cli, monkeypatch):
    def report():
        raise RuntimeError(EVIL)

    monkeypatch.setattr("ibisa_onnx.models.environment.runtime_report", report)
    err = cli("doctor", "-v").err
    assert "Traceback" in err
    assert err.replace("\n", "").isprintable()


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_missing_stream_is_made_up_for(monkeypatch, stream):
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as done:
        main(["doctor", "-q"])
    assert done.value.code == 0
