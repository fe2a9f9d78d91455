"""Measure the cost of the features that show what the server does.

    python benchmarks/bench_observability.py --json observability.json

explain_cost    Cost of recording requests so that they can be explained (limit: 0.02). One server has the default
                options, and the other has --explain-requests 0.

A cost is the additional processor time of the controller's thread for a request, as a share. `feature_cost` describes
how it is measured.
"""

import tempfile
from pathlib import Path
from typing import Any

import uvloop
from feature_cost import ON_ITS_CORE, OPTIONS, feature_cost, mlp_request
from serving import machine, options, serving, tell

from clockwork.zoo import build


async def bench_explain(model: Path, duration: float, rounds: int) -> dict[str, Any]:
    """Measure the cost of recording requests."""
    off_option = "--explain-requests=0"
    with serving(model, *OPTIONS, **ON_ITS_CORE) as on, serving(model, *OPTIONS, off_option, **ON_ITS_CORE) as off:
        made = await feature_cost(on, off, mlp_request(on, model.stem), duration, rounds)
    return {"explain": made, "explain_cost": made["cost"]}


async def main() -> None:
    """Run the benchmark, and print and write the results."""
    chosen = options(__doc__, seconds=0.4, rounds=60).parse_args()
    results = machine()
    with tempfile.TemporaryDirectory() as directory:
        results |= await bench_explain(build("mlp", Path(directory)), chosen.seconds, chosen.rounds)
    tell(results, chosen.json)


if __name__ == "__main__":
    uvloop.run(main())
