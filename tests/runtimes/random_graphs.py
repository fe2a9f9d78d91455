"""Small random ONNX graphs, of which about half compute across the rows of a batch, and inputs for them.

All that is drawn comes from a ``random.Random``, so that a seed is a graph, and Hypothesis can shrink one.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from onnx_graphs import model, node, value

N = "N"
FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
INT64, INT32, UINT8, BOOL, STRING = (
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.UINT8,
    TensorProto.BOOL,
    TensorProto.STRING,
)
FLOATS = (FLOAT, DOUBLE, HALF)
DTYPES: dict[int, str] = {
    FLOAT: "f4",
    DOUBLE: "f8",
    HALF: "f2",
    INT64: "i8",
    INT32: "i4",
    UINT8: "u1",
    BOOL: "?",
    STRING: "O",
}
WORDS = ("", "a", "b", "cat", "dog", "ä", "a longer text")


class Tensor(NamedTuple):
    name: str
    kind: int
    shape: tuple[Any, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


class Graph:
    """A graph that grows node by node; ``pool`` has the tensors that a node may take."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}
        self.inputs: list[Tensor] = []
        self.pool: list[Tensor] = []

    def input(self, kind: int, shape: tuple[Any, ...]) -> None:
        it = Tensor(f"x{len(self.inputs)}", kind, shape)
        self.inputs.append(it)
        self.pool.append(it)

    def weight(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def put(self, op: str, inputs: str, kind: int, shape: Sequence[Any], which: int = 0, **attributes: Any) -> Tensor:
        """A node, of whose outputs only number ``which`` is used."""
        name = f"t{len(self.nodes)}"
        outputs = " ".join(name if i == which else f"{name}_{i}" for i in range(which + 1 if op != "TopK" else 2))
        self.nodes.append(node(op, inputs, outputs, **attributes))
        made = Tensor(name, kind, tuple(shape))
        self.pool.append(made)
        return made

    def pick(self, wanted: Callable[[Tensor], bool]) -> Tensor | None:
        """One of the pool, a late one more often."""
        found = [it for it in self.pool if wanted(it)]
        return self.chance.choice(found[-4:]) if found else None

    def axis(self, it: Tensor) -> int:
        """Axis 0 less often than the others."""
        return 0 if it.rank == 1 or self.chance.random() < 0.3 else self.chance.randrange(1, it.rank)


def _without(shape: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _with(shape: tuple[Any, ...], axis: int, size: Any) -> tuple[Any, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def is_float(it: Tensor) -> bool:
    return it.kind in (FLOAT, DOUBLE) and it.rank > 0


def is_number(it: Tensor) -> bool:
    return it.kind in (FLOAT, DOUBLE, INT64, INT32) and it.rank > 0


def numbers(graph: Graph, kind: int, *shape: int) -> str:
    draw = np.random.default_rng(graph.chance.randrange(1 << 30))
    dtype = DTYPES[kind]
    made = draw.integers(-3, 4, shape) if dtype[0] == "i" else draw.standard_normal(shape)
    return graph.weight(np.asarray(made).astype(dtype))


def unary(graph: Graph, it: Tensor) -> None:
    graph.put(graph.chance.choice(["Relu", "Tanh", "Neg", "Abs", "Sigmoid", "Identity"]), it.name, it.kind, it.shape)


def with_constant(graph: Graph, it: Tensor) -> None:
    last = it.shape[-1]
    shape = graph.chance.choice([(), (1,), (last,) if isinstance(last, int) else (1,), (1,) * it.rank])
    graph.put(
        graph.chance.choice(["Add", "Sub", "Mul"]), f"{it.name} {numbers(graph, it.kind, *shape)}", it.kind, it.shape
    )


def with_another(graph: Graph, it: Tensor) -> None:
    other = graph.pick(lambda other: (other.kind, other.shape) == (it.kind, it.shape))
    assert other is not None
    graph.put(graph.chance.choice(["Add", "Sub", "Mul", "Max", "Min"]), f"{it.name} {other.name}", it.kind, it.shape)


def cumulative(graph: Graph, it: Tensor) -> None:
    axis = graph.weight(np.int64(graph.axis(it)))
    graph.put("CumSum", f"{it.name} {axis}", it.kind, it.shape)


def weak(graph: Graph, it: Tensor) -> None:
    """``x + 0.08 * cumsum(x)`` along an axis."""
    axis = graph.weight(np.int64(graph.axis(it)))
    total = graph.put("CumSum", f"{it.name} {axis}", it.kind, it.shape)
    factor = graph.weight(np.asarray(0.08, DTYPES[it.kind]))
    small = graph.put("Mul", f"{total.name} {factor}", it.kind, it.shape)
    graph.put("Add", f"{it.name} {small.name}", it.kind, it.shape)


def reduction(graph: Graph, it: Tensor) -> None:
    axis, keep = graph.axis(it), graph.chance.randrange(2)
    shape = _with(it.shape, axis, 1) if keep else _without(it.shape, axis)
    graph.put(
        graph.chance.choice(["ReduceMax", "ReduceMean", "ReduceL2"]),
        it.name,
        it.kind,
        shape,
        axes=[axis],
        keepdims=keep,
    )


def arg(graph: Graph, it: Tensor) -> None:
    axis, keep = graph.axis(it), graph.chance.randrange(2)
    shape = _with(it.shape, axis, 1) if keep else _without(it.shape, axis)
    graph.put(graph.chance.choice(["ArgMax", "ArgMin"]), it.name, INT64, shape, axis=axis, keepdims=keep)


def top(graph: Graph, it: Tensor) -> None:
    axis, which = graph.axis(it), graph.chance.randrange(2)
    k = graph.weight(np.array([1]))
    shape = _with(it.shape, axis, 1)
    graph.put("TopK", f"{it.name} {k}", INT64 if which else it.kind, shape, which, axis=axis)


def rank_of_each(graph: Graph, it: Tensor) -> None:
    """How all elements of an axis are ordered."""
    axis = graph.axis(it)
    shape = graph.put("Shape", it.name, INT64, (it.rank,))
    count = graph.put(
        "Slice", f"{shape.name} {graph.weight(np.array([axis]))} {graph.weight(np.array([axis + 1]))}", INT64, (1,)
    )
    graph.put("TopK", f"{it.name} {count.name}", INT64, it.shape, 1, axis=axis)


def softmax(graph: Graph, it: Tensor) -> None:
    graph.put(graph.chance.choice(["Softmax", "LogSoftmax"]), it.name, it.kind, it.shape, axis=graph.axis(it))


def transpose(graph: Graph, it: Tensor) -> None:
    order = list(range(it.rank))
    graph.chance.shuffle(order)
    graph.put("Transpose", it.name, it.kind, [it.shape[i] for i in order], perm=order)


def flattened(graph: Graph, it: Tensor) -> None:
    """To ``[N, rest]``, by a shape that is computed or by 0 and -1."""
    if it.shape[0] != N or it.rank < 2 or N in it.shape[1:]:
        return
    rest = int(np.prod(it.shape[1:]))
    how = graph.chance.randrange(3)
    if how == 0:
        shape = graph.weight(np.array([0, -1]))
    elif how == 1:
        shape = graph.weight(np.array([-1, rest]))
    else:
        sizes = graph.put("Shape", it.name, INT64, (it.rank,))
        first = graph.put("Gather", f"{sizes.name} {graph.weight(np.array([0]))}", INT64, (1,))
        shape = graph.put("Concat", f"{first.name} {graph.weight(np.array([rest]))}", INT64, (2,), axis=0).name
    graph.put("Reshape", f"{it.name} {shape}", it.kind, (N, rest))


def mixed_up(graph: Graph, it: Tensor) -> None:
    """Reshaped so that rows end in columns, and back to the shape that it had."""
    if it.shape[0] != N or it.rank != 2 or N in it.shape[1:]:
        return
    turned = graph.put("Reshape", f"{it.name} {graph.weight(np.array([it.shape[1], -1]))}", it.kind, (it.shape[1], N))
    graph.put("Transpose", turned.name, it.kind, (N, it.shape[1]), perm=[1, 0])


def there_and_back(graph: Graph, it: Tensor) -> None:
    """``[N, a, b]`` to ``[N * a, b]``, something, and back."""
    if it.shape[0] != N or it.rank != 3 or N in it.shape[1:]:
        return
    a, b = it.shape[1:]
    flat = graph.put("Reshape", f"{it.name} {graph.weight(np.array([-1, b]))}", it.kind, ("N*", b))
    graph.pool.pop()
    axis = 1 if graph.chance.random() < 0.7 else 0
    done = graph.put("Softmax", flat.name, it.kind, ("N*", b), axis=axis)
    graph.pool.pop()
    graph.put("Reshape", f"{done.name} {graph.weight(np.array([-1, a, b]))}", it.kind, it.shape)


def product(graph: Graph, it: Tensor) -> None:
    columns = it.shape[-1]
    if isinstance(columns, int):
        graph.put("MatMul", f"{it.name} {numbers(graph, it.kind, columns, 3)}", it.kind, (*it.shape[:-1], 3))


def product_with_itself(graph: Graph, it: Tensor) -> None:
    if it.rank < 2:
        return
    order = [*range(it.rank - 2), it.rank - 1, it.rank - 2]
    turned = graph.put("Transpose", it.name, it.kind, [it.shape[i] for i in order], perm=order)
    graph.put("MatMul", f"{it.name} {turned.name}", it.kind, (*it.shape[:-1], it.shape[-2]))


def einsum(graph: Graph, it: Tensor) -> None:
    if it.rank != 2 or it.kind != FLOAT:
        return
    equation, shape = graph.chance.choice(
        [("ij,ij->i", it.shape[:1]), ("ij,ij->ij", it.shape), ("ij,kj->ik", (it.shape[0], it.shape[0]))]
    )
    graph.put("Einsum", f"{it.name} {it.name}", it.kind, shape, equation=equation)


def gather(graph: Graph, it: Tensor) -> None:
    axis = graph.axis(it)
    if it.shape[axis] == N and graph.chance.random() < 0.5:
        return
    index = graph.weight(np.array([0]))
    graph.put("Gather", f"{it.name} {index}", it.kind, _with(it.shape, axis, 1), axis=axis)


def lookup(graph: Graph, it: Tensor) -> None:
    """A table, by whole numbers that are brought into its range."""
    if it.kind != INT64:
        return
    magnitude = graph.put("Abs", it.name, INT64, it.shape)
    index = graph.put("Mod", f"{magnitude.name} {graph.weight(np.int64(5))}", INT64, it.shape)
    graph.put("Gather", f"{numbers(graph, FLOAT, 5, 3)} {index.name}", FLOAT, (*it.shape, 3))


def beside(graph: Graph, it: Tensor) -> None:
    """Elements by numbers from the same tensor, along one axis."""
    axis = graph.axis(it)
    if it.shape[axis] == N and graph.chance.random() < 0.5:
        return
    best = graph.put("ArgMax", it.name, INT64, _with(it.shape, axis, 1), axis=axis, keepdims=1)
    graph.put("GatherElements", f"{it.name} {best.name}", it.kind, best.shape, axis=axis)


def concat(graph: Graph, it: Tensor) -> None:
    axis = graph.axis(it)
    size = it.shape[axis]
    if isinstance(size, int):
        graph.put("Concat", f"{it.name} {it.name}", it.kind, _with(it.shape, axis, 2 * size), axis=axis)


def cut(graph: Graph, it: Tensor) -> None:
    """A part of an axis, the axis in the reverse, or all of it."""
    axis = graph.axis(it)
    size = it.shape[axis]
    start, end, step, left = graph.chance.choice(
        [(0, 1, 1, 1), (-1, -(1 << 40), -1, size), (0, 1 << 40, 1, size), (0, 1 << 31, 1, size)]
    )
    words = " ".join(graph.weight(np.array([part])) for part in (start, end, axis, step))
    graph.put("Slice", f"{it.name} {words}", it.kind, _with(it.shape, axis, left))


def cast(graph: Graph, it: Tensor) -> None:
    to = graph.chance.choice([FLOAT, INT64, INT32, DOUBLE])
    graph.put("Cast", it.name, to, it.shape, to=to)


def compare(graph: Graph, it: Tensor) -> None:
    limit = numbers(graph, it.kind)
    graph.put(graph.chance.choice(["Greater", "Less"]), f"{it.name} {limit}", BOOL, it.shape)


def choose(graph: Graph, it: Tensor) -> None:
    condition = graph.pick(lambda other: other.kind == BOOL and other.shape == it.shape)
    if condition is not None:
        graph.put("Where", f"{condition.name} {it.name} {numbers(graph, it.kind)}", it.kind, it.shape)


def inserted(graph: Graph, it: Tensor) -> None:
    if it.rank > 3:
        return
    axis = graph.chance.randrange(it.rank + 1)
    shape = (*it.shape[:axis], 1, *it.shape[axis:])
    graph.put("Unsqueeze", f"{it.name} {graph.weight(np.array([axis]))}", it.kind, shape)


def padded(graph: Graph, it: Tensor) -> None:
    axis = graph.axis(it)
    if not isinstance(it.shape[axis], int) or it.kind != FLOAT:
        return
    pads = [0] * (2 * it.rank)
    pads[axis] = 1
    graph.put("Pad", f"{it.name} {graph.weight(np.array(pads))}", it.kind, _with(it.shape, axis, it.shape[axis] + 1))


def lower(graph: Graph, it: Tensor) -> None:
    if it.rank >= 2 and it.kind == FLOAT:
        graph.put("Trilu", it.name, it.kind, it.shape, upper=0)


def normalised(graph: Graph, it: Tensor) -> None:
    if it.kind == FLOAT and it.rank >= 2 and isinstance(it.shape[-1], int):
        graph.put("LayerNormalization", f"{it.name} {numbers(graph, FLOAT, it.shape[-1])}", it.kind, it.shape, axis=-1)


def one_scale(graph: Graph, it: Tensor) -> None:
    if it.kind == FLOAT:
        graph.put("DynamicQuantizeLinear", it.name, UINT8, it.shape)


def counted(graph: Graph, it: Tensor) -> None:
    """Multiplied by the number of elements."""
    if it.kind == FLOAT:
        count = graph.put("Size", it.name, INT64, ())
        number = graph.put("Cast", count.name, FLOAT, (), to=FLOAT)
        graph.put("Mul", f"{it.name} {number.name}", it.kind, it.shape)


def images(graph: Graph, it: Tensor) -> None:
    if it.rank != 3 or it.kind != FLOAT or not all(isinstance(size, int) for size in it.shape[1:]):
        return
    if graph.chance.randrange(2):
        weights = numbers(graph, FLOAT, 2, it.shape[1], 1)
        graph.put("Conv", f"{it.name} {weights}", FLOAT, (it.shape[0], 2, it.shape[2]))
    else:
        graph.put("GlobalMaxPool", it.name, FLOAT, (*it.shape[:2], 1))


def expanded(graph: Graph, it: Tensor) -> None:
    """A constant to the shape of a tensor, and added to that."""
    if it.shape[-1] == N or it.kind != FLOAT:
        return
    sizes = graph.put("Shape", it.name, INT64, (it.rank,))
    same = graph.put("Expand", f"{numbers(graph, FLOAT, it.shape[-1])} {sizes.name}", FLOAT, it.shape)
    graph.put("Add", f"{it.name} {same.name}", FLOAT, it.shape)


def text(graph: Graph, it: Tensor) -> None:
    if it.kind != STRING:
        return
    if graph.chance.randrange(2):
        graph.put("StringNormalizer", it.name, STRING, it.shape, case_change_action="UPPER") if it.shape == (
            N,
        ) else graph.put("Identity", it.name, STRING, it.shape)
    else:
        axis = graph.axis(it)
        graph.put("Gather", f"{it.name} {graph.weight(np.array([0]))}", STRING, _with(it.shape, axis, 1), axis=axis)


ON_NUMBERS = (
    with_another,
    cumulative,
    reduction,
    arg,
    top,
    rank_of_each,
    transpose,
    flattened,
    mixed_up,
    gather,
    lookup,
    beside,
    concat,
    cut,
    cast,
    compare,
    choose,
    inserted,
)
ON_FLOATS = (
    unary,
    unary,
    with_constant,
    with_constant,
    weak,
    softmax,
    there_and_back,
    product,
    product,
    product_with_itself,
    einsum,
    padded,
    lower,
    normalised,
    one_scale,
    counted,
    images,
    expanded,
)
ON_OTHERS = (transpose, gather, concat, cut, flattened, inserted, mixed_up)


class Made(NamedTuple):
    proto: Any
    inputs: list[Tensor]
    outputs: list[Tensor]


def random_graph(chance: Random, nodes: int = 6) -> Made | None:
    """A graph, or None if none of its tensors could be an output."""
    graph = Graph(chance)
    for i in range(chance.choice([1, 1, 2, 3])):
        kind = chance.choice([FLOAT, FLOAT, FLOAT, INT64] if i == 0 else list(DTYPES))
        rank = chance.choice([2, 2, 3, 1])
        graph.input(kind, (N, *(chance.choice([2, 3, 4]) for _ in range(rank - 1))))
    for _ in range(chance.randrange(1, nodes + 1)):
        it = graph.pick(lambda tensor: tensor.rank > 0)
        assert it is not None
        rules = (*ON_FLOATS, *ON_NUMBERS) if is_float(it) else ON_NUMBERS if is_number(it) else (*ON_OTHERS, text)
        chance.choice(rules)(graph, it)
    possible = [it for it in graph.pool if it.shape[:1] == (N,) and not it.name.startswith("x")]
    if not possible:
        return None
    outputs = {it.name: it for it in [possible[-1], *(chance.choice(possible) for _ in range(chance.randrange(3)))]}
    shown = [value(it.name, [N, *(None for _ in it.shape[1:])], it.kind) for it in outputs.values()]
    proto = model(graph.nodes, [value(it.name, it.shape, it.kind) for it in graph.inputs], shown, **graph.weights)
    return Made(proto, graph.inputs, list(outputs.values()))


def rows_for(inputs: Sequence[Tensor], count: int, seed: int, factor: float = 1.0) -> dict[str, Any]:
    """``count`` rows of each input."""
    draw = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for it in inputs:
        shape = (count, *it.shape[1:])
        if it.kind == STRING:
            made[it.name] = np.array(WORDS, object)[draw.integers(0, len(WORDS), shape)]
        elif it.kind in FLOATS:
            made[it.name] = (
                draw.standard_normal(shape) * min(factor, 8)
                if it.kind == HALF
                else draw.standard_normal(shape) * factor
            ).astype(DTYPES[it.kind])
        else:
            made[it.name] = draw.integers(0, 2 if it.kind == BOOL else 100, shape).astype(DTYPES[it.kind])
    return made
