"""Spans for OpenTelemetry, where its own environment variables ask for them; otherwise no cost.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) switches them on; `OTEL_SERVICE_NAME`,
`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS` and the others mean what its specification says.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving import process

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NONE: AbstractContextManager[None] = nullcontext()


class Tracing:
    """The spans of one process; none before `start`, and none unless the environment asks for them."""

    def __init__(self) -> None:
        self._provider: Any = None
        self._tracer: trace.Tracer | None = None

    def start(self) -> None:
        """Send spans from now on, if the environment says where to, from a thread of OpenTelemetry's own."""
        wanted = any(os.environ.get(name) for name in ENDPOINTS)
        disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        if not wanted or disabled or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp" or self._tracer:
            return
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if protocol not in (None, "", "http/protobuf"):
            process.say(
                f"note: no spans are sent: OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; http/protobuf is supported"
            )
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            process.say(f"note: {' or '.join(ENDPOINTS)} is set, but no spans are sent; install xtrain[otel]")
            return
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "xtrain"}
        self._provider = TracerProvider(resource=Resource.create(named))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("xtrain")

    def request_span(self, headers: Mapping[str, str]) -> "AbstractContextManager[trace.Span | None]":
        """Return the span of a request, within its client's trace if it names one; entering gives None if off."""
        if self._tracer is None:
            return NONE
        return self._tracer.start_as_current_span(
            "request",
            context=TraceContextTextMapPropagator().extract(headers),
            kind=trace.SpanKind.SERVER,
            record_exception=False,  # what fails is answered; the status tells
            set_status_on_exception=False,
        )

    def child_span(self, name: str) -> "AbstractContextManager[trace.Span | None]":
        """Return the span of a part of the request that is under way."""
        if self._tracer is None or not trace.get_current_span().is_recording():
            return NONE  # or it would be a trace of its own
        return self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False)

    def close(self) -> None:
        """Send what has not been sent; blocks for some seconds where nobody takes it."""
        if self._provider is not None:
            self._provider.shutdown()


TRACING = Tracing()


def describe(span: trace.Span | None, operation: str, method: str, status: int) -> None:
    """Name a request's span and tell how it ended (OpenTelemetry's semantic conventions for HTTP servers).

    Args:
        span: of the request; None where there are none.
        operation: its name, which is no client's text.
        method: GET, POST, or GRPC.
        status: of the answer.
    """
    if span is None:
        return
    span.update_name(f"{method} {operation}")
    span.set_attributes({"http.request.method": method, "http.route": operation, "http.response.status_code": status})
    if status >= 500:
        span.set_status(trace.StatusCode.ERROR)
