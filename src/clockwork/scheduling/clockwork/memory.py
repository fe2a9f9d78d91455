"""Which weights come and go on a device: room for a model, loads, and who has to leave.

Rules of the file: weights that are planned for, needed by an action outstanding, or on their way are never evicted.
Among the least recently used the least demanded leave. The pages are freed and taken where the actions are made, by
`GPUState`; nothing is kept here but when weights will be there.
"""

from clockwork.scheduling.clockwork.demand import Demand
from clockwork.scheduling.clockwork.plan import Plan
from clockwork.state import ModelState, Residency
from clockwork.units import FOREVER, Nanos


def victims(now: Nanos, plan: Plan, model: ModelState, demand: Demand) -> list[str] | None:
    """Models to evict so that ``model`` fits, in the order to do it; None if those in the way are needed."""
    gpu = plan.gpu
    needed = gpu.models[model.name].weights_pages - gpu.cache.free
    if needed <= 0:
        return []
    considered = plan.config.evictions_considered
    candidates: list[tuple[float, int, str]] = []
    chosen: list[str] = []
    for age, name in enumerate(gpu.cache):
        if name in plan.pins or gpu.in_use(name):
            continue
        candidates.append((demand.rate(now, name), age, name))
        if len(candidates) >= considered:
            candidates.sort()
            least = candidates.pop(0)[-1]
            chosen.append(least)
            needed -= gpu.cache.pages_of(least)
            if needed <= 0:
                return chosen
    for _, _, name in sorted(candidates):
        chosen.append(name)
        needed -= gpu.cache.pages_of(name)
        if needed <= 0:
            return chosen
    return None


def can_load(plan: Plan, model: ModelState) -> bool:
    """Whether the device could take one more load of the model, memory aside."""
    gpu = plan.gpu
    if len(plan.ready) >= plan.config.loads_outstanding or not gpu.can_hold(model.name):
        return False
    return gpu.residency(model.name) is Residency.COLD and gpu.kind in model.profiles


def ready_at(now: Nanos, plan: Plan, model: ModelState) -> Nanos:
    """When weights that are ordered now would be there."""
    return max(plan.load_free, now + plan.send_delay) + plan.load_time(now, model)


def load(now: Nanos, plan: Plan, model: ModelState, evicted: list[str]) -> None:
    """Order the weights, and evictions before that."""
    expected = plan.load_time(now, model)
    ready = ready_at(now, plan, model)
    for name in evicted:
        plan.gpu.evict_weights(name)
    plan.gpu.load_weights(model, now, FOREVER, expected, ready - expected)
    plan.ready[model.name] = plan.load_free = ready
