"""Random graphs: what is proved is true, and requests in one batch get the responses that they get alone.

``CLOCKWORK_RANDOM_GRAPHS`` in the environment is the number of graphs that are served; 300 if it is not set.
"""

import os
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clockwork.arrays import from_payload, to_payload
from clockwork.messages.actions import InferInput
from clockwork.messages.tensors import TensorSpec
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.onnx.rows import analyse
from clockwork.runtimes.onnx.sessions import FAILURES
from clockwork.runtimes.ort import onnxruntime
from onnx_graphs import saved
from runtimes.random_graphs import Made, random_graph, rows_for

GRAPHS = int(os.environ.get("CLOCKWORK_RANDOM_GRAPHS", "300"))

TOLERANCE = {"f": 1e-5, "d": 1e-10, "e": 1e-2}
"""By numpy's type: the largest difference of floats, as a part of the largest element of the response."""

_ids = count(1)


def session(made: Made) -> Any:
    """ONNX Runtime on the graph as it is, or None if that refuses it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(made.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except FAILURES:
        return None


def run(it: Any, feed: dict[str, Any]) -> list[Any] | None:
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    try:
        return it.run(None, feed, options)  # type: ignore[no-any-return]
    except FAILURES:
        return None


def same(wanted: Any, found: Any) -> bool:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(wanted, found))
    largest = float(np.abs(wanted, where=np.isfinite(wanted), out=np.zeros(wanted.shape)).max(initial=0.0))
    return bool(
        np.allclose(wanted, found, rtol=0, atol=TOLERANCE[wanted.dtype.char] * max(largest, 1e-30), equal_nan=True)
    )


def parts(feed: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    return {name: array[start:end] for name, array in feed.items()}


def coupled(made: Made, original: Any, seed: int) -> bool:
    """Whether a row's outputs differ in any of several batches from those of the row alone."""
    rows = {
        name: np.concatenate([array, rows_for(made.inputs, 1, seed, 50.0)[name]])
        for name, array in rows_for(made.inputs, 4, seed).items()
    }
    alone = [run(original, parts(rows, i, i + 1)) for i in range(5)]
    for order in ([0, 1], [1, 0, 2], [4, 3, 2, 1, 0], [2, 2, 4]):
        together = run(original, {name: array[order] for name, array in rows.items()})
        for at, i in enumerate(order):
            single = alone[i]
            if single is None or together is None:
                return True
            for one, all_of_them in zip(single, together, strict=True):
                if (
                    one.shape[:1] != (1,)
                    or all_of_them.shape[:1] != (len(order),)
                    or not same(one, all_of_them[at : at + 1])
                ):
                    return True
    return False


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(0, 1 << 20))
def test_what_is_proved_is_so(chance: Random, seed: int) -> None:
    made = random_graph(chance)
    assume(made is not None)
    assert made is not None
    if analyse(made.proto).proved:
        original = session(made)
        assume(original is not None and run(original, rows_for(made.inputs, 1, seed)) is not None)
        assert not coupled(made, original, seed)


def request(feed: dict[str, Any]) -> tuple[InferInput, bytes]:
    specs, payload = [], b""
    for name, array in feed.items():
        datatype, shape, buffer = to_payload(array)
        specs.append(TensorSpec(name, datatype, shape, len(buffer)))
        payload += bytes(buffer)
    return InferInput(next(_ids), len(next(iter(feed.values()))), tuple(specs)), payload


def responses(loaded: Any, requests: list[tuple[InferInput, bytes]]) -> list[list[Any]]:
    """One batch through the worker's own path."""
    inputs = [it for it, _ in requests]
    outputs = loaded.execute(loaded.assemble(inputs, [payload for _, payload in requests]))
    return [
        [from_payload(spec, buffer) for spec, buffer in zip(specs, buffers, strict=True)]
        for specs, buffers in loaded.split(inputs, outputs)
    ]


def as_texts(array: Any) -> Any:
    """Payloads have strings as bytes, ONNX Runtime as str."""
    if array.dtype != object:
        return array
    return np.array([it.decode() if isinstance(it, bytes) else it for it in array.ravel()], object).reshape(array.shape)


def test_every_request_gets_the_response_that_it_gets_alone(tmp_path: Path) -> None:
    runtime = OnnxRuntime()
    batched = kept_apart = not_needed = 0
    seed = 0
    while batched + kept_apart < GRAPHS:
        seed += 1
        made = random_graph(Random(seed))
        original = None if made is None else session(made)
        if made is None or original is None:
            continue
        sizes = [1, 3, 1, 2]
        feeds = [rows_for(made.inputs, rows, seed * 10 + i, 10.0**i / 10) for i, rows in enumerate(sizes)]
        alone = [run(original, feed) for feed in feeds]
        if any(it is None for it in alone):
            continue
        host = runtime.load_model(saved(made.proto, tmp_path / "a.onnx"))
        loaded = host.load_weights(0)
        requests = [request(feed) for feed in feeds]
        if host.info.batchable:
            found = responses(loaded, requests)
            batched += 1
        else:
            found = [responses(loaded, [it])[0] for it in requests]
            kept_apart += 1
            not_needed += not coupled(made, original, seed)
        for wanted, got in zip(alone, found, strict=True):
            assert wanted is not None
            for one, other in zip(wanted, got, strict=True):
                assert same(one, as_texts(other)), (seed, host.info.unbatched)
        loaded.close()
    assert batched >= GRAPHS // 6, "most graphs should not be coupled"
    assert kept_apart >= GRAPHS // 6, "many graphs should be coupled"
    print(f"{batched} batched, {kept_apart} not, {not_needed} of them without need")
