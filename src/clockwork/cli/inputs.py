"""Files as a model's inputs: .npy, .json, and images.

Rules of the file: what the model says of an input decides the array's type and rank. Numbers are converted where
nothing but precision is lost; a missing batch dimension is added. Errors name the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from clockwork.arrays import Array, dtype_of
from clockwork.errors import InvalidRequestError
from clockwork.messages.requests import ModelSummary
from clockwork.messages.tensors import Datatype, TensorInfo

IMAGES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""What Pillow is asked to read."""

CHANNELS: Final = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's modes by the number of channels that a model takes."""


def read_inputs(model: ModelSummary, files: Sequence[str]) -> dict[str, Array]:
    """All inputs of a model from files, each given as ``FILE`` or ``NAME=FILE``.

    Raises:
        InvalidRequestError: a file cannot be read or does not fit, or an input is missing or given twice.
    """
    wanted = {info.name: info for info in model.inputs}
    arrays: dict[str, Array] = {}
    for given in files:
        name, path = _split(given, wanted)
        for key, value in _read(path, name, wanted).items():
            if key in arrays:
                raise InvalidRequestError(f"input {key!r} is given twice")
            arrays[key] = value
    missing = [info.describe() for info in model.inputs if info.name not in arrays]
    if missing:
        raise InvalidRequestError(f"{model.name} also needs {', '.join(missing)}: add --input NAME=FILE")
    return arrays


def _split(given: str, wanted: Mapping[str, TensorInfo]) -> tuple[str, Path]:
    """``NAME=FILE``, unless the whole is a file."""
    name, equals, rest = given.partition("=")
    if not equals or Path(given).exists():
        return "", Path(given)
    _known(name, wanted)
    return name, Path(rest)


def _known(name: str, wanted: Mapping[str, TensorInfo]) -> TensorInfo:
    info = wanted.get(name)
    if info is None:
        raise InvalidRequestError(f"the model has no input {name!r}; it has {', '.join(wanted)}")
    return info


def _read(path: Path, name: str, wanted: Mapping[str, TensorInfo]) -> dict[str, Array]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = _json(path)
        if not name and isinstance(content, dict):
            return {key: _fitted(_known(key, wanted), data, path) for key, data in _by_name(content, path).items()}
        info = _meant(name, wanted, path)
        return {info.name: _fitted(info, content, path)}
    info = _meant(name, wanted, path)
    if suffix == ".npy":
        try:
            return {info.name: _fitted(info, np.load(path, allow_pickle=False), path)}
        except (OSError, ValueError, EOFError) as error:
            raise _unreadable(path, error) from None
    if suffix in IMAGES:
        return {info.name: _image(info, path)}
    raise InvalidRequestError(f"{path}: give a .npy, a .json or an image ({', '.join(IMAGES)})")


def _meant(name: str, wanted: Mapping[str, TensorInfo], path: Path) -> TensorInfo:
    if name:
        return wanted[name]
    if len(wanted) != 1:
        raise InvalidRequestError(f"which input is {path}? The model has {', '.join(wanted)}: write NAME={path}")
    return next(iter(wanted.values()))


def _unreadable(path: Path, error: Exception) -> InvalidRequestError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InvalidRequestError(f"{path} cannot be read: {reason}")


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise _unreadable(path, error) from None


def _by_name(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """An object of lists by name, or an Open Inference Protocol v2 request."""
    tensors = content.get("inputs")
    if not (isinstance(tensors, list) and tensors and all(isinstance(it, dict) for it in tensors)):
        return content
    try:
        return {it["name"]: np.asarray(it["data"]).reshape(it["shape"]) for it in tensors}
    except KeyError as error:
        raise InvalidRequestError(
            f"{path}: an input without {error}; each has name, shape, datatype and data"
        ) from None
    except (TypeError, ValueError) as error:
        raise _misfit(path, error) from None


def _misfit(path: Path, error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"{path} holds no tensor: {error}")


def _fitted(info: TensorInfo, data: Any, path: Path) -> Array:
    """The data with the input's type, and its batch dimension."""
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
        raise InvalidRequestError(f"{path} holds {_range(array)}; the input is {info.describe()}: convert it")
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
        raise InvalidRequestError("images need the package pillow: pip install pillow, or give a .npy") from None
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
    """Channels, height, width, and whether channels come first (N, C, H, W) or last (N, H, W, C)."""
    if len(info.shape) == 4 and info.datatype != Datatype.BYTES:
        _, first, second, third = info.shape
        if first in CHANNELS:
            return first, second, third, True
        if third in CHANNELS:
            return third, first, second, False
    raise InvalidRequestError(f"{path} is an image, and the input {info.describe()} takes none: give a .npy or a .json")
