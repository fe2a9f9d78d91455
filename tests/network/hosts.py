"""Hosts with their own networks on one machine, and a switch between them that can delay, lose and cut.

Each host is a network namespace whose only interface is a TAP device. The switch is a thread of the test. It forwards
frames between these devices. So no module of the kernel and no ``tc`` is needed, and a lost or cut frame is the
decision of the test. Programs on a host may also have their own clocks (time namespaces).
"""

import fcntl
import os
import re
import select
import shutil
import struct
import subprocess
import threading
import time
from contextlib import suppress
from heapq import heappop, heappush
from pathlib import Path
from random import Random

TUN = Path("/dev/net/tun")
NAMESPACES = Path("/run/netns")
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
MAX_FRAME = 2048


def missing() -> str:
    """Return why there can be no such hosts on this machine, or an empty text."""
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            return f"the program {program} is missing: apt-get install {package}"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if not TUN.exists():
        return f"there is no {TUN}: load the kernel's module tun"
    name = f"cwprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    try:
        os.close(_tap(f"cwp{os.getpid()}"))
    except OSError as error:
        return f"TAP devices cannot be made: {error.strerror}"
    return ""


def clocks_differ() -> bool:
    """Return whether programs can have their own monotonic clocks."""
    command = ["unshare", "--time", "--monotonic", "5", "--fork", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _tap(name: str) -> int:
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Host:
    """A host of a `Network`."""

    def __init__(self, name: str, number: int, offset: int = 0) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self.mac = bytes((2, 0, 0, 0, 0, number))
        self.offset = offset  #: seconds by which the host's clock is ahead
        self.namespace = f"cw{os.getpid()}-{name}"
        device = f"cw{os.getpid()}n{number}"
        self.tap = _tap(device)
        _ip("netns", "add", self.namespace)
        _ip("link", "set", device, "address", self.mac.hex(":"))
        _ip("link", "set", device, "netns", self.namespace, "name", "eth0")
        for arguments in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", self.namespace, *arguments)

    def command(self) -> tuple[str, ...]:
        """Return the words before a command that is to run on this host."""
        words = ("nsenter", f"--net={NAMESPACES / self.namespace}")
        if not self.offset:
            return words
        offset = str(self.offset)
        clock = ("unshare", "--time", "--monotonic", offset, "--boottime", offset, "--fork", "--kill-child=SIGKILL")
        return (*words, *clock)

    def close(self) -> None:
        os.close(self.tap)
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True, check=False)


class Network:
    """Hosts and the switch between them. The test changes ``delay``, ``loss`` and ``cut`` at any time.

    ``delay`` is in seconds and applies to each frame. ``loss`` is a probability. Frames from and to the hosts whose
    names are in ``cut`` are lost.
    """

    def __init__(self, offsets: dict[str, int]) -> None:
        """``offsets`` maps the name of each host to the offset of its clock in seconds."""
        sweep()
        self.delay = 0.0
        self.loss = 0.0
        self.cut: set[str] = set()
        self.lost = 0  #: number of frames that were lost because of ``loss``
        self.dropped = 0  #: number of frames that were lost because of ``cut``
        self._rng = Random(1)
        self.hosts: dict[str, Host] = {}
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._forward, name="switch", daemon=True)
        try:
            for number, (name, offset) in enumerate(offsets.items(), 1):
                self.hosts[name] = Host(name, number, offset)
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def close(self) -> None:
        os.close(self._stopped)
        if self._thread.ident is not None:
            self._thread.join(30)
        os.close(self._stop)
        for host in self.hosts.values():
            host.close()

    def _forward(self) -> None:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN | select.POLLHUP)
        by_tap = {host.tap: host for host in self.hosts.values()}
        for tap in by_tap:
            poll.register(tap, select.POLLIN)
        waiting: list[tuple[float, int, Host, Host, bytes]] = []
        order = 0
        while True:
            wait = None if not waiting else max(0.0, waiting[0][0] - time.monotonic()) * 1000
            ready = [descriptor for descriptor, _ in poll.poll(wait)]
            if self._stop in ready:
                return
            for source in [by_tap[descriptor] for descriptor in ready]:
                with suppress(BlockingIOError):
                    while True:
                        frame = os.read(source.tap, MAX_FRAME)
                        for target in self.hosts.values():
                            if target is not source and (frame[0] & 1 or frame[:6] == target.mac):
                                order += 1
                                heappush(waiting, (time.monotonic() + self.delay, order, source, target, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                self._deliver(*heappop(waiting)[2:])

    def _deliver(self, source: Host, target: Host, frame: bytes) -> None:
        if self.cut & {source.name, target.name}:
            self.dropped += 1
        elif self._rng.random() < self.loss:
            self.lost += 1
        else:
            with suppress(OSError):  # the interface is not up yet, or its queue is full
                os.write(target.tap, frame)


def sweep() -> None:
    """Delete the namespaces of test processes that were killed."""
    for path in NAMESPACES.glob("cw*-*") if NAMESPACES.is_dir() else ():
        found = re.fullmatch(r"cw(\d+)-\w+", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "netns", "delete", path.name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
