"""Models are batched if the graph proves that rows are independent, or if the operator allows it and a trial passes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.runtimes.batching import BatchingOptions
from clockwork.runtimes.config_pbtxt import configured_batch
from clockwork.runtimes.onnx import OnnxRuntime
from clockwork.runtimes.text_format import parse_text
from clockwork.runtimes.trial import why_not_batchable
from clockwork.zoo import build
from onnx_graphs import FLOAT, dense, model, node, saved, value

INT64, BOOL = TensorProto.INT64, TensorProto.BOOL


def reranker() -> Any:
    """Return a model: ``x [N, 8]`` to the indices of the largest elements of each column."""
    return model(
        [
            node("Shape", "x", "n", start=0, end=1),
            node("TopK", "x n", "best y", axis=0),
        ],
        [value("x", ["N", 8])],
        [value("y", ["N", 8], INT64)],
    )


def cumulative_sum() -> Any:
    return model(
        [node("Cast", "x", "i", to=INT64), node("CumSum", "i zero", "y")],
        [value("x", ["N", 8])],
        [value("y", ["N", 8], INT64)],
        zero=np.int64(0),
    )


def largest() -> Any:
    """Return a model whose output tells whether an element is the largest of its column."""
    return model(
        [node("ReduceMax", "x", "m", axes=[0]), node("GreaterOrEqual", "x m", "y")],
        [value("x", ["N", 8])],
        [value("y", ["N", 8], BOOL)],
    )


def weakly_coupled() -> Any:
    return model(
        [node("CumSum", "x zero", "c"), node("Mul", "c w", "s"), node("Add", "x s", "y")],
        [value("x", ["N", 8])],
        [value("y", ["N", 8])],
        zero=np.int64(0),
        w=np.float32(0.08),
    )


COUPLED = {
    "reranker": (reranker, "TopK 'best' computes across rows (axis 0)"),
    "cumulative_sum": (cumulative_sum, "CumSum 'y' computes across rows (axis 0)"),
    "largest": (largest, "ReduceMax 'm' computes across rows (axis 0)"),
    "weakly_coupled": (weakly_coupled, "CumSum 'c' computes across rows (axis 0)"),
}


def loaded(proto: Any, directory: Path, name: str = "m", **options: Any) -> Any:
    runtime = OnnxRuntime(batching=BatchingOptions(**options))
    return runtime.load_model(saved(proto, directory / f"{name}.onnx"), name).info


@pytest.mark.parametrize("name", COUPLED)
def test_a_model_that_computes_across_rows_is_not_batched_even_if_allowed(name: str, tmp_path: Path) -> None:
    make, why = COUPLED[name]
    for allowed in (frozenset[str](), frozenset({name})):
        info = loaded(make(), tmp_path, name, allowed=allowed)
        assert not info.batchable
        assert info.unbatched == why


def test_networks_of_the_zoo_and_magika_are_batched(tmp_path: Path) -> None:
    magika = pytest.importorskip("magika")
    runtime = OnnxRuntime()
    paths = [build(name, tmp_path) for name in ("squeezenet", "shufflenet", "mlp")]
    paths += sorted(Path(magika.__file__).parent.glob("models/*/model.onnx"))
    assert len(paths) > 3
    for path in paths:
        assert runtime.load_model(path).info.unbatched == ""


def unproved(second: Any = None) -> Any:
    """Return a model with a Loop, for which there is no rule, followed by the node ``second`` if it is given."""
    from onnx import helper

    body = helper.make_graph(
        [node("Identity", "c", "c2"), node("Identity", "a", "b")],
        "body",
        [value("i", [], INT64), value("c", [], BOOL), value("a", None)],
        [value("c2", [], BOOL), value("b", None)],
    )
    nodes = [helper.make_node("Loop", ["times", "", "x"], ["z"], body=body), *([second] if second else [])]
    return model(
        [*nodes, node("Identity", "z" if second is None else "t", "y")],
        [value("x", ["N", 8])],
        [value("y", ["N", 8])],
        times=np.int64(1),
        zero=np.int64(0),
    )


def test_an_unproved_model_is_batched_only_if_allowed(tmp_path: Path) -> None:
    info = loaded(unproved(), tmp_path)
    assert info.unbatched == (
        "Loop 'z' is an operator without a rule, so it may compute across rows (--allow-batching accepts it)"
    )
    assert loaded(unproved(), tmp_path, allowed=frozenset({"m"})).batchable
    assert not loaded(unproved(), tmp_path, allowed=frozenset({"other"})).batchable


@pytest.mark.parametrize("axis", [0, 1])
def test_an_allowed_model_must_pass_a_trial(axis: int, tmp_path: Path) -> None:
    second = node("Softmax", "z", "t", axis=axis)
    info = loaded(unproved(second), tmp_path, allowed=frozenset({"m"}))
    assert info.batchable is (axis == 1)
    if not info.batchable:
        assert info.unbatched == "output 0 of a row differs between a batch of 3 rows and the row alone"


def quantised() -> Any:
    return model(
        [
            node("DynamicQuantizeLinear", "x", "q s z"),
            node("MatMulInteger", "q w z", "i"),
            node("Cast", "i", "f", to=FLOAT),
            node("Mul", "f s", "y"),
        ],
        [value("x", ["N", 16])],
        [value("y", ["N", 4])],
        w=np.random.default_rng(0).integers(-100, 100, (16, 4)).astype(np.int8),
    )


def test_a_dynamically_quantised_model_is_batched_only_if_allowed(tmp_path: Path) -> None:
    assert loaded(quantised(), tmp_path).unbatched == (
        "DynamicQuantizeLinear 'q' chooses one scale for the whole batch"
    )
    assert loaded(quantised(), tmp_path, allowed=frozenset({"m"})).batchable


# ------------------------------------------------------------------------------------------- options and config.pbtxt


def test_a_model_named_by_no_batching_is_not_batched(tmp_path: Path) -> None:
    runtime = OnnxRuntime(batching=BatchingOptions(never=frozenset({"m"})))
    path = saved(dense(), tmp_path / "m.onnx")
    info = runtime.load_model(path, "m").info
    assert (info.batchable, info.unbatched) == (False, "--no-batching names it")
    assert runtime.load_model(path, "other").info.batchable, "the same content under another name"


@pytest.mark.parametrize("where", ["m/1/model.onnx", "m/1", "m"])
def test_a_max_batch_size_of_0_is_honoured(where: str, tmp_path: Path) -> None:
    saved(dense(), tmp_path / "m" / "1" / "model.onnx")
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m"\nmax_batch_size: 0\n')
    info = OnnxRuntime(batching=BatchingOptions(allowed=frozenset({"m"}))).load_model(tmp_path / where, "m").info
    assert (info.batchable, info.unbatched) == (False, "max_batch_size is 0 in its config.pbtxt")


def test_the_config_of_other_models_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("garbage {")
    assert OnnxRuntime().load_model(saved(dense(), tmp_path / "m.onnx"), "m").info.batchable


def test_a_config_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    saved(dense(), tmp_path / "m" / "1" / "model.onnx")
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: many")
    with pytest.raises(
        InvalidModelError, match="max_batch_size is 'many'; it must be a whole number from 0 to 999999999"
    ):
        OnnxRuntime().load_model(tmp_path / "m", "m")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("max_batch_size: 8", 8),
        ("max_batch_size:0", 0),
        ('platform: "onnxruntime_onnx" # max_batch_size: 3\nmax_batch_size : 16 input [ { dims: [ 3, -1 ] } ]', 16),
        ("dynamic_batching { max_batch_size: 5 }", None),
        ("parameters: { key: 'a' value: { string_value: \"max_batch_size: 1\" } }", None),
        ("max_batch_size: 1\nmax_batch_size: 2", 2),
    ],
)
def test_max_batch_size_is_found(text: str, found: int | None) -> None:
    assert configured_batch(parse_text(text)) == found


@pytest.mark.parametrize(
    "text", ["max_batch_size: -1", "max_batch_size: 1.5", "max_batch_size { }", "max_batch_size: 1000000000"]
)
def test_an_invalid_max_batch_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it must be a whole number from 0"):
        configured_batch(parse_text(text))


# ---------------------------------------------------------------------------------------------------------- the cache


def test_a_cached_verdict_is_used_only_with_the_same_options(tmp_path: Path) -> None:
    path = saved(unproved(), tmp_path / "m.onnx")
    for allowed, batchable in ((False, False), (True, True), (False, False), (True, True)):
        options = BatchingOptions(allowed=frozenset({"m"} if allowed else ()))
        info = OnnxRuntime(cache_dir=tmp_path / "cache", batching=options).load_model(path, "m").info
        assert info.batchable is batchable
        assert bool(info.unbatched) is not batchable
    assert len(list((tmp_path / "cache").iterdir())) == 2


# ---------------------------------------------------------------------------------------------------------- the trial


def rows(count: int) -> list[tuple[dict[str, Any], None]]:
    draw = np.random.default_rng(0)
    return [({"x": draw.random((1, 3), np.float32)}, None) for _ in range(count)]


@pytest.mark.parametrize(
    ("compute", "passes"),
    [
        (lambda x: x * 2, True),
        (lambda x: x * (1 + 1e-7 * len(x)), True),
        (lambda x: x * (1 + 1e-2 * (len(x) > 1)), False),
        (lambda x: x + 1e-4 * x[:1], False),
        (lambda x: x + 1e-4 * x[-1:], False),
        (lambda x: np.cumsum(x, 0), False),
        (lambda x: np.where(len(x) == 8, x[::-1], x), False),
        (lambda x: (x > x.max()).astype(np.int64), True),
        (lambda x: (x >= x.max()).astype(np.int64), False),
        (lambda x: x >= x.max(), False),
        (lambda x: np.char.add("row ", np.arange(len(x)).astype(str)).astype(object), False),
        (lambda x: np.full(len(x), "text", object), True),
        (lambda x: x[0], False),
        (lambda x: np.where(x > 0, np.nan, x), False),
    ],
)
def test_a_trial_finds_rows_that_depend_on_others(compute: Any, passes: bool) -> None:
    found = why_not_batchable(lambda feed: [np.asarray(compute(feed["x"]))], rows(6), thorough=True)
    assert (found == "") is passes, found


def test_a_trial_skips_rows_that_the_model_rejects_alone() -> None:
    def run(feed: Any) -> list[Any]:
        if feed["x"].max() > 0.9:
            raise InvalidRequestError("too large")
        return [feed["x"]]

    assert why_not_batchable(run, rows(8), thorough=True) == ""
    assert why_not_batchable(lambda feed: run({"x": feed["x"] + 1}), rows(8), thorough=True) == (
        "it rejects every random row made to try it"
    )
