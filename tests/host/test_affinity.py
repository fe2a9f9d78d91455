import os
import threading

from clockwork.host.affinity import allowed_cores, confined, pin, plan_cores, show_cores


def test_each_device_has_cores_of_its_own_from_the_end() -> None:
    plan = plan_cores({0, 1, 2, 5, 7}, devices=2, threads_per_device=1)
    assert plan.exec == ((5,), (7,))
    assert plan.others == plan.load == (0, 1, 2)
    assert plan.note == "cores: gpu 0 on 5, gpu 1 on 7, all else on 0-2"


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


def test_with_too_few_cores_nothing_is_pinned_and_the_note_reports_it() -> None:
    plan = plan_cores({3}, devices=2, threads_per_device=1)
    assert plan.exec == ((), ())
    assert plan.others == plan.load == ()
    assert plan.note.startswith("2 device(s) of 1 thread(s) need 2 cores and there are 1: no thread is pinned")


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
