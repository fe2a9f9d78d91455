"""An HTTP/1.1 client without a library, so that the cost of a client library is not measured."""

import asyncio
import json
import time
from typing import Any

import numpy as np

LENGTH = b"\r\ncontent-length: "


def infer_request(address: str, model: str, inputs: np.ndarray, slo_ms: float) -> bytes:
    """Return the bytes of a whole inference request. The tensors of the request and of the response are binary."""
    parameters = {"binary_data_output": True, "slo_ms": slo_ms}
    size = {"binary_data_size": inputs.nbytes}
    tensor = {"name": "data", "datatype": "FP32", "shape": inputs.shape, "parameters": size}
    said = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(said) + inputs.nbytes}\r\n"
        f"Inference-Header-Content-Length: {len(said)}\r\n\r\n"
    )
    return head.encode() + said + inputs.tobytes()


class Connection(asyncio.Protocol):
    """A connection that sends one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self.body = b""  #: body of the last response

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[int]":
        """Send a request, and return a future of the response's status."""
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._received.index(LENGTH) + len(LENGTH)
        if len(self._received) < head + 4 + int(self._received[at : self._received.index(b"\r", at)]):
            return
        assert self._answer is not None
        self.body = bytes(self._received[head + 4 :])
        self._answer.set_result(int(self._received[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RuntimeError("the server closed the connection"))


async def connect(address: str) -> Connection:
    """Connect to ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    return (await asyncio.get_running_loop().create_connection(Connection, host, int(port)))[1]


async def closed_loop(address: str, request: bytes, connections: int, duration: float) -> tuple[float, list[float]]:
    """Run a closed loop, and return requests per second and the latencies in ms.

    Raises:
        RuntimeError: a response is not a success.
    """
    latencies: list[float] = []
    made = [await connect(address) for _ in range(connections)]
    begin = time.perf_counter()

    async def one_after_the_other(connection: Connection) -> None:
        while (asked := time.perf_counter()) < begin + duration:
            status = await connection.ask(request)
            latencies.append((time.perf_counter() - asked) * 1e3)
            if status != 200:
                raise RuntimeError(f"the server answered {status}: {connection.body.decode()[:300]}")

    await asyncio.gather(*(one_after_the_other(connection) for connection in made))
    for connection in made:
        connection.transport.close()
    return len(latencies) / (time.perf_counter() - begin), latencies
