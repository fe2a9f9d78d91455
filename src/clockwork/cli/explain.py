"""The command ``clockwork explain``."""

from typing import Annotated, Final

import typer

from clockwork.cli.options import AsJson, ServerAddress, examples
from clockwork.cli.parsers import one_of
from clockwork.cli.security import ClientTlsCa, ClientTlsCert, ClientTlsKey, ClientTokenFile, connect
from clockwork.messages.explanation import DEFAULT_LISTED, MAX_LISTED, OUTCOMES
from clockwork.net.address import DEFAULT_LISTEN

ANY: Final = "any"

EXPLAIN_EXAMPLES: Final = examples(
    "clockwork explain                          # list the last requests",
    "clockwork explain --outcome refused --model resnet50",
    "clockwork explain 9f3c01ab-17              # explain one of them",
)


def explain(
    request_id: Annotated[
        str, typer.Argument(metavar="[ID]", help="Id of a request. Without it, list requests.", show_default=False)
    ] = "",
    outcome: Annotated[
        str,
        typer.Option(
            parser=one_of("outcome", (ANY, *OUTCOMES)),
            metavar="OUTCOME",
            help=f"List only requests with this outcome: {', '.join(OUTCOMES)}.",
        ),
    ] = ANY,
    model: Annotated[str, typer.Option(show_default="any", help="List only requests for this model.")] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_LISTED, help="Largest number of requests in the list.")
    ] = DEFAULT_LISTED,
    address: ServerAddress = DEFAULT_LISTEN,
    json: AsJson = False,
    tls_ca: ClientTlsCa = None,
    tls_cert: ClientTlsCert = None,
    tls_key: ClientTlsKey = None,
    token_file: ClientTokenFile = None,
) -> None:
    """Explain a request: what was predicted, what happened, and what was later than planned.

    The server keeps the last requests that were refused, late, failed or cancelled, and a sample of the requests in
    time. Every response contains the id of its request. If the server has kept several requests with the same id, the
    last one of them is explained.
    """
    from clockwork.cli.explanation_report import explanation_lines, request_table
    from clockwork.cli.output import show, show_json

    with connect(address, tls_ca, tls_cert, tls_key, token_file) as client:
        if request_id:
            explanation = client.explain(request_id)
            if json:
                show_json(explanation)
            else:
                show(*explanation_lines(explanation))
            return
        requests = client.recent_requests("" if outcome == ANY else outcome, model, limit)
    if json:
        show_json(requests)
    elif requests:
        show(request_table(requests))
    else:
        print("no such request is recorded")
