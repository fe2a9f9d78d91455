"""What there is to know about models, in the protocol's messages. Rules of the file: no clock and no I/O."""

from collections.abc import Mapping, Sequence
from typing import Final

from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.infer import VERSION
from clockwork.messages.requests import ModelSummary, ServerStatus
from clockwork.messages.tensors import Datatype, TensorInfo
from clockwork.oip.metadata import BACKEND, PLATFORM

EXTENSIONS: Final = ("model_repository", "model_configuration", "statistics", "parameters")
"""Triton's names of the extensions that are served."""

_TYPES: Final[Mapping[str, str]] = {
    **{str(datatype): f"TYPE_{datatype}" for datatype in Datatype},
    Datatype.BYTES: "TYPE_STRING",
}


def metadata_of(model: ModelSummary) -> pb.ModelMetadataResponse:
    """Names, datatypes and shapes of inputs and outputs; -1 is a free dimension."""
    made = pb.ModelMetadataResponse(name=model.name, versions=[VERSION], platform=PLATFORM)
    for tensors, described in ((model.inputs, made.inputs), (model.outputs, made.outputs)):
        for tensor in tensors:
            described.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return made


def config_of(model: ModelSummary) -> pb.ModelConfigResponse:
    """The configuration that Triton would have: the batch dimension is left out where there is one."""
    first = 1 if model.batchable else 0
    config = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=model.max_batch_size if model.batchable else 0,
        input=[_input(tensor, first) for tensor in model.inputs],
        output=[_output(tensor, first) for tensor in model.outputs],
    )
    return pb.ModelConfigResponse(config=config)


def index_of(server: ServerStatus, serving: bool, ready_only: bool) -> pb.RepositoryIndexResponse:
    """Every model and its state: READY; UNAVAILABLE, and why."""
    made = pb.RepositoryIndexResponse()
    for name in _served(server):
        if serving:
            made.models.add(name=name, version=VERSION, state="READY")
        elif not ready_only:
            made.models.add(name=name, version=VERSION, state="UNAVAILABLE", reason=f"the server is {server.stage}")
    if not ready_only:
        for name, reason in sorted(server.broken.items()):
            made.models.add(name=name, version=VERSION, state="UNAVAILABLE", reason=reason)
    return made


def _served(server: ServerStatus) -> Sequence[str]:
    return sorted(model.info.name for model in server.models if model.info.name not in server.broken)


def _input(tensor: TensorInfo, first: int) -> pb.ModelInput:
    kind = pb.DataType.Value(_TYPES[tensor.datatype])
    return pb.ModelInput(name=tensor.name, data_type=kind, dims=tensor.shape[first:])


def _output(tensor: TensorInfo, first: int) -> pb.ModelOutput:
    kind = pb.DataType.Value(_TYPES[tensor.datatype])
    return pb.ModelOutput(name=tensor.name, data_type=kind, dims=tensor.shape[first:])
