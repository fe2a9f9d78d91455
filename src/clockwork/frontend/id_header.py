"""Encodes the id of a request for the header that returns it to the client."""

from urllib.parse import quote


def header_value(request_id: str) -> str:
    """Return an id as the value of a header. Characters that a header cannot contain are percent-encoded."""
    if request_id.isascii() and request_id.isprintable():
        return request_id
    return quote(request_id, safe=" !#$&'()*+,/:;<=>?@[]^_`{|}~\"")
