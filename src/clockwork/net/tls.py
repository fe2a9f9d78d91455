"""Reads TLS settings from PEM files. A wrong file leads to an error message of one line.

Connections use TLS 1.2 or newer. If a server has a certificate authority for its clients, every client must have a
certificate. A client verifies the server's name. Each file is read only once, so that it cannot change between the
check and the use.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from clockwork.errors import InvalidRequestError


class ServerTls(Struct, frozen=True):
    """The TLS settings of the ports for clients.

    Connections that use ``http2_context`` agree on HTTP/2 (RFC 7301), which clients of gRPC need. Otherwise, both
    contexts have the same settings.
    """

    context: ssl.SSLContext
    http2_context: ssl.SSLContext


def server_tls(certificate: Path, key: Path, client_ca: Path | None = None) -> ServerTls:
    """Return the TLS settings of a port.

    Raises:
        InvalidRequestError: a file cannot be read or is not a PEM file, or the key does not belong to the certificate.
    """
    contexts = ServerTls(*(_server_context(certificate, key, client_ca) for _ in range(2)))
    contexts.http2_context.set_alpn_protocols(["h2"])
    return contexts


def _server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _identify(context, certificate, key)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Return the TLS settings of a client. If ``ca`` is None, the system's certificate authorities are trusted.

    ``certificate`` and ``key`` identify the client, for servers that require a certificate.

    Raises:
        InvalidRequestError: a file cannot be read or is not a PEM file, or the key does not belong to the certificate.
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
    """Return whether all files are set. The keys of ``files`` are the names of the options.

    Raises:
        InvalidRequestError: some of the files are set, but not all.
    """
    missing = [name for name, path in files.items() if path is None]
    if missing and len(missing) < len(files):
        present = [name for name in files if name not in missing]
        raise InvalidRequestError(f"{' and '.join(present)} needs {' and '.join(missing)}")
    return not missing


def _identify(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _read(certificate)
    _read(key)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidRequestError(f"key {key} does not belong to certificate {certificate}") from None
        raise InvalidRequestError(
            f"{certificate} is not a PEM certificate, or {key} is not a PEM key without a passphrase"
        ) from None


def _no_password() -> str:
    """Return an empty password, so that OpenSSL does not ask for one. A server may start without a person present."""
    return ""


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    _read(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        raise InvalidRequestError(f"{ca} contains no PEM certificate") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
