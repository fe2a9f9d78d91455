"""The controller's picture of a device: residency, pages, and invalid actions. Times do not matter here."""

from collections.abc import Callable

import pytest

from builders import KIND, a_gpu, a_state, model_info, model_state, pending, worker_info
from clockwork.messages.actions import DeviceAction, EvictWeights, Infer, LoadWeights
from clockwork.messages.commands import SendAction
from clockwork.messages.results import ErrorResult, EvictWeightsResult, GPUInfo, LoadWeightsResult, Result, Timing
from clockwork.messages.status import Status
from clockwork.state import GPUState, Residency, WorkerState
from clockwork.state.gpu import ActionQueue
from clockwork.units import FOREVER, ms

A, B, BIG = model_info("a"), model_info("b"), model_info("big", pages=4)
TOOK = Timing(0, 0, 0)


def done(action: DeviceAction) -> Result:
    """Return the result of a successful action; the type of an Infer's result does not matter here."""
    return (
        EvictWeightsResult(action.id, TOOK) if isinstance(action, EvictWeights) else LoadWeightsResult(action.id, TOOK)
    )


def failed(action: DeviceAction, status: Status = Status.RUNTIME_ERROR) -> ErrorResult:
    return ErrorResult(action.id, type(action).__name__, status, "no")


def settle(gpu: GPUState, action: DeviceAction, result: Result | None = None) -> bool:
    agrees = gpu.settle(action, done(action) if result is None else result)
    gpu.check_invariants()
    return agrees


def test_a_load_takes_its_pages_before_the_worker_confirms() -> None:
    state, gpu = a_gpu([A, BIG])
    load = gpu.load_weights(state.models["big"], earliest=1, latest=2, expected=3)
    assert load == LoadWeights(1, 0, "big", 1, 2, 3)
    assert (gpu.residency("big"), gpu.cache.free, gpu.in_use("big")) == (Residency.LOADING, 0, True)
    assert settle(gpu, load)
    assert (gpu.residency("big"), gpu.cache.free, gpu.in_use("big")) == (Residency.WARM, 0, False)


def test_a_failed_load_frees_its_pages() -> None:
    state, gpu = a_gpu([BIG])
    load = gpu.load_weights(state.models["big"])
    assert settle(gpu, load, failed(load))
    assert (gpu.residency("big"), gpu.cache.free) == (Residency.COLD, 4)


def test_an_eviction_frees_its_pages_at_once() -> None:
    state, gpu = a_gpu([A, BIG], warm=("big",))
    evict = gpu.evict_weights("big", earliest=7)
    assert evict == EvictWeights(1, 0, "big", 7, FOREVER)
    assert (gpu.residency("big"), gpu.cache.free) == (Residency.COLD, 4)
    gpu.load_weights(state.models["a"])
    assert settle(gpu, evict)
    assert gpu.residency("a") is Residency.LOADING


def test_a_model_is_in_use_until_the_result_of_its_infer() -> None:
    state, gpu = a_gpu([A, B], warm=("a", "b"))
    request = pending(5, state.models["a"], rows=2)
    infers = [gpu.infer(state.models["a"], [request, request], 1, 2, 3), gpu.infer(state.models["a"], [request])]
    assert infers[0] == Infer(1, 0, "a", (request.input, request.input), 1, 2, 3)
    assert list(gpu.cache) == ["b", "a"]  # the least recently used first
    assert gpu.in_use("a")
    settle(gpu, infers[0])
    assert gpu.in_use("a")
    settle(gpu, infers[1], failed(infers[1]))
    assert not gpu.in_use("a")


def test_an_infer_may_follow_its_load_and_fail_with_it() -> None:
    state, gpu = a_gpu([A])
    load = gpu.load_weights(state.models["a"])
    infer = gpu.infer(state.models["a"], [pending(1, state.models["a"])])
    assert settle(gpu, load, failed(load))
    assert gpu.in_use("a")
    again = gpu.load_weights(state.models["a"])
    assert settle(gpu, infer, failed(infer, Status.WEIGHTS_NOT_PRESENT))
    assert settle(gpu, again)
    assert gpu.residency("a") is Residency.WARM


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("load a", "a is warm on w0/gpu0"),
        ("load b", "b is loading on w0/gpu0"),
        ("load big", "big needs 4 pages; w0/gpu0 has 2 free of 4"),
        ("load other", "w0/gpu0 does not have other"),
        ("evict b", "evict_weights: b is loading on w0/gpu0"),
        ("evict c", "evict_weights: c is cold on w0/gpu0"),
        ("evict used", "evict_weights: used is in use on w0/gpu0"),
        ("infer c", "infer: c is cold on w0/gpu0"),
        ("infer big", "infer: big is cold on w0/gpu0"),
    ],
)
def test_an_event_that_the_table_lacks_is_refused_and_changes_nothing(what: str, message: str) -> None:
    used = model_info("used", pages=0)
    state, gpu = a_gpu([A, B, BIG, model_info("c"), used], warm=("a", "used"))
    gpu.load_weights(state.models["b"])
    gpu.infer(state.models["used"], [pending(1, state.models["used"])])
    before = gpu.info(), gpu.cache.used, list(gpu.outstanding), len(state.actions)
    verb, name = what.split()
    model = state.models.get(name) or model_state(model_info(name))
    actions: dict[str, Callable[[], DeviceAction]] = {
        "load": lambda: gpu.load_weights(model),
        "evict": lambda: gpu.evict_weights(name),
        "infer": lambda: gpu.infer(model, [pending(2, model)]),
    }
    with pytest.raises(ValueError, match=message):
        actions[verb]()
    assert (gpu.info(), gpu.cache.used, list(gpu.outstanding), len(state.actions)) == before
    gpu.check_invariants()


def test_an_infer_needs_pending_requests_for_its_model() -> None:
    state, gpu = a_gpu([A, B], warm=("a", "b"))
    over = pending(1, state.models["a"])
    over.over = True
    for requests in ([], [over], [pending(2, state.models["a"]), over], [pending(3, state.models["b"])]):
        with pytest.raises(ValueError, match="must be pending requests for a"):
            gpu.infer(state.models["a"], requests)
    assert not gpu.outstanding


@pytest.mark.parametrize(
    ("action", "status", "agrees"),
    [
        ("load", Status.RUNTIME_ERROR, True),
        ("load", Status.COULD_NOT_START_IN_TIME, True),
        ("load", Status.WEIGHTS_ALREADY_LOADED, False),
        ("load", Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE, False),
        ("load", Status.UNKNOWN_MODEL, False),
        ("infer", Status.RUNTIME_ERROR, True),
        ("infer", Status.COULD_NOT_START_IN_TIME, True),
        ("infer", Status.WEIGHTS_NOT_PRESENT, False),
        ("infer", Status.UNKNOWN_MODEL, False),
        ("evict", Status.WEIGHTS_NOT_PRESENT, False),
        ("evict", Status.WEIGHTS_IN_USE, False),
    ],
)
def test_some_errors_contradict_the_picture(action: str, status: Status, agrees: bool) -> None:
    state, gpu = a_gpu([A, B], warm=("a",))
    a, b = state.models["a"], state.models["b"]
    actions: dict[str, Callable[[], DeviceAction]] = {
        "load": lambda: gpu.load_weights(b),
        "infer": lambda: gpu.infer(a, [pending(1, a)]),
        "evict": lambda: gpu.evict_weights("a"),
    }
    sent = actions[action]()
    assert settle(gpu, sent, failed(sent, status)) is agrees
    assert not gpu.outstanding


def test_a_device_can_hold_a_model_of_its_worker_that_fits_into_its_memory() -> None:
    _, gpu = a_gpu([A, BIG, model_info("huge", pages=5)], warm=("a",))
    assert [gpu.can_hold(name) for name in ("a", "big", "huge", "other")] == [True, True, False, False]


def test_unloading_a_model_frees_its_pages() -> None:
    state = a_state([A, B], gpus=2, warm=("a",))
    worker = state.workers["w0"]
    worker.forget("a")
    assert all(gpu.cache.used == 0 and not gpu.can_hold("a") for gpu in worker.gpus)
    assert list(worker.models) == ["b"]
    state.check_invariants()


def test_the_description_of_a_device_has_its_warm_models() -> None:
    state, gpu = a_gpu([A, B, model_info("c")], warm=("a", "b"))
    gpu.load_weights(state.models["c"])
    gpu.infer(state.models["a"], [pending(1, state.models["a"])])
    assert gpu.info() == GPUInfo(0, "gpu", 4, ("b", "a"))


def test_actions_are_queued_in_order_and_taken_once() -> None:
    state = a_state([A, B], workers=2, warm=("b",))
    first, second = state.gpus()
    made: list[DeviceAction] = [
        second.load_weights(state.models["a"], start=7),
        first.evict_weights("b"),
        second.evict_weights("b"),
    ]
    assert [(str(queued.gpu), queued.action, queued.start) for queued in state.actions] == [
        ("w1/gpu0", made[0], 7),
        ("w0/gpu0", made[1], 0),
        ("w1/gpu0", made[2], 0),
    ]
    taken = state.actions.take()
    assert [queued.command(("payload",)) for queued in taken[:1]] == [SendAction("w1", made[0], ("payload",))]
    assert (len(taken), len(state.actions), state.actions.take()) == (3, 0, [])


def test_a_device_whose_worker_refuses_actions_because_it_leaves_gets_no_more_work() -> None:
    state, gpu = a_gpu([A, B], warm=("a", "b"))
    infer = gpu.infer(state.models["a"], [pending(1, state.models["a"])])
    evict = gpu.evict_weights("b")
    assert not gpu.silent
    for action in (infer, evict):
        assert settle(gpu, action, ErrorResult(action.id, "", Status.SHUTTING_DOWN, "the worker is shutting down"))
    assert gpu.silent


def test_a_device_whose_worker_was_lost_makes_no_action() -> None:
    state, gpu = a_gpu([A, B], warm=("b",))
    state.workers["w0"].leave()
    a, b = state.models["a"], state.models["b"]
    for make in (
        lambda: gpu.load_weights(a),
        lambda: gpu.evict_weights("b"),
        lambda: gpu.infer(b, [pending(1, b)]),
    ):
        with pytest.raises(ValueError, match="w0/gpu0 is gone: its worker was lost"):
            make()
    assert not gpu.outstanding
    assert not state.actions


def test_action_ids_are_unique_and_lead_to_the_device() -> None:
    state = a_state([A], workers=2, gpus=2)
    loads = [gpu.load_weights(state.models["a"]) for gpu in state.gpus()]
    assert [load.id for load in loads] == [1, 2, 3, 4]
    assert {i: str(gpu) for worker in state.workers.values() for i, gpu in worker.routes.items()} == {
        1: "w0/gpu0",
        2: "w0/gpu1",
        3: "w1/gpu0",
        4: "w1/gpu1",
    }


def test_a_worker_s_devices_have_numbers() -> None:
    worker = WorkerState("w0", worker_info([A], gpus=2), ActionQueue())
    assert worker.gpu(1) is worker.gpus[1]
    with pytest.raises(KeyError):
        worker.gpu(2)


def test_a_model_is_measured_on_a_worker_if_it_is_on_each_kind_of_device_that_can_hold_it() -> None:
    state = a_state([A, BIG], gpus=2)
    worker = state.workers["w0"]
    assert worker.measured(state.models["a"])
    worker.gpus[1].kind = "small"
    worker.gpus[1].cache.total = 1
    assert [worker.measured(state.models[name]) for name in ("a", "big")] == [False, True]


def test_estimates_are_p99_of_what_was_measured() -> None:
    model = model_state(A)
    assert model.load_estimate("gpu") == ms(8)
    assert [model.infer_estimate(rows) for rows in (1, 2, 3, 4, 8)] == [ms(3), ms(4), ms(6), ms(6), ms(12)]
    assert model.max_batch_size == 4
    with pytest.raises(KeyError):
        model.infer_estimate(1, "other")
    model.profiles.clear()
    with pytest.raises(KeyError):
        model.infer_estimate(1)
    assert model.max_batch_size == 1


def test_ten_measurements_in_service_replace_those_of_the_profile() -> None:
    model = model_state(model_info())
    before = model.profiles[KIND].infer[1].samples
    for duration in range(1, 10):
        model.took(KIND, 1, duration)
        model.took(KIND, 0, duration)
    assert model.recent(KIND) == model.profiles[KIND], "nine measurements are not enough"
    model.took(KIND, 1, 10)
    assert model.recent(KIND).infer[1].samples == tuple(range(1, 11))
    assert model.recent(KIND).load_weights == model.profiles[KIND].load_weights
    assert model.profiles[KIND].infer[1].samples == before, "the profile is unchanged"
