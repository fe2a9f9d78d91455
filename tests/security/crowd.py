"""Opens many connections from a separate process: ``python crowd.py PORT IDLE SLOW``.

Idle connections send nothing. Slow connections send the head of a request byte by byte. The program prints ``here N``
when all N connections are open. It exits when its stdin is closed.
"""

import asyncio
import resource
import sys

SOURCES = 5  #: number of source addresses, beginning with 127.0.0.2; each has its own ports
AT_ONCE = 500
HEAD = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\nX-Slow: " + b"x" * 10_000


async def main(port: int, idle: int, slow: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    writers: list[asyncio.StreamWriter] = []

    async def connect(number: int) -> None:
        source = f"127.0.0.{2 + number % SOURCES}"
        _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        writers.append(writer)

    total = idle + slow
    for first in range(0, total, AT_ONCE):
        await asyncio.gather(*map(connect, range(first, min(first + AT_ONCE, total))))
    print("here", len(writers), flush=True)

    async def drip() -> None:
        for place in range(len(HEAD)):
            for writer in writers[idle:]:
                writer.write(HEAD[place : place + 1])
            await asyncio.sleep(0.05)

    dripping = asyncio.ensure_future(drip())
    await asyncio.to_thread(sys.stdin.read)
    dripping.cancel()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
