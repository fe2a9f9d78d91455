import pytest

from clockwork.messages.status import Status
from clockwork.worker.errors import ActionRefusedError
from clockwork.worker.memory import REFUSAL_STATUSES, TRANSITIONS, DeviceMemory, WeightsEvent, WeightsState


def test_every_event_of_a_controller_has_a_transition_or_a_refusal_in_every_state() -> None:
    for state in WeightsState:
        for step in (WeightsEvent.LOAD, WeightsEvent.EXECUTE, WeightsEvent.EVICT):
            if (state, step) == (WeightsState.IN_USE, WeightsEvent.EXECUTE):
                continue  # an EXEC lane runs one Infer at a time, so this cannot happen
            assert ((state, step) in TRANSITIONS) != ((state, step) in REFUSAL_STATUSES)


def test_weights_are_loaded_used_and_evicted() -> None:
    memory = DeviceMemory(0, 4)
    memory.begin_load("m", 3)
    assert (memory.state_of("m"), memory.cache.free) == (WeightsState.LOADING, 1)
    memory.loaded("m", "handle")
    assert memory.begin_execute("m") == "handle"
    assert memory.state_of("m") is WeightsState.IN_USE
    memory.executed("m")
    assert memory.begin_evict("m") == "handle"
    assert (memory.state_of("m"), memory.cache.free) == (WeightsState.EVICTING, 1)
    memory.evicted("m")
    assert (memory.state_of("m"), memory.cache.free) == (WeightsState.COLD, 4)
    memory.check_invariants()


def test_a_failed_load_frees_its_pages() -> None:
    memory = DeviceMemory(0, 4)
    memory.begin_load("m", 4)
    memory.load_failed("m")
    memory.begin_load("n", 4)
    memory.check_invariants()


def test_a_load_with_too_few_free_pages_is_refused_and_changes_nothing() -> None:
    memory = DeviceMemory(1, 4)
    memory.begin_load("m", 3)
    with pytest.raises(ActionRefusedError, match=r"n need 2 pages; gpu 1 has 1 of 4 pages free") as refusal:
        memory.begin_load("n", 2)
    assert refusal.value.status is Status.LOAD_WEIGHTS_INSUFFICIENT_CACHE
    assert memory.state_of("n") is WeightsState.COLD


def test_the_least_recently_used_model_is_reported_first() -> None:
    memory = DeviceMemory(0, 4)
    for model in "abc":
        memory.begin_load(model, 1)
        memory.loaded(model, model)
    memory.begin_execute("a")
    memory.executed("a")
    assert memory.models_in(WeightsState.WARM) == ("b", "c", "a")


@pytest.mark.parametrize(
    ("state", "step", "status"),
    [
        (WeightsState.WARM, WeightsEvent.LOAD, Status.WEIGHTS_ALREADY_LOADED),
        (WeightsState.COLD, WeightsEvent.EXECUTE, Status.WEIGHTS_NOT_PRESENT),
        (WeightsState.EVICTING, WeightsEvent.EXECUTE, Status.WEIGHTS_NOT_PRESENT),
        (WeightsState.IN_USE, WeightsEvent.EVICT, Status.WEIGHTS_IN_USE),
        (WeightsState.COLD, WeightsEvent.EVICT, Status.WEIGHTS_NOT_PRESENT),
    ],
)
def test_refusals_have_the_numbers_of_the_original(state: WeightsState, step: WeightsEvent, status: Status) -> None:
    assert REFUSAL_STATUSES[state, step] is status
