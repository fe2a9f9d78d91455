"""Random graphs: proofs are correct, and requests in a batch get the responses that they get alone.

``CLOCKWORK_RANDOM_GRAPHS`` in the environment is the number of graphs to serve; the default is 300.
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
from runtimes.random_graphs import RandomGraph, random_graph, rows_for

GRAPHS = int(os.environ.get("CLOCKWORK_RANDOM_GRAPHS", "300"))

TOLERANCE = {"f": 1e-5, "d": 1e-10, "e": 1e-2}
"""Largest accepted difference by float type, as a fraction of the largest element of the response."""

_ids = count(1)


def session(graph: RandomGraph) -> Any:
    """Open the graph with ONNX Runtime; return None if it rejects the graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            graph.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except FAILURES:
        return None


def run(opened: Any, feed: dict[str, Any]) -> list[Any] | None:
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    try:
        return opened.run(None, feed, options)  # type: ignore[no-any-return]
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


def coupled(graph: RandomGraph, original: Any, seed: int) -> bool:
    """Whether the outputs of a row alone differ from its outputs in any of several batches."""
    rows = {
        name: np.concatenate([array, rows_for(graph.inputs, 1, seed, 50.0)[name]])
        for name, array in rows_for(graph.inputs, 4, seed).items()
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
def test_a_proved_graph_does_not_mix_rows(rng: Random, seed: int) -> None:
    graph = random_graph(rng)
    assume(graph is not None)
    assert graph is not None
    if analyse(graph.proto).proved:
        original = session(graph)
        assume(original is not None and run(original, rows_for(graph.inputs, 1, seed)) is not None)
        assert not coupled(graph, original, seed)


def request(feed: dict[str, Any]) -> tuple[InferInput, bytes]:
    specs, payload = [], b""
    for name, array in feed.items():
        datatype, shape, buffer = to_payload(array)
        specs.append(TensorSpec(name, datatype, shape, len(buffer)))
        payload += bytes(buffer)
    return InferInput(next(_ids), len(next(iter(feed.values()))), tuple(specs)), payload


def responses(loaded: Any, requests: list[tuple[InferInput, bytes]]) -> list[list[Any]]:
    """Execute the requests as one batch, as the worker does."""
    inputs = [infer_input for infer_input, _ in requests]
    outputs = loaded.execute(loaded.assemble(inputs, [payload for _, payload in requests]))
    return [
        [from_payload(spec, buffer) for spec, buffer in zip(specs, buffers, strict=True)]
        for specs, buffers in loaded.split(inputs, outputs)
    ]


def as_strings(array: Any) -> Any:
    """Convert strings from bytes, as in payloads, to str, as in ONNX Runtime."""
    if array.dtype != object:
        return array
    return np.array(
        [string.decode() if isinstance(string, bytes) else string for string in array.ravel()], object
    ).reshape(array.shape)


def test_every_request_in_a_batch_gets_the_response_it_gets_alone(tmp_path: Path) -> None:
    runtime = OnnxRuntime()
    batched = not_batched = needlessly = 0
    seed = 0
    while batched + not_batched < GRAPHS:
        seed += 1
        graph = random_graph(Random(seed))
        original = None if graph is None else session(graph)
        if graph is None or original is None:
            continue
        sizes = [1, 3, 1, 2]
        feeds = [rows_for(graph.inputs, rows, seed * 10 + i, 10.0**i / 10) for i, rows in enumerate(sizes)]
        alone = [run(original, feed) for feed in feeds]
        if any(outputs is None for outputs in alone):
            continue
        host = runtime.load_model(saved(graph.proto, tmp_path / "a.onnx"))
        loaded = host.load_weights(0)
        requests = [request(feed) for feed in feeds]
        if host.info.batchable:
            found = responses(loaded, requests)
            batched += 1
        else:
            found = [responses(loaded, [single])[0] for single in requests]
            not_batched += 1
            needlessly += not coupled(graph, original, seed)
        for wanted, got in zip(alone, found, strict=True):
            assert wanted is not None
            for one, other in zip(wanted, got, strict=True):
                assert same(one, as_strings(other)), (seed, host.info.unbatched)
        loaded.close()
    assert batched >= GRAPHS // 6, "most graphs should not be coupled"
    assert not_batched >= GRAPHS // 6, "many graphs should be coupled"
    print(f"{batched} batched, {not_batched} not, {needlessly} of them needlessly")
