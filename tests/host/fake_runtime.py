"""Implements a runtime whose tasks end when the test allows it.

A model's file contains words. ``batches`` means that the model is batchable, and ``uploads`` that its inputs are copied
to the device. ``broken-NAME`` makes the step NAME fail, and ``lost-NAME`` loses the device in that step. The output of
a model is its reversed payload.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clockwork.errors import DeviceLostError, InvalidModelError, InvalidRequestError, ServerError
from clockwork.messages.actions import InferInput
from clockwork.messages.results import DeviceTime
from clockwork.messages.tensors import TensorInfo, TensorSpec
from clockwork.runtimes.base import HostModelInfo
from clockwork.runtimes.links import NO_LINKS

PATIENCE = 20
"""Seconds after which a test that waits for a thread has failed."""

PORTS = (TensorInfo("x", "UINT8", (-1, 4)),)


class Gate:
    """A gate for threads. While it is closed, threads wait at it, and the test can wait for their arrival."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._reached = threading.Semaphore(0)
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def reached(self) -> None:
        """Wait until a thread has arrived at the gate."""
        assert self._reached.acquire(timeout=PATIENCE)

    def pass_through(self) -> None:
        self._reached.release()
        assert self._open.wait(PATIENCE)


class FakeRuntime:
    """A runtime with a gate for each step. ``calls`` contains (thread, step) in order."""

    version = "fake 1"
    device_kind = "fake device"

    def __init__(self) -> None:
        self.gates = {step: Gate() for step in ("read", "load", "assemble", "execute", "close")}
        self.calls: list[tuple[str, str]] = []

    links = NO_LINKS

    def locate(self, path: Path, name: str = "") -> Path:
        return path

    def load_model(self, path: Path, name: str = "", *, isolated: bool = False) -> "FakeModel":
        words = path.read_text().split()
        model = FakeModel(self, words)
        self.step("read", words)
        return model

    def step(self, name: str, words: Sequence[str]) -> None:
        self.calls.append((threading.current_thread().name, name))
        self.gates[name].pass_through()
        if f"lost-{name}" in words:
            raise DeviceLostError("the device is lost")
        if f"broken-{name}" in words:
            raise {"read": InvalidModelError, "execute": InvalidRequestError, "load": ServerError}.get(name, KeyError)(
                f"it breaks at {name}"
            )


class FakeModel:
    """A model in host memory."""

    def __init__(self, runtime: FakeRuntime, words: Sequence[str]) -> None:
        self.runtime = runtime
        self.words = words
        self.info = HostModelInfo(" ".join(words), PORTS, PORTS, "batches" in words, 10, runtime.version)

    def load_weights(self, device: int) -> "FakeLoaded":
        self.runtime.step("load", self.words)
        return FakeLoaded(self, device)


class FakeLoaded:
    """A model on a device. If the file contains ``uploads``, inputs are uploaded."""

    def __init__(self, model: FakeModel, device: int) -> None:
        self.model = model
        self.device = device
        self.uploads = "uploads" in model.words

    def assemble(self, inputs: Sequence[InferInput], payloads: Sequence[Any]) -> list[bytes]:
        self.model.runtime.step("assemble", self.model.words)
        zeros = (bytes(sum(tensor.nbytes for tensor in request.tensors)) for request in inputs)
        return [zero if payload is None else bytes(payload) for payload, zero in zip(payloads, zeros, strict=True)]

    def execute(self, batch: list[bytes]) -> list[bytes]:
        self.model.runtime.step("execute", self.model.words)
        if b"evil" in batch:
            raise InvalidRequestError("that is evil")
        if b"huge" in batch:
            raise ServerError("there is no memory for the inference")
        if b"odd?" in batch:
            raise KeyError("odd")
        return [payload[::-1] for payload in batch]

    def split(
        self, inputs: Sequence[InferInput], outputs: list[bytes]
    ) -> list[tuple[tuple[TensorSpec, ...], list[bytes]]]:
        assert len(inputs) == len(outputs)
        if "lost-split" in self.model.words:
            raise DeviceLostError("the device is lost")
        if "broken-split" in self.model.words:
            raise KeyError("it breaks at split")
        return [((TensorSpec("y", "UINT8", (len(out),), len(out)),), [out[:2], out[2:]]) for out in outputs]

    def device_time(self, outputs: list[bytes]) -> DeviceTime | None:
        return DeviceTime(1234, 1980) if self.uploads else None

    def close(self) -> None:
        self.model.runtime.step("close", self.model.words)
