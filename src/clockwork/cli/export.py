"""``clockwork export``: a PyTorch module as a model file."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from clockwork.cli.options import examples

if TYPE_CHECKING:
    from clockwork.runtimes.torch.exporting import Example

EXAMPLES: Final = examples(
    "clockwork export mynets:make_resnet --input 1x3x224x224 -o resnet.pt2",
    "clockwork export nets/bert.py:Encoder --input tokens=1x64:int64 --input mask=1x64:bool --fp16",
    "clockwork serve resnet.pt2",
    "clockwork export mynets:make_encoder --input 1x32x256 --compile -o encoder.pt2",
    "clockwork serve encoder.pt2 --allow-compiled",
)

_INPUT: Final = re.compile(r"(?:([A-Za-z_]\w*)=)?(\d+(?:x\d+)*)(?::(\w+))?")


def export(
    module: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FACTORY",
            help="A module, or a .py file, and in it what makes the torch.nn.Module: a function, a class, or itself.",
            show_default=False,
        ),
    ],
    given: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="[NAME=]DIMS[:DTYPE]",
            help="An example of each input, in order: 1x3x224x224, tokens=1x64:int64; float32 unless it says else.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, show_default="FACTORY.pt2", help="The file to write."),
    ] = None,
    batch: Annotated[
        bool | None,
        typer.Option(
            "--batch/--no-batch",
            show_default="if the module allows it",
            help="With a first dimension of any size, so that requests can be executed together; or as given.",
        ),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="With weights, inputs and outputs of 16 bits.")] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="With code for CPUs like this machine's beside it, which takes a compiler of C++ and some time.",
        ),
    ] = False,
) -> None:
    """Export a PyTorch module for inference, as a file that clockwork serve and clockwork worker take.

    The module is made by calling FACTORY without arguments, put into eval mode, and traced by torch.export. What the
    file computes is compared with what the module computes.
    """
    from clockwork.cli.runtimes import check_torch

    check_torch()
    from clockwork.runtimes.torch.exporting import export as exported

    name = module.rpartition(":")[2]
    inputs = [parse_example(it) for it in given]
    made = exported(load_module(module), inputs, batch, fp16)
    if compiled:
        made = made.compiled()
    path = output or Path(f"{name}.pt2")
    made.save(path)
    if batch is False:
        print(f"{path}: the batch dimension is as given")
    elif made.fixed_because:
        print(f"{path}: the batch dimension is fixed, because with a free one {made.fixed_because}")
    else:
        print(f"{path}: the batch dimension is of any size")
    if made.code is not None:
        print(f"{path}: compiled for {made.code.description.target}; serve it with --allow-compiled")


def parse_example(text: str) -> "Example":
    """``1x3x224x224``, ``1x64:int64``, ``tokens=1x64:int64``.

    Raises:
        typer.BadParameter: it is none.
    """
    import torch

    from clockwork.runtimes.torch.exporting import Example
    from clockwork.runtimes.torch.tensors import DATATYPES

    found = _INPUT.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no input: write 1x3x224x224 or tokens=1x64:int64", param_hint="--input")
    dtype = getattr(torch, found[3] or "float32", None)
    if dtype not in DATATYPES:
        known = ", ".join(str(it).removeprefix("torch.") for it in DATATYPES)
        raise typer.BadParameter(f"{found[3]!r} is no type of inputs; known: {known}", param_hint="--input")
    return Example(tuple(map(int, found[2].split("x"))), dtype, found[1] or "")


def load_module(text: str) -> "Any":
    """The ``torch.nn.Module`` that ``MODULE:FACTORY`` means; this directory is looked into first.

    Raises:
        InvalidRequestError: there is no such module or factory, or it fails.
    """
    from importlib import import_module

    import torch

    from clockwork.errors import InvalidRequestError

    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise typer.BadParameter(f"{text!r} names no factory: write MODULE:FACTORY", param_hint="MODULE:FACTORY")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else import_module(where)
    except Exception as error:
        raise InvalidRequestError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    factory = getattr(module, name, None)
    if factory is None:
        known = [it for it, value in vars(module).items() if callable(value) and it[0] != "_"]
        raise InvalidRequestError(f"{where} has no {name!r}; it has {', '.join(known[:20]) or 'nothing to call'}")
    if isinstance(factory, torch.nn.Module):
        return factory
    if not callable(factory):
        raise InvalidRequestError(
            f"{text} is a {type(factory).__name__}: a torch.nn.Module, or what makes one, is needed"
        )
    try:
        return factory()
    except Exception as error:
        raise InvalidRequestError(f"{text}() failed: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> "Any":
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
