"""List the models of a running server, and send one request with zeros to each model.

clockwork serve models/*.onnx
python examples/client.py [HOST:PORT]
"""

import sys

import numpy as np

import clockwork


def main(address: str) -> None:
    with clockwork.Client(address) as client:
        for model in client.ls():
            inputs = {
                info.name: np.zeros([1 if dim < 0 else dim for dim in info.shape], clockwork.dtype_of(info.datatype))
                for info in model.inputs
            }
            try:
                result = client.model(model.name).infer(inputs, slo=0.25)
            except clockwork.DeadlineError as error:
                print(f"{model.name}: no result within 250 ms: {error}")
                continue
            total, execution = result.timing.total / 1e6, result.timing.exec / 1e6
            print(f"{model.name}: {result}, {total:.1f} ms, of which {execution:.1f} on the device")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2] or ["127.0.0.1:12346"])
    except clockwork.ClockworkError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
