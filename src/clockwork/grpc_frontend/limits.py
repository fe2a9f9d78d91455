"""Limits of the gRPC server that cannot be configured."""

from typing import Final

from clockwork.grpc_frontend.infer import MAX_PAYLOAD_BYTES
from clockwork.grpc_frontend.scanning import MAX_DESCRIPTION
from clockwork.units import GIB, KIB, MIB, SECOND, Bytes, Nanos

MAX_REQUEST_BYTES: Final[Bytes] = MAX_PAYLOAD_BYTES + MAX_DESCRIPTION + MIB
"""Largest message in bytes that the server receives. A longer message ends its call with RESOURCE_EXHAUSTED.

The limit is the sum of the limits on raw tensors and on the rest of a request, plus 1 MiB. So a request that is only
slightly too large is parsed, and its error is clearer.
"""

MAX_RESPONSE_BYTES: Final[Bytes] = 256 * MIB
"""Largest message in bytes that the server sends. A longer message ends its call with RESOURCE_EXHAUSTED."""

MAX_RECEIVED: Final[Bytes] = 2 * GIB
"""Limit on the bytes of all messages that are being received or wait, in all connections together."""

MAX_WAITING: Final[Bytes] = 2 * GIB
"""Limit on the bytes of all responses that wait until their clients read, in all connections together.

A response that would have to wait beyond the limit is dropped, and its call ends with RESOURCE_EXHAUSTED.
"""

MAX_UNPACKED: Final[Bytes] = 64 * MIB
"""Largest message in bytes after it is decompressed. All decompressed messages together may take twice as much."""

MAX_CALLS: Final = 4096
"""Largest number of ModelInfer calls that are served at a time. Further calls end with RESOURCE_EXHAUSTED.

The same limit applies to all streams together, and to the calls of all other methods together. So clients with many
idle streams cannot prevent health checks.
"""

MAX_STREAMS: Final = 256
"""Largest number of calls at a time on one connection. The client must queue further calls."""

MAX_METADATA_BYTES: Final[Bytes] = 8 * KIB
"""Largest size in bytes of a call's metadata. If the metadata is larger, the call ends with RESOURCE_EXHAUSTED.

Each entry counts as its length plus 32 bytes, because HTTP/2 can encode a repeated entry as one byte.
"""

UPLOAD_TIME: Final[Nanos] = 600 * SECOND
"""Time in nanoseconds in which a client must send the whole message of an inference request."""

WRITE_TIMEOUT: Final = 60.0
"""Time in seconds in which a client must read each MiB of the responses.

The time also applies to each response that waits for the windows of HTTP/2.
"""

RESET_DELAY: Final = 0.1
"""Time in seconds in which a client may read a response before the server resets its unfinished request."""

IDLE: Final[Nanos] = 600 * SECOND
"""Time in nanoseconds after which the server closes a connection without calls. Clients reconnect when necessary."""

HANDSHAKE: Final[Nanos] = 10 * SECOND
"""Time limit in nanoseconds for the TLS handshake, for the beginning of HTTP/2, and for the reply to a ping."""

GRACE: Final = 1.0
"""Time in seconds in which calls can finish when the server ends."""
