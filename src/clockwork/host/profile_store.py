"""Profiles on disk: one JSON file per content, runtime and kind of device, so that the next start measures nothing.

A file is written to a temporary name and renamed, so that a crash leaves the old or the new file. A file that cannot be
read is reported and ignored; its models are measured again.
"""

import hashlib
import logging
import os
import tempfile
from pathlib import Path

import msgspec

from clockwork.messages.profile import ModelProfile, ProfileKey

log = logging.getLogger(__name__)


class _Stored(msgspec.Struct, frozen=True):
    """The content of a file. Unlike on the wire, fields have names, so that people can read them."""

    version: int
    key: ProfileKey
    profile: ModelProfile


_VERSION = 1


class ProfileStore:
    """A directory of profiles; with None, nothing is stored."""

    def __init__(self, directory: Path | None) -> None:
        """The directory is created when the first profile is saved."""
        self._directory = directory

    def load(self) -> dict[ProfileKey, ModelProfile]:
        """Return all profiles that can be read."""
        profiles: dict[ProfileKey, ModelProfile] = {}
        if self._directory is None or not self._directory.is_dir():
            return profiles
        for path in sorted(self._directory.glob("*.json")):
            try:
                stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
                usable = stored.version == _VERSION and 1 in stored.profile.infer
                if usable and stored.profile.load_weights.samples:
                    profiles[stored.key] = stored.profile
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("profile %s cannot be read and is ignored: %s", path, error)
        return profiles

    def save(self, key: ProfileKey, profile: ModelProfile) -> None:
        """Store a profile; a failure is logged and has no other effect."""
        if self._directory is None:
            return
        name = hashlib.sha256(f"{key.digest}\0{key.runtime}\0{key.device_kind}".encode()).hexdigest()[:32]
        data = msgspec.json.format(msgspec.json.encode(_Stored(_VERSION, key, profile)), indent=1)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._directory, suffix=".tmp")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                Path(temporary).replace(self._directory / f"{name}.json")
            except BaseException:
                Path(temporary).unlink()
                raise
        except OSError as error:
            log.warning("the profile of %s cannot be saved in %s: %s", key.digest[:12], self._directory, error)
