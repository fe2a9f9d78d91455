"""Servers with emulated devices for the tests of the dashboard in a browser, and requests to them."""

import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cli.processes import clockwork

PROFILE = "resnet50-v100"
SCENARIO = """
name = "dashboard"
duration_s = 600
slo_ms = {slo_ms}

[[workload]]
kind = "poisson"
rate = {rate}
"""
COPIES = """
[[models]]
name = "{name}"
copies = {copies}
profile = "{profile}"
"""


class Site(NamedTuple):
    """A server with its addresses. ``url`` ends with a slash."""

    url: str
    native: str


@contextmanager
def emulated(devices: int, models: Mapping[str, int], *options: str, profiles: Path | None = None) -> Iterator[Site]:
    """Serve models on emulated devices.

    ``models`` contains the number of copies of each model. ``profiles`` is a file with a profile for each model.
    """
    named = [f"{name}={PROFILE if profiles is None else name}:{copies}" for name, copies in models.items()]
    ports = ("--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--no-profile-cache")
    with clockwork(
        "serve", f"--emulate={devices}", f"--profile={profiles or PROFILE}", *named, *ports, *options
    ) as process:
        http = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        yield Site(f"http://{http}/", process.address())


@contextmanager
def requests_to(
    site: Site, models: Mapping[str, int], rate: float, directory: Path, slo_ms: int = 100
) -> Iterator[None]:
    """Send Poisson requests to all models until the context ends. ``directory`` gets the file of the scenario."""
    scenario = directory / "scenario.toml"
    named = [COPIES.format(name=name, copies=copies, profile=PROFILE) for name, copies in models.items()]
    scenario.write_text("".join([SCENARIO.format(rate=rate, slo_ms=slo_ms), *named]))
    command = [sys.executable, "-m", "clockwork.cli", "load-test", site.native, str(scenario), "--generated"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(30)


def refused_request(site: Site, model: str, name: str) -> None:
    """Send a request with the id ``name`` that no device can answer in time."""
    image = {"name": "data", "datatype": "FP32", "shape": [1, 3, 224, 224], "data": [0.0] * (3 * 224 * 224)}
    body: dict[str, Any] = {"id": name, "inputs": [image], "parameters": {"timeout": 500}}
    path = f"v2/models/{model}/infer"
    request = urllib.request.Request(site.url + path, json.dumps(body).encode())
    with pytest.raises(urllib.error.HTTPError, match="503") as caught:
        urllib.request.urlopen(request, timeout=30)
    caught.value.close()


@contextmanager
def behind_a_prefix(site: Site, prefix: str) -> Iterator[str]:
    """Run a proxy that serves the site below a path, as a reverse proxy does. Yield the URL."""
    target = site.url.removeprefix("http://").rstrip("/")
    host, port = target.split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def forward(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server:
            head = client.recv(65536)
            method, path, rest = head.split(b" ", 2)
            if not path.startswith(prefix.encode()):
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            rest = rest.replace(b"\r\n", b"\r\nConnection: close\r\n", 1).replace(b"\r\nConnection: keep-alive", b"", 1)
            server.sendall(b" ".join((method, b"/" + path.removeprefix(prefix.encode()), rest)))
            while data := server.recv(65536):
                client.sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=quietly, args=(client,), daemon=True).start()

    def quietly(client: socket.socket) -> None:
        with suppress(OSError):  # the browser may close the connection at any time
            forward(client)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)
