"""Options that limit what clients may use; for ``serve`` and ``controller``."""

from typing import Annotated, TypeAlias

import typer

from clockwork.cli.parsers import size
from clockwork.units import Bytes

MaxJson: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-json",
        parser=size,
        metavar="SIZE",
        show_default="16MiB",
        help="Largest JSON of one HTTP request or response; larger tensors need the binary data extension.",
    ),
]
MaxBody: TypeAlias = Annotated[
    Bytes,
    typer.Option(
        "--max-body",
        parser=size,
        metavar="SIZE",
        show_default="256MiB",
        help="Largest body of one HTTP request. The inputs in it may take at most 64 MiB.",
    ),
]
