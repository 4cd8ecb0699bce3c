"""OpenTelemetry spans of the model server, through the standard API alone.

Without an SDK they cost nothing. `opentelemetry-instrument ibisa-onnx serve …` exports them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from ibisa_onnx import __version__

_tracer = trace.get_tracer("ibisa_onnx.serving", __version__)


@contextmanager
def request_span(name: str, model: str, headers: Mapping[str, str] | None) -> Iterator[Span]:
    """Trace a request, as a child of the span that its headers name (`traceparent`)."""
    context = propagate.extract(dict(headers or {}))
    with _tracer.start_as_current_span(
        f"{name} {model}",
        context,
        SpanKind.SERVER,
        {"ibisa.model": model},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            raise


@contextmanager
def stage_span(name: str) -> Iterator[Span]:
    """Trace a stage of the current request."""
    with _tracer.start_as_current_span(name, record_exception=False) as span:
        yield span


def add_stages(timings: Mapping[str, float]) -> None:
    """Add the stages of a finished explanation to the current span, the last one ending now."""
    stages = {name: seconds for name, seconds in timings.items() if name != "total"}
    at = time.time_ns() - round(1e9 * sum(stages.values()))
    for name, seconds in stages.items():
        span = _tracer.start_span(name, start_time=at)
        at += round(1e9 * seconds)
        span.end(at)


def trace_id(span: Span) -> str | None:
    """Return the trace's identifier for the log; None without a tracer."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None
