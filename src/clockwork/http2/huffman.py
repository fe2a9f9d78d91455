"""Decodes the Huffman code of HPACK (RFC 7541, section 5.2 and appendix B).

The code is canonical: the codes of one length are successive numbers, in the order of the bytes. So the lengths define
the code. The decoder is a state machine that reads four bits at a time. A state is a node of the code's tree, which
means the bits since the last decoded byte.
"""

from typing import Final

from clockwork.http2.frames import COMPRESSION_ERROR, Http2Error

_CODED: Final = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
    21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5"
    b"\xe7\xef",
    24: b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
    25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f"
    b"\xdc\xf9",
    30: b"\n\r\x16",
}
"""The bytes with a code of each length in bits. The end of string, which must not occur, has the last code."""

_MAX_PADDING: Final = 7
"""Largest number of bits after the last code. All of them are ones."""

_Step = tuple[int, int]


def _leaves() -> dict[str, int]:
    """Return the byte for each code, as a text of zeros and ones."""
    leaves: dict[str, int] = {}
    code = before = 0
    for length, coded in _CODED.items():
        code <<= length - before
        before = length
        for byte in coded:
            leaves[format(code, f"0{length}b")] = byte
            code += 1
    return leaves


def _machine() -> tuple[list[_Step], list[bool]]:
    """Return the steps of the state machine, and for each state whether a text may end in it.

    The step for a state and four bits has the index ``16 * state + bits``. A step has the next state, or -1 for an
    error, and the decoded byte, or -1 if no code ends in these bits. Codes have at least 5 bits.
    """
    leaves = _leaves()
    nodes = {"": 0}
    for code in leaves:
        for size in range(1, len(code)):
            nodes.setdefault(code[:size], len(nodes))
    steps: list[_Step] = []
    for node in nodes:
        for bits in range(16):
            at, decoded = node, -1
            for bit in format(bits, "04b"):
                at += bit
                if at in leaves:
                    at, decoded = "", leaves[at]
            steps.append((nodes.get(at, -1), decoded))
    ends = [len(node) <= _MAX_PADDING and "0" not in node for node in nodes]
    return steps, ends


_STEPS, _ENDS = _machine()


def decode_huffman(data: bytes) -> bytes:
    """Return the text that ``data`` encodes.

    Raises:
        Http2Error: ``data`` is not an encoded text.
    """
    state, decoded, steps = 0, bytearray(), _STEPS
    for byte in data:
        for bits in (byte >> 4, byte & 15):
            state, symbol = steps[state * 16 + bits]
            if symbol >= 0:
                decoded.append(symbol)
            if state < 0:
                raise Http2Error(COMPRESSION_ERROR, "a Huffman code in the headers is invalid")
    if not _ENDS[state]:
        raise Http2Error(COMPRESSION_ERROR, "the padding of a Huffman code in the headers is invalid")
    return bytes(decoded)
