"""TLS as an operator sets it up: files in PEM, and what is wrong with them in one line.

Rules of the file: TLS 1.2 or newer; a server that names a certificate authority wants a certificate from everybody, and
a client knows whom it talks to, by name. Files are read once: what was checked is what is used.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from clockwork.errors import InvalidRequestError


class ServerTls(Struct, frozen=True):
    """What a port needs: a certificate (with what follows it up to its authority), its key, and who may come.

    ``client_ca``: certificates of authorities, one of which must have signed for whoever comes; empty: anybody may.
    ``context`` is of all that.
    """

    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    client_ca: bytes = b""


def server_tls(certificate: Path, key: Path, client_ca: Path | None = None) -> ServerTls:
    """For a port.

    Raises:
        InvalidRequestError: a file cannot be read, is no PEM of what it should be, or they do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _identify(context, certificate, key)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return ServerTls(context, _read(certificate), _read(key), b"" if client_ca is None else _read(client_ca))


def client_tls(ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """For dialling. Without ``ca`` the system's authorities are trusted; ``certificate`` is shown if it is wanted.

    Raises:
        InvalidRequestError: as for `server_tls`.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _trust(context, ca)
    if certificate is not None and key is not None:
        _identify(context, certificate, key)
    return context


def all_or_none(files: Mapping[str, Path | None]) -> bool:
    """Whether all are given; the names are those of options.

    Raises:
        InvalidRequestError: some are given, and others are not.
    """
    missing = [name for name, path in files.items() if path is None]
    if missing and len(missing) < len(files):
        given = [name for name in files if name not in missing]
        raise InvalidRequestError(f"{', '.join(missing)} missing: {', '.join(given)} would be of no use alone")
    return not missing


def _identify(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _read(certificate)
    _read(key)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidRequestError(f"the key {key} does not belong to the certificate {certificate}") from None
        raise InvalidRequestError(
            f"{certificate} is no certificate in PEM, or {key} is no key in PEM without a passphrase"
        ) from None


def _no_password() -> str:
    """A server that starts by itself cannot ask for one."""
    return ""


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    _read(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        raise InvalidRequestError(f"{ca} has no certificate in PEM") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
