"""Configures gRPC's C core for a server that handles all calls in one thread.

By default, the core has its own threads that read the sockets. These threads pass calls to the thread of the completion
queue, and that thread passes the calls to the event loop. If the core's experiment ``event_engine_listener`` is off,
the thread of the completion queue reads the sockets itself. Without the experiment, a small call takes 18 % less
processor time, and a call with 602,112 bytes takes 0.1 ms less.
"""

import os
from collections.abc import MutableMapping
from typing import Final

import grpc

EXPERIMENTS: Final = "GRPC_EXPERIMENTS"
"""The environment variable that turns the core's experiments on and off. The core reads the variable once, when the
core starts.

If the operator has set the variable, Clockwork does not change it.
"""

NEWEST_MEASURED: Final = (1, 85)
"""The newest release of grpcio with which the effect was measured. Later releases may not have the experiment."""


def read_sockets_in_one_thread(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Set the environment variable, and return whether this function set it.

    The variable is not changed if it is set already, or if this release of grpcio is newer than `NEWEST_MEASURED`. The
    setting has no effect if the process has already used gRPC.
    """
    major, minor, *_ = grpc.__version__.split(".")
    if (int(major), int(minor)) > NEWEST_MEASURED or EXPERIMENTS in environment:
        return False
    environment[EXPERIMENTS] = "-event_engine_listener"
    return True
