"""Schedulers are created by name."""

import sys
from pathlib import Path

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.echo import EchoScheduler
from clockwork.scheduling.registry import BUILT_IN, make_scheduler
from clockwork.scheduling.simple import SimpleScheduler


def test_a_module_that_raises_is_an_error_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_policy.py").write_text("raise RuntimeError('not today')")
    (tmp_path / "leaving_policy.py").write_text("import sys; sys.exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidRequestError, match="RuntimeError: not today"):
        make_scheduler("broken_policy:Policy")
    with pytest.raises(InvalidRequestError, match="SystemExit: 3"):
        make_scheduler("leaving_policy:Policy")


@pytest.mark.parametrize(
    ("name", "kind"), [("clockwork", ClockworkScheduler), ("echo", EchoScheduler), ("simple", SimpleScheduler)]
)
def test_built_in_schedulers_have_names(name: str, kind: type) -> None:
    assert type(make_scheduler(name)) is kind


def test_each_name_is_the_name_of_its_scheduler() -> None:
    names = ["clockwork", "echo", "edf", "fifo", "simple"]
    assert {name: scheduler.name for name, scheduler in BUILT_IN.items()} == {name: name for name in names}


def test_each_call_creates_a_new_scheduler() -> None:
    assert make_scheduler("simple") is not make_scheduler("simple")


def test_a_custom_scheduler_is_named_by_module_and_class() -> None:
    assert isinstance(make_scheduler("clockwork.scheduling.echo:EchoScheduler"), EchoScheduler)


BROKEN_SCHEDULERS = """
from clockwork.scheduling.base import Scheduler

class Deaf(Scheduler):
    def infer(self, now, request):
        return []

class Demanding(Scheduler):
    def __init__(self, config):
        self.config = config

    def infer(self, now, request):
        return []

    def result(self, now, gpu, action, result):
        return []
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "nobody",
            "scheduler 'nobody' is unknown; use one of clockwork, echo, edf, fifo, simple, or package.module:Class",
        ),
        ("", "scheduler '' is unknown"),
        ("no_such_module:Class", "cannot import 'no_such_module'"),
        (":Class", "cannot import ''"),
        (".relative:Class", "cannot import '.relative'"),
        ("broken_module:Class", "cannot import 'broken_module'"),
        ("clockwork.scheduling.echo:", "has no ''"),
        ("clockwork.scheduling.echo:Nobody", "'clockwork.scheduling.echo' has no 'Nobody'"),
        ("clockwork.units:ms", "is not a subclass of clockwork.scheduling.Scheduler"),
        ("builtins:dict", "is not a subclass"),
        ("clockwork.scheduling.base:Scheduler", "does not define infer and result"),
        ("broken_schedulers:Deaf", "does not define result; a scheduler must"),
        ("broken_schedulers:Demanding", "cannot be created without arguments"),
    ],
)
def test_an_invalid_scheduler_is_refused_with_the_reason(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("def :")
    (tmp_path / "broken_schedulers.py").write_text(BROKEN_SCHEDULERS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidRequestError) as caught:
        make_scheduler(name)
    assert why in str(caught.value)
    sys.modules.pop("broken_module", None)
    sys.modules.pop("broken_schedulers", None)
