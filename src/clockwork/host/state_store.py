"""Stores the models that a controller serves, so that a restarted controller serves them again.

The state directory contains one JSON file. The file is written in a thread, so that the disk never delays requests. If
the models change several times during a write, only the last state is written afterwards.

The response to a change of the models is held until the file contains the change. If the disk fails or takes longer
than `MAX_HELD`, the response is sent without the file, and the log has a warning.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from clockwork.controller.config import DEFAULT, DesiredModels, LoadSpec, ShadowSpec
from clockwork.controller.desired import check_desired
from clockwork.controller.events import Respond
from clockwork.errors import InvalidRequestError
from clockwork.host.log_events import event_fields
from clockwork.host.stored_files import TEMPORARY, read_file, remove_abandoned, write_file
from clockwork.messages.requests import LoadModelResponse, PromoteResponse, UnloadModelResponse
from clockwork.units import MIB, Bytes

FILE: Final = "models.json"
"""Name of the file in the state directory."""

UNUSABLE: Final = ".unusable"
"""Suffix that is added to the name of a file that cannot be used."""

FORMAT: Final = 1
"""Format of the file. A file with a different format is not used."""

MAX_FILE_BYTES: Final[Bytes] = 64 * MIB
"""Largest file that is read."""

MAX_HELD: Final = 5.0
"""Longest time in seconds for which the response to a change waits for the disk."""

CHANGES: Final = (LoadModelResponse, UnloadModelResponse, PromoteResponse)
"""Responses to changes of the models."""

log = logging.getLogger("clockwork.controller")


class Arguments(Struct, frozen=True):
    """The stored part of the operator's arguments. A restarted controller compares it with the new arguments.

    - ``models``: the models that the arguments name, including those of model repositories
    - ``labels``: the labels by model name
    - ``shadows``: the shadows by model name
    - ``root``: the directory to which the models' paths are relative; empty if the workers choose their own roots
    """

    models: tuple[LoadSpec, ...] = ()
    labels: dict[str, dict[str, str]] = {}
    root: str = ""
    shadows: dict[str, ShadowSpec] = {}


class StateConfig(Struct, frozen=True):
    """The state directory, and the arguments that are stored with the models."""

    directory: Path
    arguments: Arguments = Arguments()


class StoredState(Struct, frozen=True):
    """The content of the file."""

    format: int
    arguments: Arguments
    desired: DesiredModels


class _Format(Struct, frozen=True):
    format: int


class StateStore:
    """Writes the file. Use this object on a running event loop. Without a configuration, it stores nothing."""

    def __init__(self, config: StateConfig | None) -> None:
        """The directory is created when the models are saved for the first time."""
        self._config = config
        self._next: DesiredModels | None = None
        self._writing: asyncio.Task[None] | None = None
        self._warned = False
        self._saves = 0  #: number of calls of `save`

        #: responses that wait: number of the last save before the response, the response, the function that sends it
        self._held: list[tuple[int, Respond, Callable[[Respond], None]]] = []
        self._limit: asyncio.TimerHandle | None = None  #: set while responses wait

    def save(self, desired: DesiredModels) -> None:
        """Begin to store the models, and return at once. Of several failures in a row, only the first is logged."""
        if self._config is None:
            return
        self._next = desired
        self._saves += 1
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_all(self._config))

    def hold(self, command: Respond, send: Callable[[Respond], None]) -> bool:
        """If the response is to a change and models are being written, send the response later, and return True."""
        if self._writing is None or not isinstance(command.response, CHANGES):
            return False
        self._held.append((self._saves, command, send))
        if self._limit is None:
            self._limit = asyncio.get_running_loop().call_later(MAX_HELD, self._give_up)
        return True

    async def close(self) -> None:
        """Wait until the last saved models are written."""
        if self._writing is not None:
            await self._writing

    async def _write_all(self, config: StateConfig) -> None:
        while (desired := self._next) is not None:
            self._next = None
            written = self._saves
            try:
                await asyncio.to_thread(_write, config, desired)
                self._warned = False
            except OSError as error:
                if not self._warned:
                    text = "the served models cannot be stored in %s, so a restart will not restore them: %s"
                    reason = error.strerror or str(error)
                    extra = event_fields("state_not_saved", directory=str(config.directory), reason=reason)
                    log.warning(text, config.directory, reason, extra=extra)
                self._warned = True
            self._release(written)
        self._writing = None
        self._release(self._saves)

    def _give_up(self) -> None:
        text = "the served models were not stored in %s within %g s; changes are answered without the file"
        directory = "" if self._config is None else str(self._config.directory)
        extra = event_fields("state_not_saved", directory=directory, reason="the disk is slow")
        log.warning(text, directory, MAX_HELD, extra=extra)
        self._release(self._saves)

    def _release(self, written: int) -> None:
        """Send the responses that waited for a save whose number is at most ``written``."""
        held, self._held = self._held, []
        for number, command, send in held:
            if number <= written:
                send(command)
            else:
                self._held.append((number, command, send))
        if not self._held and self._limit is not None:
            self._limit.cancel()
            self._limit = None


def load_state(directory: Path) -> tuple[StoredState | None, str]:
    """Return the stored state (or None), and the reason why the file cannot be used (or an empty text).

    A file that cannot be used is renamed, so that the next start does not report it again.
    """
    path = directory / FILE
    with suppress(OSError):
        for temporary in directory.glob(f"*{TEMPORARY}"):
            remove_abandoned(temporary)
    try:
        return _parse(read_file(path, MAX_FILE_BYTES)), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, InvalidRequestError, msgspec.MsgspecError, RecursionError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    aside = path.with_name(FILE + UNUSABLE)
    renamed = "it could not be renamed"
    with suppress(OSError):
        path.replace(aside)
        renamed = f"it was renamed to {aside.name}"
    return None, f"state file {path} cannot be used, so no models are restored ({renamed}): {reason}"


def _parse(data: bytes) -> StoredState:
    """Return the content of a file.

    Raises:
        InvalidRequestError: the format of the file is not `FORMAT`, or a value is impossible.
        msgspec.MsgspecError: the file is not JSON, or a field has a wrong type.
    """
    found = msgspec.json.decode(data, type=_Format).format
    if found != FORMAT:
        raise InvalidRequestError(f"its format is {found}; this version of Clockwork reads format {FORMAT}")
    state = msgspec.json.decode(data, type=StoredState)
    check_desired(state.desired, DEFAULT.max_copies)
    return state


def _write(config: StateConfig, desired: DesiredModels) -> None:
    data = msgspec.json.encode(StoredState(FORMAT, config.arguments, desired))
    write_file(config.directory / FILE, msgspec.json.format(data, indent=1), sync=True)
