"""A load that takes longer than its time limit says what the server does."""

import asyncio
from typing import Any

import pytest

from clockwork.cli.loading import load_with_progress
from clockwork.errors import ServerError
from clockwork.messages.requests import Progress, ServerStatus, VersionStatus


class Serving:
    """A client of a server that loads versions while it serves."""

    def __init__(self, *versions: VersionStatus) -> None:
        self.versions = versions

    async def status(self) -> ServerStatus:
        return ServerStatus("1", "clockwork", "serving", Progress(), 0, (), (), versions=self.versions)


@pytest.mark.parametrize(
    ("versions", "doing"),
    [
        ((), "serving: the server continues the load; clockwork status shows the result"),
        (
            (VersionStatus("net", "2", "LOADING"), VersionStatus("net", "1", "UNAVAILABLE")),
            "serving: the server continues the load of net:2; clockwork status shows the result",
        ),
    ],
)
def test_a_load_that_times_out_while_the_server_serves_names_the_load(
    versions: tuple[VersionStatus, ...], doing: str
) -> None:
    async def test() -> None:
        client: Any = Serving(*versions)
        forever: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

        async def load() -> list[str]:
            return await forever

        with pytest.raises(ServerError) as error:
            await load_with_progress(client, "net/2", load(), 0.001)
        assert str(error.value) == f"the load of net/2 has not ended after 0.001 s (--timeout); {doing}"

    asyncio.run(test())
