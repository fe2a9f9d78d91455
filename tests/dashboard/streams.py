"""Reads the stream of snapshots over a raw connection."""

import json
from typing import Any

from http_raw import Peer

EVENTS = "/v2/clockwork/events"
PREFIX = b"data: "


async def head(peer: Peer) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of a reply, without its body."""
    lines = (await peer.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return int(lines[0].split()[1]), headers


async def begin(peer: Peer, **headers: Any) -> dict[str, str]:
    """Request the stream, and return the headers of the reply."""
    peer.say("GET", EVENTS, **headers)
    status, found = await head(peer)
    assert status == 200, await peer.reader.read(500)
    return found


async def chunk(peer: Peer) -> bytes:
    """Return the next chunk of the body, or nothing at its end."""
    size = int(await peer.reader.readline(), 16)
    data = await peer.reader.readexactly(size)
    assert await peer.reader.readline() == b"\r\n"
    return data


async def snapshot(peer: Peer) -> dict[str, Any]:
    """Return the next snapshot."""
    return decoded(await chunk(peer))


def decoded(event: bytes) -> dict[str, Any]:
    assert event.startswith(PREFIX)
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    found: dict[str, Any] = json.loads(event[len(PREFIX) :])
    return found
