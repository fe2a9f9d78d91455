"""Examples in the documentation work: each block below ``<!-- run -->`` runs in order, against a server on other ports.

The blocks of Python of a page are one program, because later blocks use names of earlier ones. Each block of shell is
one script, which ends with the first command that fails.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.processes import serve
from clockwork import zoo

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("http.md", "grpc.md", "from-triton.md", "from-torchserve.md")
BLOCK = re.compile(r"^<!-- run -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(?:\w*|\{[\w-]+\}.*)$", re.MULTILINE)
ASSET_OF_OTHER_HOST = re.compile(r"<(?:script|img|iframe|link\b[^>]*stylesheet)[^>]*(?:src|href)=['\"](?:https?:)?//")
STRICT = "set -euo pipefail\ncurl() { command curl --fail-with-body \"$@\"; }\n"  # fmt: skip


def blocks(page: str, kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall((DOCS / page).read_text()) if found == kind]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of the test server for each address in the documentation."""
    models = tmp_path_factory.mktemp("models")
    paths = [str(zoo.build(name, models)) for name in ("mlp", "squeezenet")]
    with serve(*paths, "--http=127.0.0.1:0", "--grpc=127.0.0.1:0") as process:
        process.address()
        http, grpc = (process.out.wait_for(rf"^clockwork serves {name} on (\S+)$")[1] for name in ("HTTP", "gRPC"))
        made = {"8000": http, "8001": grpc}
        yield {f"{host}:{port}": made[port] for host in ("localhost", "127.0.0.1") for port in made}


def run(command: list[str], text: str, addresses: dict[str, str], directory: Path) -> None:
    for shown, real in addresses.items():
        text = text.replace(shown, real)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, input=text, cwd=directory, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), "no output"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")])
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_shell_of_a_page_runs(page: str, addresses: dict[str, str], tmp_path: Path) -> None:
    for text in blocks(page, "sh"):
        run(["bash"], STRICT + text, addresses, tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs(page: str, addresses: dict[str, str], tmp_path: Path) -> None:
    run([sys.executable, "-W", "ignore", "-"], "\n".join(blocks(page, "python")), addresses, tmp_path)


def test_every_run_marker_is_followed_by_a_block() -> None:
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        assert text.count("<!-- run -->") == len(BLOCK.findall(text)), page.name
        assert not BLOCK.search(text) or page.name in PAGES
        assert len(FENCE.findall(text)) % 2 == 0, page.name


@pytest.mark.timeout(300)
def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-c", "docs", ".", str(tmp_path)]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert not ASSET_OF_OTHER_HOST.search(page.read_text()), page.name
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text()), sheet.name
