"""A collector receives the spans of a real server: over HTTP and gRPC, from clients over HTTP and gRPC."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
from tritonclient.utils import InferenceServerException

from cli.processes import Process, save_dense, serve
from tracing.collector import Collector, by_name, collecting, server_span, values

ROW: dict[str, Any] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [0.5] * 32}]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
MILLISECOND = 1_000_000


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


class Server:
    """A server that exports spans."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.http = "http://" + process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        self.grpc = process.out.wait_for(r"^clockwork serves gRPC on (\S+)$")[1]
        process.address()

    def infer(self, traceparent: str = "", **parameters: Any) -> requests.Response:
        headers = {"traceparent": traceparent, "tracestate": "vendor=1"} if traceparent else {}
        body = {**ROW, "parameters": parameters}
        return requests.post(f"{self.http}/v2/models/dense/infer", json=body, headers=headers, timeout=60)

    def dropped(self) -> dict[str, int]:
        """Return the numbers of dropped spans by reason."""
        lines = requests.get(f"{self.http}/metrics", timeout=60).text.splitlines()
        found = (line.split() for line in lines if line.startswith("clockwork_spans_dropped_total{"))
        return {name.split('"')[1]: int(float(number)) for name, number in found}


@contextmanager
def exporting(tmp_path: Path, *options: str, **variables: str) -> Iterator[Server]:
    """Run a server with these variables. It exports spans after a tenth of a second."""
    model = save_dense(tmp_path / "dense.onnx")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {"OTEL_BSP_SCHEDULE_DELAY": "100", **variables}.items():
            environment.setenv(name, value)
        running = serve(str(model), "--http=127.0.0.1:0", "--grpc=127.0.0.1:0", "--otel", *options)
        with running as process:
            yield Server(process)


def infer_over_grpc(server: Server, traceparent: str) -> None:
    with over_grpc.InferenceServerClient(server.grpc) as client:
        data = over_grpc.InferInput("x", [1, 32], "FP32")
        data.set_data_from_numpy(np.ones((1, 32), np.float32))
        client.infer("dense", [data], headers={"traceparent": traceparent})


@pytest.mark.parametrize("exporter", ["http/protobuf", "grpc"])
def test_the_parts_of_a_call_add_up_to_the_call_over_both_protocols(
    tmp_path: Path, collector: Collector, exporter: str
) -> None:
    endpoint = collector.grpc if exporter == "grpc" else collector.http
    variables = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": exporter,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    first, second = "a" * 32, "b" * 32
    with exporting(tmp_path, **variables) as server:
        total = server.infer(f"00-{first}-{SPAN}-01").json()["parameters"]["total_ms"]
        infer_over_grpc(server, f"00-{second}-{SPAN}-01")
        for trace in (first, second):
            spans = collector.wait_for(trace)
            call, parts = server_span(spans), by_name(spans)
            assert call.parent_span_id.hex() == SPAN
            assert set(parts) - {"load"} == {"admission", "queue", "exec", "output"}
            children = [span for span in spans if span.parent_span_id == call.span_id]
            took = sum(span.end_time_unix_nano - span.start_time_unix_nano for span in children)
            whole = call.end_time_unix_nano - call.start_time_unix_nano
            assert abs(took - whole) < MILLISECOND
            assert parts["exec"].end_time_unix_nano > parts["exec"].start_time_unix_nano
            assert values(parts["exec"].attributes)["clockwork.device"] == "local/gpu0"
    of_http, of_grpc = (server_span(collector.traces[trace]) for trace in (first, second))
    assert of_http.end_time_unix_nano - of_http.start_time_unix_nano >= total * MILLISECOND - 1000
    found = values(of_http.attributes)
    assert of_http.name == "POST /v2/models/{model}/infer"
    assert of_http.trace_state == "vendor=1"
    assert (found["http.request.method"], found["http.response.status_code"]) == ("POST", 200)
    assert (found["url.path"], found["http.route"]) == ("/v2/models/dense/infer", "/v2/models/{model}/infer")
    assert (found["clockwork.outcome"], found["clockwork.request.id"]) == ("in_time", first)
    found = values(of_grpc.attributes)
    assert of_grpc.name == found["rpc.method"] == "inference.GRPCInferenceService/ModelInfer"
    assert (found["rpc.system.name"], found["rpc.response.status_code"]) == ("grpc", "OK")
    assert collector.resource["service.name"] == "clockwork"
    assert collector.resource["deployment.environment.name"] == "test"


def test_the_sampled_flag_of_the_client_is_honoured(tmp_path: Path, collector: Collector) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }
    with exporting(tmp_path, **variables) as server:
        assert server.infer().ok
        assert server.infer(f"00-{'a' * 32}-{SPAN}-00").ok
        assert server.infer(f"00-{'b' * 32}-{SPAN}-01").ok
        collector.wait_for("b" * 32)  # traces are exported in order
    assert set(collector.traces) == {"b" * 32}


def test_refusals_are_kept_although_they_are_not_sampled(tmp_path: Path, collector: Collector) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http, "OTEL_TRACES_SAMPLER": "always_off"}
    with exporting(tmp_path, "--otel-keep-failures", **variables) as server:
        assert server.infer().ok
        refused = server.infer(f"00-{TRACE}-{SPAN}-00", slo_ms=0.001)
        assert refused.status_code == 503
        call = server_span(collector.wait_for(TRACE))
    assert set(collector.traces) == {TRACE}
    found = values(call.attributes)
    assert (found["clockwork.outcome"], found["clockwork.refusal.reason"]) == ("refused", "device_too_slow")
    assert found["http.response.status_code"] == 503
    assert call.status.message == refused.json()["error"].partition(" (deadline of ")[0]


def test_requests_of_one_batch_are_linked(tmp_path: Path, collector: Collector) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http}
    count = 64

    async def infer_together(server: Server) -> None:
        async with over_grpc_aio.InferenceServerClient(server.grpc) as client:
            data = over_grpc_aio.InferInput("x", [1, 32], "FP32")
            data.set_data_from_numpy(np.ones((1, 32), np.float32))
            await asyncio.gather(*(client.infer("dense", [data]) for _ in range(count)))

    with exporting(tmp_path, **variables) as server:
        while not any(values(span.attributes).get("clockwork.batch.rows", 1) > 1 for span in executed(collector)):
            before = len(collector.traces)
            asyncio.run(infer_together(server))  # usually, some of the requests share a batch
            collector.wait_for_count(before + count)
    spans = executed(collector)
    links = {span.span_id: {link.span_id for link in span.links} for span in spans}
    batches: dict[int, set[bytes]] = {}
    for span in spans:
        batches.setdefault(values(span.attributes)["clockwork.action.id"], set()).add(span.span_id)
    assert any(len(batch) > 1 for batch in batches.values())
    for batch in batches.values():
        assert all(links[span] == batch - {span} for span in batch)


def executed(collector: Collector) -> list[Any]:
    return [span for spans in list(collector.traces.values()) for span in spans if span.name == "exec"]


def test_requests_are_served_without_a_collector_and_the_dropped_spans_are_counted(tmp_path: Path) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_MAX_QUEUE_SIZE": "20",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20",
    }
    with exporting(tmp_path, "--log-format=json", **variables) as server:
        for _ in range(20):
            assert server.infer().ok
        assert sum(server.dropped().values()) >= 20
        server.process.err.wait_for("spans_not_exported")
        server.process.send(signal.SIGTERM)
        assert server.process.ended() == 0
    lines = [json.loads(line) for line in server.process.err.seen]
    assert [line["event"] for line in lines].count("spans_not_exported") == 1
    assert not [line for line in lines if line["level"] == "error"]


def test_a_collector_that_never_replies_delays_no_request(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with exporting(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as server:
            assert server.infer().ok
            with silent.accept()[0]:  # the exporter now waits for a reply
                assert all(server.infer().ok for _ in range(20))
                server.process.send(signal.SIGTERM)
                assert server.process.ended() == 0


def test_a_wrong_variable_is_an_error_at_the_start(tmp_path: Path) -> None:
    model = save_dense(tmp_path / "dense.onnx")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_TRACES_SAMPLER", "some")
        with serve(str(model), "--otel") as process:
            assert process.ended() == 2
    assert "OTEL_TRACES_SAMPLER is 'some'; expected one of: always_on" in process.err.seen[-1]


def test_without_the_option_nothing_is_exported(tmp_path: Path, collector: Collector) -> None:
    model = save_dense(tmp_path / "dense.onnx")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.http)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
        with serve(str(model), "--http=127.0.0.1:0") as process:
            url = "http://" + process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
            process.address()
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
            assert requests.post(f"{url}/v2/models/dense/infer", json=ROW, headers=headers, timeout=60).ok
            assert "clockwork_spans" not in requests.get(f"{url}/metrics", timeout=60).text
            process.send(signal.SIGTERM)
            assert process.ended() == 0
    assert not collector.traces


def test_an_invalid_request_over_grpc_has_its_status(tmp_path: Path, collector: Collector) -> None:
    with exporting(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.http) as server:
        with over_grpc.InferenceServerClient(server.grpc) as client:
            data = over_grpc.InferInput("x", [1, 32], "FP32")
            data.set_data_from_numpy(np.ones((1, 32), np.float32))
            with pytest.raises(InferenceServerException):
                client.infer("nobody", [data], headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        call = server_span(collector.wait_for(TRACE))
    assert values(call.attributes)["rpc.response.status_code"] == "NOT_FOUND"
    assert not call.status.code, "an error of the client is not an error of the server"
