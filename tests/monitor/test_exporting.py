"""Monitors as Prometheus metrics, read back by Prometheus's own parser."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from monitor.planted import seen

import ibisa_onnx
from ibisa_onnx.errors import MissingDependencyError, OptionError
from ibisa_onnx.monitor import MEASURES, Monitor, exposition, register


@pytest.fixture
def monitors(rng) -> dict[str, Monitor]:
    monitors = {
        "drifted": Monitor(window=40),
        "fresh": Monitor(window=40),
        'odd "name\\\n': Monitor(),
    }
    for number in range(80):
        monitors["drifted"].observe(seen(rng, 0.15 * (number >= 40)))
    monitors["fresh"].observe(seen(rng))
    return monitors


def parsed(text: str) -> dict:
    """Return the samples of a page by name and labels."""
    parser = importlib.import_module("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(text))
    assert len({each.name for each in families}) == len(families)
    assert all(each.documentation and each.type in ("counter", "gauge") for each in families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for each in families
        for sample in each.samples
    }


def key(name: str, **labels: str) -> tuple:
    return f"ibisa_monitor_{name}", frozenset(labels.items())


def test_the_page_says_what_the_summary_says(monitors):
    pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
    found, summary = parsed(exposition(monitors)), monitors["drifted"].summary()
    assert found[key("observations_total", model="drifted")] == 80
    assert found[key("observations_total", model='odd "name\\\n')] == 0
    for measure in MEASURES:
        compared = summary.comparisons[measure]
        labels = {"model": "drifted", "measure": measure}
        assert found[key("drifted", **labels)] == (measure == "outside")
        assert found[key("distance", **labels)] == compared.distance
        assert found[key("psi", **labels)] == compared.psi
        assert found[key("p_value", **labels)] == compared.p_value
        assert found[key("mean", window="recent", **labels)] == compared.recent.mean
        assert found[key("values", window="reference", **labels)] == 40
        assert found[key("missing", window="recent", **labels)] == 0


def test_what_cannot_be_compared_yet_has_no_sample(monitors):
    pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
    found = parsed(exposition(monitors))
    assert key("drifted", model="fresh", measure="outside") not in found
    assert key("mean", model="fresh", measure="outside", window="recent") not in found
    assert found[key("values", model="fresh", measure="outside", window="reference")] == 1


def test_a_registry_is_computed_at_each_scrape_and_takes_monitors_later(monitors, rng):
    client = pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
    registry = client.CollectorRegistry()
    collector = register(monitors, registry)
    monitors["fresh"].observe(seen(rng))
    monitors["later"] = Monitor()
    found = parsed(client.generate_latest(registry).decode())
    assert found[key("observations_total", model="fresh")] == 2
    assert found[key("observations_total", model="later")] == 0
    with pytest.raises(OptionError, match="has monitors already"):
        register(dict(monitors), registry)
    registry.unregister(collector)
    assert client.generate_latest(registry) == b""


def test_names_differ_from_the_servers(monitors):
    pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
    served = (Path(ibisa_onnx.__file__).parent / "serving" / "metrics.py").read_text()
    names = set(re.findall(r'"(ibisa_\w+)"', served))
    assert len(names) > 5
    found = {name for name, _ in parsed(exposition(monitors))}
    assert all(name.startswith("ibisa_monitor_") for name in found)
    assert not any(name.startswith("ibisa_monitor") for name in names)


def test_what_is_no_mapping_of_monitors_is_one_line(monitors):
    pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
    for wrong in (Monitor(), {"model": 3}, {3: Monitor()}, None):
        with pytest.raises(OptionError, match=r"pass \{\"model name\": monitor\}"):
            exposition(wrong)


def test_without_the_client_the_error_names_the_extra(monitors, monkeypatch):
    for module in ("prometheus_client", "prometheus_client.core"):
        monkeypatch.setitem(sys.modules, module, None)
    for export in (exposition, register):
        with pytest.raises(MissingDependencyError, match=r"pip install 'ibisa-onnx\[serve\]'"):
            export(monitors)
