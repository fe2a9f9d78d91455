"""``clockwork zoo``: classic networks, made on the spot."""

from pathlib import Path
from typing import Annotated, Final

import typer

from clockwork.cli.options import examples

EXAMPLES: Final = examples(
    "clockwork zoo build models                          all of them: 1.4 GB",
    "clockwork zoo build models squeezenet resnet50",
)

app = typer.Typer(help="Classic networks to try things with; made on the spot, nothing is downloaded.")


@app.command("ls")
def ls() -> None:
    """List what can be built."""
    from clockwork.zoo import names

    for name in names():
        print(name)


@app.command("build", epilog=EXAMPLES)
def build(
    directory: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAMES]...", help="Which; all if none is named.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights.")] = 0,
) -> None:
    """Build networks as DIR/NAME.onnx, with weights drawn from a seed. Those that are there already are left.

    They compute as fast as trained ones, and recognise nothing.
    """
    from clockwork import zoo
    from clockwork.errors import InvalidRequestError
    from clockwork.units import show_bytes

    chosen = names or zoo.names()
    unknown = [name for name in chosen if name not in zoo.names()]
    if unknown:
        raise InvalidRequestError(f"the zoo has no {', '.join(unknown)}; it has {', '.join(zoo.names())}")
    for name in chosen:
        file = zoo.build(name, directory, seed)
        print(f"{file}  {show_bytes(file.stat().st_size)}", flush=True)
