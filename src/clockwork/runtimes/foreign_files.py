"""Recognises files of other formats that users often pass by mistake instead of a model, by their first bytes."""

from typing import Final

from clockwork.units import Bytes

HEAD_BYTES: Final[Bytes] = 512
"""Number of bytes at the start of a file that `recognise` needs."""

_LFS: Final = b"version https://git-lfs.github.com/spec/"

_STARTS: Final = (
    (_LFS, "is a Git LFS pointer, which stands for the file: fetch the file with git lfs pull"),
    (b"version https://hawser.github.com/spec/", "is a Git LFS pointer: fetch the file with git lfs pull"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it with gunzip"),
    (b"BZh", "is compressed with bzip2: unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "is compressed with xz: unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it"),
    (b"PK\x03\x04", "is a zip archive, such as PyTorch and Keras write: export the model to this format"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, such as Keras writes: convert the model"),
    (b"\x93NUMPY", "is a NumPy array, not a model"),
    (b"\x80\x02", "is a Python pickle, such as PyTorch and scikit-learn write: export the model to this format"),
    (b"\x80\x03", "is a Python pickle, such as scikit-learn writes: export the model to this format"),
    (b"\x80\x04", "is a Python pickle, such as scikit-learn writes: export the model to this format"),
    (b"\x80\x05", "is a Python pickle, such as scikit-learn writes: export the model to this format"),
    (b"GGUF", "is a GGUF file, such as llama.cpp reads: convert the model"),
    (b"\x7fELF", "is a program or library, not a model"),
)
_AT: Final = (
    (4, b"TFL3", "is a TensorFlow Lite model: convert it, for example with tf2onnx"),
    (4, b"ORTM", "is a model in ONNX Runtime's own format: use the .onnx file that it was made from"),
    (257, b"ustar", "is a tar archive: unpack it"),
)
_TEXTS: Final = (
    ((b"<!doctype html", b"<html"), "is an HTML page, perhaps an error page: download the file itself"),
    ((b"<?xml", b"<error"), "is an XML document, perhaps an error message of a store: download the file itself"),
    ((b"{", b"["), "is a JSON document, not a model: check the download"),
)


def recognise(head: bytes) -> str:
    """Return a text such as ``is compressed with gzip: unpack it``, or an empty text if the format is unknown.

    ``head`` contains the first `HEAD_BYTES` of the file, or the whole file if it is shorter.
    """
    if not head:
        return "is empty: check the download"
    for start, text in _STARTS:
        if head.startswith(start):
            return text
    for position, mark, text in _AT:
        if head[position : position + len(mark)] == mark:
            return text
    trimmed = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"\x00" not in trimmed:
        for starts, text in _TEXTS:
            if trimmed.startswith(starts):
                return text
    return ""
