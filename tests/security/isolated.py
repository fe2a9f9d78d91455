"""Runs a command and records each packet to another machine: ``isolated.py REPORT COMMAND...``, under ``unshare``.

The command runs in a network namespace that has only loopback. All other addresses are made local to this namespace. So
all packets leave through loopback, and this program captures them there. This includes packets from C++ code, which
Python's audit hooks do not see. Names are looked up at an address that is not loopback.

REPORT is a JSON file. ``packets`` contains the destination of each packet to an address other than loopback. ``code``
is the exit code of the command.
"""

import ctypes
import ipaddress
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

#: Exit code if this process lacks the permissions it needs.
NOT_PERMITTED = 77
RESOLVER = "192.0.2.53"  # this address is reserved for documentation (RFC 5737)
FILES = {"/etc/resolv.conf": f"nameserver {RESOLVER}\n", "/etc/nsswitch.conf": "hosts: files dns\n"}

ETH_P_ALL = 3
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
MS_BIND = 4096


def prepare(scratch: Path) -> None:
    """Make every address local, and make the C library look up names at `RESOLVER`.

    Raises:
        OSError, subprocess.CalledProcessError: the process lacks the permission.
    """
    ip = ("ip", "link", "set", "lo", "up"), ("ip", "route", "add", "local", "default", "dev", "lo")
    for command in ip:
        subprocess.run(command, check=True, capture_output=True)
    subprocess.run(("ip", "-6", "route", "add", "local", "default", "dev", "lo"), check=False, capture_output=True)
    libc = ctypes.CDLL(None, use_errno=True)
    for number, (file, text) in enumerate(FILES.items()):
        (scratch / str(number)).write_text(text)
        source, target = str(scratch / str(number)).encode(), str(Path(file).resolve()).encode()
        if libc.mount(source, target, None, MS_BIND, None):
            raise OSError(ctypes.get_errno(), f"cannot mount over {file}")


def destination(frame: bytes) -> str:
    """Return the destination of a frame, or "" if it is loopback or multicast."""
    kind, packet = frame[12:14], frame[14:]
    if kind == IPV4:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv4Address(packet[16:20])
        protocol, rest = packet[9], packet[4 * (packet[0] & 15) :]
    elif kind == IPV6:
        address, protocol, rest = ipaddress.IPv6Address(packet[24:40]), packet[6], packet[40:]
    else:
        return ""
    if address.is_loopback or address.is_multicast:
        return ""
    return f"{address} protocol {protocol} port {int.from_bytes(rest[2:4])}"


def capture(packets: set[str]) -> socket.socket:
    """Collect the destinations of all packets until the socket is closed."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    raw.bind(("lo", 0))

    def read() -> None:
        while frame := raw.recv(256):
            packets.add(destination(frame))

    threading.Thread(target=read, daemon=True).start()
    return raw


def main(report: str, *command: str) -> int:
    packets: set[str] = set()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            prepare(Path(scratch))
            raw = capture(packets)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"cannot isolate a process: {error} {getattr(error, 'stderr', '')}", file=sys.stderr)
            return NOT_PERMITTED
        code = subprocess.run(command, check=False, env={**os.environ}).returncode
        raw.close()
    Path(report).write_text(json.dumps({"packets": sorted(packets - {""}), "code": code}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
