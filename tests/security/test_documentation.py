"""The commands and programs in docs/security.md work: certificates, a server, curl, and Python clients."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.processes import serve
from clockwork.cli import run

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
NEEDED = [tool for tool in ("bash", "openssl", "curl") if shutil.which(tool) is None]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def commands(prompt: str) -> list[str]:
    """Return the commands in console blocks that begin with ``prompt``, with their continuation lines."""
    text = "\n".join(blocks("console")).replace("\\\n", "")
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith(f"$ {prompt}")]


@pytest.mark.skipif(bool(NEEDED), reason=f"needs {' and '.join(NEEDED)}")
def test_the_commands_in_the_documentation_print_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (make_files,) = blocks("sh")
    subprocess.run(["bash", "-e", "-c", make_files], check=True, capture_output=True)
    assert run(["zoo", "build", ".", "mlp"]) == 0
    (command,) = commands("clockwork serve")
    options = [option for option in command.split()[2:] if "8001" not in option and option != "--grpc"]
    with serve(*options, "--grpc=127.0.0.1:0", "--http=127.0.0.1:0") as server:
        ports = {"12346": server.address().rpartition(":")[2]}
        for port, protocol in (("8000", "HTTP"), ("8001", "gRPC")):
            ports[port] = server.out.wait_for(rf"serves {protocol} on \S+:(\d+)$")[1]

        def here(text: str) -> str:
            for port, real in ports.items():
                text = text.replace(f"localhost:{port}", f"localhost:{real}")
            return text

        ready, metadata = (
            subprocess.run(["bash", "-c", here(line)], check=True, capture_output=True, text=True).stdout
            for line in commands("curl")
        )
        assert ready == '{"ready":true}'
        assert re.sub(r"\[.*\]", "[...]", metadata) in TEXT
        (listing,) = commands("clockwork ls")
        assert run(here(listing).split()[1:]) == 0
        program = here("\n".join([*blocks("python"), "grpc.channel_ready_future(channel).result(60)\nchannel.close()"]))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.stdout.splitlines() == ["(1, 10)", "clockwork", "clockwork"], done.stderr
