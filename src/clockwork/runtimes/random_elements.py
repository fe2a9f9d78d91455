"""Creates elements for inputs that no client has sent: zeros, random elements, or the elements of an example."""

from typing import Final

import numpy as np

from clockwork.arrays import Array, dtype_of
from clockwork.messages.tensors import Datatype
from clockwork.runtimes.signature import Port

FLOATS: Final = (Datatype.FP64, Datatype.FP32, Datatype.FP16, Datatype.BF16)
"""Datatypes whose elements are floats."""


def zeros(datatype: str, shape: tuple[int, ...]) -> Array:
    """Return an array of zeros or empty strings."""
    dtype = dtype_of(datatype)
    return np.full(shape, "", object) if dtype.kind == "O" else np.zeros(shape, dtype)


def generated(datatype: str, shape: tuple[int, ...], row: Array | None) -> Array:
    """Return elements for a generated input of any shape. The elements are zeros, or repeat the elements of ``row``."""
    if row is None or not row.size:
        return zeros(datatype, shape)
    return np.resize(row, shape)


def random_elements(
    port: Port, shape: tuple[int, ...], generator: np.random.Generator, kind: str = "fractions"
) -> Array:
    """Return random elements. ``kind`` is one of `trial.row_kinds`.

    For the kind "fractions", integers are 0 or 1, because these are valid indices into every table. Strings are short.
    """
    if port.info.datatype == Datatype.BYTES:
        low, high = _STRINGS.get(kind, (0, 2))
        return generator.integers(low, high, shape).astype(str).astype(object)
    dtype = dtype_of(port.info.datatype)
    if port.info.datatype in FLOATS:
        factor = _FACTORS.get(kind)
        if factor is None:
            return np.asarray(generator.random(shape, dtype=np.float32)).astype(dtype)
        return np.asarray(generator.standard_normal(shape, dtype=np.float32) * np.float32(factor)).astype(dtype)
    low, high = _NUMBERS.get(kind, (0, 2))
    if dtype.kind == "b":
        low, high = 0, 2
    elif dtype.kind == "u" or dtype.itemsize == 1:
        low, high = max(low, 0), min(high, 100)
    return np.asarray(generator.integers(low, max(high, low + 1), shape)).astype(dtype)


_FACTORS: Final = {"signed": 4.0, "zeros": 0.0, "large": 1e3, "small": 1e-3, "negative": -30.0}
"""Factor by which normally distributed floats are multiplied, for each kind of row."""

_NUMBERS: Final = {"signed": (0, 10), "zeros": (0, 1), "large": (0, 1000), "negative": (-10, 1)}
_STRINGS: Final = {"signed": (0, 1 << 20), "zeros": (0, 1), "large": (1 << 40, 1 << 60)}
"""The range of random integers for each kind of row. Random strings consist of the digits of such integers."""
