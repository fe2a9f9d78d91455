"""Options from a file, from the environment and from flags; what is wrong with them; and ``clockwork config``."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.processes import clockwork
from clockwork.cli import run
from clockwork.cli.app import app
from clockwork.cli.configuration import ConfiguredCommand, environment_of_children, variable_of
from clockwork.cli.parameters import is_set_by_users, key_of, toml, written

ROOT = Path(__file__).resolve().parent.parent.parent
EMULATED = '[serve]\nemulate = 1\nprofile = ["resnet50-v100"]\n'

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clockwork.toml"


def shown(capsys: Capture, *arguments: str) -> dict[str, dict[str, Any]]:
    """What ``clockwork config`` says in JSON."""
    assert run(["config", *arguments, "--json"]) == 0
    said: dict[str, dict[str, Any]] = json.loads(capsys.readouterr().out)
    return said


def complaint(capsys: Capture, *arguments: str) -> str:
    assert run([*arguments]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said.err


def test_flags_go_before_the_environment_that_before_the_file_and_that_before_defaults(
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
    ("text", "said"),
    [
        ("[serv]\n", "there is a table [serv], which nothing reads: did you mean [serve]?"),
        ("slo = '1ms'\n", "there is 'slo' outside of a table, which nothing reads"),
        ("serve = 1\n", "serve must be a table: write [serve], and its keys below"),
        ("[serve]\nsol = '1ms'\n", "[serve] has a key 'sol', which nothing reads: did you mean slo?"),
        ("[serve]\nhelp = true\n", "[serve] has a key 'help', which nothing reads: known are admin-token-file, "),
        ("[serve]\nconfig-file = 'x'\n", "[serve] has a key 'config-file', which nothing reads"),
        ("[worker]\nexit-with-parent = true\n", "[worker] has a key 'exit-with-parent', which nothing reads"),
        ("[serve]\nmax-batch = 1\nmax_batch = 1\n", "[serve] has max-batch twice"),
        ("[serve]\ndevices = '2'\n", '[serve] devices: found "2"; it must be a whole number, without quotes'),
        ("[serve]\ndevices = 2.5\n", "[serve] devices: found 2.5; it must be a whole number"),
        ("[serve]\ndevices = true\n", "[serve] devices: found true; it must be a whole number"),
        ("[serve]\nprofile-seconds = '1'\n", 'found "1"; it must be a number'),
        ("[serve]\nno-profile-cache = 'yes'\n", 'found "yes"; it must be true or false, without quotes'),
        ("[serve]\nmodels = 'a.onnx'\n", 'found "a.onnx"; it must be an array of strings: ["a", "b"], say'),
        ("[serve]\nmodels = [1]\n", "found [1]; it must be an array of strings"),
        ("[serve]\nlisten = 8000\n", "[serve] listen: found 8000; it must be a string"),
        ("[serve]\nlisten = {host = 'x'}\n", "[serve] listen: found a table; it must be a string"),
        ("[serve]\nslo = 2020-01-01\n", "[serve] slo: found 2020-01-01; it must be a string"),
        ("[serve]\nslo = \n", "is no TOML: "),
        ("[controller]\nworkrs = 1\n", "[controller] has a key 'workrs', which nothing reads: did you mean workers?"),
    ],
)
def test_what_a_file_may_not_have_is_said(text: str, said: str, file: Path, capsys: Capture) -> None:
    file.write_text(text)
    told = complaint(capsys, "serve", "--config", str(file), "--emulate=1", "--profile=resnet50-v100")
    assert said in told
    assert str(file) in told
    assert said in complaint(capsys, "config", "serve", "--config", str(file))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("slo = 'soon'", "for slo in [serve] of {file}: 'soon' is no duration: write 250ms, 0.1s or 2min, say"),
        ("devices = 0", "for devices in [serve] of {file}: "),
        ("listen = '127.0.0.1:port'", "for listen in [serve] of {file}: "),
        ("model_root = '/nowhere'", "for model-root in [serve] of {file}: "),
    ],
)
def test_a_bad_value_names_its_place(key: str, said: str, file: Path, capsys: Capture) -> None:
    file.write_text(f"{EMULATED}{key}\n")
    assert said.format(file=file) in complaint(capsys, "serve", "--config", str(file))


def test_a_bad_value_in_the_environment_names_the_variable(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKWORK_WORKER_CACHE_SIZE", "big")
    assert "for the environment variable CLOCKWORK_WORKER_CACHE_SIZE: 'big' is no size" in complaint(capsys, "worker")


def test_a_file_that_is_not_there_too_long_or_no_text_is_said(tmp_path: Path, capsys: Capture) -> None:
    assert "cannot be read: No such file" in complaint(capsys, "serve", "--config", str(tmp_path / "none.toml"))
    (tmp_path / "long.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    assert "more than the 1048576 bytes" in complaint(capsys, "serve", "--config", str(tmp_path / "long.toml"))
    (tmp_path / "data.toml").write_bytes(b"\xff\xfe")
    assert "is no TOML" in complaint(capsys, "serve", "--config", str(tmp_path / "data.toml"))


def test_numbers_are_durations_in_seconds_and_sizes_in_bytes(file: Path, capsys: Capture) -> None:
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
def test_what_is_printed_is_a_file_that_means_the_same(
    arguments: tuple[str, ...], file: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["config", *arguments]) == 0
    file.write_text(capsys.readouterr().out)
    before, after = shown(capsys, *arguments), shown(capsys, arguments[0], "--config", str(file))
    values = [{key: it["value"] for key, it in shown[arguments[0]].items()} for shown in (before, after)]
    assert values[0] == values[1]


def test_every_option_has_a_key_and_a_default_that_can_be_written() -> None:
    root: Any = typer.main.get_command(app)
    commands = {name: it for name, it in root.commands.items() if isinstance(it, ConfiguredCommand)}
    assert sorted(commands) == ["controller", "serve", "worker"]
    for command in commands.values():
        every: list[Any] = command.params
        params = [param for param in every if is_set_by_users(param)]
        assert len({key_of(param) for param in params}) == len(params)
        for param in params:
            value = written(param, param.default, given=False)
            assert value is None or tomllib.loads(f"x = {toml(value)}") == {"x": value}


def test_config_checks_what_the_command_would_say_first(file: Path, capsys: Capture, tmp_path: Path) -> None:
    assert run(["config", "serve", "nowhere.onnx"]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("[serve]\nmodels = ")
    assert "there is no model 'nowhere.onnx'" in said.err
    assert run(["config", "controller", "--scheduler", "nonesuch"]) == 1
    assert "no scheduler 'nonesuch'" in capsys.readouterr().err
    assert run(["config", "worker", f"--model-root={tmp_path}", "--cache-size=1MiB"]) == 1
    assert "has no room for a page" in capsys.readouterr().err
    assert run(["config", "worker", "--emulate=1", "--profile=nowhere"]) == 2
    assert "is neither resnet50-v100 nor" in capsys.readouterr().err


def test_config_is_told_which_command(capsys: Capture) -> None:
    assert "say which: serve, controller, worker; or give a file" in complaint(capsys, "config")
    assert "'sing' is none of serve, controller, worker" in complaint(capsys, "config", "sing")
    assert "No such option: --emulate" in complaint(capsys, "config", "controller", "--emulate=2")


def test_a_variable_that_nothing_reads_is_said(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCKWORK_CONTROLLER_SOL", "1ms")
    assert run(["config", "controller"]) == 0
    assert "# CLOCKWORK_CONTROLLER_SOL is not read: did you mean CLOCKWORK_CONTROLLER_SLO?" in capsys.readouterr().out


def test_the_example_is_right_and_is_what_it_shows(capsys: Capture) -> None:
    example = ROOT / "examples" / "clockwork.toml"
    found = shown(capsys, "--config", str(example))
    for table, keys in tomllib.loads(example.read_text()).items():
        for key, value in keys.items():
            assert found[table][key] == {"value": value, "from": str(example)}


def test_a_child_gets_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLOCKWORK_CONFIG", "CLOCKWORK_WORKER_DEVICES", "CLOCKWORK_SERVE_SLO"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("CLOCKWORK_TRACEBACK", "1")
    left = environment_of_children()
    assert [name for name in left if name.startswith("CLOCKWORK_")] == ["CLOCKWORK_TRACEBACK"]


def test_serve_runs_by_a_file_and_its_worker_by_serve_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(
        f'{EMULATED}listen = "127.0.0.1:0"\nhttp = "none"\nno-profile-cache = true\nprofile-seconds = 0.01\n'
        'models = ["m=resnet50-v100:2"]\n[worker]\nname = "other"\nemulate = 9\n'
    )
    monkeypatch.setenv("CLOCKWORK_CONFIG", str(file))
    monkeypatch.setenv("CLOCKWORK_WORKER_NAME", "strange")
    with clockwork("serve") as process:
        assert process.out.wait_for(r"serving (\d) models")[1] == "2"
        assert any("worker local: 1 emulated devices" in line for line in process.err.seen)


def test_environment_variables_are_named_by_the_rule() -> None:
    root: Any = typer.main.get_command(app)
    params: Any = {param.name: param for param in root.commands["serve"].params}
    assert variable_of("serve", params["cache_size"]) == "CLOCKWORK_SERVE_CACHE_SIZE"
    assert params["models"].envvar == variable_of("serve", params["models"])
