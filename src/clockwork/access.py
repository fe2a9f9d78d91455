"""Checks bearer tokens (RFC 6750) and the rights that they give. All front ends use this module.

Only the digests of tokens are kept, and no message contains a token. If the operator configures no tokens, all requests
are permitted. If there are tokens, every request needs a token, except harmless requests such as health checks.
"""

import hashlib
import hmac
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final

from clockwork.errors import InvalidRequestError, NotPermittedError
from clockwork.messages.requests import (
    EvictRequest,
    LoadModelRequest,
    PromoteRequest,
    ShadowRequest,
    UnloadModelRequest,
)
from clockwork.messages.status import Status

MIN_TOKEN_CHARACTERS: Final = 16
"""Length of the shortest accepted token, in characters. 16 random characters of base64 contain 96 random bits."""

MAX_TOKEN_CHARACTERS: Final = 4096
"""Length of the longest token that is accepted. Longer tokens are refused before their digest is computed."""

MAX_TOKENS: Final = 10_000
"""Largest number of tokens for each right."""


class Right(IntEnum):
    """The rights that a client can have. Each right includes all rights that are listed above it.

    - NONE: only harmless requests.
    - INFER: send inference requests, and read all information.
    - ADMIN: also load, unload and evict models, and change shadows and log settings.
    """

    NONE = 0
    INFER = 1
    ADMIN = 2


_ADMINISTRATIVE: Final = frozenset({LoadModelRequest, UnloadModelRequest, PromoteRequest, ShadowRequest, EvictRequest})


def needed_for(request: Any) -> Right:
    """Return the right that a request of the native protocol needs."""
    return Right.ADMIN if type(request) in _ADMINISTRATIVE else Right.INFER


class Tokens:
    """The set of tokens that give one right."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        """Check the tokens, and keep their digests.

        Raises:
            InvalidRequestError: there are too many tokens, or a token has a wrong length or a wrong character.
        """
        self._known: dict[bytes, bytes] = {}
        for number, token in enumerate(tokens, 1):
            if not MIN_TOKEN_CHARACTERS <= len(token) <= MAX_TOKEN_CHARACTERS:
                raise InvalidRequestError(
                    f"token {number} has {len(token)} characters; "
                    f"{MIN_TOKEN_CHARACTERS} to {MAX_TOKEN_CHARACTERS} are accepted"
                )
            if not all("!" <= character <= "~" for character in token):
                raise InvalidRequestError(f"token {number} has a space or a character that is not printable ASCII")
            if number > MAX_TOKENS:
                raise InvalidRequestError(f"too many tokens; at most {MAX_TOKENS} are accepted")
            digest = _digest(token)
            self._known[digest] = digest

    def __bool__(self) -> bool:
        return bool(self._known)

    def knows(self, token: str) -> bool:
        """Return whether the set contains the token. The comparison takes the same time for every token."""
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            return False
        digest = _digest(token)
        return hmac.compare_digest(self._known.get(digest, b""), digest)


class Access:
    """The tokens that a controller accepts from clients, and the rights that they give."""

    def __init__(self, inference: Tokens | None = None, admin: Tokens | None = None) -> None:
        """Combine the tokens of both rights.

        If there are no ``admin`` tokens, no client has the right ADMIN. If there are only ``admin`` tokens, clients
        need an ``admin`` token for every request.
        """
        self._inference = inference or Tokens()
        self._admin = admin or Tokens()
        self.open: Final = not (
            self._inference or self._admin
        )  #: whether all requests are permitted because there are no tokens

    def right_of(self, token: str) -> Right:
        """Return the right that a token gives. ``token`` is empty if the client sent no token.

        Raises:
            NotPermittedError: a token is needed, but the token is missing or unknown.
        """
        if self.open or self._admin.knows(token):
            return Right.ADMIN
        if self._inference.knows(token):
            return Right.INFER
        raise (
            permission_error(Right.NONE, Right.INFER)
            if not token
            else _error(Status.NOT_AUTHENTICATED, "the bearer token is unknown")
        )

    def check(self, authorization: str, needed: Right) -> None:
        """Check that the header ``Authorization`` gives a right. The header is empty if the client did not send it.

        Raises:
            NotPermittedError: the header does not give the right.
        """
        if self.open or needed is Right.NONE:
            return
        right = self.right_of(_bearer(authorization))
        if right < needed:
            raise permission_error(right, needed)


def permission_error(right: Right, needed: Right) -> NotPermittedError:
    """Return the error for a client whose right is only ``right`` and whose request needs ``needed``."""
    if right is Right.NONE:
        return _error(Status.NOT_AUTHENTICATED, "a bearer token is needed, but none was sent")
    kind = needed.name.lower()
    return _error(Status.NOT_PERMITTED, f"the bearer token does not permit this; use an {kind} token")


def _error(status: Status, message: str) -> NotPermittedError:
    error = NotPermittedError(message)
    error.status = status
    return error


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
