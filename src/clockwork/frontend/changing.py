"""The parameters of loads and unloads in Triton's model repository extension.

A load has these parameters:

- ``config`` and ``file:PATH`` (Triton): both need a model repository. `clockwork.repository.overrides` reads them.
- ``path`` (Clockwork): the path of the model, relative to the workers' model roots.
- ``keep`` (Clockwork): whether the model's other versions continue to be served.
- ``wait`` (Clockwork): if it is false, the response is sent at once, and the repository index shows the progress.

An unload has these parameters:

- ``unload_dependents`` (Triton): this has no effect, because models do not depend on each other.
- ``version`` (Clockwork): the only version to unload.
- ``wait`` (Clockwork): this has the same meaning as for a load.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from clockwork.messages.faults import quoted
from clockwork.oip.failures import bad_request
from clockwork.oip.long_strings import MIN_CUT
from clockwork.repository.overrides import CONFIG, PREFIX
from clockwork.units import show_bytes

_LOAD: Final = {"path": str, "keep": bool, "wait": bool}
_UNLOAD: Final = {"unload_dependents": bool, "version": str, "wait": bool}
_TYPE_NAMES: Final = {str: "string", bool: "boolean"}


class LoadParameters(Struct, frozen=True):
    """The parameters of a load. ``override`` contains the parameters that the model repository reads."""

    path: str
    keep: bool
    wait: bool
    override: dict[str, Any]


class UnloadParameters(Struct, frozen=True):
    """The parameters of an unload."""

    version: str
    wait: bool


def load_parameters(parameters: Mapping[str, Any]) -> LoadParameters:
    """Check and return the parameters of a load.

    Raises:
        RequestFailedError: a parameter is unknown or has a wrong type, or two parameters cannot be combined.
    """
    override = {name: value for name, value in parameters.items() if name == CONFIG or name.startswith(PREFIX)}
    own = {name: value for name, value in parameters.items() if name not in override}
    _check("load", own, _LOAD, f", {CONFIG}, {PREFIX}PATH")
    if override and own.get("path"):
        raise bad_request(f"load has the parameters path and {quoted(next(iter(override)))}; send one of them")
    return LoadParameters(own.get("path", ""), own.get("keep", False), own.get("wait", True), override)


def unload_parameters(parameters: Mapping[str, Any]) -> UnloadParameters:
    """Check and return the parameters of an unload.

    Raises:
        RequestFailedError: a parameter is unknown or has a wrong type.
    """
    _check("unload", parameters, _UNLOAD)
    return UnloadParameters(parameters.get("version", ""), parameters.get("wait", True))


def _check(action: str, parameters: Mapping[str, Any], known: Mapping[str, type], more: str = "") -> None:
    for name, value in parameters.items():
        if name not in known:
            raise bad_request(f"{action} has the unknown parameter {quoted(name)}; known: {', '.join(known)}{more}")
        if isinstance(value, memoryview):
            size, limit = show_bytes(len(value)), show_bytes(MIN_CUT)
            raise bad_request(f"parameter {name} of the {action} has {size}; the limit is {limit}")
        if type(value) is not known[name]:
            found = type(value).__name__
            wanted = _TYPE_NAMES[known[name]]
            raise bad_request(f"parameter {name} of the {action} is of type {found}; it must be a {wanted}")
