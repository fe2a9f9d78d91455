"""The common part of the HTTP and gRPC front ends: serves requests of the Open Inference Protocol, without a transport.

A transport turns bytes into calls of `FrontEnd`, and results and errors back into bytes. `FrontEnd` reaches the
controller, which runs in the same process, through a `LocalClient`.
"""

from clockwork.frontend.failures import failure_of_error, failure_of_shed
from clockwork.frontend.front_end import FrontEnd
from clockwork.frontend.listing import ListFormat

__all__ = ["FrontEnd", "ListFormat", "failure_of_error", "failure_of_shed"]
