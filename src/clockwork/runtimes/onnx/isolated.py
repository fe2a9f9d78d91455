"""Prepares a model in a process of its own, while the worker serves.

Reading a large model holds Python's interpreter lock for up to half a second. Preparing it takes several seconds of
computation. In the worker's own process, this would delay every request. So a *child* process reads and prepares the
model, and stores it in the cache of prepared models. The worker then takes it from there. A model that crashes the
process that prepares it, or takes all memory, does not harm the worker.

The child inherits the cores and the low priority of the thread that starts it. It ends when the worker ends: it watches
its standard input, which the worker keeps open.
"""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import onnx
from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.runtimes.batching import BatchingOptions, BatchingPolicy
from clockwork.runtimes.links import LinkPolicy
from clockwork.runtimes.onnx.files import ModelFile
from clockwork.units import Bytes

CHILD: Final = "from clockwork.runtimes.onnx.isolated_child import main; main()"
"""Program of the child."""


class Preparation(Struct, frozen=True):
    """What a child needs to prepare a model as the worker would."""

    file: Path
    policy: BatchingPolicy
    batching: BatchingOptions
    links: LinkPolicy
    threads: int
    cache_dir: Path
    cache_bytes: Bytes | None


class Prepared(Struct, frozen=True):
    """The answer of a child: the file without its larger tensors, or why the model cannot be used."""

    digest: str = ""
    outline: bytes = b""
    folder: Path = Path()
    reason: str = ""


def prepare_in_child(preparation: Preparation) -> ModelFile:
    """Read a model and store it prepared in the cache; return its file without its larger tensors.

    Raises:
        InvalidModelError: the model cannot be used, or the child did not end well.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    name = preparation.file.name
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            pickle.dump(preparation, child.stdin)
            child.stdin.flush()
            answer = child.stdout.read()
        except OSError:
            answer = b""
        finally:
            child.stdin.close()
        status = child.wait()
    if not answer:
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise InvalidModelError(f"{name!r} cannot be prepared: the process that prepared it ended with {how}")
    prepared = pickle.loads(answer)
    assert isinstance(prepared, Prepared)
    if prepared.reason:
        raise InvalidModelError(prepared.reason)
    outline = onnx.load_model_from_string(prepared.outline)
    return ModelFile(preparation.file, prepared.digest, outline, None, prepared.folder)
