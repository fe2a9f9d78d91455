"""Implements gRPC's server reflection.

The reflection service describes the server's services to clients without a .proto file, such as ``grpcurl``. The
descriptors of this server's messages are in several pools. This module copies the descriptors into one private pool.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend import health_pb2 as health

NAMES: Final = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
"""The names of the two versions of the reflection service, which have the same messages.

New clients try the second version first. Old clients know only the first version.
"""


class _Pool:
    """A descriptor pool that finds every symbol of its files. protobuf's own pool does not find methods and fields."""

    def __init__(self) -> None:
        self._pool = DescriptorPool()
        self._files: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def add(self, serialized: bytes) -> None:
        proto = FileDescriptorProto.FromString(serialized)
        self._pool.AddSerializedFile(serialized)
        file = self._pool.FindFileByName(proto.name)
        self._files.update((f"{proto.package}.{name}", file) for name in _symbols(proto))

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - protobuf's name
        return self._files[symbol]


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Yield the names of all symbols that a file defines, without the name of the file's package."""
    for service in file.service:
        yield service.name
        yield from (f"{service.name}.{method.name}" for method in service.method)
    messages = [("", message) for message in file.message_type]
    enums = [("", enum) for enum in file.enum_type]
    for scope, message in messages:  # the loop appends nested messages to this list
        name = f"{scope}{message.name}"
        yield name
        yield from (f"{name}.{member.name}" for member in (*message.field, *message.oneof_decl))
        messages += [(f"{name}.", nested) for nested in message.nested_type]
        enums += [(f"{name}.", enum) for enum in message.enum_type]
    for scope, enum in enums:
        yield f"{scope}{enum.name}"
        yield from (f"{scope}{value.name}" for value in enum.value)  # the official name lacks the enum's name
        yield from (f"{scope}{enum.name}.{value.name}" for value in enum.value)  # some clients include the enum's name


def reflecting(services: Iterable[str]) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return the handlers of the reflection service.

    The handlers describe ``services`` and the reflection service itself.
    """
    pool = _Pool()
    for file in (pb.DESCRIPTOR, health.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.add(file.serialized_pb)
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
