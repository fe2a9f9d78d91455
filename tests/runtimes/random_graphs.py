"""Makes small random ONNX graphs and inputs for them. About half of the graphs compute across the rows of a batch.

All random choices come from a ``random.Random``, so a seed identifies a graph, and Hypothesis can shrink graphs.
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
    """A graph under construction. ``pool`` contains the tensors that a new node may use as inputs."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}
        self.inputs: list[Tensor] = []
        self.pool: list[Tensor] = []

    def input(self, kind: int, shape: tuple[Any, ...]) -> None:
        tensor = Tensor(f"x{len(self.inputs)}", kind, shape)
        self.inputs.append(tensor)
        self.pool.append(tensor)

    def weight(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def put(self, op: str, inputs: str, kind: int, shape: Sequence[Any], which: int = 0, **attributes: Any) -> Tensor:
        """Add a node. Add its output number ``which`` to the pool."""
        name = f"t{len(self.nodes)}"
        outputs = " ".join(name if i == which else f"{name}_{i}" for i in range(which + 1 if op != "TopK" else 2))
        self.nodes.append(node(op, inputs, outputs, **attributes))
        tensor = Tensor(name, kind, tuple(shape))
        self.pool.append(tensor)
        return tensor

    def pick(self, wanted: Callable[[Tensor], bool]) -> Tensor | None:
        """Choose one of the latest tensors of the pool that are suitable."""
        found = [tensor for tensor in self.pool if wanted(tensor)]
        return self.rng.choice(found[-4:]) if found else None

    def axis(self, tensor: Tensor) -> int:
        """Choose an axis. Axis 0 is less likely than others."""
        return 0 if tensor.rank == 1 or self.rng.random() < 0.3 else self.rng.randrange(1, tensor.rank)


def _without(shape: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _with(shape: tuple[Any, ...], axis: int, size: Any) -> tuple[Any, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def is_float(tensor: Tensor) -> bool:
    return tensor.kind in (FLOAT, DOUBLE) and tensor.rank > 0


def is_number(tensor: Tensor) -> bool:
    return tensor.kind in (FLOAT, DOUBLE, INT64, INT32) and tensor.rank > 0


def numbers(graph: Graph, kind: int, *shape: int) -> str:
    draw = np.random.default_rng(graph.rng.randrange(1 << 30))
    dtype = DTYPES[kind]
    made = draw.integers(-3, 4, shape) if dtype[0] == "i" else draw.standard_normal(shape)
    return graph.weight(np.asarray(made).astype(dtype))


def unary(graph: Graph, tensor: Tensor) -> None:
    graph.put(
        graph.rng.choice(["Relu", "Tanh", "Neg", "Abs", "Sigmoid", "Identity"]), tensor.name, tensor.kind, tensor.shape
    )


def with_constant(graph: Graph, tensor: Tensor) -> None:
    last = tensor.shape[-1]
    shape = graph.rng.choice([(), (1,), (last,) if isinstance(last, int) else (1,), (1,) * tensor.rank])
    graph.put(
        graph.rng.choice(["Add", "Sub", "Mul"]),
        f"{tensor.name} {numbers(graph, tensor.kind, *shape)}",
        tensor.kind,
        tensor.shape,
    )


def with_another(graph: Graph, tensor: Tensor) -> None:
    other = graph.pick(lambda other: (other.kind, other.shape) == (tensor.kind, tensor.shape))
    assert other is not None
    graph.put(
        graph.rng.choice(["Add", "Sub", "Mul", "Max", "Min"]), f"{tensor.name} {other.name}", tensor.kind, tensor.shape
    )


def cumulative(graph: Graph, tensor: Tensor) -> None:
    axis = graph.weight(np.int64(graph.axis(tensor)))
    graph.put("CumSum", f"{tensor.name} {axis}", tensor.kind, tensor.shape)


def weak(graph: Graph, tensor: Tensor) -> None:
    """Add ``x + 0.08 * cumsum(x)`` along an axis."""
    axis = graph.weight(np.int64(graph.axis(tensor)))
    total = graph.put("CumSum", f"{tensor.name} {axis}", tensor.kind, tensor.shape)
    factor = graph.weight(np.asarray(0.08, DTYPES[tensor.kind]))
    small = graph.put("Mul", f"{total.name} {factor}", tensor.kind, tensor.shape)
    graph.put("Add", f"{tensor.name} {small.name}", tensor.kind, tensor.shape)


def reduction(graph: Graph, tensor: Tensor) -> None:
    axis, keep = graph.axis(tensor), graph.rng.randrange(2)
    shape = _with(tensor.shape, axis, 1) if keep else _without(tensor.shape, axis)
    graph.put(
        graph.rng.choice(["ReduceMax", "ReduceMean", "ReduceL2"]),
        tensor.name,
        tensor.kind,
        shape,
        axes=[axis],
        keepdims=keep,
    )


def arg(graph: Graph, tensor: Tensor) -> None:
    axis, keep = graph.axis(tensor), graph.rng.randrange(2)
    shape = _with(tensor.shape, axis, 1) if keep else _without(tensor.shape, axis)
    graph.put(graph.rng.choice(["ArgMax", "ArgMin"]), tensor.name, INT64, shape, axis=axis, keepdims=keep)


def top(graph: Graph, tensor: Tensor) -> None:
    axis, which = graph.axis(tensor), graph.rng.randrange(2)
    k = graph.weight(np.array([1]))
    shape = _with(tensor.shape, axis, 1)
    graph.put("TopK", f"{tensor.name} {k}", INT64 if which else tensor.kind, shape, which, axis=axis)


def rank_of_each(graph: Graph, tensor: Tensor) -> None:
    """Add the order of all elements along an axis."""
    axis = graph.axis(tensor)
    shape = graph.put("Shape", tensor.name, INT64, (tensor.rank,))
    count = graph.put(
        "Slice", f"{shape.name} {graph.weight(np.array([axis]))} {graph.weight(np.array([axis + 1]))}", INT64, (1,)
    )
    graph.put("TopK", f"{tensor.name} {count.name}", INT64, tensor.shape, 1, axis=axis)


def softmax(graph: Graph, tensor: Tensor) -> None:
    graph.put(
        graph.rng.choice(["Softmax", "LogSoftmax"]), tensor.name, tensor.kind, tensor.shape, axis=graph.axis(tensor)
    )


def transpose(graph: Graph, tensor: Tensor) -> None:
    order = list(range(tensor.rank))
    graph.rng.shuffle(order)
    graph.put("Transpose", tensor.name, tensor.kind, [tensor.shape[i] for i in order], perm=order)


def flattened(graph: Graph, tensor: Tensor) -> None:
    """Reshape to ``[N, rest]``, by a computed shape or by 0 and -1."""
    if tensor.shape[0] != N or tensor.rank < 2 or N in tensor.shape[1:]:
        return
    rest = int(np.prod(tensor.shape[1:]))
    how = graph.rng.randrange(3)
    if how == 0:
        shape = graph.weight(np.array([0, -1]))
    elif how == 1:
        shape = graph.weight(np.array([-1, rest]))
    else:
        sizes = graph.put("Shape", tensor.name, INT64, (tensor.rank,))
        first = graph.put("Gather", f"{sizes.name} {graph.weight(np.array([0]))}", INT64, (1,))
        shape = graph.put("Concat", f"{first.name} {graph.weight(np.array([rest]))}", INT64, (2,), axis=0).name
    graph.put("Reshape", f"{tensor.name} {shape}", tensor.kind, (N, rest))


def mixed_up(graph: Graph, tensor: Tensor) -> None:
    """Reshape so that rows become columns, and reshape back to the former shape."""
    if tensor.shape[0] != N or tensor.rank != 2 or N in tensor.shape[1:]:
        return
    turned = graph.put(
        "Reshape", f"{tensor.name} {graph.weight(np.array([tensor.shape[1], -1]))}", tensor.kind, (tensor.shape[1], N)
    )
    graph.put("Transpose", turned.name, tensor.kind, (N, tensor.shape[1]), perm=[1, 0])


def there_and_back(graph: Graph, tensor: Tensor) -> None:
    """Reshape ``[N, a, b]`` to ``[N * a, b]``, add a node, and reshape back."""
    if tensor.shape[0] != N or tensor.rank != 3 or N in tensor.shape[1:]:
        return
    a, b = tensor.shape[1:]
    flat = graph.put("Reshape", f"{tensor.name} {graph.weight(np.array([-1, b]))}", tensor.kind, ("N*", b))
    graph.pool.pop()
    axis = 1 if graph.rng.random() < 0.7 else 0
    done = graph.put("Softmax", flat.name, tensor.kind, ("N*", b), axis=axis)
    graph.pool.pop()
    graph.put("Reshape", f"{done.name} {graph.weight(np.array([-1, a, b]))}", tensor.kind, tensor.shape)


def product(graph: Graph, tensor: Tensor) -> None:
    columns = tensor.shape[-1]
    if isinstance(columns, int):
        graph.put(
            "MatMul", f"{tensor.name} {numbers(graph, tensor.kind, columns, 3)}", tensor.kind, (*tensor.shape[:-1], 3)
        )


def product_with_itself(graph: Graph, tensor: Tensor) -> None:
    if tensor.rank < 2:
        return
    order = [*range(tensor.rank - 2), tensor.rank - 1, tensor.rank - 2]
    turned = graph.put("Transpose", tensor.name, tensor.kind, [tensor.shape[i] for i in order], perm=order)
    graph.put("MatMul", f"{tensor.name} {turned.name}", tensor.kind, (*tensor.shape[:-1], tensor.shape[-2]))


def einsum(graph: Graph, tensor: Tensor) -> None:
    if tensor.rank != 2 or tensor.kind != FLOAT:
        return
    equation, shape = graph.rng.choice(
        [("ij,ij->i", tensor.shape[:1]), ("ij,ij->ij", tensor.shape), ("ij,kj->ik", (tensor.shape[0], tensor.shape[0]))]
    )
    graph.put("Einsum", f"{tensor.name} {tensor.name}", tensor.kind, shape, equation=equation)


def gather(graph: Graph, tensor: Tensor) -> None:
    axis = graph.axis(tensor)
    if tensor.shape[axis] == N and graph.rng.random() < 0.5:
        return
    index = graph.weight(np.array([0]))
    graph.put("Gather", f"{tensor.name} {index}", tensor.kind, _with(tensor.shape, axis, 1), axis=axis)


def lookup(graph: Graph, tensor: Tensor) -> None:
    """Look up integers in a table, after limiting them to its range."""
    if tensor.kind != INT64:
        return
    magnitude = graph.put("Abs", tensor.name, INT64, tensor.shape)
    index = graph.put("Mod", f"{magnitude.name} {graph.weight(np.int64(5))}", INT64, tensor.shape)
    graph.put("Gather", f"{numbers(graph, FLOAT, 5, 3)} {index.name}", FLOAT, (*tensor.shape, 3))


def beside(graph: Graph, tensor: Tensor) -> None:
    """Select elements along one axis by indices from the same tensor."""
    axis = graph.axis(tensor)
    if tensor.shape[axis] == N and graph.rng.random() < 0.5:
        return
    best = graph.put("ArgMax", tensor.name, INT64, _with(tensor.shape, axis, 1), axis=axis, keepdims=1)
    graph.put("GatherElements", f"{tensor.name} {best.name}", tensor.kind, best.shape, axis=axis)


def concat(graph: Graph, tensor: Tensor) -> None:
    axis = graph.axis(tensor)
    size = tensor.shape[axis]
    if isinstance(size, int):
        graph.put("Concat", f"{tensor.name} {tensor.name}", tensor.kind, _with(tensor.shape, axis, 2 * size), axis=axis)


def cut(graph: Graph, tensor: Tensor) -> None:
    """Take a part of an axis, the whole axis, or the whole axis in reverse."""
    axis = graph.axis(tensor)
    size = tensor.shape[axis]
    start, end, step, left = graph.rng.choice(
        [(0, 1, 1, 1), (-1, -(1 << 40), -1, size), (0, 1 << 40, 1, size), (0, 1 << 31, 1, size)]
    )
    words = " ".join(graph.weight(np.array([part])) for part in (start, end, axis, step))
    graph.put("Slice", f"{tensor.name} {words}", tensor.kind, _with(tensor.shape, axis, left))


def cast(graph: Graph, tensor: Tensor) -> None:
    to = graph.rng.choice([FLOAT, INT64, INT32, DOUBLE])
    graph.put("Cast", tensor.name, to, tensor.shape, to=to)


def compare(graph: Graph, tensor: Tensor) -> None:
    limit = numbers(graph, tensor.kind)
    graph.put(graph.rng.choice(["Greater", "Less"]), f"{tensor.name} {limit}", BOOL, tensor.shape)


def choose(graph: Graph, tensor: Tensor) -> None:
    condition = graph.pick(lambda other: other.kind == BOOL and other.shape == tensor.shape)
    if condition is not None:
        graph.put("Where", f"{condition.name} {tensor.name} {numbers(graph, tensor.kind)}", tensor.kind, tensor.shape)


def inserted(graph: Graph, tensor: Tensor) -> None:
    if tensor.rank > 3:
        return
    axis = graph.rng.randrange(tensor.rank + 1)
    shape = (*tensor.shape[:axis], 1, *tensor.shape[axis:])
    graph.put("Unsqueeze", f"{tensor.name} {graph.weight(np.array([axis]))}", tensor.kind, shape)


def padded(graph: Graph, tensor: Tensor) -> None:
    axis = graph.axis(tensor)
    if not isinstance(tensor.shape[axis], int) or tensor.kind != FLOAT:
        return
    pads = [0] * (2 * tensor.rank)
    pads[axis] = 1
    graph.put(
        "Pad",
        f"{tensor.name} {graph.weight(np.array(pads))}",
        tensor.kind,
        _with(tensor.shape, axis, tensor.shape[axis] + 1),
    )


def lower(graph: Graph, tensor: Tensor) -> None:
    if tensor.rank >= 2 and tensor.kind == FLOAT:
        graph.put("Trilu", tensor.name, tensor.kind, tensor.shape, upper=0)


def normalised(graph: Graph, tensor: Tensor) -> None:
    if tensor.kind == FLOAT and tensor.rank >= 2 and isinstance(tensor.shape[-1], int):
        graph.put(
            "LayerNormalization",
            f"{tensor.name} {numbers(graph, FLOAT, tensor.shape[-1])}",
            tensor.kind,
            tensor.shape,
            axis=-1,
        )


def one_scale(graph: Graph, tensor: Tensor) -> None:
    if tensor.kind == FLOAT:
        graph.put("DynamicQuantizeLinear", tensor.name, UINT8, tensor.shape)


def counted(graph: Graph, tensor: Tensor) -> None:
    """Multiply by the number of elements."""
    if tensor.kind == FLOAT:
        count = graph.put("Size", tensor.name, INT64, ())
        number = graph.put("Cast", count.name, FLOAT, (), to=FLOAT)
        graph.put("Mul", f"{tensor.name} {number.name}", tensor.kind, tensor.shape)


def images(graph: Graph, tensor: Tensor) -> None:
    if tensor.rank != 3 or tensor.kind != FLOAT or not all(isinstance(size, int) for size in tensor.shape[1:]):
        return
    if graph.rng.randrange(2):
        weights = numbers(graph, FLOAT, 2, tensor.shape[1], 1)
        graph.put("Conv", f"{tensor.name} {weights}", FLOAT, (tensor.shape[0], 2, tensor.shape[2]))
    else:
        graph.put("GlobalMaxPool", tensor.name, FLOAT, (*tensor.shape[:2], 1))


def expanded(graph: Graph, tensor: Tensor) -> None:
    """Expand a constant to the shape of a tensor, and add both."""
    if tensor.shape[-1] == N or tensor.kind != FLOAT:
        return
    sizes = graph.put("Shape", tensor.name, INT64, (tensor.rank,))
    same = graph.put("Expand", f"{numbers(graph, FLOAT, tensor.shape[-1])} {sizes.name}", FLOAT, tensor.shape)
    graph.put("Add", f"{tensor.name} {same.name}", FLOAT, tensor.shape)


def text(graph: Graph, tensor: Tensor) -> None:
    if tensor.kind != STRING:
        return
    if graph.rng.randrange(2):
        graph.put(
            "StringNormalizer", tensor.name, STRING, tensor.shape, case_change_action="UPPER"
        ) if tensor.shape == (N,) else graph.put("Identity", tensor.name, STRING, tensor.shape)
    else:
        axis = graph.axis(tensor)
        graph.put(
            "Gather", f"{tensor.name} {graph.weight(np.array([0]))}", STRING, _with(tensor.shape, axis, 1), axis=axis
        )


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


class RandomGraph(NamedTuple):
    proto: Any
    inputs: list[Tensor]
    outputs: list[Tensor]


def random_graph(rng: Random, nodes: int = 6) -> RandomGraph | None:
    """Return a random graph, or None if none of its tensors can be an output."""
    graph = Graph(rng)
    for i in range(rng.choice([1, 1, 2, 3])):
        kind = rng.choice([FLOAT, FLOAT, FLOAT, INT64] if i == 0 else list(DTYPES))
        rank = rng.choice([2, 2, 3, 1])
        graph.input(kind, (N, *(rng.choice([2, 3, 4]) for _ in range(rank - 1))))
    for _ in range(rng.randrange(1, nodes + 1)):
        tensor = graph.pick(lambda tensor: tensor.rank > 0)
        assert tensor is not None
        rules = (
            (*ON_FLOATS, *ON_NUMBERS) if is_float(tensor) else ON_NUMBERS if is_number(tensor) else (*ON_OTHERS, text)
        )
        rng.choice(rules)(graph, tensor)
    possible = [tensor for tensor in graph.pool if tensor.shape[:1] == (N,) and not tensor.name.startswith("x")]
    if not possible:
        return None
    outputs = {
        tensor.name: tensor for tensor in [possible[-1], *(rng.choice(possible) for _ in range(rng.randrange(3)))]
    }
    shown = [value(tensor.name, [N, *(None for _ in tensor.shape[1:])], tensor.kind) for tensor in outputs.values()]
    proto = model(
        graph.nodes, [value(tensor.name, tensor.shape, tensor.kind) for tensor in graph.inputs], shown, **graph.weights
    )
    return RandomGraph(proto, graph.inputs, list(outputs.values()))


def rows_for(inputs: Sequence[Tensor], count: int, seed: int, factor: float = 1.0) -> dict[str, Any]:
    """Return ``count`` rows of each input."""
    draw = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for tensor in inputs:
        shape = (count, *tensor.shape[1:])
        if tensor.kind == STRING:
            made[tensor.name] = np.array(WORDS, object)[draw.integers(0, len(WORDS), shape)]
        elif tensor.kind in FLOATS:
            made[tensor.name] = (
                draw.standard_normal(shape) * min(factor, 8)
                if tensor.kind == HALF
                else draw.standard_normal(shape) * factor
            ).astype(DTYPES[tensor.kind])
        else:
            made[tensor.name] = draw.integers(0, 2 if tensor.kind == BOOL else 100, shape).astype(DTYPES[tensor.kind])
    return made
