"""Builds classic image networks for demonstrations, tests and benchmarks, without downloads.

`names` lists the networks, and `build` builds one of them. The graphs come from the test data of the package onnx. The
weights are random numbers. The networks are as fast as trained networks, but their outputs are meaningless.
"""

from clockwork.zoo.file import build, names

__all__ = ["build", "names"]
