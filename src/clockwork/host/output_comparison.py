"""Compares the outputs of two executions of a request.

A check of a batch compares a request's outputs in this batch with the request's outputs in a batch of one. A shadow's
comparison compares the outputs of two versions (`clockwork.host.shadow_comparison`).

Small outputs are compared on the event loop, which takes less than a millisecond. Large outputs are compared in a
thread. This module raises no exception. If outputs cannot be compared, the result states this.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from clockwork.arrays import difference, from_payload
from clockwork.controller.events import CompareOutputs, CompareShadow, OutputsCompared, ShadowCompared
from clockwork.errors import ClockworkError
from clockwork.host.shadow_comparison import compare_shadow, payload_view
from clockwork.messages.tensors import Datatype
from clockwork.units import KIB, Bytes

MAX_BYTES_ON_LOOP: Final[Bytes] = 64 * KIB
"""Larger outputs are compared in a thread. A comparison of 16,384 FP32 elements that differ takes 0.2 ms."""

log = logging.getLogger("clockwork.controller")


def compare_outputs(
    command: CompareOutputs | CompareShadow, done: Callable[[OutputsCompared | ShadowCompared], None]
) -> None:
    """Compare outputs on the running event loop. Call ``done`` with the result after this call has returned."""
    loop = asyncio.get_running_loop()
    outputs = command.in_batch if isinstance(command, CompareOutputs) else command.live
    nbytes = sum(tensor.nbytes for tensor in outputs)
    if nbytes <= MAX_BYTES_ON_LOOP and all(tensor.datatype != Datatype.BYTES for tensor in outputs):
        loop.call_soon(lambda: done(compare_now(command)))
        return
    work = loop.run_in_executor(None, partial(compare_now, command))
    work.add_done_callback(lambda future: None if future.cancelled() else done(future.result()))


def compare_now(command: CompareOutputs | CompareShadow) -> OutputsCompared | ShadowCompared:
    """Compare outputs in the calling thread."""
    try:
        if isinstance(command, CompareShadow):
            return compare_shadow(command)
        return OutputsCompared(command.check_id, _difference(command))
    except ClockworkError as error:
        text = str(error)
    except Exception:
        log.exception("outputs could not be compared")
        text = "the comparison failed; the log has the exception"
    answer = ShadowCompared if isinstance(command, CompareShadow) else OutputsCompared
    return answer(command.check_id, error=text)


def _difference(command: CompareOutputs) -> str:
    """Return a description of the first output that differs, or an empty text if no output differs."""
    if [tensor.name for tensor in command.in_batch] != [tensor.name for tensor in command.alone]:
        return f"the model has {len(command.in_batch)} outputs in the batch and {len(command.alone)} alone"
    in_batch, alone = payload_view(command.in_batch_payload), payload_view(command.alone_payload)
    at = at_alone = 0
    for found, wanted in zip(command.in_batch, command.alone, strict=True):
        text = "" if found.datatype == wanted.datatype else f"datatype {found.datatype} instead of {wanted.datatype}"
        same = in_batch[at : at + found.nbytes] == alone[at_alone : at_alone + wanted.nbytes]
        if not text and not (same and found.shape == wanted.shape):
            text = difference(from_payload(wanted, alone, at_alone), from_payload(found, in_batch, at))
        if text:
            return f"output {wanted.name!r}: {text}"
        at, at_alone = at + found.nbytes, at_alone + wanted.nbytes
    return ""
