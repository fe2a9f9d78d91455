"""Help, and the errors of wrong usage."""

import subprocess
import sys

import pytest

from clockwork.cli import run

COMMANDS = (
    "serve",
    "controller",
    "worker",
    "load",
    "unload",
    "reload",
    "promote",
    "ls",
    "infer",
    "status",
    "check-env",
    "check-model",
    "zoo build",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    output = capsys.readouterr()
    assert "Examples:\n" in output.out
    assert f"  clockwork {command}" in output.out
    assert not output.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_all_commands_are_listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    listed = capsys.readouterr().out
    assert all(f"  {command.split()[0]} " in listed for command in COMMANDS)
    assert "..." not in listed.partition("Commands:")[2]


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("clockwork 0.")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("unload net:", "'net:' has no version; leave out the colon to unload all versions of net"),
        ("bogus", "No such command 'bogus'"),
        ("zoo", "Missing command"),
        ("serve", "no model is given"),
        ("serve --emulate 2", "--emulate needs --profile"),
        ("serve --emulate 0 --profile resnet50-v100", "Invalid value for '--emulate'"),
        ("serve --profile resnet50-v100 pyproject.toml", "--profile needs --emulate"),
        (
            "serve --emulate 2 --profile resnet50-v100 --cache-size 1KiB",
            "weights cache of 1.0 KiB is smaller than a page",
        ),
        ("serve --emulate 2 --profile nowhere", "is not a built-in profile (resnet50-v100, "),
        ("serve --emulate 2 --profile resnet50-v100 other", "unknown profile 'other'"),
        ("worker --emulate 2 --profile pyproject.toml", "is not a built-in profile (resnet50-v100, "),
        ("serve nowhere.onnx", "model file 'nowhere.onnx' does not exist"),
        ("serve a=nowhere.onnx:3", "model file 'nowhere.onnx' does not exist"),
        ("serve --frobnicate x", "No such option"),
        ("serve . --slo soon", "invalid duration 'soon'; examples: 250ms, 1.5s, 2min"),
        ("serve . --slo 0", "invalid duration '0'"),
        ("serve . --slo -5ms", "invalid duration '-5ms'"),
        ("serve . --cache-size big", "invalid size 'big'; examples: 512MiB, 2GiB"),
        ("serve . --cache-size 0", "invalid size '0'"),
        ("serve . --page-size 2parsecs", "invalid size '2parsecs'"),
        ("serve . --devices 0", "Invalid value for '--devices'"),
        ("serve . --threads-per-device none", "Invalid value for '--threads-per-device'"),
        ("serve . --copies 0", "Invalid value for '--copies'"),
        ("serve . --max-batch 0", "Invalid value for '--max-batch'"),
        ("serve . --verify-batches 1.5", "Invalid value for '--verify-batches'"),
        ("controller --verify-batches -1", "Invalid value for '--verify-batches'"),
        ("serve . --verify-batches nan", "Invalid value for '--verify-batches'"),
        ("serve . --profile-seconds 0", "Invalid value for '--profile-seconds'"),
        ("serve . --log-level loud", "invalid log level 'loud'; expected one of: debug, info, warning, error"),
        ("serve . --listen 127.0.0.1:port", "has port 'port'"),
        ("serve . --http 127.0.0.1:port", "has port 'port'"),
        ("serve . --model-root /nowhere", "does not exist"),
        ("serve pyproject.toml --model-root src", "is outside of the model root"),
        ("serve a=pyproject.toml a=README.md", "several models are named a; rename one with NAME=PATH"),
        ("serve README.md README.md", "several models are named README.md; rename one with NAME=PATH"),
        ("serve a=README.md:999999999", "has 999999999 copies; 1 to 10000 are possible"),
        ("serve . --profile-seconds inf", "Invalid value for '--profile-seconds'"),
        ("controller --workers 0", "Invalid value for '--workers'"),
        ("controller --worker-listen :1", "has no host"),
        ("controller --load-timeout 10x", "invalid duration '10x'"),
        ("worker --model-root /nowhere", "does not exist"),
        ("worker --controller 127.0.0.1:99999", "a port is 0 to 65535"),
        ("load", "Missing argument"),
        ("load a.onnx --copies none", "Invalid value for '--copies'"),
        ("infer", "Missing argument"),
        ("infer m", "Missing option '--input'"),
        ("check-model /nowhere", "does not exist"),
        ("zoo build", "Missing argument"),
    ],
)
def test_wrong_usage_prints_one_line_and_exits_with_code_2(
    line: str, message: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        assert run(line.split()) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.err.endswith(" --help)\n")
    assert not output.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ls --address 127.0.0.1:1", "cannot connect to 127.0.0.1:1"),
        ("status --address 127.0.0.1:1", "is the controller running?"),
        ("infer m --input x.npy --address 127.0.0.1:1", "cannot connect"),
        ("load m.onnx --address 127.0.0.1:1", "cannot connect"),
        ("controller --scheduler nonesuch", "scheduler 'nonesuch' is unknown; use one of"),
        ("controller --scheduler no.such:Thing", "cannot import 'no.such'"),
        ("serve pyproject.toml --scheduler nonesuch", "scheduler 'nonesuch' is unknown"),
        ("worker --model-root src --cache-size 1MiB", "has no room for a page"),
        ("check-model pyproject.toml", "is not an ONNX model"),
        ("zoo build build nonesuch", "unknown network 'nonesuch'; expected one of: mlp"),
    ],
)
def test_a_failure_prints_one_line_and_exits_with_code_1(
    line: str, message: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        assert run(line.split()) == 1
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.splitlines()[-1].startswith("clockwork: ")
    assert "Traceback" not in output.err
    assert not output.out


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


def test_an_internal_error_prints_one_line() -> None:
    broken = "from clockwork import cli, zoo; zoo.names = None; sys.argv = ['clockwork', 'zoo', 'ls']; cli.main()"
    done = in_a_process(broken)
    assert done.returncode == 1
    assert done.stderr.startswith("clockwork: internal error: TypeError: ")
    assert done.stderr.count("\n") == 1


def test_an_internal_error_prints_its_traceback_if_the_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKWORK_TRACEBACK", "1")
    broken = "from clockwork import cli, zoo; zoo.names = None; sys.argv = ['clockwork', 'zoo', 'ls']; cli.main()"
    assert "Traceback" in in_a_process(broken).stderr
