"""Parses network addresses such as ``host:port``, ``[::1]:port``, ``*:port``, a host alone, or a port alone."""

from ipaddress import IPv6Address
from typing import Final, NamedTuple

from clockwork.errors import InvalidRequestError

CLIENT_PORT: Final = 12346
"""Default port for clients. The original Clockwork uses the same port."""

WORKER_PORT: Final = 12345
"""Default port for workers."""

GRPC_PORT: Final = 8001
"""Default port for gRPC. Triton uses the same port."""

HEALTH_PORT: Final = 8080
"""Default port for the health checks of a worker."""

LOOPBACK: Final = "127.0.0.1"
"""Host that is used if an address is only a port."""

ANY_HOST: Final = "::"
"""Host that means every IPv4 and IPv6 address of this machine."""


class Address(NamedTuple):
    """A host and a TCP port. If the port is 0, the operating system chooses the port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_LISTEN: Final = Address("127.0.0.1", CLIENT_PORT)
"""Default address for clients. Only clients on the same machine can reach this address."""

DEFAULT_WORKER_LISTEN: Final = Address("127.0.0.1", WORKER_PORT)
"""Default address for workers. Only workers on the same machine can reach this address."""


def parse_address(text: str, default_port: int) -> Address:
    """Return the address that ``text`` describes.

    The hosts ``*`` and ``[::]`` mean every IPv4 and IPv6 address of this machine. A port alone is a port of 127.0.0.1.

    Raises:
        InvalidRequestError: the text is not an address.
    """
    if "/" in text:
        raise InvalidRequestError(
            f"address {text!r} is a URL or a path; use HOST:PORT, for example 127.0.0.1:{default_port}"
        )
    if text.isdecimal():
        text = f"{LOOPBACK}:{text}"
    host, colon, port = text.rpartition(":")
    if _is_ipv6(text) and _is_ipv6(host) and port.isdecimal():
        raise InvalidRequestError(f"address {text!r} is ambiguous; write [{host}]:{port} or [{text}]:{default_port}")
    if text.startswith("[") and text.endswith("]"):
        host, colon, port = text, "", ""
    elif not colon or (":" in host and not host.startswith("[")):
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]")
    if host == "*":
        host = ANY_HOST
    if not host:
        raise InvalidRequestError(f"address {text!r} has no host; use HOST:PORT, for example 127.0.0.1:{default_port}")
    if not port:
        return Address(host, default_port)
    if not port.isdecimal() or int(port) > 65535:
        raise InvalidRequestError(f"address {text!r} has port {port!r}; a port is 0 to 65535")
    return Address(host, int(port))


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
