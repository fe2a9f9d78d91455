"""The code that the HTTP and gRPC front ends share. This package serves requests of the Open Inference Protocol.

A transport (HTTP or gRPC) decodes bytes and calls the methods of `FrontEnd`. The transport then encodes the results and
errors. `FrontEnd` uses a `LocalClient` to send requests to the controller, which runs in the same process.
"""

from clockwork.frontend.failures import failure_of_error, failure_of_shed
from clockwork.frontend.front_end import FrontEnd
from clockwork.frontend.listing import ListFormat

__all__ = ["FrontEnd", "ListFormat", "failure_of_error", "failure_of_shed"]
