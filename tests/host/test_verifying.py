"""A live server whose model gives other results in batches, which the checks at load time do not find."""

import asyncio
import os
from typing import Any

import numpy as np
import pytest

from client.live import ScriptedWorker, _result, controller, run
from clockwork.client import AsyncClient
from clockwork.host.arena import ArenaView
from clockwork.messages.actions import Infer
from clockwork.messages.requests import ModelStatus
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.fifo import FifoScheduler
from clockwork.units import MIB

Answers = list[tuple[Any, Any]]
"""The input and the output of a request."""


class Coupled(ScriptedWorker):
    """Each row of a batch has the number of its requests added, unless that is 1."""

    def answer(self, action: Any, payload: Any = b"") -> None:
        assert self.connection is not None
        result, buffers = _result(action, payload, self.window)
        if isinstance(action, Infer) and len(action.inputs) > 1 and not action.apart:
            buffers = [(np.frombuffer(buffer, np.float32) + len(buffers)).tobytes() for buffer in buffers]
        self.connection.send(result, buffers)


async def burst(client: AsyncClient, first: int) -> Answers:
    """Send 32 different requests at once."""
    rows = [np.full((1, 4), first + number, np.float32) for number in range(32)]
    answers = await asyncio.gather(*(client.infer("m", {"x": row}) for row in rows))
    return [(row, answer["y"]) for row, answer in zip(rows, answers, strict=True)]


def wrong(answers: Answers) -> int:
    return sum(not np.array_equal(2 * row, answer) for row, answer in answers)


async def checked(client: AsyncClient) -> ModelStatus:
    """Return the model after a batch has been checked."""
    while True:
        (model,) = (await client.status()).models
        if model.counts.checks:
            return model


@pytest.mark.parametrize("scheduler", [FifoScheduler, ClockworkScheduler])
def test_after_the_first_check_every_answer_is_that_of_the_request_alone(scheduler: type[Scheduler]) -> None:
    async def test() -> None:
        async with controller(scheduler()) as host:
            worker = Coupled()
            await worker.connect(host)
            async with AsyncClient(str(host.client_address)) as client:
                assert wrong(await burst(client, 0)) > 1
                model = await checked(client)
                assert model.unbatched.startswith("the outputs of a request differed between a batch of ")
                assert model.counts.checks["differed"] == 1
                made = len(worker.seen)
                for turn in range(1, 4):
                    assert wrong(await burst(client, 32 * turn)) == 0
                sizes = {len(action.inputs) for action in worker.seen[made:] if isinstance(action, Infer)}
                assert sizes == {1}
                (model,) = (await client.status()).models
                assert (model.in_time, model.broken_promises) == (128, 0)

    run(test())


def test_a_model_whose_answers_agree_is_still_batched() -> None:
    async def test() -> None:
        async with controller(FifoScheduler()) as host:
            worker = ScriptedWorker()
            await worker.connect(host)
            async with AsyncClient(str(host.client_address)) as client:
                assert wrong(await burst(client, 0)) == 0
                model = await checked(client)
                assert set(model.counts.checks) == {"agreed"}
                made = len(worker.seen)
                assert wrong(await burst(client, 32)) == 0
                assert any(len(action.inputs) > 1 for action in worker.seen[made:] if isinstance(action, Infer))
                assert not (await checked(client)).unbatched

    run(test())


def test_payloads_in_shared_memory_are_free_when_the_checks_are_over() -> None:
    async def test() -> None:
        async with controller(FifoScheduler(), models=("wide.onnx",), guarded={"payload_bytes": 64 * MIB}) as host:
            assert host.arena is not None
            worker = ScriptedWorker(window=ArenaView(os.dup(host.arena.for_worker)))
            await worker.connect(host)
            async with AsyncClient(str(host.client_address)) as client:
                row = np.ones((1, 1 << 20), np.float32)
                answers = await asyncio.gather(*(client.infer("wide", {"x": row}) for _ in range(6)))
                assert all(np.array_equal(answer["y"], 2 * row[:, :4]) for answer in answers)
                while (await checked(client)).counts.checks != {"agreed": 2}:
                    pass
                infers = [action for action in worker.seen if isinstance(action, Infer)]
                assert all(share.arena_offset >= 0 for action in infers[-2:] for share in action.inputs)
                while host.arena.taken:
                    await client.status()

    run(test())
