"""Creates certificates for tests: an authority and certificates that it signs. The repository contains no keys."""

import ssl
from functools import cache
from pathlib import Path
from typing import NamedTuple

import trustme

from clockwork.net.tls import ServerTls, client_tls, server_tls


class Pair(NamedTuple):
    certificate: Path
    key: Path


class Authority:
    """A certificate authority whose files are in a directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._authority, self._directory, self._name = _authority(name), directory, name
        self.file = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def signs(self, *names: str) -> Pair:
        """Return a certificate for these names with its chain, and its key."""
        signed = _signed(self._name, names)
        stem = f"{self._name}-{names[0].replace('.', '-')}"
        pair = Pair(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        signed.private_key_pem.write_to_path(str(pair.key))
        for number, blob in enumerate(signed.cert_chain_pems):
            blob.write_to_path(str(pair.certificate), append=number > 0)
        return pair

    def server(self, *names: str, client_ca: Path | None = None) -> ServerTls:
        return server_tls(*self.signs(*(names or ("127.0.0.1", "localhost"))), client_ca)

    def client(self, shows: Pair | None = None) -> ssl.SSLContext:
        return client_tls(self.file, *(shows or (None, None)))


@cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA(organization_name=name)


@cache
def _signed(authority: str, names: tuple[str, ...]) -> trustme.LeafCert:
    return _authority(authority).issue_cert(*names)
