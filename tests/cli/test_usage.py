"""Help, and what was asked wrongly."""

import subprocess
import sys

import pytest

from clockwork.cli import run

COMMANDS = ("serve", "controller", "worker", "load", "ls", "infer", "status", "check-env", "check-model", "zoo build")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    said = capsys.readouterr()
    assert "Examples:\n" in said.out
    assert f"  clockwork {command}" in said.out
    assert not said.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_all_commands_are_listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    listed = capsys.readouterr().out
    assert all(f"  {command.split()[0]} " in listed for command in COMMANDS)
    assert "..." not in listed.partition("Commands:")[2]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("clockwork 0.")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("bogus", "No such command 'bogus'"),
        ("zoo", "Missing command"),
        ("serve", "there is nothing to serve"),
        ("serve --emulate 2", "needs to know how long things take"),
        ("serve --emulate 0 --profile resnet50-v100", "Invalid value for '--emulate'"),
        ("serve --profile resnet50-v100 pyproject.toml", "it is for emulated devices"),
        ("serve --emulate 2 --profile resnet50-v100 --cache-size 1KiB", "it has no room for a page"),
        ("serve --emulate 2 --profile nowhere", "is neither resnet50-v100 nor"),
        ("serve --emulate 2 --profile resnet50-v100 other", "there is no profile 'other'"),
        ("worker --emulate 2 --profile pyproject.toml", "is neither resnet50-v100 nor"),
        ("serve nowhere.onnx", "there is no model 'nowhere.onnx'"),
        ("serve a=nowhere.onnx:3", "there is no model 'nowhere.onnx'"),
        ("serve --frobnicate x", "No such option"),
        ("serve . --slo soon", "'soon' is no duration: write 250ms, 0.1s or 2min, say"),
        ("serve . --slo 0", "'0' is no duration"),
        ("serve . --slo -5ms", "'-5ms' is no duration"),
        ("serve . --cache-size big", "'big' is no size: write 2GiB or 512MiB, say"),
        ("serve . --cache-size 0", "'0' is no size"),
        ("serve . --page-size 2parsecs", "'2parsecs' is no size"),
        ("serve . --devices 0", "Invalid value for '--devices'"),
        ("serve . --threads-per-device none", "Invalid value for '--threads-per-device'"),
        ("serve . --copies 0", "Invalid value for '--copies'"),
        ("serve . --max-batch 0", "Invalid value for '--max-batch'"),
        ("serve . --verify-batches 1.5", "Invalid value for '--verify-batches'"),
        ("controller --verify-batches -1", "Invalid value for '--verify-batches'"),
        ("serve . --verify-batches nan", "Invalid value for '--verify-batches'"),
        ("serve . --profile-seconds 0", "Invalid value for '--profile-seconds'"),
        ("serve . --log-level loud", "'loud' is none of debug, info, warning, error"),
        ("serve . --listen 127.0.0.1:port", "has the port 'port'"),
        ("serve . --http 127.0.0.1:port", "has the port 'port'"),
        ("serve . --model-root /nowhere", "does not exist"),
        ("serve pyproject.toml --model-root src", "does not lie under the model root"),
        ("serve a=pyproject.toml a=README.md", "several models would be called a: write NAME=PATH"),
        ("serve README.md README.md", "several models would be called README.md: write NAME=PATH"),
        ("serve a=README.md:999999999", "a model has 1 to 10000 copies"),
        ("serve . --profile-seconds inf", "Invalid value for '--profile-seconds'"),
        ("controller --workers 0", "Invalid value for '--workers'"),
        ("controller --worker-listen :1", "has no host"),
        ("controller --load-timeout 10x", "'10x' is no duration"),
        ("worker --model-root /nowhere", "does not exist"),
        ("worker --controller 127.0.0.1:99999", "must be 0 to 65535"),
        ("load", "Missing argument"),
        ("load a.onnx --copies none", "Invalid value for '--copies'"),
        ("infer", "Missing argument"),
        ("infer m", "Missing option '--input'"),
        ("check-model /nowhere", "does not exist"),
        ("zoo build", "Missing argument"),
    ],
)
def test_a_wrong_use_is_one_line_and_exit_code_2(
    line: str, complaint: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        assert run(line.split()) == 2
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.count("\n") == 1
    assert said.err.endswith(" --help)\n")
    assert not said.out


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("ls --address 127.0.0.1:1", "cannot connect to 127.0.0.1:1"),
        ("status --address 127.0.0.1:1", "is the controller running?"),
        ("infer m --input x.npy --address 127.0.0.1:1", "cannot connect"),
        ("load m.onnx --address 127.0.0.1:1", "cannot connect"),
        ("controller --scheduler nonesuch", "no scheduler 'nonesuch': built in are"),
        ("controller --scheduler no.such:Thing", "cannot import 'no.such'"),
        ("serve pyproject.toml --scheduler nonesuch", "no scheduler 'nonesuch'"),
        ("worker --model-root src --cache-size 1MiB", "has no room for a page"),
        ("check-model pyproject.toml", "is no ONNX model"),
        ("zoo build build nonesuch", "the zoo has no nonesuch; it has mlp"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(
    line: str, complaint: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        assert run(line.split()) == 1
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.splitlines()[-1].startswith("clockwork: ")
    assert "Traceback" not in said.err
    assert not said.out


def test_the_address_may_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOCKWORK_ADDRESS", "127.0.0.1:1")
    assert run(["ls"]) == 1
    assert "cannot connect to 127.0.0.1:1:" in capsys.readouterr().err


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path[:0] = {sys.path!r}; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'asyncio', 'numpy', 'onnx', 'onnxruntime', 'rich', 'uvloop'}"
    done = in_a_process(f"from clockwork.cli import run; run(['--help']); print({heavy} & set(sys.modules))")
    assert done.stdout.endswith("\nset()\n")


def test_a_defect_is_one_line_too() -> None:
    broken = "from clockwork import cli, zoo; zoo.names = None; sys.argv = ['clockwork', 'zoo', 'ls']; cli.main()"
    done = in_a_process(broken)
    assert done.returncode == 1
    assert done.stderr.startswith("clockwork: internal error: TypeError: ")
    assert done.stderr.count("\n") == 1


def test_a_defect_shows_its_traceback_if_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKWORK_TRACEBACK", "1")
    broken = "from clockwork import cli, zoo; zoo.names = None; sys.argv = ['clockwork', 'zoo', 'ls']; cli.main()"
    assert "Traceback" in in_a_process(broken).stderr
