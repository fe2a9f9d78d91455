"""Checks bearer tokens (RFC 6750) and the rights that they give, for all front ends.

Only the digest of a token is kept, and no message contains a token. Without any configured token, all requests are
permitted. With at least one configured token, every request needs a token, except requests that are known to be
harmless.
"""

import hashlib
import hmac
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final

from clockwork.errors import InvalidRequestError, NotPermittedError
from clockwork.messages.requests import EvictRequest, LoadModelRequest
from clockwork.messages.status import Status

MIN_TOKEN_CHARACTERS: Final = 16
"""Length of the shortest token that is accepted; 16 random characters of base64 have 96 bits."""

MAX_TOKEN_CHARACTERS: Final = 4096
"""Length of the longest token that is accepted; longer ones are refused without hashing them."""

MAX_TOKENS: Final = 10_000
"""Limit on the number of tokens per right."""


class Right(IntEnum):
    """The rights, each of which includes those before it. INFER: infer and read; ADMIN: also load and evict models."""

    NONE = 0
    INFER = 1
    ADMIN = 2


_ADMINISTRATIVE: Final = frozenset({LoadModelRequest, EvictRequest})


def needed_for(request: Any) -> Right:
    """Return the right that a request of the native protocol needs."""
    return Right.ADMIN if type(request) in _ADMINISTRATIVE else Right.INFER


class Tokens:
    """The tokens that give one right."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        """Raises: InvalidRequestError: there are too many tokens, or one has a wrong length or a wrong character."""
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
        """Return whether the token is one of these. The time of the comparison reveals nothing about the tokens."""
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            return False
        digest = _digest(token)
        return hmac.compare_digest(self._known.get(digest, b""), digest)


class Access:
    """The tokens of a controller's clients, and the rights that they give."""

    def __init__(self, inference: Tokens | None = None, admin: Tokens | None = None) -> None:
        """Without ``admin`` tokens no client has ADMIN; without ``inference`` tokens only ADMIN permits INFER."""
        self._inference = inference or Tokens()
        self._admin = admin or Tokens()
        self.open: Final = not (self._inference or self._admin)  #: without tokens, all requests are permitted

    def right_of(self, token: str) -> Right:
        """Return the right that a token gives; ``token`` is empty if the client sent none.

        Raises:
            NotPermittedError: a token is needed, and this one is missing or unknown.
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
        """Check that a header ``Authorization`` gives a right; the header is empty if the client sent none.

        Raises:
            NotPermittedError: the header does not give the right.
        """
        if self.open or needed is Right.NONE:
            return
        right = self.right_of(_bearer(authorization))
        if right < needed:
            raise permission_error(right, needed)


def permission_error(right: Right, needed: Right) -> NotPermittedError:
    """Return the error for a client that has ``right`` and needs another."""
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
