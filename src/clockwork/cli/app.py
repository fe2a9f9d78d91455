"""The commands, put together."""

from typing import Annotated

import typer

from clockwork import __version__
from clockwork.cli import check_model, controller, infer, load, ls, serve, status, worker, zoo
from clockwork.cli.options import examples

app = typer.Typer(
    help="An inference server that knows when each request will finish.",
    epilog=examples(
        "clockwork zoo build models squeezenet resnet50",
        "clockwork serve models/squeezenet.onnx models/resnet50.onnx",
        "clockwork infer squeezenet --input cat.png",
    ),
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"clockwork {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


for _module in (serve, controller, worker, load, ls, infer, status, check_model):
    _module.register(app)
app.add_typer(zoo.app, name="zoo")
