"""The commands, put together."""

from typing import Annotated

import typer

from clockwork import __version__
from clockwork.cli import (
    check_env,
    check_model,
    config,
    controller,
    export,
    infer,
    load,
    load_test,
    ls,
    serve,
    sim,
    status,
    worker,
    zoo,
)
from clockwork.cli.configuration import ConfiguredCommand
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


app.command(cls=ConfiguredCommand, epilog=serve.EXAMPLES, short_help="Serve models from this machine, in one command.")(
    serve.serve
)
app.command(cls=ConfiguredCommand, epilog=controller.EXAMPLES, short_help="Run a controller alone.")(
    controller.controller
)
app.command(cls=ConfiguredCommand, epilog=worker.EXAMPLES, short_help="Run a worker alone.")(worker.worker)
app.command(
    epilog=config.EXAMPLES,
    short_help="Show and check a configuration.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(config.config)
app.command(epilog=load.EXAMPLES, short_help="Load a model, while the controller starts up.")(load.load)
app.command(epilog=ls.EXAMPLES, short_help="List the models that are served.")(ls.ls)
app.command(epilog=infer.EXAMPLES, short_help="Ask a model once.")(infer.infer)
app.command(epilog=status.EXAMPLES, short_help="Show workers, devices, models and requests.")(status.status)
app.command(epilog=check_env.EXAMPLES, short_help="Show what on this host makes times vary.")(check_env.check_env)
app.command(epilog=check_model.EXAMPLES, short_help="Show what a model takes, gives and costs.")(
    check_model.check_model
)
app.command(epilog=export.EXAMPLES, short_help="Make a model file from a PyTorch module.")(export.export)
app.command(epilog=sim.EXAMPLES, short_help="Simulate a scenario in virtual time.")(sim.sim)
app.command(epilog=load_test.EXAMPLES, short_help="Play a scenario's workload against a live server.")(
    load_test.load_test
)
app.add_typer(zoo.app, name="zoo", short_help="Make classic networks to try things with.")
