"""The zoo: classic image networks to try, test and measure with, made on the spot and never downloaded.

Rules of the file: `names` says what there is, `build` makes it. The graphs are those that ship with the package onnx as
its own tests' data; their weights are drawn from a seed. They compute as fast as trained ones, and recognise nothing.
"""

from clockwork.zoo.file import build, names

__all__ = ["build", "names"]
