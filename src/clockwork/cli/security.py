"""Options for TLS and tokens, and functions that read the files that the options name.

Secrets are read from files and from the environment. Secrets are never part of a command line, because every user of
the machine can read command lines. Secrets are never part of a message.
"""

import os
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeAlias, TypedDict

import typer

from clockwork.access import Access, Tokens
from clockwork.errors import InvalidRequestError
from clockwork.net.address import Address
from clockwork.net.tls import ServerTls, all_or_none, client_tls, server_tls
from clockwork.units import MIB, Bytes

if TYPE_CHECKING:
    from clockwork.client import Client

TOKEN_VARIABLE: Final = "CLOCKWORK_TOKEN"
"""Environment variable with a client's token. The program uses the variable if ``--token-file`` is not given."""

WORKER_TOKEN_VARIABLE: Final = "CLOCKWORK_WORKER_TOKEN"
"""Environment variable with a worker's token. ``serve`` uses it to pass a token to its worker process."""

MAX_TOKEN_FILE_BYTES: Final[Bytes] = 16 * MIB
"""Size in bytes of the largest file of tokens."""


def _file(name: str, help: str, variable: str = "") -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        name, metavar="FILE", dir_okay=False, envvar=variable or None, show_default=False, help=help
    )
    return option


# Options of serve and controller for the ports for clients.
TlsCert: TypeAlias = Annotated[
    Path | None, _file("--tls-cert", "Certificate (PEM, with its chain) of the ports for clients.")
]
TlsKey: TypeAlias = Annotated[Path | None, _file("--tls-key", "Key of --tls-cert (PEM, without a passphrase).")]
TlsClientCa: TypeAlias = Annotated[
    Path | None,
    _file("--tls-client-ca", "Certificate authorities (PEM); clients must present a certificate signed by one."),
]
InferenceTokenFile: TypeAlias = Annotated[
    Path | None,
    _file("--inference-token-file", "File of tokens, one per line, that permit inference and reading."),
]
AdminTokenFile: TypeAlias = Annotated[
    Path | None, _file("--admin-token-file", "File of tokens, one per line, that permit everything.")
]

# Options of controller for the port for workers.
WorkerPortTlsCert: TypeAlias = Annotated[
    Path | None, _file("--worker-tls-cert", "Certificate (PEM) of the port for workers.")
]
WorkerPortTlsKey: TypeAlias = Annotated[Path | None, _file("--worker-tls-key", "Key of --worker-tls-cert (PEM).")]
WorkerPortTlsCa: TypeAlias = Annotated[
    Path | None,
    _file("--worker-tls-ca", "Certificate authorities (PEM); workers must present a certificate signed by one."),
]
WorkerPortTokenFile: TypeAlias = Annotated[
    Path | None, _file("--worker-token-file", "File of tokens, one per line; a worker must present one of them.")
]

# Options of worker for its connection to the controller.
WorkerTlsCert: TypeAlias = Annotated[
    Path | None, _file("--tls-cert", "Certificate (PEM) to present to the controller.")
]
WorkerTlsKey: TypeAlias = Annotated[Path | None, _file("--tls-key", "Key of --tls-cert (PEM).")]
WorkerTlsCa: TypeAlias = Annotated[
    Path | None,
    _file("--tls-ca", "Certificate authorities (PEM), one of which signed the controller's certificate."),
]
WorkerTokenFile: TypeAlias = Annotated[
    Path | None,
    _file("--token-file", f"File with the token that the controller requires; or set ${WORKER_TOKEN_VARIABLE}."),
]

# Options of load, ls, infer, status and load-test for their connection to the controller.
ClientTlsCa: TypeAlias = Annotated[
    Path | None,
    _file(
        "--tls-ca",
        "Use TLS and trust these certificate authorities (PEM) to sign the controller's certificate.",
        "CLOCKWORK_TLS_CA",
    ),
]
ClientTlsCert: TypeAlias = Annotated[
    Path | None, _file("--tls-cert", "Certificate (PEM) to present to the controller.", "CLOCKWORK_TLS_CERT")
]
ClientTlsKey: TypeAlias = Annotated[Path | None, _file("--tls-key", "Key of --tls-cert (PEM).", "CLOCKWORK_TLS_KEY")]
ClientTokenFile: TypeAlias = Annotated[
    Path | None, _file("--token-file", f"File with the token that the controller requires; or set ${TOKEN_VARIABLE}.")
]


class Credentials(NamedTuple):
    """The files that the options for TLS and tokens name. A client and the controller authenticate with these files."""

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    token_variable: str = TOKEN_VARIABLE

    def arguments(self) -> dict[str, Any]:
        """Return the arguments ``tls`` and ``token`` of `clockwork.client.Client`.

        Raises:
            InvalidRequestError: an option or a file is missing, or a file has wrong content.
        """
        has_certificate = all_or_none({"--tls-cert": self.tls_cert, "--tls-key": self.tls_key})
        if has_certificate and self.tls_ca is None:
            raise InvalidRequestError("--tls-cert needs --tls-ca")
        tls = None if self.tls_ca is None else client_tls(self.tls_ca, self.tls_cert, self.tls_key)
        return {"tls": tls, "token": self.token()}

    def token(self) -> str:
        """Return the token from the file or the environment, or an empty text if there is no token.

        Raises:
            InvalidRequestError: the file cannot be read, or does not have exactly one token.
        """
        if self.token_file is None:
            return os.environ.get(self.token_variable, "")
        tokens = read_token_file(self.token_file)
        if len(tokens) != 1:
            raise InvalidRequestError(f"{self.token_file} has {len(tokens)} tokens; keep exactly one")
        return tokens[0]


def connect(
    address: Address, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, token_file: Path | None
) -> "Client":
    """Return a client of the server at this address, with the credentials of the options."""
    from clockwork.client import Client

    return Client(str(address), **Credentials(tls_ca, tls_cert, tls_key, token_file).arguments())


class ClientPorts(TypedDict):
    """TLS settings and tokens of the ports for clients. Each field is also a field of `ControllerHostConfig`."""

    tls: ServerTls | None
    access: Access


def client_ports(
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    inference_token_file: Path | None,
    admin_token_file: Path | None,
) -> ClientPorts:
    """Read the files with the TLS settings and the tokens of the ports for clients.

    Raises:
        InvalidRequestError: an option or a file is missing, or a file has wrong content.
    """
    tls = None
    if all_or_none({"--tls-cert": tls_cert, "--tls-key": tls_key}) and tls_cert is not None and tls_key is not None:
        tls = server_tls(tls_cert, tls_key, tls_client_ca)
    elif tls_client_ca is not None:
        raise InvalidRequestError("--tls-client-ca needs --tls-cert and --tls-key")
    return ClientPorts(tls=tls, access=Access(read_tokens(inference_token_file), read_tokens(admin_token_file)))


def worker_port(cert: Path | None, key: Path | None, ca: Path | None) -> ServerTls | None:
    """Read the files with the TLS settings of the port for workers. Return None if the port does not use TLS.

    Raises:
        InvalidRequestError: an option or a file is missing, or a file has wrong content.
    """
    files = {"--worker-tls-cert": cert, "--worker-tls-key": key, "--worker-tls-ca": ca}
    if not all_or_none(files) or cert is None or key is None:
        return None
    return server_tls(cert, key, ca)


def worker_link(
    cert: Path | None, key: Path | None, ca: Path | None, token_file: Path | None
) -> tuple[ssl.SSLContext | None, str]:
    """Return the TLS context and the token of a worker. With TLS, the worker and the controller need certificates.

    Raises:
        InvalidRequestError: an option or a file is missing, or a file has wrong content.
    """
    tls = None
    if all_or_none({"--tls-cert": cert, "--tls-key": key, "--tls-ca": ca}):
        tls = client_tls(ca, cert, key)
    return tls, Credentials(token_file=token_file, token_variable=WORKER_TOKEN_VARIABLE).token()


def read_tokens(path: Path | None) -> Tokens:
    """Return the tokens in a file. If ``path`` is None, there are no tokens.

    Raises:
        InvalidRequestError: the file cannot be read, is readable by all users, or has no tokens or an invalid token.
    """
    if path is None:
        return Tokens()
    tokens = read_token_file(path)
    if not tokens:
        raise InvalidRequestError(f"{path} has no tokens; write one per line")
    try:
        return Tokens(tokens)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{path}: {error}") from None


def read_token_file(path: Path) -> list[str]:
    """Return the lines of a file, without empty lines and comments.

    Raises:
        InvalidRequestError: the file cannot be read, is too large, is not UTF-8, or is readable by all users.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_TOKEN_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        raise InvalidRequestError(f"{path} contains secrets but is readable by all users; run: chmod o-r {path}")
    if len(data) > MAX_TOKEN_FILE_BYTES:
        raise InvalidRequestError(f"{path} is larger than the limit of {MAX_TOKEN_FILE_BYTES} bytes")
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{path} is not UTF-8 text") from None
    return [line for line in lines if line and not line.startswith("#")]
