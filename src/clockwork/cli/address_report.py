"""Reports the addresses of a server to the parent process, through a pipe that this process inherits.

A port may be chosen by the operating system, so the parent process cannot know the addresses in advance. Each line in
the pipe is a JSON document with all addresses that are known at that time. A controller also reports how many devices
it wants. So the parent process needs no token and no certificate to read this number.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from clockwork.net.address import Address

if TYPE_CHECKING:
    from clockwork.host.controller import ControllerHost
    from clockwork.messages.scaling import KindScaling

SCALING_EVERY: Final = 2.0
"""Time in seconds between two reports of the wanted number of devices."""

MAX_REASON: Final = 500
"""Limit of the characters of a reported reason. The system writes lines of up to 4 KiB completely or not at all."""

ReportDescriptor: TypeAlias = Annotated[int | None, typer.Option(hidden=True)]


class AddressReport:
    """Writes the addresses into a pipe. If there is no pipe, all methods do nothing."""

    def __init__(self, descriptor: int | None) -> None:
        """``descriptor`` is the open end of the pipe, or None."""
        self._descriptor = descriptor
        self._addresses: dict[str, str] = {}
        self._scaling: dict[str, Any] = {}
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
            os.set_blocking(descriptor, False)  # a slow parent process must not stop this process

    def listening(self, addresses: Mapping[str, Address | None]) -> None:
        """Report addresses by the names of their ports. Ports without an address are not used."""
        self._addresses.update({name: str(address) for name, address in addresses.items() if address is not None})
        self._write(serving=False)

    def serving(self) -> None:
        """Report that the server serves its models."""
        self._write(serving=True)

    async def keep_scaling(self, host: "ControllerHost") -> None:
        """Report every two seconds how many devices a controller wants, as soon as the controller serves."""
        import asyncio  # the options of this module are imported for --help, which needs no event loop

        while self._descriptor is not None:
            await asyncio.sleep(SCALING_EVERY)
            if kinds := host.description().scaling:
                self.scaling(kinds)

    def scaling(self, kinds: "Sequence[KindScaling]") -> None:
        """Report how many devices are wanted, all kinds together, and the reason of the kind with the most."""
        largest = max(kinds, key=lambda kind: kind.wanted)
        self._scaling = {"wanted": sum(kind.wanted for kind in kinds), "why": largest.why[:MAX_REASON]}
        self._write(serving=True)

    def _write(self, *, serving: bool) -> None:
        if self._descriptor is None:
            return
        line = json.dumps({"serving": serving, "addresses": self._addresses, **self._scaling})
        with suppress(OSError):  # the parent process has ended, or does not read
            os.write(self._descriptor, f"{line}\n".encode())
