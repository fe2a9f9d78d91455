"""The commands that write model files: ``clockwork export`` and ``clockwork zoo``."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from clockwork.cli.options import examples
from clockwork.cli.runtimes import check_torch

if TYPE_CHECKING:
    from clockwork.runtimes.torch.exporting import Example

EXPORT_EXAMPLES: Final = examples(
    "clockwork export mynets:make_resnet --input 1x3x224x224 -o resnet.pt2",
    "clockwork export nets/bert.py:Encoder --input tokens=1x64:int64 --input mask=1x64:bool --fp16",
    "clockwork serve resnet.pt2",
    "clockwork export mynets:make_encoder --input 1x32x256 --compile -o encoder.pt2",
    "clockwork serve encoder.pt2 --allow-compiled",
)
BUILD_EXAMPLES: Final = examples(
    "clockwork zoo build models                          # all networks: 1.4 GB",
    "clockwork zoo build models squeezenet resnet50",
)

_INPUT: Final = re.compile(r"(?:([A-Za-z_]\w*)=)?(\d+(?:x\d+)*)(?::(\w+))?")

zoo_app = typer.Typer(help="Classic networks for tests and demonstrations, built on this machine without downloads.")


# ----------------------------------------------------------------------------------------------------- export


def export(
    module: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FACTORY",
            help="A Python module or .py file, and the name of a torch.nn.Module in it, or of a function or class that "
            "creates one.",
            show_default=False,
        ),
    ],
    input_texts: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="[NAME=]DIMS[:DTYPE]",
            help="Shape and type of an input, such as 1x3x224x224 or tokens=1x64:int64. Repeat the option for each "
            "input, in order. The default type is float32.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, show_default="FACTORY.pt2", help="File to write."),
    ] = None,
    batch: Annotated[
        bool | None,
        typer.Option(
            "--batch/--no-batch",
            show_default="if the module allows it",
            help="Make the first dimension free, so that requests can be batched, or keep it fixed.",
        ),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Convert weights, inputs and outputs to 16 bits.")] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Add compiled code for CPUs like this machine's. This needs a C++ compiler and takes minutes.",
        ),
    ] = False,
) -> None:
    """Export a PyTorch module to a file that clockwork serve and clockwork worker can load.

    FACTORY is called without arguments. torch.export traces the module in eval mode. The outputs of the file are then
    compared with the outputs of the module.
    """
    check_torch()
    from clockwork.runtimes.torch.exporting import export as export_module

    name = module.rpartition(":")[2]
    inputs = [parse_example(text) for text in input_texts]
    program = export_module(load_module(module), inputs, batch, fp16)
    if compiled:
        program = program.compiled()
    path = output or Path(f"{name}.pt2")
    program.save(path)
    if batch is False:
        print(f"{path}: the batch dimension is fixed, as requested")
    elif program.fixed_because:
        print(f"{path}: the batch dimension is fixed, because with a free one {program.fixed_because}")
    else:
        print(f"{path}: the batch dimension is free")
    if program.code is not None:
        print(f"{path}: compiled for {program.code.description.target}; serve it with --allow-compiled")


def parse_example(text: str) -> "Example":
    """Parse the description of an input: ``1x3x224x224``, ``1x64:int64`` or ``tokens=1x64:int64``.

    Raises:
        typer.BadParameter: the text has none of these forms, or names an unknown type.
    """
    import torch

    from clockwork.runtimes.torch.exporting import Example
    from clockwork.runtimes.torch.tensors import DATATYPES

    found = _INPUT.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"invalid input {text!r}; examples: 1x3x224x224, tokens=1x64:int64", param_hint="--input"
        )
    dtype = getattr(torch, found[3] or "float32", None)
    if dtype not in DATATYPES:
        known = ", ".join(str(datatype).removeprefix("torch.") for datatype in DATATYPES)
        raise typer.BadParameter(f"unknown type {found[3]!r}; expected one of: {known}", param_hint="--input")
    return Example(tuple(map(int, found[2].split("x"))), dtype, found[1] or "")


def load_module(text: str) -> Any:
    """Return the ``torch.nn.Module`` that ``MODULE:FACTORY`` names. The current directory is searched first.

    Raises:
        InvalidRequestError: the module or the factory does not exist, or raises an exception.
    """
    from importlib import import_module

    import torch

    from clockwork.errors import InvalidRequestError

    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise typer.BadParameter(f"{text!r} has no factory; write MODULE:FACTORY", param_hint="MODULE:FACTORY")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = _import_file(Path(where)) if where.endswith(".py") else import_module(where)
    except Exception as error:
        raise InvalidRequestError(f"cannot import {where}: {type(error).__name__}: {error}") from error
    factory = getattr(module, name, None)
    if factory is None:
        known = [attribute for attribute, value in vars(module).items() if callable(value) and attribute[0] != "_"]
        raise InvalidRequestError(f"{where} has no {name!r}; it has {', '.join(known[:20]) or 'no factories'}")
    if isinstance(factory, torch.nn.Module):
        return factory
    if not callable(factory):
        raise InvalidRequestError(
            f"{text} is a {type(factory).__name__}; expected a torch.nn.Module, or a function or class that makes one"
        )
    try:
        return factory()
    except Exception as error:
        raise InvalidRequestError(f"{text}() failed: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------------------- zoo


@zoo_app.command("ls")
def zoo_ls() -> None:
    """List the networks that can be built."""
    from clockwork.zoo import names

    for name in names():
        print(name)


@zoo_app.command("build", epilog=BUILD_EXAMPLES)
def zoo_build(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the files.", show_default=False)],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAMES]...", help="Networks to build; by default all.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
) -> None:
    """Build networks with random weights as DIR/NAME.onnx. Files that are up to date are not changed.

    The networks compute as fast as trained networks, but their outputs have no meaning.
    """
    from clockwork import zoo
    from clockwork.errors import InvalidRequestError
    from clockwork.units import show_bytes

    chosen = names or zoo.names()
    unknown = [name for name in chosen if name not in zoo.names()]
    if unknown:
        raise InvalidRequestError(f"unknown network {unknown[0]!r}; expected one of: {', '.join(zoo.names())}")
    for name in chosen:
        file = zoo.build(name, directory, seed)
        print(f"{file}  {show_bytes(file.stat().st_size)}", flush=True)
