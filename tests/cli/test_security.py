"""TLS and tokens on the command line."""

import signal
from pathlib import Path

import pytest

from certificates import Authority
from cli.processes import QUICK, clockwork, save_dense, serve
from clockwork.cli import run
from clockwork.cli.security import read_token_file

READER, ADMIN, WORKER = "a-token-for-inference", "a-token-for-everything", "a-token-for-workers"


def secret(path: Path, *lines: str, mode: int = 0o600) -> str:
    path.write_text("\n".join(["# a comment", "", *lines, ""]))
    path.chmod(mode)
    return str(path)


def test_a_controller_a_worker_and_clients_use_tls_and_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_dense(tmp_path / "dense.onnx")
    authority = Authority(tmp_path)
    certificate, key = authority.signs("127.0.0.1")
    own_certificate, own_key = authority.signs("worker.example")
    ca = str(authority.file)
    reader, admin = secret(tmp_path / "reader", READER), secret(tmp_path / "admin", ADMIN)
    worker_token = secret(tmp_path / "worker", WORKER)
    ports = ("--listen=127.0.0.1:0", "--worker-listen=127.0.0.1:0", "--load-timeout=100ms")
    tls = (f"--tls-cert={certificate}", f"--tls-key={key}")
    link = (f"--worker-tls-cert={certificate}", f"--worker-tls-key={key}", f"--worker-tls-ca={ca}")
    tokens = (f"--inference-token-file={reader}", f"--admin-token-file={admin}", f"--worker-token-file={worker_token}")
    with clockwork("controller", *ports, *tls, *link, *tokens, *QUICK) as controller:
        found = controller.err.wait_for(r"listening for clients on (\S+), for workers on (\S+)$")
        here = ["--address", found[1], "--tls-ca", ca]
        own = (f"--tls-cert={own_certificate}", f"--tls-key={own_key}", f"--tls-ca={ca}")
        dial = (f"--controller={found[2]}", f"--model-root={tmp_path}", *own)
        with clockwork("worker", *dial, f"--token-file={worker_token}"):
            assert run(["load", "dense.onnx", *here, "--token-file", reader]) == 1
            assert "use an admin token" in capsys.readouterr().err
            assert run(["load", "dense.onnx", *here, "--token-file", admin]) == 0
            controller.address()
            assert run(["ls", *here]) == 1
            assert "a bearer token is needed" in capsys.readouterr().err
            assert run(["ls", *here, "--token-file", reader]) == 0
            assert "dense" in capsys.readouterr().out
            assert run(["ls", "--address", found[1], "--token-file", reader]) == 1
            assert "cannot connect" in capsys.readouterr().err
        with clockwork("worker", *dial) as other_worker:
            other_worker.err.wait_for("worker has no valid token; start it with --token-file")
        controller.send(signal.SIGTERM)
        assert controller.ended() == 0
    lines = "\n".join(controller.err.seen + controller.out.seen)
    assert not any(text in lines for text in (READER, ADMIN, WORKER, "Traceback"))


def test_the_token_of_the_worker_of_serve_is_on_no_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_dense(tmp_path / "dense.onnx")
    authority = Authority(tmp_path)
    certificate, key = authority.signs("127.0.0.1")
    token = secret(tmp_path / "token", READER)
    monkeypatch.setenv("CLOCKWORK_TLS_CA", str(authority.file))  # for clients; the worker ignores it
    with serve(
        str(model), f"--tls-cert={certificate}", f"--tls-key={key}", f"--inference-token-file={token}"
    ) as server:
        address = server.address()
        workers = server.err.wait_for(r"for workers on (\S+)$")[1]
        child = Path(f"/proc/{server.child()}")
        variables = dict(entry.split(b"=", 1) for entry in (child / "environ").read_bytes().split(b"\0") if entry)
        assert len(variables[b"CLOCKWORK_WORKER_TOKEN"]) >= 32
        assert variables[b"CLOCKWORK_WORKER_TOKEN"] not in (child / "cmdline").read_bytes()
        with clockwork("worker", f"--controller={workers}", f"--model-root={tmp_path}") as other_worker:
            other_worker.err.wait_for("worker has no valid token; start it with --token-file")
        monkeypatch.setenv("CLOCKWORK_TOKEN", READER)
        assert run(["status", "--address", address]) == 0
        assert "serving" in capsys.readouterr().out


WRONG = [
    (["controller", "--tls-cert=a.pem"], "--tls-cert needs --tls-key"),
    (["controller", "--tls-client-ca=a.pem"], "--tls-client-ca needs --tls-cert and --tls-key"),
    (["controller", "--worker-tls-ca=a.pem"], "--worker-tls-ca needs --worker-tls-cert and --worker-tls-key"),
    (["controller", "--tls-cert=absent.pem", "--tls-key=a.key"], "cannot read absent.pem: No such file"),
    (["controller", "--admin-token-file=absent"], "cannot read absent: No such file"),
    (
        ["controller", "--admin-token-file=readable"],
        "readable contains secrets but is readable by all users; run",
    ),
    (["controller", "--admin-token-file=empty"], "empty has no tokens"),
    (["controller", "--admin-token-file=short"], "short: token 1 has 5 characters; 16 to 4096 are accepted"),
    (["worker", "--tls-ca=a.pem"], "--tls-ca needs --tls-cert and --tls-key"),
    (["ls", "--tls-cert=a.pem", "--tls-key=a.key"], "--tls-cert needs --tls-ca"),
    (["ls", "--token-file=two"], "two has 2 tokens; keep exactly one"),
]


@pytest.mark.parametrize(("command", "why"), WRONG, ids=[" ".join(command) for command, _ in WRONG])
def test_a_wrong_file_is_reported_in_one_line(
    command: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    secret(tmp_path / "readable", READER, mode=0o604)
    secret(tmp_path / "empty")
    secret(tmp_path / "short", "short")
    secret(tmp_path / "two", READER, ADMIN)
    assert run(command) == 1
    errors = capsys.readouterr().err
    assert why in errors
    assert errors.count("\n") == 1
    assert READER not in errors


def test_comments_and_empty_lines_in_a_file_of_tokens_are_skipped(tmp_path: Path) -> None:
    assert read_token_file(Path(secret(tmp_path / "two", READER, "  # not this", ADMIN))) == [READER, ADMIN]
