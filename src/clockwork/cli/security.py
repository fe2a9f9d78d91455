"""Options for TLS and tokens, and what they come to.

Rules of the file: a secret is in a file or in the environment, never on a command line, which everybody on the host can
read; it is in no message either.
"""

import os
import ssl
import stat
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, TypedDict

import typer

from clockwork.access import Access, Tokens
from clockwork.errors import InvalidRequestError
from clockwork.net.tls import ServerTls, all_or_none, client_tls, server_tls
from clockwork.units import MIB, Bytes

TOKEN_VARIABLE: Final = "CLOCKWORK_TOKEN"
"""Environment variable: the token of a client, if no file is given."""

WORKER_TOKEN_VARIABLE: Final = "CLOCKWORK_WORKER_TOKEN"
"""Environment variable: the token of a worker, if no file is given; ``serve`` passes its child one in it."""

TOKEN_FILE_BYTES_MAX: Final[Bytes] = 16 * MIB
"""Of a file of tokens."""


def _file(name: str, help: str, variable: str = "") -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        name, metavar="FILE", dir_okay=False, envvar=variable or None, show_default=False, help=help
    )
    return option


TlsCert: TypeAlias = Annotated[
    Path | None, _file("--tls-cert", "Certificate (PEM, with its chain) of the ports for clients.")
]
TlsKey: TypeAlias = Annotated[Path | None, _file("--tls-key", "Key of --tls-cert (PEM, no passphrase).")]
TlsClientCa: TypeAlias = Annotated[
    Path | None, _file("--tls-client-ca", "Clients must show a certificate that one of these authorities has signed.")
]
InferenceTokenFile: TypeAlias = Annotated[
    Path | None, _file("--inference-token-file", "Tokens, one a line, that are good for inference and reading.")
]
AdminTokenFile: TypeAlias = Annotated[
    Path | None, _file("--admin-token-file", "Tokens, one a line, that are good for everything.")
]
WorkerTlsCert: TypeAlias = Annotated[
    Path | None, _file("--worker-tls-cert", "Certificate (PEM) of the port for workers.")
]
WorkerTlsKey: TypeAlias = Annotated[Path | None, _file("--worker-tls-key", "Its key.")]
WorkerTlsCa: TypeAlias = Annotated[
    Path | None, _file("--worker-tls-ca", "Workers must show a certificate that one of these authorities has signed.")
]
WorkerTokenFile: TypeAlias = Annotated[
    Path | None, _file("--worker-token-file", "Tokens, one a line; a worker must have one of them.")
]
OwnTlsCert: TypeAlias = Annotated[
    Path | None, _file("--tls-cert", "Certificate (PEM) to show to the controller.", "CLOCKWORK_TLS_CERT")
]
OwnTlsKey: TypeAlias = Annotated[Path | None, _file("--tls-key", "Its key.", "CLOCKWORK_TLS_KEY")]
WorkerOwnTlsCert: TypeAlias = Annotated[
    Path | None, _file("--tls-cert", "Certificate (PEM) to show to the controller.")
]
WorkerOwnTlsKey: TypeAlias = Annotated[Path | None, _file("--tls-key", "Its key.")]
WorkerOwnTlsCa: TypeAlias = Annotated[
    Path | None, _file("--tls-ca", "One of these authorities (PEM) signed for the controller.")
]
TlsCa: TypeAlias = Annotated[
    Path | None,
    _file("--tls-ca", "Use TLS; one of these authorities (PEM) signed for the controller.", "CLOCKWORK_TLS_CA"),
]
TokenFile: TypeAlias = Annotated[
    Path | None, _file("--token-file", f"The token, for a controller that wants one; or ${TOKEN_VARIABLE}.")
]
WorkerOwnTokenFile: TypeAlias = Annotated[
    Path | None, _file("--token-file", f"The token, for a controller that wants one; or ${WORKER_TOKEN_VARIABLE}.")
]


class Caller(NamedTuple):
    """How somebody who dials shows who it is, and whom it trusts; files, as they were given."""

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    token_variable: str = TOKEN_VARIABLE

    def arguments(self) -> dict[str, Any]:
        """``tls`` and ``token``, as whoever dials takes them.

        Raises:
            InvalidRequestError: a file is missing, or not what it should be.
        """
        own = all_or_none({"--tls-cert": self.tls_cert, "--tls-key": self.tls_key})
        if own and self.tls_ca is None:
            raise InvalidRequestError("--tls-ca is missing: without it there is no TLS to show --tls-cert in")
        tls = None if self.tls_ca is None else client_tls(self.tls_ca, self.tls_cert, self.tls_key)
        return {"tls": tls, "token": self.token()}

    def token(self) -> str:
        """From the file or the environment; none is empty.

        Raises:
            InvalidRequestError: the file cannot be read, or has another number of tokens than one.
        """
        if self.token_file is None:
            return os.environ.get(self.token_variable, "")
        found = read_token_file(self.token_file)
        if len(found) != 1:
            raise InvalidRequestError(f"{self.token_file} has {len(found)} tokens; one is wanted here")
        return found[0]


class ClientPorts(TypedDict):
    """What a `ControllerHostConfig` says of the ports for clients."""

    tls: ServerTls | None
    access: Access


def client_ports(
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    inference_token_file: Path | None,
    admin_token_file: Path | None,
) -> ClientPorts:
    """What the options say about the ports for clients.

    Raises:
        InvalidRequestError: a file is missing, or not what it should be.
    """
    tls = None
    if all_or_none({"--tls-cert": tls_cert, "--tls-key": tls_key}) and tls_cert is not None and tls_key is not None:
        tls = server_tls(tls_cert, tls_key, tls_client_ca)
    elif tls_client_ca is not None:
        raise InvalidRequestError("--tls-cert, --tls-key missing: without TLS nobody can show --tls-client-ca anything")
    return ClientPorts(tls=tls, access=Access(tokens_of(inference_token_file), tokens_of(admin_token_file)))


def worker_port(cert: Path | None, key: Path | None, ca: Path | None) -> ServerTls | None:
    """What the options say about the port for workers.

    Raises:
        InvalidRequestError: a file is missing, or not what it should be.
    """
    files = {"--worker-tls-cert": cert, "--worker-tls-key": key, "--worker-tls-ca": ca}
    if not all_or_none(files) or cert is None or key is None:
        return None
    return server_tls(cert, key, ca)


def worker_link(
    cert: Path | None, key: Path | None, ca: Path | None, token_file: Path | None
) -> tuple[ssl.SSLContext | None, str]:
    """TLS and token of a worker; on its link both sides show a certificate.

    Raises:
        InvalidRequestError: a file is missing, or not what it should be.
    """
    tls = None
    if all_or_none({"--tls-cert": cert, "--tls-key": key, "--tls-ca": ca}):
        tls = client_tls(ca, cert, key)
    return tls, Caller(token_file=token_file, token_variable=WORKER_TOKEN_VARIABLE).token()


def tokens_of(path: Path | None) -> Tokens:
    """The tokens in a file, if there is one.

    Raises:
        InvalidRequestError: it cannot be read, others can read it, or it has no tokens, or one that cannot be.
    """
    if path is None:
        return Tokens()
    found = read_token_file(path)
    if not found:
        raise InvalidRequestError(f"{path} has no tokens: write one a line")
    try:
        return Tokens(found)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{path}: {error}") from None


def read_token_file(path: Path) -> list[str]:
    """Its lines, without empty ones and comments.

    Raises:
        InvalidRequestError: it cannot be read, is too large, no text, or others can read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(TOKEN_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        raise InvalidRequestError(f"{path} has secrets, and everybody can read it: chmod o-r {path}")
    if len(data) > TOKEN_FILE_BYTES_MAX:
        raise InvalidRequestError(f"{path} is longer than {TOKEN_FILE_BYTES_MAX} bytes")
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{path} is no text in UTF-8") from None
    return [line for line in lines if line and not line.startswith("#")]
