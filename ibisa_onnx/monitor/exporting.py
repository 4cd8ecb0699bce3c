"""Monitors as Prometheus metrics, named `ibisa_monitor_...`; requires the extra [serve].

Samples appear once they have a value: a measure that cannot be compared yet has no `drifted`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import OptionError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.monitor.summary import Summary
from ibisa_onnx.monitor.watching import Monitor

_WINDOWS = ("reference", "recent")
_COMPARED = {
    "distance": "Two-sample Kolmogorov-Smirnov statistic of a measure, 0 to 1.",
    "p_value": "Upper bound on the probability of the distance without drift.",
    "psi": "Population stability index of a measure.",
    "drifted": "Whether a measure drifted, 0 or 1.",
}


def register(monitors: Mapping[str, Monitor], registry: Any = None) -> Any:
    """Export monitors in a Prometheus registry, computed at each scrape.

    Parameters
    ----------
    monitors
        Monitors by name of the model, the label `model`. The mapping is read at each scrape, so
        that later entries are exported too; register one mapping per registry.
    registry
        A `prometheus_client.CollectorRegistry`; None: the default one, which most servers
        expose at /metrics.

    Returns
    -------
    prometheus_client.registry.Collector
        What was registered; `registry.unregister` removes it.

    Raises
    ------
    OptionError
        `monitors` is not a mapping of names to monitors, or the registry has them already.
    MissingDependencyError
        prometheus-client is not installed.
    """
    core = import_extra("prometheus_client.core", "serve")
    collector = _Collector(_checked(monitors), core)
    try:
        (core.REGISTRY if registry is None else registry).register(collector)
    except ValueError as error:
        raise OptionError(
            f"the registry has monitors already ({error}); add to their mapping"
        ) from error
    return collector


def exposition(monitors: Mapping[str, Monitor]) -> str:
    """Return monitors in Prometheus's text format, for services with a page of their own.

    Parameters
    ----------
    monitors
        Monitors by name of the model.

    Returns
    -------
    str
        The text, which ends with a line break.

    Raises
    ------
    OptionError
        `monitors` is not a mapping of names to monitors.
    MissingDependencyError
        prometheus-client is not installed.
    """
    client = import_extra("prometheus_client", "serve")
    registry = client.CollectorRegistry()
    register(monitors, registry)
    return str(client.generate_latest(registry).decode())


class _Collector:
    """Prometheus's protocol for metrics computed at each scrape."""

    def __init__(self, monitors: Mapping[str, Monitor], core: Any) -> None:
        self._monitors, self._core = monitors, core

    def describe(self) -> Iterator[Any]:
        """Yield the metrics, so that a registry rejects a second collector of the same names."""
        return self.collect()

    def collect(self) -> Iterator[Any]:
        """Yield all metrics; each model's come from one summary."""
        summaries = {name: each.summary() for name, each in dict(self._monitors).items()}
        yield self._observations(summaries)
        yield from self._windows(summaries)
        yield from self._comparisons(summaries)

    def _observations(self, summaries: Mapping[str, Summary]) -> Any:
        text = "Explanations observed by the monitor."
        family = self._core.CounterMetricFamily(
            "ibisa_monitor_observations", text, labels=["model"]
        )
        for model, summary in summaries.items():
            family.add_metric([model], summary.observed)
        return family

    def _windows(self, summaries: Mapping[str, Summary]) -> Iterator[Any]:
        labels = ["model", "window", "measure"]
        families = {
            "mean": self._gauge("mean", "Mean of a measure's values in a window.", labels),
            "count": self._gauge("values", "Values of a measure in a window.", labels),
            "missing": self._gauge("missing", "Explanations without a value in a window.", labels),
        }
        for model, summary in summaries.items():
            for measure, compared in summary.comparisons.items():
                for window in _WINDOWS:
                    for field, family in families.items():
                        value = getattr(getattr(compared, window), field)
                        if value is not None:
                            family.add_metric([model, window, measure], value)
        yield from families.values()

    def _comparisons(self, summaries: Mapping[str, Summary]) -> Iterator[Any]:
        for field, text in _COMPARED.items():
            family = self._gauge(field, text, ["model", "measure"])
            for model, summary in summaries.items():
                for measure, compared in summary.comparisons.items():
                    if compared.distance is not None:
                        family.add_metric([model, measure], float(getattr(compared, field)))
            yield family

    def _gauge(self, name: str, text: str, labels: list[str]) -> Any:
        return self._core.GaugeMetricFamily(f"ibisa_monitor_{name}", text, labels=labels)


def _checked(monitors: Any) -> Mapping[str, Monitor]:
    """Return the monitors; `OptionError` if they are not a mapping of names to monitors."""
    if not isinstance(monitors, Mapping) or not all(
        isinstance(name, str) and isinstance(each, Monitor) for name, each in monitors.items()
    ):
        raise OptionError(f'monitors is {shown(monitors)}; pass {{"model name": monitor}}')
    return monitors
