"""Finds a controller that may move to another address: a file contains the controller's present address."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from clockwork.errors import ConnectionLostError, InvalidRequestError
from clockwork.net.address import WORKER_PORT, Address, parse_address
from clockwork.units import KIB, Bytes

MAX_FILE_BYTES: Final[Bytes] = KIB
"""Number of bytes that are read from a file. An address is shorter."""

FindController: TypeAlias = Callable[[], Address]
"""Function that returns the address of the controller, and raises ConnectionLostError if the address is unknown."""


class ControllerFile:
    """A file with the address of the controller. Another process replaces the file when the controller moves."""

    def __init__(self, path: Path) -> None:
        """``path`` is the path of the file, which need not exist yet."""
        self._path = path

    def __call__(self) -> Address:
        """Return the address.

        Raises:
            ConnectionLostError: the file does not exist, or contains no address.
        """
        try:
            with self._path.open() as file:
                return parse_address(file.read(MAX_FILE_BYTES).strip(), WORKER_PORT)
        except (OSError, UnicodeDecodeError, InvalidRequestError):
            raise ConnectionLostError("the address of the controller is not known yet") from None

    def __str__(self) -> str:
        return str(self._path)

    def write(self, address: str) -> None:
        """Replace the file, so that a reader finds either the old address or the new address."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{address}\n")
        new.replace(self._path)
