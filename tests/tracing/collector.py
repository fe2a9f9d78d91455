"""An OpenTelemetry collector for tests, with the classes that opentelemetry-proto generates from the protocol.

The collector receives spans over HTTP and gRPC, and keeps them.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SERVER = Span.SpanKind.SPAN_KIND_SERVER


class Collector:
    """The spans that have arrived, by the id of their trace."""

    def __init__(self) -> None:
        self.traces: dict[str, list[Span]] = {}
        self.resource: dict[str, Any] = {}
        self.http = ""  #: the address for OTLP over HTTP
        self.grpc = ""  #: the address for OTLP over gRPC
        self._more = threading.Condition()

    def take(self, request: service.ExportTraceServiceRequest) -> None:
        with self._more:
            for group in request.resource_spans:
                self.resource = values(group.resource.attributes)
                for scope in group.scope_spans:
                    for span in scope.spans:
                        self.traces.setdefault(span.trace_id.hex(), []).append(span)
            self._more.notify_all()

    def wait_for(self, trace: str) -> list[Span]:
        """Wait until the spans of a trace have arrived. A trace is never divided between two exports."""
        with self._more:
            assert self._more.wait_for(lambda: trace in self.traces, 60), f"no trace {trace} in {set(self.traces)}"
            return self.traces[trace]

    def wait_for_count(self, count: int) -> list[list[Span]]:
        """Wait until this many traces have arrived. Return all traces."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.traces) >= count, 60), f"only {len(self.traces)} traces"
            return list(self.traces.values())


def values(attributes: Any) -> dict[str, Any]:
    """Return attributes as a dictionary."""

    def value(item: KeyValue) -> Any:
        kind = item.value.WhichOneof("value")
        assert kind is not None
        return getattr(item.value, kind)

    return {item.key: value(item) for item in attributes}


def server_span(spans: list[Span]) -> Span:
    """Return the span of the call."""
    (found,) = (span for span in spans if span.kind == SERVER)
    return found


def by_name(spans: list[Span]) -> dict[str, Span]:
    """Return the spans of the parts of a call by their names."""
    return {span.name: span for span in spans if span.kind != SERVER}


class _Service(service_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self._collector.take(request)
        return service.ExportTraceServiceResponse()


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces", self.path
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(service.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server = grpc.server(ThreadPoolExecutor(2))
    service_grpc.add_TraceServiceServicer_to_server(_Service(collector), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector.http = f"http://127.0.0.1:{http.server_port}"
    collector.grpc = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        server.stop(None).wait()
        http.shutdown()
        http.server_close()
        thread.join()
