"""Acceptors, which take many calls at a time."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from client.live import LOOPBACK, run, serving
from clockwork.clock import Clock
from clockwork.controller.catalog import Catalog
from clockwork.controller.config import ControllerConfig
from clockwork.controller.stage import Stage
from clockwork.controller.throttling import Throttle
from clockwork.errors import ConnectionLostError
from clockwork.grpc_frontend import accepting, serve_grpc
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend import server as module
from clockwork.grpc_frontend.accepting import ARRIVED, REQUESTED, Acceptors, can_take_many
from clockwork.grpc_frontend.peers import Peers
from clockwork.grpc_frontend.server import MAX_STREAMS, MAX_UNREAD_CALLS
from clockwork.grpc_frontend.service import Service, grpc_front_end
from clockwork.host.reception import Reception
from clockwork.messages.actions import Infer
from clockwork.stepping import Stepper
from http2_raw import END_HEADERS, END_STREAM, HEADERS, Http2, connections, first_headers, frame, later_headers

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def encoded_request(rows: int = 1, **parameters: pb.InferParameter) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[rows, 4])
    message = pb.ModelInferRequest(
        model_name="m", inputs=[tensor], raw_input_contents=[bytes(16 * rows)], parameters=parameters
    )
    return bytes(message.SerializeToString())


def held(action: Any) -> bool:
    return isinstance(action, Infer) and any(share.batch_size == 3 for share in action.inputs)


@asynccontextmanager
async def front_end(**settings: Any) -> AsyncIterator[Any]:
    """Yield a function that sends an encoded request to ModelInfer."""
    async with serving(**settings) as (host, _), serve_grpc(host, LOOPBACK) as server:
        while host.progress()[0] != Stage.SERVING.value:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            yield channel.unary_unary(METHOD)


def test_the_locked_release_of_grpcio_has_the_private_functions() -> None:
    assert can_take_many()


def test_most_calls_are_taken_by_acceptors(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    serve = Acceptors._serve

    def counted(self: Acceptors, call: Any, arrived: int) -> None:
        taken.append(call)
        serve(self, call, arrived)

    monkeypatch.setattr(Acceptors, "_serve", counted)

    async def test() -> None:
        async with front_end() as infer:
            answers = await asyncio.gather(*(infer(encoded_request()) for _ in range(200)))
            assert all(len(pb.ModelInferResponse.FromString(answer).raw_output_contents[0]) == 16 for answer in answers)

    run(test())
    assert len(taken) > 150


@pytest.mark.parametrize("name", ["_handle_rpc", "_schedule_rpc_coro", "AioServer._request_registered_call"])
def test_without_a_private_function_calls_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(accepting._EXPECTED, name, ["another"])
    assert not can_take_many()

    async def test() -> None:
        async with front_end() as infer:
            assert len(await asyncio.gather(*(infer(encoded_request()) for _ in range(20)))) == 20

    run(test())


def test_calls_beyond_the_limit_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CALLS", 2)

    async def test() -> None:
        async with front_end(holds=held) as infer:
            calls = [asyncio.ensure_future(infer(encoded_request(rows=3))) for _ in range(20)]
            for done, call in enumerate(asyncio.as_completed(calls), 1):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                if done == 16:  # acceptors hold two calls, and grpc.aio up to two
                    break
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)

    run(test())


class Still(Clock):
    def now(self) -> int:
        return 50_000_000


class RecordingClient:
    """A client that keeps the SLO and arrival of a request."""

    def __init__(self) -> None:
        self.request: tuple[int | None, int | None] | None = None  #: SLO and arrival

    def next_id(self) -> int:
        return 1

    async def ask(self, request: Any, payload: Any, arrival: int | None = None) -> Any:
        self.request = (request.slo, arrival)
        raise ConnectionLostError("enough")


class Call:
    def time_remaining(self) -> float | None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize("arrived", [None, 42_000_000])
def test_a_deadline_counts_from_the_time_when_the_call_was_taken(arrived: int | None) -> None:
    client: Any = RecordingClient()

    async def test() -> None:
        if arrived is not None:
            ARRIVED.set(arrived)
        peers: Any = Peers(lambda: client)
        loop = asyncio.get_running_loop()
        reception = Reception(loop, Still(), ControllerConfig(), lambda by_model: None, lambda busy: None, Throttle())
        host: Any = SimpleNamespace(
            reception=reception,
            stepper=Stepper(),
            access=None,
            local_client=lambda: client,
            catalog=Catalog(),
            tracer=None,
        )
        service = Service(grpc_front_end(host), peers, clock=Still())
        with pytest.raises(ConnectionLostError):
            await service.model_infer(encoded_request(slo_ms=pb.InferParameter(double_param=20)), Call())

    copy_context().run(run, test())
    assert client.request == (20_000_000, Still().now() if arrived is None else arrived)


def test_the_core_ends_excess_calls_while_this_process_reads_none() -> None:
    """More than half of the calls end although the event loop is blocked."""
    count = 16
    ended: list[int] = []

    def refused(address: str) -> None:
        with connections(address, count) as opened:
            for connection in opened:
                for index in range(MAX_STREAMS):
                    headers = later_headers(1) if index else first_headers(METHOD, b"x", b"a", 1)
                    connection.send(frame(HEADERS, END_HEADERS, 2 * index + 1, headers))
            readers = [threading.Thread(target=read, args=(connection,)) for connection in opened]
            for reader in readers:
                reader.start()
            few = count * MAX_STREAMS - MAX_UNREAD_CALLS - 2 * REQUESTED
            while len(ended) < few and any(reader.is_alive() for reader in readers):
                time.sleep(0.01)
            for connection in opened:
                connection.shut_down()
            for reader in readers:
                reader.join()
        assert len(ended) >= few

    def read(connection: Http2) -> None:
        with suppress(OSError):
            for kind, flags, stream, _ in connection.frames():
                if kind == HEADERS and flags & END_STREAM:
                    ended.append(stream)

    async def test() -> None:
        async with serving() as (host, _), serve_grpc(host, LOOPBACK) as server:
            thread = threading.Thread(target=refused, args=(str(server.address),))
            thread.start()
            thread.join(20)  # blocks the event loop
            assert not thread.is_alive()

    run(test())
    assert len(ended) > count * MAX_STREAMS / 2
