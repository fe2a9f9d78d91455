"""Outputs of a request in a batch, compared with those of the same request alone."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from clockwork.arrays import to_payload
from clockwork.controller.events import CompareOutputs, OutputsCompared
from clockwork.host import output_comparison
from clockwork.host.output_comparison import MAX_BYTES_ON_LOOP, compare_now, compare_outputs
from clockwork.messages.tensors import TensorSpec

Y = np.array([[1.0, 2.0]], np.float32)
TOKENS = np.array([[b"one", b""]], object)


def packed(outputs: dict[str, Any]) -> tuple[tuple[TensorSpec, ...], bytes]:
    specs, payload = [], b""
    for name, array in outputs.items():
        datatype, shape, buffer = to_payload(array)
        specs.append(TensorSpec(name, datatype, shape, len(buffer)))
        payload += bytes(buffer)
    return tuple(specs), payload


def command(in_batch: dict[str, Any], alone: dict[str, Any]) -> CompareOutputs:
    return CompareOutputs(7, *packed(in_batch), *packed(alone))


@pytest.mark.parametrize(
    ("in_batch", "alone", "difference"),
    [
        ({"y": Y, "k": TOKENS}, {"y": Y, "k": TOKENS}, ""),
        ({"y": Y * np.float32(1 + 1e-6), "k": TOKENS}, {"y": Y, "k": TOKENS}, ""),
        ({"y": Y + 1}, {"y": Y}, "output 'y': the largest difference is 1, of elements up to 2"),
        ({"y": Y, "k": TOKENS}, {"y": Y, "k": TOKENS[:, ::-1]}, "output 'k': 2 of 2 elements differ"),
        ({"y": Y[:, :1]}, {"y": Y}, "output 'y': the shape is [1, 1] instead of [1, 2]"),
        ({"y": Y.reshape(2, 1)}, {"y": Y}, "output 'y': the shape is [2, 1] instead of [1, 2]"),
        ({"y": Y.astype(np.float64)}, {"y": Y}, "output 'y': datatype FP64 instead of FP32"),
        ({"y": Y}, {"y": Y, "k": TOKENS}, "the model has 1 outputs in the batch and 2 alone"),
        ({"y": Y[:, :0]}, {"y": Y[:, :0]}, ""),
    ],
)
def test_the_first_output_that_differs_is_named(in_batch: Any, alone: Any, difference: str) -> None:
    assert compare_now(command(in_batch, alone)) == OutputsCompared(7, difference)


def test_outputs_without_elements_have_no_payload() -> None:
    specs = (TensorSpec("y", "FP32", (0, 2), 0),)
    assert compare_now(CompareOutputs(7, specs, None, specs, None)) == OutputsCompared(7)


def test_a_payload_that_does_not_fit_its_specs_cannot_be_compared() -> None:
    specs, payload = packed({"y": Y})
    text = "tensor y FP32[1,2] needs 8 bytes at 0; the payload has 4"
    assert compare_now(CompareOutputs(7, specs, payload[:4], specs, payload)) == OutputsCompared(7, error=text)


def test_an_unexpected_failure_is_logged_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    specs, payload = packed({"y": Y})
    done = compare_now(CompareOutputs(7, specs, 5, specs, payload))
    assert done == OutputsCompared(7, error="the comparison failed; the log has the exception")
    assert "TypeError" in caplog.text


@pytest.mark.parametrize(("count", "where"), [(MAX_BYTES_ON_LOOP // 4, "loop"), (MAX_BYTES_ON_LOOP // 4 + 1, "thread")])
def test_large_outputs_are_compared_in_a_thread(count: int, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def noted(command: CompareOutputs) -> OutputsCompared:
        threads.append(threading.get_ident())
        return OutputsCompared(command.check_id)

    monkeypatch.setattr(output_comparison, "compare_now", noted)

    async def test() -> None:
        array = np.zeros(count, np.float32)
        done: asyncio.Future[tuple[object, int]] = asyncio.get_running_loop().create_future()
        compare_outputs(
            command({"y": array}, {"y": array}), lambda result: done.set_result((result, threading.get_ident()))
        )
        assert not done.done()
        assert await done == (OutputsCompared(7), threading.get_ident())
        assert (threads == [threading.get_ident()]) == (where == "loop")

    asyncio.run(test())
