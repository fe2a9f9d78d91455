"""A minimal HTTP client, and a controller in this process.

The controller has a scripted worker. Its model ``m`` doubles four FP32 elements.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, NamedTuple

from client.live import LOOPBACK, ScriptedWorker, serving
from clockwork.host.controller import ControllerHost
from clockwork.http.config import DEFAULT, HttpConfig
from clockwork.http.server import serving_http
from clockwork.net.address import Address


class RawResponse(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: Any) -> RawResponse:
        self.say(method, path, body, **headers)
        return await self.answer()

    def say(self, method: str, path: str, body: bytes = b"", **headers: Any) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self) -> RawResponse:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return RawResponse(int(head[0].split()[1]), headers, body)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    for _ in count():
        if condition():
            return
        await asyncio.sleep(0.005)


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def served(
    *args: Any, http: HttpConfig = DEFAULT, **settings: Any
) -> AsyncIterator[tuple[Peer, Address, ControllerHost, ScriptedWorker]]:
    """Yield a connection to a controller that serves, its address, its host and its worker."""
    async with serving(*args, **settings) as (host, worker), serving_http(host, LOOPBACK, http) as address:
        await eventually(lambda: host.progress()[0] == "serving")
        async with connected(address) as peer:
            yield peer, address, host, worker


def row(**more: Any) -> bytes:
    """Return the body of a request for one row of ones, in JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}
    return json.dumps({"inputs": [tensor], **more}).encode()


def binary_row(row: bytes = bytes(16), shape: Any = (1, 4), **more: Any) -> tuple[bytes, int]:
    """Return the body of a request whose input and output are binary, and the length of its JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": len(row)}}
    parameters = {"binary_data_output": True, **more}
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return head + row, len(head)
