"""Measure how much latency shared memory could save for a local client.

Two processes represent client and server. With TCP, the client writes a tensor to a socket. The server reads the tensor
into a buffer, and responds with one byte. With shared memory, the client copies the tensor into a region, and sends one
byte over the same socket. The server copies the tensor too, because the client may overwrite it while the request
waits. The difference is the largest reduction of a request's latency that shared memory could achieve.
"""

import argparse
import json
import multiprocessing
import socket
import statistics
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

SIZE = 602_112  # bytes: an image of 3 x 224 x 224 in FP32
ROUNDS = 2000
WARMUPS = 200


def receive(port: int, region: str, rounds: int, shared: bool) -> None:
    """Receive the tensor ``rounds`` times, and confirm each one with a byte."""
    memory = SharedMemory(region)
    assert memory.buf is not None
    buffer = bytearray(SIZE)
    view = memoryview(buffer)
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(rounds):
            if shared:
                link.recv(1)
                view[:] = memory.buf[:SIZE]
            else:
                at = 0
                while at < SIZE:
                    at += link.recv_into(view[at:])
            link.sendall(b"y")
    memory.close()


def measured(shared: bool, memory: SharedMemory) -> list[float]:
    """Return the microseconds from the start of each send to the receiver's confirmation."""
    assert memory.buf is not None
    tensor = bytes(range(256)) * (SIZE // 256)
    with socket.create_server(("127.0.0.1", 0)) as server:
        rounds = WARMUPS + ROUNDS
        child = multiprocessing.get_context("spawn").Process(
            target=receive, args=(server.getsockname()[1], memory.name, rounds, shared)
        )
        child.start()
        link, _ = server.accept()
        taken = []
        with link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(rounds):
                begin = time.perf_counter_ns()
                if shared:
                    memory.buf[:SIZE] = tensor
                    link.sendall(b"x")
                else:
                    link.sendall(tensor)
                assert link.recv(1) == b"y"
                taken.append((time.perf_counter_ns() - begin) / 1000)
        child.join()
    return taken[WARMUPS:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    memory = SharedMemory(create=True, size=SIZE)
    found: dict[str, dict[str, float]] = {"tcp": {}, "shared": {}}
    rounds: dict[str, list[float]] = {"tcp": [], "shared": []}
    try:
        for _ in range(3):
            for way in rounds:
                rounds[way] += measured(way == "shared", memory)
    finally:
        memory.close()
        memory.unlink()
    for way, taken in rounds.items():
        found[way] = {"p50_us": statistics.median(taken), "p99_us": statistics.quantiles(taken, n=100)[98]}
        print(f"{way:8} p50 {found[way]['p50_us']:7.1f} us   p99 {found[way]['p99_us']:7.1f} us")
    print(f"at most {found['tcp']['p50_us'] - found['shared']['p50_us']:.1f} us of a request's latency can be saved")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
