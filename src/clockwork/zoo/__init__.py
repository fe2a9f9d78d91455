"""The zoo: classic image networks for demonstrations, tests and benchmarks, built without downloads.

Rules of the package: `names` lists the networks, `build` builds one. The graphs ship with the package onnx as test
data; the weights are random numbers from a seed. The networks compute as fast as trained ones, but their outputs are
meaningless.
"""

from clockwork.zoo.file import build, names

__all__ = ["build", "names"]
