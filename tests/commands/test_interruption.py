"""Ctrl-C: a wish first, an end then, and nothing of ours before and after."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from ibisa_onnx.commands.console import Console
from ibisa_onnx.commands.interruption import Interruption


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Python's own handling, whatever this process was started with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_is_a_wish_and_the_second_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Interruption(Console()) as interruption:
        assert not interruption()
        signal.raise_signal(signal.SIGINT)
        assert interruption()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capsys.readouterr().err.count("Ctrl-C again") == 1


def test_a_job_in_the_background_goes_on() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruption(Console()) as interruption:
        signal.raise_signal(signal.SIGINT)
        assert not interruption()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_signals_stay_as_they_are() -> None:
    seen = []

    def work() -> None:
        with Interruption(Console()) as interruption:
            seen.extend([interruption(), signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, signal.default_int_handler]


def test_on_a_terminal_it_leaves_the_line_with_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console = Console()
    with Interruption(console), console.progress("a.png") as bar:
        bar(1, 2)
        signal.raise_signal(signal.SIGINT)
    bar_line, warning, *_ = capsys.readouterr().err.split("\n")
    assert bar_line.endswith("1/2")
    assert "Ctrl-C again" in warning
