"""Records which devices have a model's weights, and decides which weights to load and to evict.

Weights are never evicted while they are being loaded, or while a planned batch or an outstanding action needs them. Of
the few least recently used models, the model with the least demand is evicted.
"""

from clockwork.scheduling.clockwork.config import ClockworkConfig
from clockwork.scheduling.clockwork.demand import Demand
from clockwork.scheduling.clockwork.plan import Plan
from clockwork.state import ModelState, Residency
from clockwork.units import FOREVER, Nanos


class Weights:
    """For each model, the plans of the devices that have its weights or are loading them."""

    def __init__(self, config: ClockworkConfig, demand: Demand) -> None:
        """Start without devices."""
        self._config = config
        self._demand = demand
        self.plans: list[Plan] = []  #: plans of all devices
        self._holders: dict[str, list[Plan]] = {}  #: model -> devices that have its weights or are loading them
        self._turn = 0
        self._models: dict[str, ModelState] = {}
        self._to_preload: list[str] = []  #: models that are on no device; the last model is loaded next

    def add(self, now: Nanos, plans: list[Plan], models: dict[str, ModelState]) -> None:
        """Add devices with the weights that are on them. Begin to load weights into all free memory."""
        for plan in plans:
            self.plans.append(plan)
            for model in plan.gpu.cache:
                self._holders.setdefault(model, []).append(plan)
        self._models = models
        if self._config.preload:
            self._to_preload = sorted((name for name in models if name not in self._holders), reverse=True)
        for plan in self.plans:
            self.preload(now, plan)

    def add_model(self, now: Nanos, model: ModelState) -> None:
        """If no device has the weights of the new model, begin to load them into free memory."""
        if not self._config.preload or model.name in self._holders or model.name in self._to_preload:
            return
        self._to_preload.append(model.name)
        for plan in self.plans:
            self.preload(now, plan)

    def remove_model(self, model: str) -> None:
        """Forget a model that was removed. The model's weights no longer count as being on any device."""
        for plan in self.plans:
            self.note_gone(plan, model)
        if model in self._to_preload:
            self._to_preload.remove(model)

    def remove(self, plan: Plan) -> None:
        """Forget a device whose worker was lost."""
        self.plans.remove(plan)
        for model in [model for model, plans in self._holders.items() if plan in plans]:
            self.note_gone(plan, model)

    def note_gone(self, plan: Plan, model: str) -> None:
        """Record that the device no longer has the weights."""
        plans = self._holders.get(model, [])
        if plan in plans:
            plans.remove(plan)
        if not plans:
            self._holders.pop(model, None)

    def some_holders(self, model: str) -> list[Plan]:
        """Return devices that have the weights or are loading them.

        At most ``choices`` devices (a setting) are returned. Successive calls return different devices in turn.
        """
        plans = self._holders.get(model)
        return [] if plans is None else self.some(plans)

    def some(self, plans: list[Plan]) -> list[Plan]:
        """Return ``choices`` (a setting) of the plans. Successive calls choose different plans in turn.

        If there are at most ``choices`` plans, return all of them. If the devices of all chosen plans are silent,
        choose plans of other devices.
        """
        count, choices = len(plans), self._config.choices
        if count <= choices:
            return plans
        self._turn = turn = (self._turn + choices) % count
        chosen = plans[turn : turn + choices]
        chosen += plans[: choices - len(chosen)]
        if all(plan.gpu.silent for plan in chosen):
            chosen = [plan for plan in plans if not plan.gpu.silent][:choices]
        return chosen

    def is_loading(self, model: str) -> bool:
        """Return whether any device is loading the weights."""
        return any(model in plan.device.ready for plan in self._holders.get(model, ()))

    # --- loads and evictions -----------------------------------------------------------------------------------------

    def can_load(self, plan: Plan, model: ModelState) -> bool:
        """Return whether the device can accept one more load of the model, without regard to memory."""
        gpu = plan.gpu
        if len(plan.device.ready) >= self._config.loads_outstanding or not gpu.can_serve(model):
            return False
        return gpu.residency(model.name) is Residency.COLD

    def victims(self, now: Nanos, plan: Plan, model: ModelState) -> list[str] | None:
        """Return the models to evict, in this order, to make room for ``model``.

        Return None if evictions cannot free enough memory, because planned batches and outstanding actions need too
        many weights.
        """
        gpu = plan.gpu
        needed = gpu.models[model.name].weights_pages - gpu.cache.free
        if needed <= 0:
            return []
        considered = self._config.evictions_considered
        candidates: list[tuple[float, int, str]] = []
        chosen: list[str] = []
        for age, name in enumerate(gpu.cache):
            if name in plan.batches_of or gpu.in_use(name):
                continue
            candidates.append((self._demand.rate(now, name), age, name))
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

    def load(self, now: Nanos, plan: Plan, model: ModelState, evicted: list[str]) -> None:
        """Load the model on the device after evicting the models in ``evicted``."""
        device = plan.device
        expected = device.load_time(now, model)
        ready = device.ready_at(now, model)
        for name in evicted:
            self.note_gone(plan, name)
            plan.gpu.evict_weights(name)
        plan.gpu.load_weights(model, now, FOREVER, expected, ready - expected)
        device.note_load_sent(model.name, ready)
        self._holders.setdefault(model.name, []).append(plan)

    def load_for_later(self, now: Nanos, plans: list[Plan], model: ModelState, gain: float) -> None:
        """Load a model on one more device, for later requests. The request that needs the model now was refused.

        If a model that would be evicted was requested recently, the evicted models must have less demand than ``gain``,
        which is in requests per nanosecond. Without this rule, models would evict each other in turn.
        """
        able = [plan for plan in plans if self.can_load(plan, model) and not plan.device.ready]
        for plan in sorted(able, key=lambda plan: plan.device.load_free):
            evicted = self.victims(now, plan, model)
            if evicted is None:
                continue
            last = [self._demand.last(name) for name in evicted]
            recent = any(moment is not None and now - moment < self._config.min_residency for moment in last)
            if not recent or sum(self._demand.rate(now, name) for name in evicted) < gain:
                self.load(now, plan, model, evicted)
                return

    def preload(self, now: Nanos, plan: Plan) -> None:
        """Load the next model that is on no device into free memory of the device.

        Skip models that are already being loaded.
        """
        waiting = self._to_preload
        while waiting and waiting[-1] in self._holders:
            waiting.pop()
        if not waiting or plan.device.ready:
            return
        model = self._models.get(waiting[-1])
        if model is None:
            waiting.pop()
        elif self.can_load(plan, model) and plan.gpu.models[model.name].weights_pages <= plan.gpu.cache.free:
            waiting.pop()
            self.load(now, plan, model, [])
