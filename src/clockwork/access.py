"""Who may do what, by bearer tokens (RFC 6750): decided here for all front ends.

Rules of the file: a token is kept as its digest only, and appears in no message. Without tokens everybody may
everything; as soon as there is one, nobody may anything without. What is not known to be harmless needs a right.
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
"""Of a token; 16 random characters of base64 have 96 bits."""

MAX_TOKEN_CHARACTERS: Final = 4096
"""Of a token; longer ones are not even hashed."""

MAX_TOKENS: Final = 10_000
"""Of one right."""


class Right(IntEnum):
    """Each includes those before it. INFER: to infer and to read; ADMIN: to change what is served as well."""

    NONE = 0
    INFER = 1
    ADMIN = 2


_ADMINISTRATIVE: Final = frozenset({LoadModelRequest, EvictRequest})


def needed_for(request: Any) -> Right:
    """The right that a request of the native protocol needs."""
    return Right.ADMIN if type(request) in _ADMINISTRATIVE else Right.INFER


class Tokens:
    """Tokens that are equally good."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        """Raises: InvalidRequestError: they are too many, or one is too short, too long, or of wrong characters."""
        self._known: dict[bytes, bytes] = {}
        for number, token in enumerate(tokens, 1):
            if not MIN_TOKEN_CHARACTERS <= len(token) <= MAX_TOKEN_CHARACTERS:
                raise InvalidRequestError(
                    f"token {number} has {len(token)} characters; "
                    f"{MIN_TOKEN_CHARACTERS} to {MAX_TOKEN_CHARACTERS} are accepted"
                )
            if not all("!" <= character <= "~" for character in token):
                raise InvalidRequestError(f"token {number} has a space, or a character that is not ASCII")
            if number > MAX_TOKENS:
                raise InvalidRequestError(f"there are more than {MAX_TOKENS} tokens")
            digest = _digest(token)
            self._known[digest] = digest

    def __bool__(self) -> bool:
        return bool(self._known)

    def knows(self, token: str) -> bool:
        """Whether the token is one of these; how long that takes tells nothing about those that are."""
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            return False
        digest = _digest(token)
        return hmac.compare_digest(self._known.get(digest, b""), digest)


class Access:
    """The tokens of a controller's clients."""

    def __init__(self, inference: Tokens | None = None, admin: Tokens | None = None) -> None:
        """With one kind of tokens only, nobody has the other right unless ADMIN includes it."""
        self._inference = inference or Tokens()
        self._admin = admin or Tokens()
        self.open: Final = not (self._inference or self._admin)  #: everybody may everything

    def right_of(self, token: str) -> Right:
        """What somebody may who has this token; it is empty if there is none.

        Raises:
            NotPermittedError: a token is needed, and this is none.
        """
        if self.open or self._admin.knows(token):
            return Right.ADMIN
        if self._inference.knows(token):
            return Right.INFER
        raise (
            permission_error(Right.NONE, Right.INFER)
            if not token
            else _error(Status.NOT_AUTHENTICATED, "the token is not known here")
        )

    def check(self, authorization: str, needed: Right) -> None:
        """See that a header ``Authorization`` (empty: there is none) gives a right.

        Raises:
            NotPermittedError: it does not.
        """
        if self.open or needed is Right.NONE:
            return
        right = self.right_of(_bearer(authorization))
        if right < needed:
            raise permission_error(right, needed)


def permission_error(right: Right, needed: Right) -> NotPermittedError:
    """Why somebody who has ``right`` is refused what needs another."""
    if right is Right.NONE:
        return _error(Status.NOT_AUTHENTICATED, "a bearer token is needed, and none was sent")
    kind = needed.name.lower()
    return _error(Status.NOT_PERMITTED, f"the token is not permitted to do this; it needs an {kind} token")


def _error(status: Status, message: str) -> NotPermittedError:
    error = NotPermittedError(message)
    error.status = status
    return error


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
