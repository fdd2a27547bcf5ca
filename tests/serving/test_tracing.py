"""Spans of a real server, as a collector on loopback receives them; none without OpenTelemetry's variables."""

import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.serving import png
from tests.serving.http.test_app import NPY, npy
from tests.serving.server import free_port, process_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GRPC_TRACE = "1af7651916cd43dd8448eb211c80319c"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)


class Collector(HTTPServer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans, self.services = list[Span](), set[str]()


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.server.services.add(named["service.name"])
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def test_a_request_is_a_span_of_its_clients_trace(
    sample_model: Path, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    port = free_port()
    with process_of(sample_model, tmp_path, "--grpc", f"127.0.0.1:{port}") as (client, process):
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as caller:
            tensor = triton.InferInput("images", list(IMAGES.shape), "UINT8")
            tensor.set_data_from_numpy(IMAGES)
            caller.infer("sample", [tensor], headers={"traceparent": f"00-{GRPC_TRACE}-{PARENT}-01"})
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "Content-Type": "image/png"}
        assert client.post("/v1/predict", content=png(IMAGES[0]), headers=headers).status_code == 200
        assert client.post("/v1/predict", content=npy(IMAGES), headers=NPY).status_code == 200
        assert client.get("/v1/secret-of-a-patient").status_code == 404
        process.terminate()  # sends what has not been sent
        assert process.wait(30) == 0
    assert collector.services == {"xtrain"}
    ours = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    assert set(ours) == {"POST predict", "decode", "predict"}
    request = ours["POST predict"]
    assert request.parent_span_id.hex() == PARENT and request.kind == Span.SPAN_KIND_SERVER
    told = {one.key: one.value.string_value or one.value.int_value for one in request.attributes}
    assert told == {"http.request.method": "POST", "http.route": "predict", "http.response.status_code": 200}
    for name in ("decode", "predict"):
        part = ours[name]
        assert part.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= part.start_time_unix_nano
        assert part.end_time_unix_nano <= request.end_time_unix_nano
    called = {span.name: span for span in collector.spans if span.trace_id.hex() == GRPC_TRACE}
    assert set(called) == {"GRPC grpc_model_infer", "predict"}
    assert called["predict"].parent_span_id == called["GRPC grpc_model_infer"].span_id
    others = [span for span in collector.spans if span.trace_id.hex() != TRACE]
    roots = [span.name for span in others if not span.parent_span_id]
    assert "POST predict" in roots and "GET unknown" in roots
    assert "patient" not in str(collector.spans)  # a client's path is no span's name


def test_a_collector_that_is_not_there_costs_nobody_an_answer(
    sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with process_of(sample_model, tmp_path) as (client, process):
        for _ in range(20):
            assert client.post("/v1/predict", content=npy(IMAGES), headers=NPY).status_code == 200
        began = time.monotonic()
        process.terminate()
        assert process.wait(30) == 0
        assert time.monotonic() - began < 10
