"""Server reflection, with which ``grpcurl`` and other clients without a .proto file learn the services and methods.

The descriptors of this server's messages are in separate pools; this module copies them into one private pool.
"""

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend import health_pb2 as health

NAMES: Final = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
"""Two versions of the service with the same messages. New clients try the second one first; old ones know only the
first."""


def reflecting(services: Iterable[str]) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return the handlers that describe ``services`` and the reflection service."""
    pool = DescriptorPool()
    for file in (pb.DESCRIPTOR, health.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    servicer = reflection.aio.ReflectionServicer([*services, reflection.SERVICE_NAME], pool)
    info = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        _serialized,
    )
    return tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": info}) for name in NAMES)


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
