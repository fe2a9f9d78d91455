"""``clockwork ls``: the models that are served."""

from typing import Final

from clockwork.cli.options import AsJson, ServerAddress, examples
from clockwork.cli.security import Caller, OwnTlsCert, OwnTlsKey, TlsCa, TokenFile
from clockwork.net.address import DEFAULT_LISTEN

EXAMPLES: Final = examples("clockwork ls", "clockwork ls --json | jq '.[].name'")


def ls(
    address: ServerAddress = DEFAULT_LISTEN,
    json: AsJson = False,
    tls_ca: TlsCa = None,
    tls_cert: OwnTlsCert = None,
    tls_key: OwnTlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """List the models that are served, with what they take and give. Waits for the end of start-up, at most 10 s."""
    from clockwork.cli.output import show, show_json, table
    from clockwork.client import Client
    from clockwork.units import show_bytes

    with Client(str(address), **Caller(tls_ca, tls_cert, tls_key, token_file).arguments()) as client:
        models = client.ls()
    if json:
        show_json(models)
        return
    rows = [
        (
            model.name,
            ", ".join(it.describe() for it in model.inputs),
            ", ".join(it.describe() for it in model.outputs),
            model.max_batch_size,
            show_bytes(model.weights_bytes),
        )
        for model in models
    ]
    show(table("", ("model", "inputs", "outputs", ">max batch", ">weights"), rows))
