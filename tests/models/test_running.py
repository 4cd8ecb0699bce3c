"""Calls of ONNX Runtime that do not come back are ended, and no others."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import numpy as np
import onnxruntime
import pytest
from endless import SIDE, endless_model, expanding_model

from ibisa_onnx.errors import DeadlineError, ModelError, OptionError
from ibisa_onnx.models import running
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.running import TimeLimit, time_limit

SHORT, LONG = 0.2, 1000.0
DARK = np.full((1, 3, SIDE, SIDE), 0.1, np.float32)
BRIGHT = np.full((1, 3, SIDE, SIDE), 0.9, np.float32)


def session(model: Any) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def opened() -> onnxruntime.InferenceSession:
    """A session that is endless for bright images."""
    return session(endless_model(above=0.5))


def run(session: onnxruntime.InferenceSession, image: np.ndarray) -> Any:
    return running.run(session, ["scores"], {"image": image}, "m.onnx")[0]


def run_values(session: onnxruntime.InferenceSession, image: np.ndarray) -> Any:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(image)
    return running.run_values(session, ["scores"], {"image": value}, "m.onnx")[0].numpy()


def run_bound(session: onnxruntime.InferenceSession, image: np.ndarray) -> Any:
    binding = session.io_binding()
    binding.bind_cpu_input("image", image)
    binding.bind_output("scores", "cpu")
    running.run_bound(session, binding, "m.onnx")
    return binding.get_outputs()[0].numpy()


Run = Callable[[onnxruntime.InferenceSession, np.ndarray], Any]


@pytest.mark.parametrize("way", [run, run_values, run_bound])
def test_an_endless_call_is_ended_and_the_session_stays_of_use(
    opened: onnxruntime.InferenceSession, way: Run
) -> None:
    before = way(opened, DARK)
    said = r"^m\.onnx was ended after \S+ s without returning \(deadline: 0\.2 s\); .*deadline=$"
    with pytest.raises(DeadlineError, match=said), time_limit(SHORT):
        way(opened, BRIGHT)
    with time_limit(LONG):
        np.testing.assert_array_equal(way(opened, DARK), before)


def test_opening_is_ended() -> None:
    data = expanding_model(18).SerializeToString()
    with pytest.raises(DeadlineError, match=r"^the model was ended"), time_limit(SHORT):
        DeployedModel.open(data, providers=["cpu"])


def test_builds_that_cannot_leave_off_opening_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime.SessionOptions, "set_load_cancellation_flag", raising=False)
    with time_limit(LONG):
        model = DeployedModel.open(endless_model().SerializeToString(), providers=["cpu"])
    assert model.signature.image.name == "image"


@pytest.mark.parametrize("seconds", [(SHORT, LONG), (LONG, SHORT)])
def test_the_nearest_of_nested_limits_counts(
    opened: onnxruntime.InferenceSession, seconds: tuple[float, float]
) -> None:
    outer, inner = seconds
    said = pytest.raises(DeadlineError, match=r"deadline: 0\.2 s")
    with said, time_limit(outer), time_limit(inner):
        run(opened, BRIGHT)


def test_a_number_that_no_float_holds_is_no_limit() -> None:
    assert running.check_deadline(10**400) == float("inf")


def test_a_limit_within_ends_nothing_behind_it(opened: onnxruntime.InferenceSession) -> None:
    with time_limit(LONG):
        with pytest.raises(DeadlineError), time_limit(SHORT):
            run(opened, BRIGHT)
        run(opened, DARK)


def test_when_time_is_up_no_call_begins(opened: onnxruntime.InferenceSession) -> None:
    with time_limit(SHORT):
        with pytest.raises(DeadlineError) as first:
            run(opened, BRIGHT)
        with pytest.raises(DeadlineError) as second:
            run(opened, DARK)
    assert str(second.value) == str(first.value)


def test_what_ends_by_itself_has_its_grace(opened: onnxruntime.InferenceSession) -> None:
    with TimeLimit(1e-9, grace=LONG):
        run(opened, DARK)
        run(opened, DARK)
    with TimeLimit(1e-9, grace=SHORT), pytest.raises(DeadlineError, match=r"^m\.onnx"):
        run(opened, BRIGHT)


def test_short_calls_end_as_well_in_the_end(opened: onnxruntime.InferenceSession) -> None:
    def go_on() -> None:
        for _ in range(1_000_000):
            run(opened, DARK)

    with TimeLimit(1e-9, grace=0.01), pytest.raises(DeadlineError):
        go_on()


def test_an_error_of_the_model_stays_one(opened: onnxruntime.InferenceSession) -> None:
    with time_limit(LONG), pytest.raises(ModelError, match=r"^m\.onnx failed to run: "):
        running.run(opened, ["scores"], {"image": DARK[0]}, "m.onnx")


def test_each_of_eight_threads_has_its_own(opened: onnxruntime.InferenceSession) -> None:
    expected = run(opened, DARK)

    def work(number: int) -> str | bool:
        try:
            with time_limit(SHORT if number == 3 else LONG):
                if number == 3:
                    return str(run(opened, BRIGHT))
                return all(np.array_equal(run(opened, DARK), expected) for _ in range(200))
        except DeadlineError:
            return "ended"

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(work, range(8)))
    assert found == [True, True, True, "ended", True, True, True, True]


def test_threads_that_work_for_a_caller_are_under_his_limit() -> None:
    model = DeployedModel.open(
        endless_model(above=0.5).SerializeToString(), providers=["cpu"], threads=4
    )
    images = np.concatenate([DARK, BRIGHT, BRIGHT, DARK])
    assert model.max_concurrency == 4
    with pytest.raises(DeadlineError), time_limit(SHORT):
        model.run(images, most=1)


def test_threads_that_work_for_a_caller_have_his_context() -> None:
    model = DeployedModel.open(endless_model().SerializeToString(), providers=["cpu"], threads=4)
    caller: ContextVar[str] = ContextVar("caller", default="nobody")
    caller.set("he")
    assert model.map_concurrently(lambda _: caller.get(), range(8)) == ["he"] * 8


def test_threads_are_gone_afterwards(opened: onnxruntime.InferenceSession) -> None:
    before = set(threading.enumerate())
    with time_limit(LONG), time_limit(LONG):
        run(opened, DARK)
        watching = set(threading.enumerate()) - before
    with pytest.raises(DeadlineError), time_limit(SHORT):
        run(opened, BRIGHT)
    assert len(watching) == 2
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_without_a_limit_there_is_no_thread(
    opened: onnxruntime.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise AssertionError("a thread is started")

    monkeypatch.setattr(threading.Thread, "start", start)
    with time_limit(None), TimeLimit(float("inf"), grace=1):
        run(opened, DARK)


def test_between_the_items_of_a_generator_it_is_not_in_force(
    opened: onnxruntime.InferenceSession,
) -> None:
    def work() -> Iterator[Any]:
        yield run(opened, DARK)
        yield run(opened, BRIGHT)

    items = TimeLimit(1e-9, grace=SHORT).each(work())
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(next, items).result()
        np.testing.assert_array_equal(run(opened, DARK), first)
        with pytest.raises(DeadlineError):
            threads.submit(next, items).result()
        run(opened, DARK)


def test_what_runs_untimed_is_left_alone(opened: onnxruntime.InferenceSession) -> None:
    with time_limit(SHORT):
        with pytest.raises(DeadlineError):
            run(opened, BRIGHT)
        with running.untimed():
            run(opened, DARK)


def test_where_a_call_does_not_leave_off_there_is_a_last_resort(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "_STUCK", 0.05)
    released, said = threading.Event(), []

    class OneNode:
        def run(self, *_: Any) -> list[Any]:
            assert released.wait(60)
            return []

    def end(message: str) -> None:
        said.append(message)
        released.set()

    with running.last_resort(end), time_limit(SHORT):
        running.run(OneNode(), [], {}, "m.onnx")
    (message,) = said
    assert re.match(r"m\.onnx was ended after \S+ s without returning", message)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1"])
def test_a_limit_is_a_number_above_zero(seconds: Any) -> None:
    with pytest.raises(OptionError, match="deadline is"):
        time_limit(seconds)


@pytest.mark.parametrize(("given", "expected"), [(None, float("inf")), (2, 2.0), (0.5, 0.5)])
def test_seconds_or_none(given: float | None, expected: float) -> None:
    assert running.check_deadline(given) == expected


def test_hashing_a_file_that_hardly_ends_is_ended_in_time(tmp_path):
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: nothing on the disk
    with pytest.raises(DeadlineError, match="hashing"), time_limit(0.05):
        ModelFile.at(path).sha256()
