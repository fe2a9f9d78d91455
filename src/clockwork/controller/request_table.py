"""Stores entries by client and request id. Several entries may have the same client and id."""

from typing import Generic, TypeVar

EntryT = TypeVar("EntryT")


class RequestTable(Generic[EntryT]):
    """Maps a client and a request id to entries, in the order in which the entries were added."""

    def __init__(self) -> None:
        """Start empty."""
        self._clients: dict[int, dict[int, list[EntryT]]] = {}

    def add(self, client_id: int, request_id: int, entry: EntryT) -> None:
        """Add an entry."""
        self._clients.setdefault(client_id, {}).setdefault(request_id, []).append(entry)

    def remove(self, client_id: int, request_id: int, entry: EntryT) -> None:
        """Remove an entry that is in the table."""
        requests = self._clients[client_id]
        entries = requests[request_id]
        entries.remove(entry)
        if not entries:
            del requests[request_id]
            if not requests:
                del self._clients[client_id]

    def find(self, client_id: int, request_id: int | None = None) -> list[EntryT]:
        """Return the entries of a client's request, or all entries of the client."""
        requests = self._clients.get(client_id)
        if requests is None:
            return []
        if request_id is None:
            return [entry for entries in requests.values() for entry in entries]
        return list(requests.get(request_id, ()))

    def clear(self) -> None:
        """Remove all entries."""
        self._clients.clear()
