"""``clockwork load``: load a model while the controller starts up."""

from typing import Annotated, Final

import typer

from clockwork.cli.options import ServerAddress, examples
from clockwork.cli.security import Caller, OwnTlsCert, OwnTlsKey, TlsCa, TokenFile
from clockwork.net.address import DEFAULT_LISTEN

EXAMPLES: Final = examples(
    "clockwork load resnet50.onnx",
    "clockwork load vision/resnet50/1/model.onnx --name resnet50 --copies 100 --address host-a:12346",
)


def load(
    path: Annotated[str, typer.Argument(help="Relative to the workers' model roots.", show_default=False)],
    copies: Annotated[int, typer.Option(min=1, help="Independent models NAME-1 to NAME-N of the same file.")] = 1,
    name: Annotated[str, typer.Option(show_default="the file's")] = "",
    address: ServerAddress = DEFAULT_LISTEN,
    tls_ca: TlsCa = None,
    tls_cert: OwnTlsCert = None,
    tls_key: OwnTlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """Load a model on every worker, and print the names under which it will be served.

    Models are loaded before serving begins: loading ends 10 s after the last activity.
    """
    from clockwork.client import Client

    with Client(str(address), **Caller(tls_ca, tls_cert, tls_key, token_file).arguments()) as client:
        for loaded in client.load_model(path, copies, name):
            print(loaded)
