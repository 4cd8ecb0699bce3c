"""The command itself: help, version, exit codes, and errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ibisa_onnx.commands import _VERBS, group
from ibisa_onnx.commands.console import Console
from ibisa_onnx.errors import ModelError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def failing(monkeypatch):
    """Make `doctor` fail with a given exception."""

    def fail(error):
        def report():
            raise error

        monkeypatch.setattr("ibisa_onnx.models.environment.runtime_report", report)

    return fail


@pytest.mark.parametrize("verb", _VERBS)
def test_every_option_says_in_a_sentence_what_it_is(verb):
    command = group.get_command(None, verb)
    context = click.Context(command, info_name=verb)
    text = command.get_help(context)
    assert "None" not in text
    assert "UNSET" not in text
    for option in command.get_params(context):
        if isinstance(option, click.Option):
            assert option.help
            assert option.help[0].isupper() or option.help[0].isdigit()
            assert option.help.endswith((".", "…", ")"))


@pytest.mark.parametrize("word", ["explain", "Predict", "net.onnx", __file__])
def test_a_verb_that_is_missing_or_of_another_tool_suggests_run(cli, word):
    result = cli(word, "a.jpg")
    assert result.code == 2
    assert "Did you mean `ibisa-onnx run MODEL IMAGE`?" in result.err
    assert "Did you mean" not in cli("zzzz").err


def test_an_option_of_another_name_is_suggested(cli):
    assert "(Did you mean '--target'?)" in cli("run", "m.onnx", "a.jpg", "--class", "3").err
    assert "'--classes'" in cli("export", "x", "--class", "3").err


def test_help_names_every_verb(cli):
    result = cli("--help")
    assert result.code == 0
    for verb in ("run", "inspect", "gradient", "demo", "doctor"):
        assert f"  {verb} " in result.out
        assert cli(verb, "--help").code == 0
    assert cli().out == result.out


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("cv2", "cv2 is not installed; run pip install opencv-python-headless"),
        ("onnx.helper", "onnx is not installed; run pip install onnx"),
        ("ibisa_onnx.nowhere", "this is a bug"),
    ],
)
def test_a_package_that_is_not_there_is_named(cli, failing, module, said):
    failing(ModuleNotFoundError(f"No module named {module!r}", name=module))
    result = cli("doctor")
    assert result.code == 1
    assert said in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_library_that_cannot_be_loaded_is_no_bug(cli, failing, wrapped):
    """As where memory is limited, or a container lacks what OpenCV needs; NumPy wraps it."""
    error = ImportError("libGL.so.1: cannot open shared object file", path="x/cv2.abi3.so")
    wrapper = ImportError("\n\nIMPORTANT: PLEASE READ THIS")
    wrapper.__cause__ = error
    failing(wrapper if wrapped else error)
    result = cli("doctor")
    assert result.code == 1
    assert "cannot load a library: libGL.so.1: cannot open" in result.err
    assert len(result.err.splitlines()) == 1


def test_a_working_folder_that_is_gone_is_no_stream(cli, failing):
    failing(FileNotFoundError(2, "No such file or directory"))
    assert "cannot read or write .: No such file" in cli("doctor").err


def test_version_goes_to_stdout(cli):
    result = cli("--version")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("ibisa-onnx ")


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["run", "--help"], ["gradient", "--help"]]
)
def test_help_and_version_load_nothing_heavy(args):
    code = (
        "import sys; from ibisa_onnx.commands import main\n"
        f"try: main({args})\n"
        "except SystemExit: print(sorted({'torch','cv2','numpy','onnx','onnxruntime'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "args", [["nope"], ["run"], ["run", "m.onnx"], ["doctor", "--bad"], ["doctor", "-q", "-v"]]
)
def test_wrong_usage_is_code_2_and_a_hint(cli, args):
    result = cli(*args)
    assert result.code == 2
    assert result.out == ""
    error, hint = result.err.splitlines()
    assert error.startswith("ibisa-onnx: error: ")
    assert hint.endswith("--help'.")


def test_what_cannot_be_done_is_code_1_and_one_line(cli, failing):
    failing(ModelError("m.onnx is\nnot ONNX; export it again"))
    result = cli("doctor")
    assert result.code == 1
    assert result.err == "ibisa-onnx: error: m.onnx is not ONNX; export it again\n"


def test_a_bug_is_one_line_and_a_traceback_only_on_request(cli, failing):
    failing(ZeroDivisionError("oh"))
    result = cli("doctor")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert "unexpected ZeroDivisionError: oh" in result.err
    assert "Traceback" in cli("doctor", "-v").err


def test_interruption_is_code_130_without_a_traceback(cli, failing):
    failing(KeyboardInterrupt())
    result = cli("doctor")
    assert result.code == 130
    assert result.err.strip() == "ibisa-onnx: error: interrupted"


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX pipe")
def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "cli.py", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX terminal")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_terminals_get_colours_unless_no_color_is_set(no_color, coloured):
    terminal, side = os.openpty()
    subprocess.run(
        [sys.executable, "cli.py", "nope"],
        stdout=side,
        stderr=side,
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": no_color},
        check=False,
    )
    os.close(side)
    said = os.read(terminal, 4096)
    os.close(terminal)
    assert b"error" in said
    assert (b"\x1b[" in said) is coloured


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX terminal")
@pytest.mark.parametrize("colourless", [False, True])
def test_progress_is_drawn_on_a_terminal_only_and_wiped(monkeypatch, capsys, colourless):
    if colourless:
        monkeypatch.setenv("NO_COLOR", "1")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=terminal: shown)
        with Console().progress("photo.jpg") as progress:
            progress(3, 10)
            said = capsys.readouterr().err
            assert ("3/10" in said) is terminal
        wiped = capsys.readouterr().err
        assert wiped == (f"\r{' ' * len(said.strip())}\r" if terminal else "")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["doctor"]])
def test_a_full_disk_is_one_line_and_no_bug(words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "cli.py", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr
