"""Ask a server that runs: what it serves, then each model once, with zeros.

clockwork serve models/*.onnx
python examples/client.py [HOST:PORT]
"""

import sys

import numpy as np

from clockwork.arrays import dtype_of
from clockwork.client import Client
from clockwork.errors import ClockworkError, DeadlineError


def main(address: str) -> None:
    with Client(address) as client:
        for summary in client.ls():
            inputs = {
                it.name: np.zeros([1 if dim < 0 else dim for dim in it.shape], dtype_of(it.datatype))
                for it in summary.inputs
            }
            try:
                result = client.model(summary.name).infer(inputs, slo=0.25)
            except DeadlineError as error:
                print(f"{summary.name}: not within 250 ms: {error}")
                continue
            total, execution = result.timing.total / 1e6, result.timing.exec / 1e6
            print(f"{summary.name}: {result}, {total:.1f} ms, of which {execution:.1f} on the device")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2] or ["127.0.0.1:12346"])
    except ClockworkError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
