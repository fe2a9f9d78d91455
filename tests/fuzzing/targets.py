"""Defines fuzzing targets. These functions pass untrusted bytes to a decoder, and raise only if they find a defect.

Hypothesis calls them in test_targets.py. A coverage-guided fuzzer calls them with ``make fuzz``.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from google.protobuf.message import DecodeError

from clockwork.errors import InvalidRequestError, ProtocolError
from clockwork.grpc_frontend import grpc_service_pb2 as pb
from clockwork.grpc_frontend.infer import parse, request_of, with_payload
from clockwork.grpc_frontend.raw_contents import split
from clockwork.grpc_frontend.scanning import _Scan
from clockwork.messages import requests
from clockwork.messages.tensors import TensorSpec, check_specs
from clockwork.oip.binary import inputs_of, parse_infer
from clockwork.oip.failures import Failure, RequestFailedError
from clockwork.oip.parameters import requested_slo
from clockwork.oip.rest import repository_head, route
from clockwork.repository.overrides import OverrideLimits, config_from_json, load_override
from clockwork.repository.policy import policy_of
from clockwork.runtimes.text_format import parse_text
from clockwork.steps import at_once
from clockwork.wire.codec import decode_action, decode_request, decode_response, decode_result, encode
from clockwork.wire.frame import FrameReader, encode_frame, preamble
from fuzzing.http2_target import HTTP2_SEEDS, http2

DECODERS: Final = (decode_request, decode_response, decode_action, decode_result)
PIECES: Final = 64
"""Largest size of a piece that the first byte of a stream can choose."""


def frames(data: bytes) -> None:
    """Read a stream as a whole and in pieces. Both ways must return the same frames.

    The first byte chooses the size of the pieces. If the stream is refused, frames before the error in the same piece
    are lost. So one way may return fewer frames.
    """
    if not data:
        return
    whole, refused = _frames(data[1:], len(data))
    cut, refused_too = _frames(data[1:], 1 + data[0] % PIECES)
    assert refused == refused_too
    fewer, more = sorted((whole, cut), key=len)
    assert fewer == (more[: len(fewer)] if refused else more)


def _frames(stream: bytes, piece: int) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return the frames, and whether the stream was refused after them."""
    reader = FrameReader(expect_preamble=True)
    found = []
    view = memoryview(stream)
    try:
        while view:
            buffer = reader.get_buffer(-1)
            size = min(len(buffer), len(view), piece)
            assert size > 0, "the reader returns an empty buffer"
            buffer[:size] = view[:size]
            view = view[size:]
            for header, payload in reader.buffer_updated(size):
                found.append((bytes(header), bytes(payload)))
    except ProtocolError:
        return found, True
    return found, False


def messages(data: bytes) -> None:
    """Decode the header of a frame, encode the result, and decode it again. Both results must be equal."""
    for decode in DECODERS:
        with suppress(ProtocolError):
            found = decode(data)
            again = decode(encode(found))
            assert again == found or again != again, (found, again)


def infer_body(data: bytes) -> None:
    """Decode an HTTP inference request. The first two bytes choose the value of Inference-Header-Content-Length."""
    length = int.from_bytes(data[:2], "little")
    with suppress(InvalidRequestError):
        parsed = at_once(parse_infer(data[2:], length - 1 if length else None))
        head = parsed.head
        specs, payload = at_once(inputs_of(parsed))
        check_specs(specs, len(payload))
        slo, _ = requested_slo(head.parameters)
        assert slo is None or slo > 0


def repository(data: bytes) -> None:
    """Decode the body of a repository request."""
    with suppress(RequestFailedError, InvalidRequestError):
        head = repository_head(data)
        assert isinstance(head.ready, bool)


def paths(data: bytes) -> None:
    """Route a path. The result must be an operation or a short error."""
    text = data.decode("utf-8", "replace")
    for method in ("GET", "POST", text[:9]):
        failure = _failure(method, text)
        assert failure is None or (failure.http in (404, 405, 501) and len(failure.message) < 500)


def _failure(method: str, path: str) -> Failure | None:
    try:
        route(method, path)
    except RequestFailedError as error:
        return error.failure
    return None


def grpc_message(data: bytes) -> None:
    """Decode an encoded ModelInferRequest."""
    with suppress(DecodeError, InvalidRequestError):
        _Scan(data).request()
        message, raw = parse(data)
        request, payload = at_once(with_payload(message, raw, request_of(message, raw, 1, None)))
        assert request.slo is None or request.slo > 0
        check_specs(request.inputs, len(payload))


def grpc_fields(data: bytes) -> None:
    """Split the raw tensors from a ModelInferRequest.

    The parts must equal what protobuf parses from the whole message.
    """
    parts = split(data)
    if parts is None:
        return
    whole, rest = _known(data), _known(parts.rest)
    assert (whole is None) == (rest is None)
    if whole is not None and rest is not None:
        assert not rest.raw_input_contents
        assert [bytes(tensor) for tensor in parts.raw] == list(whole.raw_input_contents)
        whole.ClearField("raw_input_contents")
        assert rest.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


def _known(data: bytes) -> pb.ModelInferRequest | None:
    with suppress(DecodeError):
        message: pb.ModelInferRequest = pb.ModelInferRequest.FromString(data)
        return message
    return None


def configuration(data: bytes) -> None:
    """Read a model's configuration in JSON, as in a load request, and in protobuf's text format."""
    text = data.decode("utf-8", "surrogateescape")
    with suppress(InvalidRequestError, ValueError):
        policy_of(config_from_json(text))
    with suppress(ValueError):
        policy_of(parse_text(text))
    with suppress(InvalidRequestError):
        load_override({"config": "{}", f"file:{text}": text}, OverrideLimits())


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "frames": frames,
    "messages": messages,
    "infer_body": infer_body,
    "repository": repository,
    "paths": paths,
    "configuration": configuration,
    "grpc_message": grpc_message,
    "grpc_fields": grpc_fields,
    "http2": http2,
}

_JSON: Final = json.dumps(
    {
        "id": "7",
        "parameters": {"slo_ms": 5, "timeout": 9, "priority": 1, "binary_data_output": True},
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2.5]]},
            {"name": "b", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}},
            {"name": "c", "datatype": "BYTES", "shape": [1], "data": ["é"]},
        ],
        "outputs": [{"name": "y", "parameters": {"classification": 2, "binary_data": False}}],
    }
).encode()
_TENSOR: Final = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
_MESSAGE: Final = requests.InferRequest(3, "m", (TensorSpec("x", "FP32", (1, 2), 8),), 7, None, ("y",))


def _grpc(**more: object) -> bytes:
    message = pb.ModelInferRequest(model_name="m", id="7", **more)  # type: ignore[arg-type]
    message.parameters["slo_ms"].double_param = 5
    message.parameters["timeout"].int64_param = 9
    data: bytes = message.SerializeToString()
    return data


SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "frames": (
        b"\x07" + preamble() + b"".join(bytes(part) for part in encode_frame(encode(_MESSAGE), [bytes(8)])) * 2,
        b"\x00" + preamble(),
    ),
    "messages": (encode(_MESSAGE), encode(requests.StatusRequest(1)), encode(requests.LoadModelRequest(1, "m.onnx"))),
    "infer_body": ((len(_JSON) + 1).to_bytes(2, "little") + _JSON + b"\x01\x02", b"\x00\x00" + _JSON),
    "repository": (b'{"parameters": {"path": "m.onnx"}, "ready": true}',),
    "paths": (b"/v2/models/m/versions/1/infer", b"/v2/cudasharedmemory/region/r/register"),
    "configuration": (
        b'{"maxBatchSize": 8, "version_policy": {"specific": {"versions": ["1", 3]}}}',
        b"max_batch_size: 8 version_policy { latest { num_versions: 2 } } input [ { dims: [ -1, 3 ] } ] # end",
        b"1/model.onnx",
    ),
    "grpc_message": (
        _grpc(inputs=[_TENSOR], raw_input_contents=[bytes(8)]),
        _grpc(inputs=[{**_TENSOR, "contents": {"fp32_contents": [1, 2]}}], outputs=[{"name": "y"}]),
        _grpc(inputs=[{"name": "b", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"a"]}}]),
    ),
    "grpc_fields": (
        _grpc(inputs=[_TENSOR], raw_input_contents=[bytes(8)]),
        _grpc(inputs=[_TENSOR, _TENSOR], raw_input_contents=[bytes(200), b""], outputs=[{"name": "y"}]),
    ),
    "http2": HTTP2_SEEDS,
}
