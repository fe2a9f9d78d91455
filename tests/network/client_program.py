"""A client on another host. The test controls it by lines of JSON on stdin, and gets an answer for each on stdout.

``start`` begins to send requests from several loops, and ``stop`` ends the loops and returns the counts. ``status``
returns the state of the server.
"""

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

import numpy as np

from clockwork.client import AsyncClient
from clockwork.errors import ClockworkError

SLO = 120.0
"""SLO in seconds. No request is late because of a slow test machine, so each failure is a fault."""

ROW = np.ones((1, 2), np.float32)


class Load:
    """Loops that each send a request when the last one was answered."""

    def __init__(self, client: AsyncClient, models: list[str], loops: int) -> None:
        self.sent = 0
        self.right = 0
        self.faults: list[str] = []
        self._client = client
        self._models = models
        self._stopping = False
        self._tasks = [asyncio.ensure_future(self._loop()) for _ in range(loops)]

    async def _loop(self) -> None:
        while not self._stopping:
            self.sent += 1
            model = self._models[self.sent % len(self._models)]
            try:
                result = await self._client.infer(model, {"x": ROW}, slo=SLO)
            except ClockworkError as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)
                continue
            output = result["y"]
            if output.shape == (1, 2) and not output.any():
                self.right += 1
            else:
                self.faults.append(f"wrong output {output!r}")

    async def stop(self) -> dict[str, Any]:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self.counts()

    def counts(self) -> dict[str, Any]:
        return {"sent": self.sent, "right": self.right, "faults": self.faults[:5]}


async def status(client: AsyncClient) -> dict[str, Any]:
    server = await client.status()
    return {
        "stage": server.stage,
        "ready": {worker.id: worker.ready for worker in server.workers},
        "batches": {worker.id: sum(gpu.counts.batches for gpu in worker.gpus) for worker in server.workers},
        "answered": sum(model.in_time + model.late + model.refused + model.failed for model in server.models),
        "in_time": sum(model.in_time for model in server.models),
    }


async def main(address: str, models: list[str]) -> None:
    loop = asyncio.get_running_loop()
    client = AsyncClient(address)
    load: Load | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer: dict[str, Any] = {}
        match command["do"]:
            case "connect":
                with suppress(ClockworkError):
                    await client.connect()
                    answer = {"connected": True}
            case "status":
                answer = await status(client)
                if load is not None:
                    answer |= load.counts()
            case "start":
                load = Load(client, models, command["loops"])
            case "stop":
                assert load is not None
                answer = await load.stop()
                load = None
        print(json.dumps(answer), flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
