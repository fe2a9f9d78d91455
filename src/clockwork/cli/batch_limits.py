"""Describes the limits on the batches of a model.

The commands ``status`` and ``check-model`` show these texts.
"""

from collections.abc import Iterable, Iterator

from clockwork.cli.output import model_label
from clockwork.messages.profile import ModelProfile
from clockwork.messages.requests import ModelStatus
from clockwork.units import show_duration


def batch_limit(profile: ModelProfile) -> str:
    """Return, as text, the largest batch size of a model and the reason for this limit.

    If the model was not measured, the text explains why. If all batch sizes are in use, the text is empty.
    """
    if profile.unmeasured:
        return f"not measured yet: {profile.unmeasured}"
    largest, used = profile.batch_sizes[-1], profile.worthwhile_batch_size
    if used < largest:
        per_row = [show_duration(profile.infer[size].median // size) for size in (used, largest)]
        return (
            f"batches have at most {_rows(used)}, because larger ones take longer per row "
            f"({per_row[0]} at batch size {used}, {per_row[1]} at {largest})"
        )
    return f"batches have at most {_rows(largest)}: {profile.stopped}" if profile.stopped else ""


def batch_limit_lines(models: Iterable[ModelStatus]) -> Iterator[str]:
    """Yield one line for each different limit text, with the number of models that share the text."""
    by_limit: dict[tuple[str, str], list[str]] = {}
    for model in models:
        if model.unbatched:
            continue
        for kind, profile in model.profiles.items():
            if limit := batch_limit(profile):
                by_limit.setdefault((kind, limit), []).append(model_label(model))
    for (_, limit), names in by_limit.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{names[0]}{more}: {limit}"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
