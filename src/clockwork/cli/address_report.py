"""Reports the addresses of a server to the parent process, through a pipe that this process inherits.

A port may be chosen by the operating system, so the parent process cannot know the addresses in advance. Each line in
the pipe is a JSON document with all addresses that are known at that time.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, TypeAlias

import typer

from clockwork.net.address import Address

ReportDescriptor: TypeAlias = Annotated[int | None, typer.Option(hidden=True)]


class AddressReport:
    """Writes the addresses into a pipe. If there is no pipe, all methods do nothing."""

    def __init__(self, descriptor: int | None) -> None:
        """``descriptor`` is the open end of the pipe, or None."""
        self._descriptor = descriptor
        self._addresses: dict[str, str] = {}
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def listening(self, addresses: Mapping[str, Address | None]) -> None:
        """Report addresses by the names of their ports. Ports without an address are not used."""
        self._addresses.update({name: str(address) for name, address in addresses.items() if address is not None})
        self._write(serving=False)

    def serving(self) -> None:
        """Report that the server serves its models."""
        self._write(serving=True)

    def _write(self, *, serving: bool) -> None:
        if self._descriptor is None:
            return
        line = json.dumps({"serving": serving, "addresses": self._addresses})
        with suppress(OSError):  # the parent process has ended
            os.write(self._descriptor, f"{line}\n".encode())
