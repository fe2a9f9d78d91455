"""Entries by client and request id."""

from clockwork.controller.request_table import RequestTable


def table() -> RequestTable[str]:
    entries: RequestTable[str] = RequestTable()
    for client, number, entry in ((1, 1, "a"), (1, 1, "b"), (1, 2, "c"), (2, 1, "d")):
        entries.add(client, number, entry)
    return entries


def test_entries_are_found_by_client_and_by_request() -> None:
    entries = table()
    assert entries.find(1, 1) == ["a", "b"]
    assert entries.find(1) == ["a", "b", "c"]
    assert entries.find(1, 3) == []
    assert entries.find(3) == []


def test_a_client_without_entries_is_not_stored() -> None:
    entries = table()
    for number, entry in ((1, "b"), (2, "c"), (1, "a")):
        entries.remove(1, number, entry)
    assert entries.find(1) == []
    assert list(entries._clients) == [2]
    entries.clear()
    assert entries.find(2) == []
