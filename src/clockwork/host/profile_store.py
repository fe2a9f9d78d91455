"""Stores profiles on disk, so that the next start of the server need not measure the models again.

There is one JSON file per model content, runtime and kind of device. A file is written under a temporary name and then
renamed, so that a crash leaves either the old or the new file. A file is not used if it cannot be read, is not a
regular file, or contains impossible times. The log then reports the file, and its models are measured again. If the
directory cannot be read or written, the log reports this, and the server works without the directory.
"""

import hashlib
import logging
from pathlib import Path
from typing import Final

import msgspec

from clockwork.errors import InvalidModelError
from clockwork.host.stored_files import TEMPORARY, read_file, remove_abandoned, write_file
from clockwork.messages.profile import Measurement, ModelProfile, ProfileKey
from clockwork.units import MIB, SECOND, Bytes, Nanos

log = logging.getLogger(__name__)


class _Stored(msgspec.Struct, frozen=True):
    """The content of a file. The fields have names, unlike on the wire, so that people can read the file."""

    version: int
    key: ProfileKey
    profile: ModelProfile


_VERSION = 1

MAX_FILE_BYTES: Final[Bytes] = 4 * MIB
"""Largest file that is read."""

MAX_DURATION: Final[Nanos] = 3600 * SECOND
"""Longest duration of an action in a file. Files with longer durations are not used."""

MAX_DIM: Final = 1 << 40
"""Largest size of a dimension of a measured shape, and largest batch size, in a file."""


class ProfileStore:
    """A directory of profiles. Without a directory, nothing is stored."""

    def __init__(self, directory: Path | None) -> None:
        """The directory is created when the first profile is saved."""
        self._directory = directory

    def load(self) -> dict[ProfileKey, ModelProfile]:
        """Return all profiles that can be read."""
        profiles: dict[ProfileKey, ModelProfile] = {}
        if self._directory is None:
            return profiles
        try:
            paths = sorted(self._directory.iterdir())
        except FileNotFoundError:
            return profiles
        except OSError as error:
            log.warning("profiles in %s cannot be read, so models are measured: %s", self._directory, error.strerror)
            return profiles
        for path in paths:
            if path.suffix == TEMPORARY:
                remove_abandoned(path)
            if path.suffix != ".json":
                continue
            try:
                stored = msgspec.json.decode(read_file(path, MAX_FILE_BYTES), type=_Stored)
                if stored.version == _VERSION:
                    check_profile(stored.profile)
                    profiles[stored.key] = stored.profile
            except (OSError, InvalidModelError, msgspec.MsgspecError) as error:
                log.warning("profile %s cannot be used and is ignored: %s", path, error)
        return profiles

    def save(self, key: ProfileKey, profile: ModelProfile) -> None:
        """Store a profile. If this fails, log a warning and continue."""
        if self._directory is None:
            return
        name = hashlib.sha256(f"{key.digest}\0{key.runtime}\0{key.device_kind}".encode()).hexdigest()[:32]
        data = msgspec.json.format(msgspec.json.encode(_Stored(_VERSION, key, profile)), indent=1)
        try:
            write_file(self._directory / f"{name}.json", data)
        except OSError as error:
            log.warning("the profile of %s cannot be saved in %s: %s", key.digest[:12], self._directory, error)


def check_profile(profile: ModelProfile) -> None:
    """Check that a profile from a file contains only possible values.

    Raises:
        InvalidModelError: a value is impossible.
    """
    if 1 not in profile.infer:
        raise InvalidModelError("it has no time for batch size 1")
    if not all(1 <= size <= MAX_DIM for size in (*profile.infer, profile.max_batch_size)):
        raise InvalidModelError(f"batch sizes must be 1 to {MAX_DIM}")
    if not all(0 <= dim <= MAX_DIM for shape in profile.input_shapes for dim in shape):
        raise InvalidModelError(f"dimensions must be 0 to {MAX_DIM}")
    first = (Measurement(profile.first),) if profile.first else ()
    for measurement in (profile.load_weights, *profile.infer.values(), *first):
        _check_measurement(measurement)


def _check_measurement(measurement: Measurement) -> None:
    if not measurement.samples:
        raise InvalidModelError("a list of times is empty")
    if not all(1 <= sample <= MAX_DURATION for sample in measurement.samples):
        raise InvalidModelError(f"times must be 1 to {MAX_DURATION} ns")
