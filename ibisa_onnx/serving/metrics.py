"""Prometheus metrics of the model server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from ibisa_onnx.explanation import Explanation
    from ibisa_onnx.serving.scheduler import Scheduler

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)

PASSES = Counter(
    "ibisa_passes", "Images passed through a model by explanations.", ["model", "direction"]
)
SECONDS = Histogram(
    "ibisa_request_seconds",
    "Seconds from a request's last byte to its result, queue included.",
    ["model", "verb"],
    buckets=_SECONDS,
)
EXPLANATIONS = Counter(
    "ibisa_explanations",
    "Finished explanations by gradient and by what cut them short.",
    ["model", "gradient", "cut_short"],
)
FIDELITY_FAILURES = Counter(
    "ibisa_fidelity_failures",
    "Explanations whose gradient does not match the deployed model.",
    ["model"],
)
FALLBACKS = Counter(
    "ibisa_fallbacks", "Explanations that fell back to forward passes alone.", ["model"]
)
REJECTIONS = Counter(
    "ibisa_rejections", "Requests that ended in an error, by HTTP status.", ["model", "code"]
)
CANCELLATIONS = Counter(
    "ibisa_cancellations", "Requests whose client disconnected before the result.", ["model"]
)
QUEUE = Gauge("ibisa_queue_length", "Explanations that wait in the queue.", ["model"])
IN_FLIGHT = Gauge("ibisa_in_flight", "Explanations being computed.", ["model"])


def watch(model: str, scheduler: Scheduler) -> None:
    """Report the lengths of a scheduler's queues."""
    QUEUE.labels(model).set_function(lambda: float(scheduler.queue_length))
    IN_FLIGHT.labels(model).set_function(lambda: float(scheduler.in_flight))


def count(model: str, explanation: Explanation) -> None:
    """Count a finished explanation."""
    passes, certificate = explanation.passes, explanation.certificate
    PASSES.labels(model, "forward").inc(passes.forward)
    PASSES.labels(model, "backward").inc(passes.backward)
    cut_short = explanation.completion.cut_short or "no"
    EXPLANATIONS.labels(model, certificate.gradient, cut_short).inc()
    FIDELITY_FAILURES.labels(model).inc(not certificate.holds)
    FALLBACKS.labels(model).inc(certificate.fallback)
