"""Examples in README.md and the documentation work, against a server on other ports.

All blocks of Python run, and the blocks of shell below ``<!-- run -->``. The blocks of Python of a page are one
program, because later blocks use names of earlier ones. Each block of shell is one script, which ends with the first
command that fails. The commands and options of ``clockwork`` and the targets of make in all blocks of shell exist.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from cli.processes import serve
from clockwork import zoo
from clockwork.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ALL_PAGES = {page.name: page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")))}
MODELS = ("mlp", "squeezenet", "resnet50")

#: Pages whose Python needs more than a server, and the tests that run it.
TESTED_ELSEWHERE = {
    "ray.md": "tests/ray_cluster/test_documentation.py",  # a Ray cluster
    "security.md": "tests/security/test_documentation.py",  # certificates and tokens
    "torch.md": "tests/cli/test_torch.py",  # PyTorch
    "from-torchserve.md": "tests/cli/test_torch.py",
}

#: Text of the documentation -> text for a test machine, which may be slow.
SUBSTITUTES = {"slo=0.1)": "slo=20)", "slo=0.25)": "slo=20)", "timeout=100_000)": "timeout=20_000_000)"}

#: A line of its own; other text may mention it.
MARKER = re.compile(r"^<!-- run -->$", re.MULTILINE)
MARKED = re.compile(r"^<!-- run -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(?:\w*|\{[\w-]+\}.*)$", re.MULTILINE)
ASSET_OF_OTHER_HOST = re.compile(r"<(?:script|img|iframe|link\b[^>]*stylesheet)[^>]*(?:src|href)=['\"](?:https?:)?//")
STRICT = "set -euo pipefail\ncurl() { command curl --fail-with-body \"$@\"; }\n"  # fmt: skip


def blocks(page: str, kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(ALL_PAGES[page].read_text()) if found == kind]


def marked(page: str) -> list[str]:
    return MARKED.findall(ALL_PAGES[page].read_text())


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of the test server for each address in the documentation."""
    models = tmp_path_factory.mktemp("models")
    paths = [str(zoo.build(name, models)) for name in MODELS]
    with serve(*paths, "--http=127.0.0.1:0", "--grpc=127.0.0.1:0") as process:
        ports = {"12346": process.address()}
        for port, name in (("8000", "HTTP"), ("8001", "gRPC")):
            ports[port] = process.out.wait_for(rf"^clockwork serves {name} on (\S+)$")[1]
        yield {f"{host}:{port}": ports[port] for host in ("localhost", "127.0.0.1") for port in ports}


def run(command: list[str], text: str, addresses: dict[str, str], directory: Path) -> None:
    for shown, real in {**addresses, **SUBSTITUTES}.items():
        text = text.replace(shown, real)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), *sys.path]),
    }
    done = subprocess.run(
        command, input=text, cwd=directory, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [page for page in ALL_PAGES if marked(page)])
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_shell_of_a_page_runs(page: str, addresses: dict[str, str], tmp_path: Path) -> None:
    for text in marked(page):
        run(["bash"], STRICT + text, addresses, tmp_path)


@pytest.mark.parametrize(
    "page", [page for page in ALL_PAGES if blocks(page, "python") and page not in TESTED_ELSEWHERE]
)
def test_the_python_of_a_page_runs(page: str, addresses: dict[str, str], tmp_path: Path) -> None:
    run([sys.executable, "-W", "ignore", "-"], "\n".join(blocks(page, "python")), addresses, tmp_path)


def test_python_that_needs_more_than_a_server_is_run_by_another_test() -> None:
    for page, test in TESTED_ELSEWHERE.items():
        assert blocks(page, "python")
        assert page in (ROOT / test).read_text()


def test_every_run_marker_is_followed_by_a_block_of_shell() -> None:
    for page, path in ALL_PAGES.items():
        text = path.read_text()
        assert len(MARKER.findall(text)) == len(MARKED.findall(text)), page
        assert len(FENCE.findall(text)) % 2 == 0, page


def shell_commands(page: str) -> Iterator[list[str]]:
    """Yield the words of each command in the page's blocks of shell; in ``console`` a command has a prompt."""
    for kind in ("console", "sh"):
        for block in blocks(page, kind):
            for line in block.replace("\\\n", " ").splitlines():
                prompt = re.match(r"[\w-]*\$ +", line)
                if kind == "sh" or prompt:
                    try:
                        yield shlex.split(line[prompt.end() :] if prompt else line, comments=True)
                    except ValueError:  # one line of a command that has several
                        continue


@pytest.mark.parametrize("page", list(ALL_PAGES))
def test_commands_and_options_in_the_documentation_exist(page: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in shell_commands(page):
        words = [word for word in line if not re.fullmatch(r"[A-Z_]+=.*", word)]
        if words[:1] == ["make"]:
            assert words[1] in targets, words
        if len(words) < 2 or Path(words[0]).name != "clockwork" or words[1] == "--help":
            continue
        end = next((n for n, word in enumerate(words) if word in ("|", ">", ">>", "&", "&&", ";")), len(words))
        command, rest = commands[words[1]], words[2:end]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if word.startswith("-")}
        if words[1] == "config" and len(words) > 2:
            continue  # takes the options of the other command
        assert used <= {*options, "--help"}, words


def test_no_text_advises_to_install_clockwork_from_a_package_index() -> None:
    programs = [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    sources = [*ALL_PAGES.values(), ROOT / "ARCHITECTURE.md", *programs]
    advice = re.compile(r"pip install [^\n]*(?<![/\w])clockwork-serve\b")
    assert [path.name for path in sources if advice.search(path.read_text())] == []


def test_packages_that_errors_advise_to_install_are_those_of_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    known = {requirement for requirements in extras.values() for requirement in requirements}
    advised = {
        found
        for path in (ROOT / "src").rglob("*.py")
        for found in re.findall(r"pip install '([^'{}]+)'", path.read_text())
    }
    assert {"torch>=2.9", "cuda-bindings>=13,<14", "matplotlib>=3.9"} <= advised <= known


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
