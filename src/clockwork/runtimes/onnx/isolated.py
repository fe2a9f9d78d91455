"""Prepares a model in a separate process while the worker serves.

Reading a large model takes Python's interpreter lock for up to half a second. Preparing the model takes several seconds
of computation. In the worker's own process, this work would delay every request. So a *child* process reads and
prepares the model, and stores it in the cache of prepared models. Then the worker reads the prepared model from the
cache. If a model crashes the child or takes all memory, the worker is not harmed. If the cache already has the prepared
model, no child is started.

The child inherits the cores of the thread that starts it, and has the lowest ordinary priority. A higher priority would
slow the devices even if the child does not use their cores. Linux divides the processor time of a control group or a
session among the cores in proportion to the weights of the group's threads. So if other groups also use the devices'
cores, a child of ordinary priority takes up to half of the devices' time. In a test with other programs on both cores,
an execution took 1.9 times as long beside such a child on another core, 1.15 times as long with the niceness 10, and
1.02 times as long with the niceness 19. SCHED_IDLE is not used, because a child with this policy might never finish on
a busy host.

The worker keeps the child's standard input open. The child watches this input, so it ends when the worker ends.
"""

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event, Timer
from typing import Final

import onnx
from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.runtimes.batching import BatchingOptions, BatchingPolicy
from clockwork.runtimes.links import LinkPolicy
from clockwork.runtimes.onnx.files import ModelFile
from clockwork.units import Bytes

CHILD: Final = "import os; os.nice(19); from clockwork.runtimes.onnx.isolated_child import main; main()"
"""Program of the child."""

MAX_SECONDS: Final = 900.0
"""Time in seconds after which a child is killed, so that a load that hangs does not block later loads for ever."""


class Preparation(Struct, frozen=True):
    """The settings with which the worker would prepare a model. The child uses the same settings."""

    file: Path
    policy: BatchingPolicy
    batching: BatchingOptions
    links: LinkPolicy
    threads: int
    cache_dir: Path
    cache_bytes: Bytes | None


class Prepared(Struct, frozen=True):
    """Answer of a child: the model file without its larger tensors, or the reason why the model cannot be used."""

    digest: str = ""
    outline: bytes = b""
    folder: Path = Path()
    reason: str = ""


def prepare_in_child(preparation: Preparation) -> ModelFile:
    """Read a model, and store the prepared model in the cache. Return the file without its larger tensors.

    Raises:
        InvalidModelError: the model cannot be used, or the child failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    name = preparation.file.name
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        late = Event()

        def kill() -> None:
            late.set()
            child.kill()

        overdue = Timer(MAX_SECONDS, kill)
        overdue.daemon = True
        overdue.start()
        try:
            pickle.dump(preparation, child.stdin)
            child.stdin.flush()
            answer = child.stdout.read()
        except OSError:
            answer = b""
        finally:
            with suppress(OSError):  # the child has ended before it read all of its input
                child.stdin.close()
            status = child.wait()
            overdue.cancel()
    if status or not answer:  # a child that was killed may have written a part of its answer
        if late.is_set():
            raise InvalidModelError(
                f"{name!r} cannot be prepared: preparing it took longer than {MAX_SECONDS:g} s, which is the limit; "
                "check the file and its storage"
            )
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise InvalidModelError(f"{name!r} cannot be prepared: the process that prepared it ended with {how}")
    prepared = pickle.loads(answer)
    assert isinstance(prepared, Prepared)
    if prepared.reason:
        raise InvalidModelError(prepared.reason)
    outline = onnx.load_model_from_string(prepared.outline)
    return ModelFile(preparation.file, prepared.digest, outline, None, prepared.folder)
