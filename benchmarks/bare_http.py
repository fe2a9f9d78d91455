"""A minimal model server, which is a loop around ONNX Runtime. This server is the baseline of `bench_overload.py`.

    python benchmarks/bare_http.py model.onnx ...

The server accepts one kind of request: POST /v2/models/NAME/infer with one binary tensor, at batch size 1. The server
executes requests one after the other in the order of their arrival, and drops a request that would be late. The server
has no plan, no limits, no batches, no second process and no other protocol. If a client stops reading, the server is
blocked.
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
from typing import Any

import numpy as np
import uvloop
from serving import Served, running

from clockwork.runtimes.ort import onnxruntime

MAX_HEAD = 4096  # largest head in bytes, including the JSON
DROPPED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def bare_http(models: list[Path], slo_ms: float, on: set[int]) -> Iterator[Served]:
    """Run this server in a separate process and session, on the cores ``on``."""
    command = [sys.executable, __file__, f"--slo-ms={slo_ms}", *map(str, models)]
    with running(command, on, session=True) as process:
        assert process.stdout is not None
        yield Served(process, http=process.stdout.readline().strip())


class Model:
    """An ONNX Runtime session, and its measured execution time in seconds."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        described = self._session.get_inputs()[0]
        self.input = described.name
        self.shape = (1, *described.shape[1:])
        self.nbytes = 4 * int(np.prod(self.shape))
        image = np.zeros(self.shape, np.float32)
        self.run(image)
        begin = time.monotonic()
        for _ in range(5):
            self.run(image)
        self.seconds = (time.monotonic() - begin) / 5

    def run(self, image: np.ndarray) -> np.ndarray:
        """Execute the model, and return the scores."""
        scores: np.ndarray = self._session.run(None, {self.input: image})[0]
        return scores


class Connection(asyncio.BufferedProtocol):
    """A connection that receives one request at a time into a buffer."""

    def __init__(self, waiting: deque["Connection"], arrived: asyncio.Event, largest: int) -> None:
        self._waiting, self._arrived = waiting, arrived
        self._buffer = memoryview(bytearray(largest + MAX_HEAD))
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

    def tensor(self, model: Model) -> np.ndarray:
        """Return the request's input. The array is valid until the next request."""
        begin = self._size - model.nbytes
        data = self._buffer[begin : self._size]
        array = np.frombuffer(bytes(data) if begin % 4 else data, np.float32)
        self._filled = self._size = 0
        return array.reshape(model.shape)

    def answer(self, scores: np.ndarray) -> None:
        """Send a response as the Open Inference Protocol defines it."""
        output = {"name": "scores", "datatype": "FP32", "shape": scores.shape}
        said = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": scores.nbytes}}]}).encode()
        head = b"HTTP/1.1 200 OK\r\ninference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (len(said), len(said) + scores.nbytes) + said + scores.tobytes())


async def serve(models: dict[str, Model], slo: float) -> None:
    """Serve until the process is killed. ``slo`` is in seconds."""
    waiting: deque[Connection] = deque()
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()
    largest = max(model.nbytes for model in models.values())
    server = await loop.create_server(lambda: Connection(waiting, arrived, largest), "127.0.0.1", 0)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    while True:
        await arrived.wait()
        arrived.clear()
        while waiting:
            connection = waiting.popleft()
            model = models[connection.model]
            image = connection.tensor(model)
            if time.monotonic() - connection.began + model.seconds > slo:
                connection.transport.write(DROPPED)
            else:
                connection.answer(model.run(image))
            await asyncio.sleep(0)


def main() -> None:
    """Serve the models on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slo-ms", type=float, default=100.0)
    parser.add_argument("models", type=Path, nargs="+")
    given = parser.parse_args()
    uvloop.run(serve({path.stem: Model(path) for path in given.models}, given.slo_ms / 1e3))


if __name__ == "__main__":
    main()
