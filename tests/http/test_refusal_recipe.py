"""The recipe in docs/http.md keeps the predicted completion and the retry time in tritonclient's exceptions."""

import asyncio
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tritonclient.http as triton

from client.live import run
from clockwork.messages.commands import Answer
from clockwork.messages.status import Status
from clockwork.scheduling.echo import EchoScheduler
from clockwork.state import PendingRequest
from clockwork.units import Nanos
from http_raw import served

PAGE = Path(__file__).resolve().parents[2] / "docs/http.md"
CLASS = re.compile(r"^import json\n.*?^        return response\n", re.MULTILINE | re.DOTALL)


class Refuses(EchoScheduler):
    """Refuses all requests with the same times."""

    name: ClassVar[str] = "refuses"

    def infer(self, now: Nanos, request: PendingRequest) -> list[Answer]:
        status = Status.CONTROLLER_COULD_NOT_START_IN_TIME
        return [Answer(request.id, status, "too late", predicted=25_000_000, retry_after=1_200_000_000)]


def refusal(address: str) -> Any:
    names: dict[str, Any] = {"triton": triton}
    (recipe,) = CLASS.findall(PAGE.read_text())
    exec(recipe, names)
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    try:
        names["Client"](address).infer("m", [tensor])
    except triton.InferenceServerException as error:
        return error
    return None


def test_the_exception_has_the_predicted_completion_and_the_retry_time() -> None:
    async def test() -> None:
        async with served(Refuses()) as (_, address, *_):
            error = await asyncio.to_thread(refusal, str(address))
            assert error.status() == "503"
            assert error.message() == "too late (deadline of 20000 ms from the default SLO of the model)"
            details = error.debug_details()
            assert (details["predicted_ms"], details["retry_after_ms"]) == (25.0, 1200.0)

    run(test())
