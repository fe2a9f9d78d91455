"""Triton's version policies, which choose the versions of a model that are served. This module is pure.

A configuration sets ``version_policy { latest { num_versions: 2 } }``, ``{ all { } }`` or
``{ specific { versions: [1, 3] } }``. Without a policy, the highest version is served.
"""

from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

from msgspec import Struct

from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.messages.faults import MAX_LISTED, quoted
from clockwork.runtimes.text_format import Fields, Value

KEY: Final = "version_policy"

MAX_VERSION: Final = 10**18 - 1
"""Largest number of a version. 18 digits fit into the 64 bits that Triton uses."""

MAX_SPECIFIC: Final = 1000
"""Largest number of versions that a policy names."""


class Latest(Struct, frozen=True):
    """Serve the ``count`` highest versions."""

    count: int = 1


class All(Struct, frozen=True):
    """Serve every version."""


class Specific(Struct, frozen=True):
    """Serve these versions, in ascending order."""

    versions: tuple[int, ...]


VersionPolicy: TypeAlias = Latest | All | Specific
"""A rule that chooses the versions of a model that are served."""


def policy_of(fields: Fields) -> VersionPolicy:
    """Return the version policy of a configuration.

    Raises:
        ValueError: the policy is unknown, or has a wrong value.
    """
    values = fields.get(KEY)
    if not values:
        return Latest()
    policy = values[0]
    if len(values) > 1 or not isinstance(policy, dict) or len(policy) != 1:
        raise ValueError(f"{KEY} does not have exactly one of latest, all and specific: set one")
    ((name, choices),) = policy.items()
    choice = choices[0] if len(choices) == 1 else None
    if not isinstance(choice, dict):
        raise ValueError(f"{name} in {KEY} is not one message: write {name} {{ }}")
    match name:
        case "latest":
            return Latest(_latest(choice))
        case "all":
            return All()
        case "specific":
            return Specific(_specific(choice))
    raise ValueError(f"{KEY} has the unknown policy {name[:40]!r}; expected one of: latest, all, specific")


def parse_policies(texts: Iterable[str]) -> dict[str, VersionPolicy]:
    """Parse values of the form ``NAME=POLICY``. A policy is ``latest``, ``latest:2``, ``all`` or ``specific:1,3``.

    Raises:
        InvalidRequestError: a value does not have this form, or a name is repeated.
    """
    policies: dict[str, VersionPolicy] = {}
    for text in texts:
        name, equals, policy = text.rpartition("=")
        word, _, argument = policy.partition(":")
        numbers = [_whole(number) for number in argument.split(",")] if argument else []
        found = _policy(word, [number for number in numbers if number is not None])
        if not equals or not name or found is None or None in numbers or policy.endswith(":"):
            raise InvalidRequestError(
                f"invalid NAME=POLICY {quoted(text)}; examples: net=latest:2, net=all, net=specific:1,3"
            )
        if name in policies:
            raise InvalidRequestError(f"model {quoted(name)} has two version policies; give one")
        policies[name] = found
    return policies


def _policy(word: str, numbers: list[int]) -> VersionPolicy | None:
    if word == "latest" and len(numbers) <= 1 and 0 not in numbers:
        return Latest(*numbers)
    if word == "all" and not numbers:
        return All()
    if word == "specific" and 1 <= len(numbers) <= MAX_SPECIFIC:
        return Specific(tuple(sorted(set(numbers))))
    return None


def choose(policy: VersionPolicy, there: Collection[int], model: str) -> tuple[int, ...]:
    """Return the versions to serve, in ascending order. ``there`` are the versions on disk.

    Raises:
        InvalidModelError: the policy chooses no version, or a version that is not on disk.
    """
    ordered = sorted(there)
    chosen = ordered
    if isinstance(policy, Latest):
        chosen = ordered[-policy.count :]
    elif isinstance(policy, Specific):
        chosen = list(policy.versions)
    missing = [version for version in chosen if version not in there]
    if missing:
        noun = "version" if len(missing) == 1 else "versions"
        raise InvalidModelError(
            f"{noun} {listed(missing)} of model {model!r} does not exist, but its {KEY} names it; "
            f"existing versions: {listed(ordered)}"
        )
    if not chosen:
        raise InvalidModelError(f"model {model!r} has no version: add a directory 1 with its model file")
    return tuple(chosen)


def listed(versions: Collection[int]) -> str:
    """Return at most `MAX_LISTED` versions as text for messages."""
    texts = [str(version) for version in sorted(versions)[:MAX_LISTED]]
    return ", ".join(texts) + (", ..." if len(versions) > MAX_LISTED else "") if texts else "none"


def _latest(choice: Fields) -> int:
    values = choice.get("num_versions") or [1]
    count = _whole(values[-1])
    if count is None or count < 1 or len(choice) > ("num_versions" in choice):
        raise ValueError(f"latest in {KEY} needs num_versions, a whole number of at least 1")
    return count


def _specific(choice: Fields) -> tuple[int, ...]:
    values = choice.get("versions") or []
    versions = {version for value in values if (version := _whole(value)) is not None}
    if not versions or len(values) > MAX_SPECIFIC or len(choice) > 1 or any(_whole(value) is None for value in values):
        raise ValueError(f"specific in {KEY} needs versions, a list of 1 to {MAX_SPECIFIC} version numbers")
    return tuple(sorted(versions))


def _whole(value: Value) -> int | None:
    """Return a non-negative number, or None for any other value. JSON may contain the number as a string."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(MAX_VERSION)):
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_VERSION else None
