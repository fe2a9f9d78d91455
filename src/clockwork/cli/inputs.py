"""Reads a model's inputs from .npy files, .json files and images.

The model's description of an input defines the type and the number of dimensions of the array. Numbers are converted to
this type if the conversion loses nothing except precision. A missing batch dimension is added. Errors name the file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from clockwork.arrays import Array, dtype_of
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import ModelSummary
from clockwork.messages.tensors import Datatype, TensorInfo

IMAGES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Suffixes of image files, which Pillow reads."""

CHANNELS: Final = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for each number of channels of an input."""


def read_inputs(model: ModelSummary, files: Sequence[str]) -> dict[str, Array]:
    """Read all inputs of a model from files. Each element of ``files`` is ``FILE`` or ``NAME=FILE``.

    Raises:
        InvalidRequestError: a file cannot be read, its content does not fit, or an input is missing or given twice.
    """
    arrays: dict[str, Array] = {}
    for text in files:
        name, path = _split(text, model)
        for key, value in _read(path, name, model).items():
            if key in arrays:
                raise InvalidRequestError(f"input {key!r} is given twice; give each input once")
            arrays[key] = value
    for info in model.inputs:
        if info.name not in arrays and not info.optional:
            raise InvalidRequestError(f"input {info.name!r} is missing; {_takes(model)} (add --input NAME=FILE)")
    return arrays


def _split(text: str, model: ModelSummary) -> tuple[str, Path]:
    """Split ``NAME=FILE`` into name and path. If the whole text is an existing path, the name is empty."""
    name, equals, rest = text.partition("=")
    if not equals or Path(text).exists():
        return "", Path(text)
    _info(name, model)
    return name, Path(rest)


def _takes(model: ModelSummary) -> str:
    return f"model {model.name} takes {', '.join(info.describe() for info in model.inputs)}"


def _info(name: str, model: ModelSummary) -> TensorInfo:
    for info in model.inputs:
        if info.name == name:
            return info
    raise InvalidRequestError(f"input {name!r} is unknown; {_takes(model)}")


def _read(path: Path, name: str, model: ModelSummary) -> dict[str, Array]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = _json(path)
        if not name and isinstance(content, dict):
            return {key: _fitted(_info(key, model), data, path) for key, data in _by_name(content, path).items()}
        info = _named_or_only(name, model, path)
        return {info.name: _fitted(info, content, path)}
    info = _named_or_only(name, model, path)
    if suffix == ".npy":
        try:
            return {info.name: _fitted(info, np.load(path, allow_pickle=False), path)}
        except (OSError, ValueError, EOFError) as error:
            raise _unreadable(path, error) from None
    if suffix in IMAGES:
        return {info.name: _image(info, path)}
    raise InvalidRequestError(f"{path} has an unknown suffix; give a .npy, a .json or an image ({', '.join(IMAGES)})")


def _named_or_only(name: str, model: ModelSummary, path: Path) -> TensorInfo:
    if name:
        return _info(name, model)
    required = [info for info in model.inputs if not info.optional] or model.inputs
    if len(required) != 1:
        raise InvalidRequestError(f"input of {path} is ambiguous; {_takes(model)} (write NAME={path})")
    return required[0]


def _unreadable(path: Path, error: Exception) -> InvalidRequestError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InvalidRequestError(f"cannot read {path}: {reason}")


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise _unreadable(path, error) from None


def _by_name(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the data of each input by its name.

    ``content`` is an object with a list for each input, or a request of the Open Inference Protocol v2.
    """
    tensors = content.get("inputs")
    if not (isinstance(tensors, list) and tensors and all(isinstance(tensor, dict) for tensor in tensors)):
        return content
    try:
        return {tensor["name"]: np.asarray(tensor["data"]).reshape(tensor["shape"]) for tensor in tensors}
    except KeyError as error:
        raise InvalidRequestError(
            f"{path}: an input has no {error}; each needs name, shape, datatype and data"
        ) from None
    except (TypeError, ValueError) as error:
        raise _misfit(path, error) from None


def _misfit(path: Path, error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"{path} does not contain a tensor: {error}")


def _fitted(info: TensorInfo, data: Any, path: Path) -> Array:
    """Convert the data to an array of the input's type, and add a batch dimension if it is missing."""
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise _misfit(path, error) from None
    if info.datatype == Datatype.BYTES:
        array = array.astype(object)
    else:
        array = _converted(info, array, path)
    return array[np.newaxis] if array.ndim == len(info.shape) - 1 else array


def _converted(info: TensorInfo, array: Array, path: Path) -> Array:
    dtype = dtype_of(info.datatype)
    integers = array.dtype.kind in "iu" and dtype.kind in "iu"
    if array.size and not (_holds(dtype, array) if integers else np.can_cast(array.dtype, dtype, "same_kind")):
        raise InvalidRequestError(f"{path} contains {_range(array)}; convert the file to {info.describe()}")
    return array.astype(dtype)


def _range(array: Array) -> str:
    return f"{array.dtype} from {array.min()} to {array.max()}" if array.dtype.kind in "iuf" else str(array.dtype)


def _holds(dtype: np.dtype[Any], array: Array) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= array.min() and array.max() <= limits.max)


def _image(info: TensorInfo, path: Path) -> Array:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InvalidRequestError(
            "images need Pillow, which is not installed; run: pip install pillow, or give a .npy"
        ) from None
    channels, height, width, channels_first = _layout(info, path)
    try:
        with Image.open(path) as opened:
            picture = opened.convert(CHANNELS[channels])
    except (OSError, UnidentifiedImageError) as error:
        raise _unreadable(path, error) from None
    target = (width if width > 0 else picture.width, height if height > 0 else picture.height)
    pixels = np.asarray(picture.resize(target, Image.Resampling.BILINEAR)).reshape(target[1], target[0], channels)
    if channels_first:
        pixels = pixels.transpose(2, 0, 1)
    dtype = dtype_of(info.datatype)
    scaled = pixels.astype(dtype) if dtype.kind in "iu" else (pixels / 255).astype(dtype)
    return np.ascontiguousarray(scaled[np.newaxis])


def _layout(info: TensorInfo, path: Path) -> tuple[int, int, int, bool]:
    """Return the number of channels, the height and the width of an image input.

    The last value is true if the shape is (N, C, H, W), and false if it is (N, H, W, C).
    """
    if len(info.shape) == 4 and info.datatype != Datatype.BYTES:
        _, first, second, third = info.shape
        if first in CHANNELS:
            return first, second, third, True
        if third in CHANNELS:
            return third, first, second, False
    raise InvalidRequestError(f"{path} is an image, which input {info.describe()} cannot take; give a .npy or a .json")
