"""Represents an exported program as a function of weights and inputs, with its signature.

Theory of operation. ``torch.export`` converts all values that a module contains to arguments. The resulting graph is a
pure function of parameters, buffers, constants and inputs, in this order. So there is only one graph of a program, and
neither loading nor eviction changes the graph. The weights on a device are a tuple of tensors. Programs that write to a
buffer or an input are not pure functions. Such programs are refused, because one request could change the response of
another request.
"""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import torch
from msgspec import Struct
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    TensorArgument,
)

from clockwork.errors import InvalidModelError
from clockwork.messages.tensors import MAX_RANK, MAX_TENSORS, TensorInfo
from clockwork.runtimes.signature import FREE, Port, Signature
from clockwork.runtimes.torch.failures import LOADING_FAILURES, cause, describe
from clockwork.runtimes.torch.shapes import Range, Shapes
from clockwork.runtimes.torch.tensors import DATATYPES
from clockwork.runtimes.torch.weights import Layout, packed
from clockwork.runtimes.torch.writes import written_placeholders

OUTPUT: Final = "output"
"""Name of the output of a program with a single output. Several outputs have the names of their dictionary keys, or are
called output_0, output_1 ...
"""

MAX_UNKNOWN_NAMED: Final = 5
"""Largest number of unknown operators that an error message names."""

_OPERATOR: Final = re.compile(r'"target":\s*"torch\.ops\.(\w+)\.(\w+)\.(\w+)"')
_WEIGHTS: Final = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_WRITES: Final = {
    OutputKind.BUFFER_MUTATION: "buffer",
    OutputKind.PARAMETER_MUTATION: "parameter",
    OutputKind.USER_INPUT_MUTATION: "input",
}


class Program(Struct, frozen=True):
    """A program. ``forward(*arguments)`` returns its outputs.

    `arguments` returns a list with the weights, to which the caller adds the inputs.
    """

    graph: Any  #: a torch.fx.GraphModule
    ports: Signature
    shapes: Shapes
    layout: Layout
    weights: Any  #: a tensor of bytes in host memory
    weight_names: tuple[str, ...]  #: names of the weights in the module
    template: tuple[Any, ...]  #: list of arguments in which only the constants are set
    weight_slots: tuple[int, ...]
    input_slots: tuple[int, ...]

    @property
    def forward(self) -> Callable[..., Sequence[Any]]:
        """The program as a Python function."""
        function: Callable[..., Sequence[Any]] = self.graph.forward
        return function

    def arguments(self, weights: Sequence[Any]) -> list[Any]:
        """Return the list of arguments with these weights.

        The caller sets the entries at ``input_slots`` to the inputs.
        """
        arguments = list(self.template)
        for slot, tensor in zip(self.weight_slots, weights, strict=True):
            arguments[slot] = tensor
        return arguments


def load(path: Path) -> Program:
    """Read an exported program from a file that `clockwork.runtimes.torch.archive.read` has checked.

    Raises:
        InvalidModelError: PyTorch cannot read the file, or the program is not supported.
    """
    try:
        with warnings.catch_warnings():
            # these warnings concern files of older releases; real problems raise an error
            warnings.simplefilter("ignore")
            exported = torch.export.load(str(path))
    except LOADING_FAILURES as error:
        unknown = unknown_operators(path)
        reason = (
            f"it uses {', '.join(unknown[:MAX_UNKNOWN_NAMED])}, which this release lacks"
            if unknown
            else describe(cause(error))
        )
        raise InvalidModelError(
            f"PyTorch {torch.__version__} cannot load {path.name!r}: {reason}; only PyTorch's own operators are "
            "supported, and a file of another release may have to be exported again"
        ) from error
    return to_program(exported)


def unknown_operators(path: Path) -> list[str]:
    """Return the operators in a file that the installed PyTorch lacks. PyTorch itself reports them only in its log."""
    with ZipFile(path) as archive:
        (entry,) = (name for name in archive.namelist() if "/models/" in name and name.endswith(".json"))
        named = sorted(set(_OPERATOR.findall(archive.read(entry).decode(errors="replace"))))
    return [".".join(operator) for operator in named if not _exists(*operator)]


def _exists(namespace: str, name: str, overload: str) -> bool:
    try:
        getattr(getattr(getattr(torch.ops, namespace), name), overload)
    except (AttributeError, RuntimeError):
        return False
    return True


def to_program(exported: Any) -> Program:
    """Convert an ``ExportedProgram``.

    Raises:
        InvalidModelError: the program is not supported.
    """
    template: list[Any] = []
    weights: list[Any] = []
    weight_slots: list[int] = []
    weight_names: list[str] = []
    inputs: list[tuple[int, Any]] = []
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    for slot, spec in enumerate(exported.graph_signature.input_specs):
        template.append(None)
        if spec.kind in _WEIGHTS:
            weights.append(_weight(exported, spec))
            weight_slots.append(slot)
            weight_names.append(spec.target)
        elif spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, ConstantArgument):
            template[slot] = spec.arg.value
        elif spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
            inputs.append((slot, placeholders[spec.arg.name].meta["val"]))
        else:
            raise InvalidModelError(
                f"argument {spec.arg.name!r} of the program is a {spec.kind.name.lower().replace('_', ' ')} of type "
                f"{type(spec.arg).__name__.removesuffix('Argument')}; only tensors are supported: export the module "
                "with tensors as inputs"
            )
    _check_writes(exported)
    names = _input_names(exported, [slot for slot, _ in inputs])
    values = [value for _, value in inputs]
    ports = Signature(_ports(names, values, "input"), _ports(*_outputs(exported), "output"))
    ranges = {str(symbol): _range(constraint) for symbol, constraint in exported.range_constraints.items()}
    layout, block = packed(weights)
    return Program(
        graph=exported.graph_module,
        ports=ports,
        shapes=Shapes(names, [tuple(map(_dim, value.shape)) for value in values], ranges),
        layout=layout,
        weights=block,
        weight_names=tuple(weight_names),
        template=tuple(template),
        weight_slots=tuple(weight_slots),
        input_slots=tuple(slot for slot, _ in inputs),
    )


def _check_writes(exported: Any) -> None:
    for name in written_placeholders(exported.graph):
        (spec,) = (spec for spec in exported.graph_signature.input_specs if spec.arg.name == name)
        raise _writes(spec.kind.name.lower().replace("user_", "").replace("_", " "), spec.target or name)


def _writes(word: str, name: str) -> InvalidModelError:
    return InvalidModelError(
        f"the program writes to its {word} {name!r}, so one request would change the response of another: export the "
        "module in eval mode, without such state"
    )


def _weight(exported: Any, spec: Any) -> Any:
    found = exported.state_dict.get(spec.target)
    if found is None:
        found = exported.constants.get(spec.target)
    if not isinstance(found, torch.Tensor) or found.layout is not torch.strided:
        raise InvalidModelError(
            f"weights {spec.target!r} of the program are not a plain tensor, but {type(found).__name__}"
        )
    return found


def _input_names(exported: Any, slots: Sequence[int]) -> list[str]:
    """Return PyTorch's names of the inputs.

    The names are the parameters of ``forward``, with suffixes for nested inputs.
    """
    specs = exported.graph_signature.input_specs
    return [str(specs[slot].arg.name) for slot in slots]


def _outputs(exported: Any) -> tuple[list[str], list[Any]]:
    """Return names and example values of the outputs."""
    nodes = {node.name: node for node in exported.graph.nodes}
    values: list[Any] = []
    for spec in exported.graph_signature.output_specs:
        if spec.kind in _WRITES:
            raise _writes(_WRITES[spec.kind], spec.target)
        if spec.kind is not OutputKind.USER_OUTPUT or not isinstance(spec.arg, TensorArgument):
            raise InvalidModelError(
                f"output {len(values)} of the program is not a tensor: export a module that returns only tensors"
            )
        values.append(nodes[spec.arg.name].meta["val"])
    return _output_names(exported.call_spec.out_spec, len(values)), values


def _output_names(spec: Any, count: int) -> list[str]:
    """Return the names of the outputs.

    If the outputs are a flat dictionary with strings as keys, the names are the keys.
    """
    keys = spec.context if spec.type is dict else []
    if keys and len(keys) == count and all(isinstance(key, str) and key for key in keys):
        return [str(key) for key in keys]
    return [OUTPUT] if count == 1 else [f"{OUTPUT}_{i}" for i in range(count)]


def _ports(names: Sequence[str], values: Sequence[Any], word: str) -> tuple[Port, ...]:
    if not names or len(names) > MAX_TENSORS:
        raise InvalidModelError(f"the program has {len(names)} {word}s; 1 to {MAX_TENSORS} are supported")
    return tuple(_port(name, value, word) for name, value in zip(names, values, strict=True))


def _port(name: str, value: Any, word: str) -> Port:
    datatype = DATATYPES.get(value.dtype)
    if datatype is None:
        raise InvalidModelError(
            f"{word} {name!r} of the program is of type {value.dtype}; the supported types are "
            f"{', '.join(DATATYPES.values())}: convert it in the module"
        )
    if value.dim() > MAX_RANK:
        raise InvalidModelError(f"{word} {name!r} of the program has {value.dim()} dimensions; the limit is {MAX_RANK}")
    dims = tuple(map(_dim, value.shape))
    shape = tuple(dim if isinstance(dim, int) else FREE for dim in dims)
    symbols = tuple("" if isinstance(dim, int) else str(dim) for dim in dims)
    return Port(TensorInfo(name, datatype.value, shape), symbols)


def _dim(size: Any) -> Any:
    """Return a size as a number, or as a sympy expression."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_number else expression


def _range(found: Any) -> Range:
    return Range(_number(found.lower), _number(found.upper))


def _number(bound: Any) -> int | None:
    return int(bound) if bound.is_finite and math.isfinite(bound) else None
