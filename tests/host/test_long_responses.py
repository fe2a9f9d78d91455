"""The status and the list of many models over the native protocol: built in steps, with the same content."""

import asyncio
from typing import Any

import pytest

from client.live import run, serving
from clockwork.client import AsyncClient
from clockwork.errors import ClockworkError, ServerError
from clockwork.host import long_responses
from clockwork.host.long_responses import SHORT_LIST
from clockwork.scheduling.echo import EchoScheduler
from clockwork.stepping import Stepper
from http_raw import eventually

NAMES = sorted(f"m{number}" for number in range(2 * SHORT_LIST))
MODELS = tuple(f"{name}.onnx" for name in NAMES)


async def serves(host: Any) -> None:
    await eventually(lambda: host.progress()[0] == "serving")


def test_many_models_are_described_and_listed_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    async def counted(self: Stepper, steps: Any, rest: float = 0.0) -> Any:
        count = 1
        while True:
            try:
                next(steps)
            except StopIteration as end:
                counts.append(count)
                return end.value
            count += 1
            await asyncio.sleep(0)

    async def test() -> None:
        async with serving(EchoScheduler(), models=MODELS) as (host, _):
            await serves(host)
            monkeypatch.setattr(Stepper, "run", counted)
            async with AsyncClient(str(host.client_address)) as client:
                assert [model.name for model in await client.ls()] == NAMES
                assert counts == [len(NAMES) + 1]
                assert [model.name for model in await client.ls()] == NAMES
                assert counts == [len(NAMES) + 1], "the list stays as it is, and is encoded once"
                status = await client.status()
                assert counts[1:] == [len(NAMES) + 1]
                expected = host.description().server()
                assert status.models == expected.models
                assert (status.stage, status.workers) == (expected.stage, expected.workers)

    run(test())


def test_too_many_status_requests_at_a_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_responses, "MAX_WAITING", 3)

    async def test() -> None:
        async with serving(EchoScheduler(), models=MODELS) as (host, _):
            await serves(host)
            async with AsyncClient(str(host.client_address)) as client:
                found = await asyncio.gather(*(client.status() for _ in range(20)), return_exceptions=True)
                refused = [error for error in found if isinstance(error, ClockworkError)]
                assert refused
                assert all("which is the limit; retry later" in str(error) for error in refused)
                assert len((await client.status()).models) == len(NAMES)

    run(test())


def test_a_status_that_fails_is_an_error_of_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with serving(EchoScheduler(), models=MODELS) as (host, _):
            await serves(host)
            async with AsyncClient(str(host.client_address)) as client:
                with monkeypatch.context() as patched:
                    patched.setattr(long_responses, "_encoded", lambda described: 1 / 0)
                    with pytest.raises(ServerError, match="the server failed; see its log"):
                        await client.status()
                assert len((await client.status()).models) == len(NAMES)

    run(test())
