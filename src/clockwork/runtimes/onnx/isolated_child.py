"""The process that prepares a model while a worker serves; see `clockwork.runtimes.onnx.isolated`."""

import os
import pickle
import sys
from threading import Thread
from typing import Final

from clockwork.errors import ClockworkError
from clockwork.runtimes.onnx.isolated import Preparation, Prepared
from clockwork.runtimes.onnx.runtime import OnnxRuntime

MAX_REASON: Final = 2000
"""Longest reason that the child reports to the worker, in characters."""


def _prepare(preparation: Preparation) -> Prepared:

    runtime = OnnxRuntime(preparation.threads, preparation.cache_dir, preparation.cache_bytes, preparation.batching)
    runtime.links = preparation.links
    try:
        file = runtime.fill_cache(preparation.file, preparation.policy)
    except ClockworkError as error:
        return Prepared(reason=str(error)[:MAX_REASON] or type(error).__name__)
    return Prepared(file.digest, file.outline.SerializeToString(), file.folder)


def main() -> None:
    """Read a `Preparation` from standard input, prepare the model, and write the answer to standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that libraries print must not mix with the answer
    preparation = pickle.load(sys.stdin.buffer)

    def end_with_worker() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    Thread(target=end_with_worker, daemon=True).start()
    with answers:
        pickle.dump(_prepare(preparation), answers)
        answers.flush()
        os._exit(0)
