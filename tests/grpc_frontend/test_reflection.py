"""Server reflection and the health checking protocol, with gRPC's own clients."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from client.live import LOOPBACK, ScriptedWorker, controller, run, serving
from clockwork.controller.stage import Stage
from clockwork.grpc_frontend import grpc_service_pb2, health, serve_grpc
from clockwork.grpc_frontend.health_pb2 import HealthCheckRequest, HealthCheckResponse
from clockwork.host.controller import ControllerHost

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
INFERENCE = "inference.GRPCInferenceService"


@asynccontextmanager
async def connected(host: ControllerHost) -> AsyncIterator[tuple[str, grpc.aio.Channel]]:
    async with serve_grpc(host, LOOPBACK) as server, grpc.aio.insecure_channel(str(server.address)) as channel:
        yield str(server.address), channel


async def until_serving(host: ControllerHost) -> None:
    while host.progress()[0] != Stage.SERVING.value:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)


# ---------------------------------------------------------------------------------------------------------- reflection


def reflected(address: str) -> tuple[list[str], dict[str, list[str]], bool]:
    """Return services, methods by service, and whether the server is live, all by reflection."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = sorted(database.get_services())
        pool = DescriptorPool(database)
        methods = {
            name: [method.name for method in pool.FindServiceByName(name).methods]
            for name in services
            if not name.startswith("grpc.reflection")
        }
        live = pool.FindServiceByName(INFERENCE).FindMethodByName("ServerLive")
        request, response = GetMessageClass(live.input_type), GetMessageClass(live.output_type)
        answer = response.FromString(channel.unary_unary(f"/{INFERENCE}/ServerLive")(request().SerializeToString()))
        return services, methods, answer.live


def test_reflection_describes_services_methods_and_messages() -> None:
    async def test() -> None:
        async with controller() as host, connected(host) as (address, _):
            services, methods, live = await asyncio.to_thread(reflected, address)
            assert services == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", INFERENCE]
            assert methods["grpc.health.v1.Health"] == ["Check", "Watch"]
            described = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
            assert methods[INFERENCE] == [method.name for method in described.methods]
            assert live

    run(test())


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_versions_of_reflection_are_served(version: str) -> None:
    def requests() -> Iterator[pb.ServerReflectionRequest]:
        yield pb.ServerReflectionRequest(list_services="")
        yield pb.ServerReflectionRequest(file_containing_symbol=INFERENCE)
        yield pb.ServerReflectionRequest(file_containing_symbol="no.such.Symbol")

    async def test() -> None:
        async with controller() as host, connected(host) as (_, channel):
            call = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                pb.ServerReflectionRequest.SerializeToString,
                pb.ServerReflectionResponse.FromString,
            )(requests())
            listed, found, missing = [answer async for answer in call]
            assert INFERENCE in [service.name for service in listed.list_services_response.service]
            assert found.file_descriptor_response.file_descriptor_proto
            assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]

    run(test())


SYMBOLS = (
    f"{INFERENCE}.ModelInfer",
    "grpc.health.v1.Health.Check",
    "inference.ModelInferRequest.InferInputTensor",
    "inference.ModelInferRequest.model_name",
    "inference.InferParameter.parameter_choice",
    "inference.DataType",
    "inference.TYPE_FP32",
    "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
)


def test_reflection_finds_every_kind_of_symbol() -> None:
    def requests() -> Iterator[pb.ServerReflectionRequest]:
        for symbol in SYMBOLS:
            yield pb.ServerReflectionRequest(file_containing_symbol=symbol)

    async def test() -> None:
        async with controller() as host, connected(host) as (_, channel):
            call = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                pb.ServerReflectionRequest.SerializeToString,
                pb.ServerReflectionResponse.FromString,
            )(requests())
            found = [answer.file_descriptor_response.file_descriptor_proto async for answer in call]
            for symbol, files in zip(SYMBOLS, found, strict=True):
                names = [FileDescriptorProto.FromString(file).package for file in files]
                assert any(symbol.startswith(f"{name}.") for name in names), symbol

    run(test())


# -------------------------------------------------------------------------------------------------------------- health


def watching(channel: grpc.aio.Channel, service: str = "") -> Any:
    call = channel.unary_stream(
        "/grpc.health.v1.Health/Watch", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    return call(HealthCheckRequest(service=service))


def test_watch_reports_the_state_at_once_and_each_change() -> None:
    async def test() -> None:
        async with controller() as host, connected(host) as (_, channel):
            watch = watching(channel, INFERENCE)
            assert (await watch.read()).status == NOT_SERVING
            await ScriptedWorker().connect(host)
            assert (await watch.read()).status == SERVING

    run(test())


def test_watch_reports_the_end_of_the_server() -> None:
    async def test() -> None:
        async with serving() as (host, _):
            await until_serving(host)
            async with serve_grpc(host, LOOPBACK) as server:
                channel = grpc.aio.insecure_channel(str(server.address))
                watch = watching(channel)
                assert (await watch.read()).status == SERVING
                # grpc.aio loses a message if the call ends before the message is read
                last = asyncio.ensure_future(watch.read())
            assert (await last).status == NOT_SERVING
            assert await watch.read() == grpc.aio.EOF
            await channel.close()

    run(test())


def test_an_unknown_service_may_be_watched() -> None:
    async def test() -> None:
        async with serving() as (host, _), connected(host) as (_, channel):
            watch = watching(channel, "another")
            assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
            assert not watch.done()

    run(test())


def test_the_number_of_watching_calls_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_WATCHERS", 2)

    async def test() -> None:
        async with serving() as (host, _), connected(host) as (_, channel):
            await until_serving(host)
            watches = [watching(channel) for _ in range(2)]
            for watch in watches:
                assert (await watch.read()).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError, match="limit of 2 calls of Watch is reached") as caught:
                await watching(channel).read()
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            watches[0].cancel()
            while True:
                try:
                    assert (await watching(channel).read()).status == SERVING
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)

    run(test())


# ------------------------------------------------------------------------------------------------------- not supported


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("TraceSetting", "trace settings are not supported"),
        ("SystemSharedMemoryStatus", "shared memory is not supported"),
        ("SystemSharedMemoryRegister", "shared memory is not supported"),
        ("SystemSharedMemoryUnregister", "shared memory is not supported"),
        ("CudaSharedMemoryStatus", "CUDA shared memory is not supported"),
        ("CudaSharedMemoryRegister", "CUDA shared memory is not supported"),
        ("CudaSharedMemoryUnregister", "CUDA shared memory is not supported"),
    ],
)
def test_methods_that_only_triton_has_are_unimplemented(method: str, why: str) -> None:
    async def test() -> None:
        async with controller() as host, connected(host) as (_, channel):
            with pytest.raises(grpc.aio.AioRpcError, match=why) as caught:
                await channel.unary_unary(f"/{INFERENCE}/{method}")(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert dict(caught.value.trailing_metadata())["clockwork-status-name"] == "INVALID_REQUEST"

    run(test())
