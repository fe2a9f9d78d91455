import os
import socket
import subprocess
import sys
import threading

import pytest

from clockwork.host.affinity import CLAIM, allowed_cores, claimed_cores, confined, pin, plan_cores, show_cores

FIRST = 10_000 + 10 * os.getpid()
"""Number of the first of four cores that the host does not have, so that no other process claims them."""

CORES = range(FIRST, FIRST + 4)


def test_each_device_has_cores_of_its_own_from_the_end() -> None:
    plan = plan_cores({0, 1, 2, 5, 7}, devices=2, threads_per_device=1)
    assert plan.exec == ((5,), (7,))
    assert plan.others == plan.load == (0, 1, 2)
    assert plan.note == "cores: gpu 0 on 5, gpu 1 on 7, all else on 0-2"
    assert not plan.is_shared


def test_a_device_with_several_threads_has_several_cores_and_its_pool_is_not_confined() -> None:
    plan = plan_cores(range(8), devices=2, threads_per_device=3)
    assert plan.exec == ((2, 3, 4), (5, 6, 7))
    assert plan.others == (0, 1)
    assert plan.load == tuple(range(8))


def test_devices_that_need_all_cores_share_them_with_other_threads() -> None:
    plan = plan_cores({0, 1}, devices=2, threads_per_device=1)
    assert plan.exec == ((0,), (1,))
    assert plan.others == plan.load == (0, 1)
    assert "none is left for the network" in plan.note
    assert plan.is_shared


def test_with_too_few_cores_nothing_is_pinned_and_the_note_reports_it() -> None:
    plan = plan_cores({3}, devices=2, threads_per_device=1)
    assert plan.exec == ((), ())
    assert plan.others == plan.load == ()
    assert plan.note.startswith("2 device(s) of 1 thread(s) need 2 cores and there are 1: no thread is pinned")


def test_workers_on_one_host_get_different_cores_while_there_are_enough() -> None:
    with claimed_cores(CORES, 1, 1) as first, claimed_cores(CORES, 1, 2) as second:
        assert first.exec == ((FIRST + 3,),)
        assert second.exec == ((FIRST + 1, FIRST + 2),)
        assert second.taken == (FIRST + 3,)
        assert second.others == (FIRST,)
        assert second.note.endswith(f"; other workers on this host use {FIRST + 3}")
        assert not second.is_crowded
        with claimed_cores(CORES, 2, 1) as third:
            assert third.exec == ((), ())
            assert third.is_crowded
            assert third.note.endswith(
                "no thread is pinned, and times will vary; "
                f"other workers on this host use {FIRST + 1}-{FIRST + 3}; use fewer devices, or stop a worker"
            )
            with claimed_cores(CORES, 1, 1) as fourth:  # the third worker claimed nothing
                assert fourth.exec == ((FIRST,),)
    with claimed_cores(CORES, 1, 1) as again:
        assert again.exec == first.exec


def test_the_cores_of_a_killed_worker_are_free_again() -> None:
    name = CLAIM.format(FIRST + 3)
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({name!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with claimed_cores(CORES, 1, 1) as plan:
            assert plan.exec == ((FIRST + 2,),)
        other.kill()
    with claimed_cores(CORES, 1, 1) as plan:
        assert plan.exec == ((FIRST + 3,),)


def test_a_worker_runs_where_cores_cannot_be_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(holder: socket.socket, name: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with claimed_cores(CORES, 1, 1) as plan:
        assert plan == plan_cores(CORES, 1, 1)


def test_without_devices_no_core_is_claimed() -> None:
    with claimed_cores(CORES, 0, 1) as plan:
        assert plan.others == tuple(CORES)
        assert not plan.is_crowded


def test_pinning_affects_one_thread_and_confinement_ends() -> None:
    before = allowed_cores()
    seen: list[tuple[int, ...]] = []

    def pinned() -> None:
        pin(before[-1:])
        seen.append(allowed_cores())

    thread = threading.Thread(target=pinned)
    thread.start()
    thread.join()
    assert seen == [before[-1:]]
    with confined(before[:1]):
        assert allowed_cores() == before[:1]
    pin(())
    assert allowed_cores() == before == tuple(sorted(os.sched_getaffinity(0)))


def test_cores_are_shown_as_spans() -> None:
    assert show_cores({7, 0, 1, 2, 5}) == "0-2,5,7"
