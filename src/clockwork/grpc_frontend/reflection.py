"""Implements gRPC's server reflection.

The reflection service describes the server's services to clients without a .proto file, such as ``grpcurl``. The
descriptors of this server's messages are in several pools. This module copies the descriptors into one private pool.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from clockwork.grpc_frontend import grpc_service_pb2 as inference
from clockwork.grpc_frontend import health_pb2 as health
from clockwork.grpc_frontend import reflection_pb2 as pb
from clockwork.grpc_frontend.calls import Call
from clockwork.grpc_frontend.incoming import Message
from clockwork.grpc_frontend.replies import CODES
from clockwork.grpc_frontend.service import decode

NAMES: Final = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""The names of the two versions of the reflection service, which have the same messages.

New clients try the second version first. Old clients know only the first version.
"""


class Reflection:
    """Describes services and their messages."""

    def __init__(self, services: Iterable[str]) -> None:
        """Describe ``services`` and the reflection service itself."""
        self._services = sorted([*services, NAMES[0]])
        self._pool = DescriptorPool()
        self._file_of: dict[str, Any] = {}  #: protobuf's own pool does not find methods and fields
        for module in (inference, health, pb):
            serialized = module.DESCRIPTOR.serialized_pb
            proto = FileDescriptorProto.FromString(serialized)
            self._pool.AddSerializedFile(serialized)
            file = self._pool.FindFileByName(proto.name)
            self._file_of.update((f"{proto.package}.{name}", file) for name in _symbols(proto))
        self._answers: dict[str, Callable[[Any], pb.ServerReflectionResponse]] = {
            "file_by_filename": lambda name: _files(self._pool.FindFileByName(name)),
            "file_containing_symbol": lambda symbol: _files(self._file_of[symbol]),
            "file_containing_extension": self._extension,
            "all_extension_numbers_of_type": self._extension_numbers,
            "list_services": self._list,
        }

    async def info(self, messages: AsyncIterator[Message], call: Call) -> AsyncIterator[bytes]:
        """Answer each request of the stream."""
        async for message in messages:
            request = decode(pb.ServerReflectionRequest, message.data)
            kind = request.WhichOneof("message_request")
            try:
                response = self._answers[kind](getattr(request, kind)) if kind else _error("INVALID_ARGUMENT")
            except KeyError:
                response = _error("NOT_FOUND")
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            yield response.SerializeToString()

    def _extension(self, request: pb.ExtensionRequest) -> pb.ServerReflectionResponse:
        extended = self._pool.FindMessageTypeByName(request.containing_type)
        return _files(self._pool.FindExtensionByNumber(extended, request.extension_number).file)

    def _extension_numbers(self, name: str) -> pb.ServerReflectionResponse:
        extended = self._pool.FindMessageTypeByName(name)
        numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(extended))
        found = pb.ExtensionNumberResponse(base_type_name=extended.full_name, extension_number=numbers)
        return pb.ServerReflectionResponse(all_extension_numbers_response=found)

    def _list(self, _: str) -> pb.ServerReflectionResponse:
        services = [pb.ServiceResponse(name=name) for name in self._services]
        return pb.ServerReflectionResponse(list_services_response=pb.ListServiceResponse(service=services))


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


def _files(file: Any) -> pb.ServerReflectionResponse:
    """Return the descriptors of a file and of all files that it imports."""
    found = {file.name: file}
    for each in (files := [file]):  # the loop appends to this list
        files += [imported for imported in each.dependencies if imported.name not in found]
        found |= {imported.name: imported for imported in each.dependencies}
    protos = [each.serialized_pb for each in found.values()]
    return pb.ServerReflectionResponse(file_descriptor_response=pb.FileDescriptorResponse(file_descriptor_proto=protos))


def _error(code: str) -> pb.ServerReflectionResponse:
    text = code.lower().replace("_", " ")
    return pb.ServerReflectionResponse(error_response=pb.ErrorResponse(error_code=CODES[code], error_message=text))
