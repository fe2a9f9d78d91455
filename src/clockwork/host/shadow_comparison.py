"""Compares the outputs of a live request with the outputs of its copy, which a different version has executed.

Floats are compared by their largest difference, and by the place of the largest element of each row. Elements of other
datatypes must be equal.
"""

import sys
from typing import Any

import numpy as np

from clockwork.arrays import Array, from_payload, is_float
from clockwork.controller.events import CompareShadow, ShadowCompared
from clockwork.messages.shadows import ARGMAX, DATATYPE, NAMES, NON_FINITE, SHAPE, VALUES, OutputComparison
from clockwork.messages.tensors import TensorSpec


def compare_shadow(command: CompareShadow) -> ShadowCompared:
    """Compare the outputs in the calling thread.

    Raises:
        InvalidRequestError: a payload does not contain its outputs.
    """
    mismatches: dict[str, str] = {}
    live = _placed(command.live)
    copies = _placed(command.copy)
    if live.keys() != copies.keys():
        mismatches[NAMES] = f"the outputs are {', '.join(copies) or 'none'} instead of {', '.join(live) or 'none'}"
    wanted_payload, found_payload = payload_view(command.live_payload), payload_view(command.copy_payload)
    outputs = []
    for name, (wanted, at) in live.items():
        if name not in copies:
            continue
        found, found_at = copies[name]
        kind, text = _unlike(wanted, found)
        if not text:
            arrays = from_payload(wanted, wanted_payload, at), from_payload(found, found_payload, found_at)
            output, kind, text = _compare(wanted, *arrays)
            outputs.append(output)
        if text:
            mismatches.setdefault(kind, f"output {name!r}: {text}")
    return ShadowCompared(command.check_id, tuple(outputs), mismatches)


def payload_view(payload: Any) -> memoryview:
    """Return the bytes of a payload that a connection received."""
    return memoryview(b"" if payload is None else payload).cast("B")


def _placed(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[TensorSpec, int]]:
    """Return, by name, each output with the position of its first byte in the payload."""
    placed = {}
    at = 0
    for spec in specs:
        placed[spec.name] = spec, at
        at += spec.nbytes
    return placed


def _unlike(wanted: TensorSpec, found: TensorSpec) -> tuple[str, str]:
    """Return the kind and the description of a mismatch of datatype or shape, or two empty texts."""
    if found.datatype != wanted.datatype:
        return DATATYPE, f"the datatype is {found.datatype} instead of {wanted.datatype}"
    if found.shape != wanted.shape:
        return SHAPE, f"the shape is {list(found.shape)} instead of {list(wanted.shape)}"
    return "", ""


def _compare(spec: TensorSpec, wanted: Array, found: Array) -> tuple[OutputComparison, str, str]:
    """Compare the elements of two arrays of the same shape.

    The result includes the kind and the description of a mismatch.
    """
    if not is_float(wanted):
        wrong = int(np.count_nonzero(wanted != found))
        output = OutputComparison(spec.name, spec.datatype, 1, int(not wrong))
        return output, VALUES, f"{wrong} of {wanted.size} elements differ" if wrong else ""
    wide_wanted, wide_found = wanted.astype(np.float64), found.astype(np.float64)
    rows, agreed = _rows_agreed(wide_wanted, wide_found)
    finite = np.isfinite(wide_wanted) & np.isfinite(wide_found)
    same_places = np.array_equal(wide_wanted[~finite], wide_found[~finite], equal_nan=True)
    with np.errstate(over="ignore"):
        differences = np.abs(wide_found[finite] - wide_wanted[finite])
    most = min(float(differences.max(initial=0.0)), sys.float_info.max)
    output = OutputComparison(spec.name, spec.datatype, 1, int(same_places and most == 0), most, rows, agreed)
    if not same_places:
        return output, NON_FINITE, "infinities or NaNs are in different places"
    text = f"the largest element of {rows - agreed} of {rows} rows is at another place" if agreed < rows else ""
    return output, ARGMAX, text


def _rows_agreed(wanted: Array, found: Array) -> tuple[int, int]:
    """Return the number of rows along the last axis, and the number of rows whose largest element is at the same place.

    If the last axis has fewer than two elements, both numbers are 0.
    """
    if not wanted.size or not wanted.ndim or wanted.shape[-1] < 2:
        return 0, 0
    places = wanted.argmax(axis=-1), found.argmax(axis=-1)
    return int(np.size(places[0])), int(np.count_nonzero(places[0] == places[1]))
