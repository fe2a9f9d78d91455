"""Finds schedulers by name. A name is the name of a built-in scheduler, or ``package.module:Class``."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from clockwork.errors import InvalidRequestError
from clockwork.scheduling.base import Scheduler
from clockwork.scheduling.clockwork import ClockworkScheduler
from clockwork.scheduling.echo import EchoScheduler
from clockwork.scheduling.edf import EdfScheduler
from clockwork.scheduling.fifo import FifoScheduler
from clockwork.scheduling.simple import SimpleScheduler

BUILT_IN: Final[Mapping[str, type[Scheduler]]] = {
    scheduler.name: scheduler
    for scheduler in (ClockworkScheduler, EchoScheduler, EdfScheduler, FifoScheduler, SimpleScheduler)
}
"""The schedulers that come with Clockwork."""

REQUIRED: Final = ("infer", "result")
"""Methods that a scheduler must define. Python itself does not check this if `Scheduler` is a compiled class."""


def make_scheduler(name: str) -> Scheduler:
    """Return a new scheduler of the given name. A class ``package.module:Class`` is called without arguments.

    Raises:
        InvalidRequestError: no scheduler has that name, or the object is not a scheduler.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise InvalidRequestError(
            f"scheduler {name!r} is unknown; use one of {', '.join(sorted(BUILT_IN))}, or package.module:Class"
        )
    try:
        factory = getattr(import_module(module_name), class_name)
    except AttributeError as error:
        raise InvalidRequestError(f"scheduler {name!r}: {module_name!r} has no {class_name!r}: {error}") from error
    except ModuleNotFoundError as error:
        reason = f"{error}; add its directory to PYTHONPATH"
        raise InvalidRequestError(f"scheduler {name!r}: cannot import {module_name!r}: {reason}") from error
    except (Exception, SystemExit) as error:  # third-party code runs here
        reason = f"{type(error).__name__}: {error}"
        raise InvalidRequestError(f"scheduler {name!r}: cannot import {module_name!r}: {reason}") from error
    if not (isinstance(factory, type) and issubclass(factory, Scheduler)):
        raise InvalidRequestError(f"scheduler {name!r} is not a subclass of clockwork.scheduling.Scheduler")
    missing = [method for method in REQUIRED if getattr(factory, method) is getattr(Scheduler, method)]
    if missing:
        raise InvalidRequestError(f"scheduler {name!r} does not define {' and '.join(missing)}; a scheduler must")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidRequestError(f"scheduler {name!r} cannot be created without arguments: {reason}") from error
