"""The monitor: what it keeps, the drift it finds, threads, memory, and summaries on disk."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fuzz.examples import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from monitor.planted import CERTIFICATE, planted, seen, spot

from ibisa_onnx import Completion, Explanation, Limits
from ibisa_onnx.errors import OptionError, ResultError
from ibisa_onnx.monitor import MEASURES, Monitor, Observation, Summary

LEFT = (0.0, 0.0, 0.5, 1.0)
MAP = spot(slice(5, 15), slice(20, 40))  # half of it on the left


def filled(rng, counts=(60, 60), shift=0.0, **options) -> Monitor:
    """Return a monitor with a full reference window and recent observations."""
    monitor = Monitor(window=counts[0], **options)
    for shifted, count in zip((0.0, shift), counts, strict=True):
        for _ in range(count):
            monitor.observe(seen(rng, shifted))
    return monitor


def test_each_measure_is_taken_from_the_explanation():
    found = Monitor(LEFT).observe(planted(MAP))
    assert found == Observation(
        outside=pytest.approx(0.5),
        sufficiency=pytest.approx(0.8),
        difference=0.0,
        unfaithful=False,
        fallback=False,
        flat=False,
        warned=False,
        cut_short=False,
        passes=30,
    )


def test_failed_checks_fallbacks_and_stops_are_seen():
    failed = planted(
        MAP,
        sufficiency=None,
        completion=Completion(3, 10, "steps", "stop"),
        certificate=replace(CERTIFICATE, difference=math.nan, holds=False, fallback=True),
        warnings=("unstable map",),
    )
    found = Observation.of(failed)
    assert (found.sufficiency, found.difference) == (None, None)
    assert (found.unfaithful, found.fallback) == (True, True)
    assert (found.warned, found.cut_short) == (True, True)


def test_a_record_is_as_good_as_its_explanation_but_for_the_map(tmp_path):
    explanation = planted(MAP)
    whole = Observation.of(explanation, LEFT)
    record = json.loads(json.dumps(explanation.record()))
    assert Observation.of(record) == replace(whole, outside=None, flat=None)
    assert Observation.of({**record, "outside": 0.5, "flat": False}) == whole
    arrays = record["sufficiency"] | {"areas": np.array([0, 0.5])}  # as pandas reads lists
    assert Observation.of({**record, "sufficiency": arrays}).sufficiency == whole.sufficiency
    explanation.save(tmp_path / "saved")
    assert Observation.of(Explanation.load(tmp_path / "saved"), LEFT) == whole


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"certificate": None}, r"record\.certificate is None"),
        ({"passes": {"forward": -1}}, "record.passes"),
        ({"passes": {"forward": 10**400, "backward": 0}}, "passes"),
        ({"outside": 1.5}, r"record\.outside is 1\.5, expected 0 to 1"),
        ({"flat": "no"}, r"record\.flat"),
        ({"sufficiency": {"areas": [0], "probabilities": []}}, "1 areas and 0 probabilities"),
        ({"sufficiency": {"areas": [0.9], "probabilities": [1]}}, "areas from 0"),
    ],
)
def test_an_invalid_record_is_one_line(changed, match):
    monitor = Monitor()
    with pytest.raises(ResultError, match=match) as found:
        monitor.observe({**planted(MAP).record(), **changed})
    assert "\n" not in str(found.value)
    assert monitor.summary().observed == 0


def test_what_is_no_explanation_is_one_line():
    record = planted(MAP).record()
    del record["certificate"]
    for wrong in (None, "explanation.json", 3, [record], {}, record, Observation(outside=2.0)):
        with pytest.raises(ResultError) as found:
            Monitor().observe(wrong)
        assert "\n" not in str(found.value)


def test_planted_drift_is_found_and_named(rng):
    assert filled(rng).summary().drifted == ()
    assert filled(rng, shift=0.15).summary().drifted == ("outside",)


def test_more_fallbacks_are_found(rng):
    monitor = filled(rng, (60, 0))
    for _ in range(60):
        monitor.observe(replace(seen(rng), fallback=True, difference=None, passes=200))
    summary = monitor.summary()
    assert summary.drifted == ("fallback", "passes")
    assert summary.comparisons["difference"].recent.missing == 60
    assert summary.comparisons["difference"].distance is None


def test_drift_that_ended_leaves_the_recent_window(rng):
    monitor = filled(rng, shift=0.15)
    for _ in range(60):
        monitor.observe(seen(rng))
    assert monitor.summary().drifted == ()


def test_false_alarms_in_any_measure_are_as_rare_as_alpha(rng):
    alpha, trials = 0.1, 200
    alarms = sum(bool(filled(rng, (40, 40), alpha=alpha).summary().drifted) for _ in range(trials))
    assert alarms / trials < alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


def test_no_alarm_before_the_minimum(rng):
    monitor = filled(rng, (60, 29), shift=0.5)
    assert monitor.summary().drifted == ()
    monitor.observe(seen(rng, 0.5))
    assert monitor.summary().drifted == ("outside",)


def test_memory_is_bounded_and_every_explanation_counted(rng):
    monitor = filled(rng, (20, 500), minimum=10)
    summary = monitor.summary()
    assert (summary.observed, len(summary.reference), len(summary.recent)) == (520, 20, 20)


def test_maps_and_images_are_not_held():
    import gc
    import weakref

    monitor, explanation = Monitor(LEFT), planted(MAP.copy())
    held = weakref.ref(explanation)
    monitor.observe(explanation)
    del explanation
    gc.collect()
    assert held() is None


def test_threads_lose_no_observation():
    monitor, start = Monitor(LEFT, window=50), threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(100):
            monitor.observe(planted(MAP))
            assert monitor.summary().drifted == ()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result()
    summary = monitor.summary()
    assert (summary.observed, len(summary.reference), len(summary.recent)) == (800, 50, 50)


def test_two_threads_do_not_fill_the_same_place_of_the_reference(rng, monkeypatch):
    """One thread is held where it has found a free place; another must not take it meanwhile."""
    monitor = filled(rng, (10, 0), minimum=10)
    found, taken = threading.Event(), threading.Event()

    class Reference(list[Observation]):
        def __len__(self) -> int:
            count = super().__len__()
            if not found.is_set():
                found.set()
                taken.wait(0.2)  # in vain, if the other thread has to wait for this one
            return count

    monkeypatch.setattr(monitor, "_reference", Reference(monitor.summary().reference[:9]))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(monitor.observe, seen(rng))
        assert found.wait(10)
        second = pool.submit(monitor.observe, seen(rng))
        second.add_done_callback(lambda _: taken.set())
        first.result()
        second.result()
    summary = monitor.summary()
    assert (len(summary.reference), len(summary.recent)) == (10, 1)


def test_a_saved_reference_is_used_again(rng, tmp_path):
    reference = filled(rng, (60, 0)).summary()
    reference.save(tmp_path / "new" / "reference.json")
    loaded = Summary.load(tmp_path / "new" / "reference.json")
    assert loaded == reference
    monitor = Monitor(reference=loaded, window=40)
    for _ in range(40):
        monitor.observe(seen(rng, 0.15))
    summary = monitor.summary()
    assert summary.reference == reference.reference
    assert len(summary.recent) == 40
    assert summary.drifted == ("outside",)


def test_a_reference_of_another_region_or_too_small_is_one_line(rng):
    summary = filled(rng, (60, 0)).summary()
    for reference, options, match in (
        (summary, {"region": LEFT}, r"region None, not box 0, 0, 0\.5, 1"),
        (summary, {"minimum": 70}, "60 observations, fewer than the minimum of 70"),
        ("reference.json", {}, r"pass a Summary"),
    ):
        with pytest.raises(OptionError, match=match):
            Monitor(reference=reference, **options)


def test_regions_are_told_apart_by_what_they_contain():
    mask = np.zeros((4, 6), bool)
    mask[:, :3] = True
    names = {Monitor(each).summary().region for each in (LEFT, mask, ~mask, mask.T, planted, None)}
    assert len(names) == 6
    assert Monitor(mask.copy()).summary().region in names


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": 0}, "window is 0"),
        ({"window": 10_001}, "pass at most 10000"),
        ({"window": 20}, "minimum is 30 and window 20"),
        ({"minimum": 5}, "from 10 to the window"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"alpha": "1%"}, "alpha is '1%'"),
    ],
)
def test_an_invalid_option_is_one_line(options, match):
    with pytest.raises(OptionError, match=match):
        Monitor(**options)


def test_the_saved_record_has_what_a_dashboard_needs(rng, tmp_path):
    filled(rng, shift=0.15).summary().save(tmp_path / "summary.json")
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["drifted"] == ["outside"]
    assert set(record["comparisons"]) == set(MEASURES)
    assert record["comparisons"]["outside"]["p_value"] < 0.001


def tampered(rng, path, change) -> None:
    filled(rng, shift=0.15).summary().save(path)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: r.update(format=2), "its format is 2, and this version reads 1"),
        (lambda r: r.update(format=True), "its format is True"),
        (lambda r: r.update(minimum=0), r"summary\.minimum is 0"),
        (lambda r: r.update(alpha=2), r"summary\.alpha is 2"),
        (lambda r: r.update(extra=1), "unknown field 'extra'"),
        (lambda r: r.pop("recent"), "missing field 'recent'"),
        (lambda r: r["recent"][3].update(outside=-1), r"summary\.recent\[3\]\.outside"),
        (lambda r: r["recent"][3].update(outside=math.nan), r"summary\.recent\[3\]\.outside"),
        (lambda r: r["recent"].__setitem__(0, 7), r"summary\.recent\[0\]"),
        (lambda r: r.update(recent=r["recent"] * 200), "more than 10,000 observations"),
    ],
)
def test_a_summary_that_was_changed_is_rejected_by_the_field(rng, tmp_path, change, match):
    tampered(rng, tmp_path / "summary.json", change)
    with pytest.raises(ResultError, match=match) as found:
        Summary.load(tmp_path / "summary.json")
    assert "\n" not in str(found.value)


def test_a_file_cannot_lie_about_drift(rng, tmp_path):
    tampered(rng, tmp_path / "summary.json", lambda r: r.update(drifted=[], comparisons=3))
    assert Summary.load(tmp_path / "summary.json").drifted == ("outside",)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format": 1}', "\udcff"])
def test_what_is_no_summary_is_one_line(text, tmp_path):
    (tmp_path / "summary.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ResultError) as found:
        Summary.load(tmp_path / "summary.json")
    assert "\n" not in str(found.value)


@fuzzed(100)
@given(data=st.data())
def test_whatever_a_file_says_is_a_summary_that_can_be_compared_or_an_error(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "summary.json"
    filled(np.random.default_rng(0), (12, 12), minimum=10).summary().save(path)
    record = json.loads(path.read_text())
    name = data.draw(st.sampled_from(sorted(set(record) - {"comparisons", "drifted"})))
    values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    value = data.draw(values | st.lists(values, max_size=3))
    record[name] = value
    if data.draw(st.booleans()):
        record["recent"] = [dict.fromkeys(MEASURES, value)]
    path.write_text(json.dumps(record))
    with contextlib.suppress(ResultError):
        assert set(Summary.load(path).record()["comparisons"]) == set(MEASURES)


def test_files_that_cannot_be_read_or_written_are_one_line(rng, tmp_path):
    summary = filled(rng).summary()
    summary.save(tmp_path / "summary.json")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", "a\0b", 3):
        with pytest.raises(ResultError):
            Summary.load(path)
    with pytest.raises(ResultError, match="limit of 100"):
        Summary.load(tmp_path / "summary.json", Limits(text_bytes=100))
    for path in (tmp_path, tmp_path / "summary.json" / "below", "a\0b", None):
        with pytest.raises(ResultError):
            summary.save(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pipe", "summary.json"]
