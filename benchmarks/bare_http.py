"""The least that a server of these models can be: one loop around ONNX Runtime, for `overload.py` to compare with.

    python benchmarks/bare_http.py model.onnx ...

It knows one kind of request (POST /v2/models/NAME/infer with one binary image), takes one after the other in the order
in which they came, and drops one that would be late. No plan, no limits, no batches, no second process, no other
protocol; whoever stops reading stops it.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import uvloop

from clockwork.host.affinity import confined
from clockwork.runtimes.ort import onnxruntime

SHAPE = (1, 3, 224, 224)
IMAGE = 4 * int(np.prod(SHAPE))  # bytes
LARGEST = IMAGE + 4096
DROPPED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def bare_http(models: list[Path], slo_ms: float, on: set[int]) -> Iterator[str]:
    """A process of it on cores ``on``; yields its address."""
    command = [sys.executable, __file__, f"--slo-ms={slo_ms}", *map(str, models)]
    with confined(on):
        process = Popen(command, stdout=PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


class Model:
    """A session, and what it takes."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        image = np.zeros(SHAPE, np.float32)
        self.run(image)
        begin = time.monotonic()
        for _ in range(5):
            self.run(image)
        self.seconds = (time.monotonic() - begin) / 5

    def run(self, image: np.ndarray) -> np.ndarray:
        """The scores."""
        return self._session.run(None, {"data": image})[0]


class Connection(asyncio.BufferedProtocol):
    """Receives one request at a time into a buffer of its own."""

    def __init__(self, waiting: deque["Connection"], arrived: asyncio.Event) -> None:
        self._waiting, self._arrived = waiting, arrived
        self._buffer = memoryview(bytearray(LARGEST))
        self._filled = self._size = 0
        self.began = 0.0
        self.model = ""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if not self._filled:
            self.began = time.monotonic()
        self._filled += nbytes
        if not self._size:
            head, _, _ = bytes(self._buffer[: min(self._filled, 1024)]).partition(b"\r\n\r\n")
            self.model = head.split(b"/", 4)[3].decode()
            self._size = len(head) + 4 + int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
        if self._filled == self._size:
            self._waiting.append(self)
            self._arrived.set()

    def image(self) -> np.ndarray:
        """What is asked, for as long as nothing else is."""
        begin = self._size - IMAGE
        data = self._buffer[begin : self._size]
        array = np.frombuffer(bytes(data) if begin % 4 else data, np.float32)
        self._filled = self._size = 0
        return array.reshape(SHAPE)

    def answer(self, scores: np.ndarray) -> None:
        """As the standard has it."""
        output = {"name": "scores", "datatype": "FP32", "shape": scores.shape}
        said = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": scores.nbytes}}]}).encode()
        head = b"HTTP/1.1 200 OK\r\ninference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (len(said), len(said) + scores.nbytes) + said + scores.tobytes())


async def serve(models: dict[str, Model], slo: float) -> None:
    """For ever; ``slo`` in seconds."""
    waiting: deque[Connection] = deque()
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(waiting, arrived), "127.0.0.1", 0)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    while True:
        await arrived.wait()
        arrived.clear()
        while waiting:
            connection = waiting.popleft()
            model, image = models[connection.model], connection.image()
            if time.monotonic() - connection.began + model.seconds > slo:
                connection.transport.write(DROPPED)
            else:
                connection.answer(model.run(image))
            await asyncio.sleep(0)


def main() -> None:
    """Serve the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slo-ms", type=float, default=100.0)
    parser.add_argument("models", type=Path, nargs="+")
    given = parser.parse_args()
    uvloop.run(serve({path.stem: Model(path) for path in given.models}, given.slo_ms / 1e3))


if __name__ == "__main__":
    main()
