"""The Typer application. The application lists all commands with their help texts and examples."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from clockwork.cli import (
    changing,
    check,
    config,
    controller,
    explain,
    model_files,
    ray,
    remote,
    serve,
    sim,
    top,
    trace,
    worker,
)
from clockwork.cli.configuration import ConfiguredCommand
from clockwork.cli.options import examples
from clockwork.version import __version__

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


def _add(command: Callable[..., None], summary: str, examples: str, **settings: Any) -> None:
    app.command(short_help=summary, epilog=examples, **settings)(command)


_PASS_ALL = {"allow_extra_args": True, "ignore_unknown_options": True}

_add(serve.serve, "Serve models from this machine.", serve.EXAMPLES, cls=ConfiguredCommand)
_add(controller.controller, "Run a controller without a worker.", controller.EXAMPLES, cls=ConfiguredCommand)
_add(worker.worker, "Run a worker without a controller.", worker.EXAMPLES, cls=ConfiguredCommand)
_add(config.config, "Show and check a configuration.", config.EXAMPLES, context_settings=_PASS_ALL)
_add(remote.load, "Load a model, or replace its versions.", remote.LOAD_EXAMPLES)
_add(changing.unload, "Unload a model or a version.", changing.UNLOAD_EXAMPLES)
_add(changing.reload, "Load a model again from its changed files.", changing.RELOAD_EXAMPLES)
_add(changing.promote, "Make a version the default, or label it.", changing.PROMOTE_EXAMPLES)
_add(changing.shadow, "Compare a version with live requests.", changing.SHADOW_EXAMPLES)
_add(remote.ls, "List the served models.", remote.LS_EXAMPLES)
_add(remote.infer, "Send one request to a model.", remote.INFER_EXAMPLES)
_add(remote.status, "Show workers, devices, models and requests.", remote.STATUS_EXAMPLES)
_add(top.top, "Show recent requests and devices, refreshed.", top.TOP_EXAMPLES)
_add(explain.explain, "Explain a request, or list recent requests.", explain.EXPLAIN_EXAMPLES)
_add(trace.trace, "Write a trace of the devices for Perfetto.", trace.TRACE_EXAMPLES)
_add(check.check_env, "Check this host for causes of timing jitter.", check.CHECK_ENV_EXAMPLES)
_add(check.check_model, "Show a model's inputs, outputs and execution times.", check.CHECK_MODEL_EXAMPLES)
_add(model_files.export, "Export a PyTorch module to a model file.", model_files.EXPORT_EXAMPLES)
_add(sim.sim, "Simulate a scenario in virtual time.", sim.SIM_EXAMPLES)
_add(sim.load_test, "Run a scenario's workload against a live server.", sim.LOAD_TEST_EXAMPLES)
app.add_typer(model_files.zoo_app, name="zoo", short_help="Build classic networks for tests.")
app.add_typer(ray.ray_app, name="ray", short_help="Run a fleet on a Ray cluster.")
