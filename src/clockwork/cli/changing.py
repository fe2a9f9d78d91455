"""The commands that change the served models: ``clockwork unload``, ``reload``, ``promote`` and ``shadow``."""

from typing import Annotated, Final

import typer

from clockwork.cli.options import NoWait, ServerAddress, examples
from clockwork.cli.security import ClientTlsCa, ClientTlsCert, ClientTlsKey, ClientTokenFile, connect
from clockwork.net.address import DEFAULT_LISTEN

UNLOAD_EXAMPLES: Final = examples(
    "clockwork unload resnet50",
    "clockwork unload resnet50:1     # only version 1",
)
RELOAD_EXAMPLES: Final = examples("clockwork reload resnet50")
PROMOTE_EXAMPLES: Final = examples(
    "clockwork promote resnet50 2                     # requests without a version get version 2",
    "clockwork promote resnet50 3 --label canary      # requests for the version canary get version 3",
)
SHADOW_EXAMPLES: Final = examples(
    "clockwork shadow resnet50=2:0.1      # version 2 executes copies of a tenth of the requests",
    "clockwork shadow resnet50 --off",
)


def unload(
    model: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="Name of the model, or one of its versions.")],
    no_wait: NoWait = False,
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Unload a model, or one of its versions, from every worker.

    Admitted requests are finished first. New requests for the model are refused at once. The command returns when the
    model's memory is free.
    """
    name, colon, version = model.partition(":")
    if colon and not version:
        raise typer.BadParameter(f"{model!r} has no version; leave out the colon to unload all versions of {name}")
    with connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        for number in client.unload(name, version, wait=not no_wait):
            print(f"{name}:{number}")


def reload(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")],
    no_wait: NoWait = False,
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Load a model again from its changed files. When the new load is ready, it replaces the served versions.

    If the server has a model repository, the repository decides which versions are loaded. If the load fails, the
    earlier versions continue to serve.
    """
    with connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        for loaded in client.load(name, wait=not no_wait):
            print(loaded)


def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Number of a version that is ready.")],
    label: Annotated[
        str, typer.Option(show_default="none", help="Give the version this label, instead of making it the default.")
    ] = "",
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Make a version the default of its model, or give it a label."""
    with connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        client.promote(name, version, label)


def shadow(
    chosen: Annotated[
        str,
        typer.Argument(
            metavar="NAME=VERSION:SHARE",
            help="Name of the model, the number of the version, and the share of the requests (0 to 1). With --off, "
            "the name alone.",
        ),
    ],
    off: Annotated[bool, typer.Option("--off", help="End the shadow of the model.")] = False,
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Let a version execute copies of live requests in idle time, and compare its outputs with the live outputs.

    The copies delay no promised request, and clients get only the live outputs. clockwork status shows the comparison.
    """
    from clockwork.controller.shadow_specs import parse_shadow
    from clockwork.errors import InvalidRequestError

    name, version, share = chosen, "", 1.0
    if off and "=" in chosen:
        raise typer.BadParameter(f"--off takes only the name of the model; found {chosen!r}")
    if not off:
        try:
            name, spec = parse_shadow(chosen)
        except InvalidRequestError as error:
            raise typer.BadParameter(str(error)) from None
        version, share = spec.version, spec.share
    with connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        client.shadow(name, version, share)
