"""The command line's process: closed and odd streams, signals at any time, others' noise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ibisa_onnx.demo import model_path, scene_path

ROOT = Path(__file__).parents[1]
RUN = ["run", str(model_path()), str(scene_path()), "-o", "out/"]
RESULT = Path("out/scene.ibisa.png")
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and descriptors")
full = pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")

# The command line with another job than its verbs: `job` is Python code.
JOB = """
import os, signal, sys, threading
import ibisa_onnx.commands as commands
from ibisa_onnx.ending import ExitMessage, Unfinished
from ibisa_onnx.__main__ import main

def up():
    print("up", flush=True)

def job():
    {job}
    sys.exit(0)

commands.main = job
main()
"""


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "IBISA_ONNX_CACHE": "off", **variables}


def heed() -> None:
    """Undo that signals are ignored, as below nohup or in a shell's background job."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(code: str | list[str], folder: Path, *words: str, **options) -> subprocess.Popen[bytes]:
    """Start the command with words, or code in its place."""
    command = code if isinstance(code, list) else ["-c", code]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, *command, *words],
        **{"cwd": folder, "env": environment(), "preexec_fn": heed, **streams, **options},
    )


def job(code: str, folder: Path, *words: str, **options) -> subprocess.Popen[bytes]:
    """Start the command with a job of its own, and wait until that says that it is up."""
    process = start(JOB.format(job=code.replace("\n", "\n    ")), folder, *words, **options)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"up"
    return process


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return the exit code and what was said on stderr."""
    _, err = process.communicate(timeout=60)
    return process.returncode, err.decode()


@posix
@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_closed_descriptors_keep_nothing_from_being_written(tmp_path: Path, closed: list[int]):
    def close() -> None:
        for number in closed:
            os.close(number)

    process = start(["-m", "ibisa_onnx"], tmp_path, *RUN, preexec_fn=close)
    assert ended(process) == (0, "")
    assert (tmp_path / RESULT).read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.rglob("*.*"))) == 1


@posix
def test_nobody_need_listen_on_stderr(tmp_path: Path):
    reading, writing = os.pipe()
    os.close(reading)
    for target in (writing, os.open("/dev/full", os.O_WRONLY)):
        process = start(["-m", "ibisa_onnx"], tmp_path, "nope", stderr=target)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, b"")
        os.close(target)


@full
def test_a_full_stdout_is_one_line_and_keeps_what_is_written(tmp_path: Path):
    with Path("/dev/full").open("w") as nothing:
        code, err = ended(start(["-m", "ibisa_onnx"], tmp_path, *RUN, stdout=nothing))
    assert code == 1
    assert err.splitlines() == [
        "ibisa-onnx: error: cannot read or write a standard stream: No space left on device; "
        "free disk space"
    ]
    assert (tmp_path / RESULT).exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252:strict", "utf-16-le", "undefined"])
def test_any_encoding_of_the_streams_does(tmp_path: Path, encoding: str):
    labels = tmp_path / "labels.json"
    names = [f"Žižkov 東京 \x9bé\u202e {number}" for number in range(8)]
    labels.write_text(json.dumps(names))
    words = [*RUN, "--labels", str(labels), "--json"]
    variables = environment(PYTHONIOENCODING=encoding)
    process = start(["-m", "ibisa_onnx"], tmp_path, *words, env=variables)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    text = out.decode("utf-16-le" if encoding.startswith("utf-16") else "utf-8")
    assert json.loads(text)["target"]["label"] in names


@pytest.mark.parametrize("words", [RUN, ["nope"]])
def test_a_program_without_a_console_has_no_streams(tmp_path: Path, words: list[str]):
    code = (
        "import sys; from ibisa_onnx.commands import main; "
        f"sys.stdin = sys.stdout = sys.stderr = None; main({words!r})"
    )
    code, err = ended(start(code, tmp_path))
    assert (code, err) == (2 if words == ["nope"] else 0, "")


def test_the_library_needs_no_streams(tmp_path: Path):
    code = (
        "import sys; sys.stdin = sys.stdout = sys.stderr = None; import ibisa_onnx; "
        f"explainer = ibisa_onnx.Explainer({str(model_path())!r}); "
        f"explainer.explain({str(scene_path())!r}).save('out')"
    )
    assert ended(start(code, tmp_path)) == (0, "")
    assert (tmp_path / "out" / "overlay.png").exists()


@pytest.mark.parametrize("verbose", [False, True])
def test_only_our_words_are_on_stderr_unless_all_is_wanted(tmp_path: Path, verbose: bool):
    code = (
        "up(); os.write(2, b'native\\n'); print('ours', file=sys.stderr)\n"
        "import warnings; warnings.warn('python')\n"
        "import logging; logging.getLogger('third').warning('log')\n"
        "class Bad:\n    def __del__(self): raise ValueError('finaliser')\n"
        "Bad()"
    )
    status, err = ended(job(code, tmp_path, *(["-v"] if verbose else [])))
    assert status == 0
    noise = ("native", "python", "log", "finaliser")
    assert [each for each in noise if each in err] == (list(noise) if verbose else [])
    assert "ours" in err.splitlines()


@posix
def test_a_crash_of_native_code_is_not_silent(tmp_path: Path):
    status, err = ended(job("up(); os.abort()", tmp_path))
    assert status == -signal.SIGABRT
    assert err.startswith("Fatal Python error: Aborted")


@posix
@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "hung up")],
)
@pytest.mark.parametrize(
    "busy",
    [
        "sys.stdin.read()",
        "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",  # no signal ends it
    ],
    ids=["python", "native"],
)
def test_a_signal_ends_at_once_with_what_is_half_written(tmp_path: Path, number, said, busy):
    code = (
        "with Unfinished('file'), Unfinished('new', whole=False), Unfinished('used', whole=False), "
        "Unfinished('stage'):\n"
        "    for folder in ('new', 'used', 'stage', 'stage/deep'): os.mkdir(folder)\n"
        "    for name in ('file', 'used/result', 'stage/a', 'stage/deep/b'): open(name, 'w')\n"
        f"    up(); {busy}"
    )
    process = job(code, tmp_path)
    process.send_signal(number)
    assert ended(process) == (128 + number, f"ibisa-onnx: error: {said}\n")
    assert {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")} == {
        "used",
        "used/result",
    }


@posix
def test_what_is_finished_is_kept(tmp_path: Path):
    code = "with Unfinished('file'): open('file', 'w')\nup(); sys.stdin.read()"
    process = job(code, tmp_path)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143
    assert (tmp_path / "file").exists()


@posix
def test_a_verb_may_have_last_words(tmp_path: Path):
    process = job(
        "with ExitMessage(lambda: 'after 3, by a\\n\\x1b'):\n    up(); sys.stdin.read()", tmp_path
    )
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "ibisa-onnx: error: after 3, by a\\n\\x1b\n")


@posix
def test_a_job_in_the_background_is_not_interrupted(tmp_path: Path):
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = job("up(); sys.stdin.read()", tmp_path, preexec_fn=ignore)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "")


@posix
@pytest.mark.parametrize(
    "late",
    [
        "import atexit; atexit.register(lambda: (up(), sys.stdin.read()))",
        "main = threading.main_thread()\n"
        "threading.Thread(target=lambda: (main.join(), up(), sys.stdin.read())).start()",
    ],
    ids=["while Python ends", "while it waits for a thread"],
)
def test_after_the_work_an_interruption_says_nothing(tmp_path: Path, late: str):
    process = job(late, tmp_path)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "")


def _interrupted(folder: Path, after: float) -> tuple[int, str]:
    """Interrupt a run so many seconds after signals are handled."""
    code = (
        "import sys, ibisa_onnx.__main__ as process\n"
        "handle = process._handle_signals\n"
        "def handled():\n    endings = handle()\n    print('up', flush=True)\n    return endings\n"
        "process._handle_signals = handled\n"
        "process.main()"
    )
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(6):
        (pictures / f"{number}.png").symlink_to(scene_path())
    words = ["run", str(model_path()), str(pictures), "-o", "out/", "--with-data"]
    process = start(code, folder, *words)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    return ended(process)


def _check_interrupted(folder: Path, after: float) -> None:
    code, err = _interrupted(folder, after)
    assert code in (0, 130)
    words = [line for line in err.splitlines() if not line.startswith("ibisa-onnx: warning: ")]
    assert words in ([], ["ibisa-onnx: error: interrupted"])
    assert not [each for each in folder.rglob(".*") if each.parent != folder]
    for png in folder.glob("out/*.png"):
        assert png.with_suffix(".npy").exists()
        assert png.with_suffix(".json").exists()


@posix
@pytest.mark.slow
@pytest.mark.parametrize("after", [each / 10 for each in range(0, 16, 2)])
def test_ctrl_c_is_one_line_whenever_it_comes(tmp_path: Path, after: float):
    _check_interrupted(tmp_path, after)


@posix
@pytest.mark.hostile
@pytest.mark.parametrize("after", [each / 100 for each in range(60)])
def test_ctrl_c_is_one_line_at_any_hundredth_of_a_second(tmp_path: Path, after: float):
    _check_interrupted(tmp_path, after)
