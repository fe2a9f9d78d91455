"""Addresses as people write them: ``host:port``, ``[::1]:port``, or a host alone."""

from typing import Final, NamedTuple

from clockwork.errors import InvalidRequestError

CLIENT_PORT: Final = 12346
"""Where a controller listens for clients, as the original's does."""

WORKER_PORT: Final = 12345
"""Where a controller listens for workers."""

GRPC_PORT: Final = 8001
"""Where Triton listens for gRPC."""


class Address(NamedTuple):
    """A host and a TCP port; port 0 lets the operating system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_LISTEN: Final = Address("127.0.0.1", CLIENT_PORT)
"""Loopback, unless the operator says otherwise."""

DEFAULT_WORKER_LISTEN: Final = Address("127.0.0.1", WORKER_PORT)
"""Loopback, unless the operator says otherwise."""


def parse_address(text: str, default_port: int) -> Address:
    """The address that ``text`` names.

    Raises:
        InvalidRequestError: it names none.
    """
    if "/" in text:
        raise InvalidRequestError(
            f"the address {text!r} is a URL or a path: write HOST:PORT, 127.0.0.1:{default_port} say"
        )
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        host, colon, port = text, "", ""
    elif not colon or (":" in host and not host.startswith("[")):
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise InvalidRequestError(f"the address {text!r} has no host; write HOST:PORT, 127.0.0.1:{default_port} say")
    if not port:
        return Address(host, default_port)
    if not port.isdecimal() or int(port) > 65535:
        raise InvalidRequestError(f"the address {text!r} has the port {port!r}; it must be 0 to 65535")
    return Address(host, int(port))
