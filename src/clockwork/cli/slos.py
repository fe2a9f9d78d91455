"""Default SLOs of single models: ``--model-slo NAME=DURATION``."""

from collections.abc import Iterable
from typing import Annotated, Final, TypeAlias

import typer

from clockwork.cli.options import duration
from clockwork.controller.config import LoadSpec
from clockwork.messages.actions import model_names
from clockwork.units import Nanos

_HINT: Final = "--model-slo"

ModelSlos: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        _HINT,
        metavar="NAME=DURATION",
        show_default=False,
        help="Of requests for this model, or all copies of it, that bring none, in place of --slo; may be repeated.",
    ),
]


def model_slos(given: Iterable[str] | None, specs: Iterable[LoadSpec] | None = None) -> dict[str, Nanos]:
    """What was typed, by name; ``specs`` are the models that there will be, if that is known.

    Raises:
        typer.BadParameter: it is no such pair, a name comes twice, or no model is called so.
    """
    found: dict[str, Nanos] = {}
    for text in given or ():
        name, _, value = text.rpartition("=")
        if not name:
            raise typer.BadParameter(f"{text!r} is no NAME=DURATION: write resnet50=250ms, say", param_hint=_HINT)
        if name in found:
            raise typer.BadParameter(f"the model {name!r} is given two SLOs", param_hint=_HINT)
        found[name] = duration(value)
    if specs is not None:
        known = {name for spec in specs for name in (spec.name, *model_names(spec.name, spec.no_of_copies))}
        if unknown := [name for name in found if name not in known]:
            served = ", ".join(sorted(known)[:10])
            raise typer.BadParameter(f"no model is called {', '.join(unknown)}; there are {served}", param_hint=_HINT)
    return found
