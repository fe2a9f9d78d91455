"""Each gRPC connection has its own client, whose limits apply to it alone."""

import asyncio
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from client.live import LOOPBACK, run, serving
from clockwork.controller.stage import Stage
from clockwork.grpc_frontend import serve_grpc
from clockwork.grpc_frontend.peers import Peers
from clockwork.host.controller import ControllerHost
from clockwork.messages.actions import Infer
from grpc_frontend.test_live import ones, until


def real_infer(action: Any) -> bool:
    return isinstance(action, Infer) and not action.inputs[0].generated


def test_a_connection_at_its_limit_does_not_affect_another() -> None:
    async def test() -> None:
        async with (
            serving(holds=real_infer, max_client_pending=2) as (host, worker),
            serve_grpc(host, LOOPBACK) as server,
            channel(server.address) as greedy,
            channel(server.address) as other,
        ):
            await until(host, Stage.SERVING)
            calls = [asyncio.ensure_future(greedy.infer("m", ones())) for _ in range(2)]
            await worker.until(lambda: len(worker.held) == 2)
            assert (
                await refusal(greedy) == "[StatusCode.RESOURCE_EXHAUSTED] this connection has too many pending requests"
            )
            calls.append(asyncio.ensure_future(other.infer("m", ones())))
            await worker.until(lambda: len(worker.held) == 3)
            for action, payload in worker.held:
                worker.answer(action, payload)
            for result in await asyncio.gather(*calls):
                np.testing.assert_array_equal(result.as_numpy("y"), [[2.0] * 4])
            call = asyncio.ensure_future(greedy.infer("m", ones()))
            await worker.until(lambda: len(worker.held) == 4)
            worker.answer(*worker.held[3])
            await call

    run(test())


def channel(address: Any) -> Any:
    """Return a client with its own connection: clients with equal options share one."""
    channel.count += 1  # type: ignore[attr-defined]
    args = [("clockwork.number", channel.count)]  # type: ignore[attr-defined]
    return triton.InferenceServerClient(str(address), channel_args=args)


channel.count = 0  # type: ignore[attr-defined]


async def refusal(client: Any) -> str:
    try:
        await client.infer("m", ones())
    except InferenceServerException as error:
        return str(error).partition(":")[0]
    raise AssertionError("not refused")


def test_idle_clients_are_closed_when_there_are_too_many() -> None:
    async def test() -> None:
        async with serving(holds=real_infer) as (host, _):
            check_idle(host)

    run(test())


def check_idle(host: ControllerHost) -> None:
    peers = Peers(lambda: host.local_client(shared=False), max_idle=3)
    first = peers.client("a")
    busy = peers.client("b")
    busy._waiting[1] = asyncio.get_running_loop().create_future()
    assert peers.client("a") is first
    for name in "cdefgh":
        peers.client(name)
    assert len(peers) == 3
    assert peers.client("b") is busy, "a client with requests waiting stays"
    assert peers.client("a") is not first
    busy._waiting.clear()
    before = len(host._clients)
    peers.close()
    assert len(host._clients) == before - len(peers)
