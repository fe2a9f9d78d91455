"""Options from a file, from the environment and from flags; their errors; and ``clockwork config``."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.processes import clockwork
from clockwork.cli import run
from clockwork.cli.app import app
from clockwork.cli.configuration import (
    ConfiguredCommand,
    file_value,
    is_configurable,
    key_of,
    toml,
    variable_of,
)
from clockwork.host.child_environment import environment_of_children

ROOT = Path(__file__).resolve().parent.parent.parent
EMULATED = '[serve]\nemulate = 1\nprofile = ["resnet50-v100"]\n'

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clockwork.toml"


def shown(capsys: Capture, *arguments: str) -> dict[str, dict[str, Any]]:
    """The JSON of ``clockwork config``."""
    assert run(["config", *arguments, "--json"]) == 0
    output: dict[str, dict[str, Any]] = json.loads(capsys.readouterr().out)
    return output


def error_of(capsys: Capture, *arguments: str) -> str:
    assert run([*arguments]) == 2
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    return output.err


def test_precedence_is_flags_then_environment_then_file_then_defaults(
    file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(EMULATED + 'slo = "1ms"\ncopies = 3\nmax-batch = 4\n')
    monkeypatch.setenv("CLOCKWORK_SERVE_SLO", "2ms")
    monkeypatch.setenv("CLOCKWORK_SERVE_COPIES", "5")
    serve = shown(capsys, "serve", "--config", str(file), "--slo=3ms")["serve"]
    assert serve["slo"] == {"value": "3ms", "from": "flag"}
    assert serve["copies"] == {"value": 5, "from": "CLOCKWORK_SERVE_COPIES"}
    assert serve["max-batch"] == {"value": 4, "from": str(file)}
    assert serve["devices"] == {"value": 1, "from": "default"}


def test_the_file_may_be_named_by_the_environment(file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(EMULATED)
    monkeypatch.setenv("CLOCKWORK_CONFIG", str(file))
    assert shown(capsys, "serve")["serve"]["emulate"] == {"value": 1, "from": str(file)}
    assert list(shown(capsys)) == ["serve"]


def test_lists_and_booleans_come_from_the_file_and_from_the_environment(
    file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(EMULATED + 'models = ["a=resnet50-v100", "b=resnet50-v100:2"]\nno_profile_cache = true\n')
    serve = shown(capsys, "--config", str(file))["serve"]
    assert serve["models"]["value"] == ["a=resnet50-v100", "b=resnet50-v100:2"]
    assert serve["no-profile-cache"]["value"] is True
    monkeypatch.setenv("CLOCKWORK_SERVE_MODELS", "c=resnet50-v100 d=resnet50-v100")
    monkeypatch.setenv("CLOCKWORK_SERVE_NO_PROFILE_CACHE", "false")
    monkeypatch.setenv("CLOCKWORK_SERVE_PROFILE", "resnet50-v100 resnet50-v100-startup")
    serve = shown(capsys, "--config", str(file))["serve"]
    assert serve["models"] == {"value": ["c=resnet50-v100", "d=resnet50-v100"], "from": "CLOCKWORK_SERVE_MODELS"}
    assert serve["no-profile-cache"]["value"] is False
    assert serve["profile"]["value"] == ["resnet50-v100", "resnet50-v100-startup"]
    assert shown(capsys, "serve", "--config", str(file), "e=resnet50-v100")["serve"]["models"]["value"] == [
        "e=resnet50-v100"
    ]


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("[serv]\n", "unknown table [serv]; did you mean [serve]?"),
        ("slo = '1ms'\n", "'slo' is outside of a table; expected one of: [controller], [serve], [worker]"),
        ("serve = 1\n", "serve must be a table; write [serve] and put its keys below"),
        ("[serve]\nsol = '1ms'\n", "unknown key 'sol' in [serve]; did you mean slo?"),
        ("[serve]\nhelp = true\n", "unknown key 'help' in [serve]; expected one of: admin-token-file, "),
        ("[serve]\nconfig-file = 'x'\n", "unknown key 'config-file' in [serve]; "),
        ("[worker]\nexit-with-parent = true\n", "unknown key 'exit-with-parent' in [worker]; "),
        ("[serve]\nmax-batch = 1\nmax_batch = 1\n", "[serve] sets max-batch twice"),
        ("[serve]\ndevices = '2'\n", 'devices in [serve] is "2"; expected a whole number, without quotes'),
        ("[serve]\ndevices = 2.5\n", "devices in [serve] is 2.5; expected a whole number"),
        ("[serve]\ndevices = true\n", "devices in [serve] is true; expected a whole number"),
        ("[serve]\nprofile-seconds = '1'\n", 'is "1"; expected a number'),
        ("[serve]\nno-profile-cache = 'yes'\n", 'is "yes"; expected true or false, without quotes'),
        ("[serve]\nmodels = 'a.onnx'\n", 'is "a.onnx"; expected an array of strings, for example ["a", "b"]'),
        ("[serve]\nmodels = [1]\n", "is [1]; expected an array of strings"),
        ("[serve]\nlisten = 8000\n", "listen in [serve] is 8000; expected a string"),
        ("[serve]\nlisten = {host = 'x'}\n", "listen in [serve] is a table; expected a string"),
        ("[serve]\nslo = 2020-01-01\n", "slo in [serve] is 2020-01-01; expected a string"),
        ("[serve]\nslo = \n", "is not valid TOML: "),
        ("[controller]\nworkrs = 1\n", "unknown key 'workrs' in [controller]; did you mean workers?"),
    ],
)
def test_an_error_in_a_file_is_reported(text: str, output: str, file: Path, capsys: Capture) -> None:
    file.write_text(text)
    error = error_of(capsys, "serve", "--config", str(file), "--emulate=1", "--profile=resnet50-v100")
    assert output in error
    assert str(file) in error
    assert output in error_of(capsys, "config", "serve", "--config", str(file))


@pytest.mark.parametrize(
    ("key", "output"),
    [
        ("slo = 'soon'", "for slo in [serve] of {file}: invalid duration 'soon'; examples: 250ms, 1.5s, 2min"),
        ("devices = 0", "for devices in [serve] of {file}: "),
        ("listen = '127.0.0.1:port'", "for listen in [serve] of {file}: "),
        ("model_root = '/nowhere'", "for model-root in [serve] of {file}: "),
    ],
)
def test_a_wrong_value_is_reported_with_its_key(key: str, output: str, file: Path, capsys: Capture) -> None:
    file.write_text(f"{EMULATED}{key}\n")
    assert output.format(file=file) in error_of(capsys, "serve", "--config", str(file))


def test_a_wrong_value_is_reported_with_its_variable(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKWORK_WORKER_CACHE_SIZE", "big")
    assert "for the environment variable CLOCKWORK_WORKER_CACHE_SIZE: invalid size 'big'" in error_of(capsys, "worker")


def test_a_file_that_is_missing_too_large_or_not_text_is_reported(tmp_path: Path, capsys: Capture) -> None:
    assert "none.toml: No such file" in error_of(capsys, "serve", "--config", str(tmp_path / "none.toml"))
    (tmp_path / "long.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    assert "larger than the limit of 1048576 bytes" in error_of(
        capsys, "serve", "--config", str(tmp_path / "long.toml")
    )
    (tmp_path / "data.toml").write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in error_of(capsys, "serve", "--config", str(tmp_path / "data.toml"))


def test_numbers_without_a_unit_are_seconds_and_bytes(file: Path, capsys: Capture) -> None:
    file.write_text(f"{EMULATED}slo = 2\ndrain-limit = 0.5\ncache-size = 33554432\n")
    serve = shown(capsys, "serve", "--config", str(file))["serve"]
    assert [serve[key]["value"] for key in ("slo", "drain-limit", "cache-size")] == ["2s", "500ms", "32MiB"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--emulate=3", "--profile=resnet50-v100", "--http=none", "--slo=1.5ms", "--cache-size=100MiB"),
        ("controller", "--workers=3", "--slo=0.0000015s", "--grpc=127.0.0.1:1"),
        ("worker", '--name=w "7" é\\', "--page-size=1000000B"),
    ],
)
def test_the_output_of_config_is_an_equivalent_file(
    arguments: tuple[str, ...], file: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["config", *arguments]) == 0
    file.write_text(capsys.readouterr().out)
    before, after = shown(capsys, *arguments), shown(capsys, arguments[0], "--config", str(file))
    values = [{key: entry["value"] for key, entry in shown[arguments[0]].items()} for shown in (before, after)]
    assert values[0] == values[1]


def test_every_option_has_a_key_and_a_default_that_can_be_written() -> None:
    root: Any = typer.main.get_command(app)
    commands = {name: command for name, command in root.commands.items() if isinstance(command, ConfiguredCommand)}
    assert sorted(commands) == ["controller", "serve", "worker"]
    for command in commands.values():
        every: list[Any] = command.params
        params = [param for param in every if is_configurable(param)]
        assert len({key_of(param) for param in params}) == len(params)
        for param in params:
            value = file_value(param, param.default, is_set=False)
            assert value is None or tomllib.loads(f"x = {toml(value)}") == {"x": value}


def test_config_reports_the_errors_of_the_command(file: Path, capsys: Capture, tmp_path: Path) -> None:
    assert run(["config", "serve", "nowhere.onnx"]) == 2
    output = capsys.readouterr()
    assert output.out.startswith("[serve]\nmodels = ")
    assert "model file 'nowhere.onnx' does not exist" in output.err
    assert run(["config", "controller", "--scheduler", "nonesuch"]) == 1
    assert "scheduler 'nonesuch' is unknown" in capsys.readouterr().err
    assert run(["config", "worker", f"--model-root={tmp_path}", "--cache-size=1MiB"]) == 1
    assert "has no room for a page" in capsys.readouterr().err
    assert run(["config", "worker", "--emulate=1", "--profile=nowhere"]) == 2
    assert "is not a built-in profile" in capsys.readouterr().err


def test_config_needs_a_command_or_a_file(capsys: Capture) -> None:
    assert "no command is named; name one of: serve, controller, worker, or give a file" in error_of(capsys, "config")
    assert "unknown command 'sing'; expected one of: serve, controller, worker" in error_of(capsys, "config", "sing")
    assert "No such option: --emulate" in error_of(capsys, "config", "controller", "--emulate=2")


def test_a_variable_that_matches_no_option_is_listed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKWORK_CONTROLLER_SOL", "1ms")
    assert run(["config", "controller"]) == 0
    assert (
        "# CLOCKWORK_CONTROLLER_SOL is not an option's variable; did you mean CLOCKWORK_CONTROLLER_SLO?"
        in capsys.readouterr().out
    )


def test_the_example_file_is_valid(capsys: Capture) -> None:
    example = ROOT / "examples" / "clockwork.toml"
    found = shown(capsys, "--config", str(example))
    for table, keys in tomllib.loads(example.read_text()).items():
        for key, value in keys.items():
            assert found[table][key] == {"value": value, "from": str(example)}


def test_the_example_in_the_documentation_is_the_example_file() -> None:
    example = (ROOT / "examples" / "clockwork.toml").read_text()
    assert f"```toml\n{example}```" in (ROOT / "docs" / "operations.md").read_text()


def test_a_child_process_does_not_inherit_configuration_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLOCKWORK_CONFIG", "CLOCKWORK_WORKER_DEVICES", "CLOCKWORK_SERVE_SLO"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("CLOCKWORK_TRACEBACK", "1")
    left = environment_of_children()
    assert [name for name in left if name.startswith("CLOCKWORK_")] == ["CLOCKWORK_TRACEBACK"]


def test_the_worker_of_serve_ignores_the_table_of_workers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(
        f'{EMULATED}listen = "127.0.0.1:0"\nhttp = "none"\nno-profile-cache = true\nprofile-seconds = 0.01\n'
        'models = ["m=resnet50-v100:2"]\n[worker]\nname = "other"\nemulate = 9\n'
    )
    monkeypatch.setenv("CLOCKWORK_CONFIG", str(file))
    monkeypatch.setenv("CLOCKWORK_WORKER_NAME", "strange")
    with clockwork("serve") as process:
        assert process.out.wait_for(r"serving (\d) models")[1] == "2"
        assert any("worker local: 1 emulated devices" in line for line in process.err.seen)


def test_environment_variables_are_named_after_options() -> None:
    root: Any = typer.main.get_command(app)
    params: Any = {param.name: param for param in root.commands["serve"].params}
    assert variable_of("serve", params["cache_size"]) == "CLOCKWORK_SERVE_CACHE_SIZE"
    assert params["models"].envvar == variable_of("serve", params["models"])
