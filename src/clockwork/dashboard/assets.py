"""The files of the page.

The files are written by hand and are part of the package. They load nothing from other hosts. Every URL in them is
relative, so the page works behind a path prefix. The content security policy forbids scripts and styles that are not
in these files.
"""

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

PAGE: Final = "index.html"
"""Name of the file that ``GET /`` returns."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the page."""

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content types by the extension of a file's name. Files with other extensions are not served."""


class Asset(NamedTuple):
    """A file of the page. ``tag`` is its entity tag, with the quotes (RFC 9110, section 8.8.3)."""

    content_type: str
    content: bytes
    tag: str

    def is_known(self, if_none_match: str) -> bool:
        """Return whether a client that sends this header If-None-Match has the file already."""
        known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
        return self.tag in known or "*" in known


@cache
def assets() -> dict[str, Asset]:
    """Return all files of the page by their names."""
    found: dict[str, Asset] = {}
    for file in files("clockwork.dashboard").joinpath("static").iterdir():
        kind = TYPES.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = Asset(kind, content, f'"{sha256(content).hexdigest()[:32]}"')
    return found
