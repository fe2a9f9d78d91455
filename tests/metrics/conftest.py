"""Provides the metrics of a server to the tests of the dashboard and of the rules."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.live import run
from clockwork.metrics import shadows, spans
from http_raw import row, served


@pytest.fixture(scope="package")
def exposed() -> dict[str, set[str]]:
    """Return the labels by metric of a server that has served a known model and refused an unknown one."""
    bodies: list[bytes] = []

    async def test() -> None:
        async with served() as (peer, *_):
            for model in ("m", "nobody"):
                await peer.ask("POST", f"/v2/models/{model}/infer", row())
            bodies.append((await peer.ask("GET", "/metrics")).body)

    run(test())
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(bodies[0].decode()):
        for sample in family.samples:
            name = sample.name.removesuffix("_total") if sample.name.startswith("nv_") else sample.name
            found.setdefault(name, set()).update(sample.labels)
    optional = (*shadows.FAMILIES, spans.EXPORTED, spans.DROPPED)
    return found | {family.name: set(family.labels) for family in optional}
