"""Explainers in worker processes: forked, spawned and pickled."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.models import forking
from ibisa_onnx.models.function import InputSpec

SECONDS = 60
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_fork(work: Callable[[], str]) -> str:
    """Return what `work` returns in a forked process, which is killed if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    hung = threading.Timer(SECONDS, os.kill, (child, signal.SIGKILL))
    hung.start()
    with os.fdopen(reading) as found:
        text = found.read()
    hung.cancel()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=1, providers=["cpu"])


@forks
def test_a_fork_of_an_idle_process_explains_the_same(explainer: ibisa.Explainer) -> None:
    expected = explainer.explain(scene_path()).map.tobytes().hex()[:4000]
    assert in_fork(lambda: explainer.explain(scene_path()).map.tobytes().hex()[:4000]) == expected
    # Also one that has not been used.
    new = ibisa.Explainer(model_path(), threads=1, providers=["cpu"])
    assert in_fork(lambda: new.explain(scene_path()).map.tobytes().hex()[:4000]) == expected


@forks
def test_a_fork_during_a_call_of_another_thread_is_an_error(explainer: ibisa.Explainer) -> None:
    inside, over = threading.Event(), threading.Event()

    def score(images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2, 3), keepdims=True)[..., 0, 0].repeat(2, 1)

    def work() -> None:
        with forking.at_work():
            inside.set()
            over.wait(SECONDS)

    function = ibisa.Explainer(score, InputSpec((None, 3, 8, 8)), preprocessing="unit")
    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(SECONDS)
    try:
        text = in_fork(lambda: str(explainer.explain(scene_path())))
        # What ONNX Runtime does not run still works, as does a fork of the fork that opens anew.
        plain = in_fork(lambda: str(len(function.predict(scene_path()))))
        anew = in_fork(lambda: ibisa.Explainer(model_path()).predict(scene_path())[0].label or "")
    finally:
        over.set()
        thread.join()
    assert text == (
        "ModelError: model.onnx was opened before this process was forked, and another thread was "
        "using ONNX Runtime then; open it in each worker process, or on the CPU with threads=1"
    )
    assert plain == "2"
    assert anew == explainer.predict(scene_path())[0].label
    assert explainer.explain(scene_path()).passes.backward > 0  # the parent goes on


@forks
def test_calls_of_explanations_are_known_to_be_work(explainer: ibisa.Explainer) -> None:
    """A fork is made while another thread explains, whenever it is inside a call."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            explainer.explain(scene_path())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while not forking._at_work:
            pass
        text = in_fork(lambda: explainer.explain(scene_path()).target.caption)
    finally:
        stop.set()
        thread.join()
    known = (
        "another thread was using ONNX Runtime",
        explainer.explain(scene_path()).target.caption,
    )
    assert any(each in text for each in known)  # the call may have ended just before the fork


@forks
@pytest.mark.parametrize("threads", [None, 2])
def test_threads_do_not_survive_a_fork(threads: int | None) -> None:
    """Whether such a session hangs is a matter of luck, so it is never used."""
    explainer = ibisa.Explainer(model_path(), threads=threads, providers=["cpu"])
    live = ibisa.Explainer(explainer.model.session)
    for each in (explainer, live):
        text = in_fork(lambda each=each: str(each.explain(scene_path())))
        assert "was opened before this process was forked, and its threads do not" in text


@forks
def test_a_live_session_of_one_thread_survives_a_fork() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model_path(), options, providers=["CPUExecutionProvider"]
    )
    explainer = ibisa.Explainer(session)
    expected = explainer.explain(scene_path()).target.caption
    assert in_fork(lambda: explainer.explain(scene_path()).target.caption) == expected


@forks
def test_a_device_does_not_survive_a_fork(
    explainer: ibisa.Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explainer.model, "_on_cpu", False)
    assert "its threads do not" in in_fork(lambda: str(explainer.explain(scene_path())))


def test_an_explainer_is_not_pickled(explainer: ibisa.Explainer) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="create it in the process that uses it"):
            attempt(explainer)
    explanation = explainer.explain(scene_path())
    again = pickle.loads(pickle.dumps(explanation))
    np.testing.assert_array_equal(again.map, explanation.map)
