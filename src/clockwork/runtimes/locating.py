"""Finds the model file that a path means.

A path is a model file, a directory that holds a file ``model`` with the runtime's suffix, or ``NAME`` or
``NAME/VERSION`` in a model repository like Triton's (the highest version is used). A model file outside the given
directory is rejected, even if a link leads to it. Error messages name files relative to the directory.
"""

from pathlib import Path

from clockwork.errors import InvalidModelError


def locate(path: Path, suffix: str, kind: str) -> Path:
    """Return the model file that a path means. ``kind``: what messages call such a file, with an article.

    Raises:
        InvalidModelError: there is no such file, or it lies outside the path.
    """
    found = path
    if path.is_dir():
        found = _in_directory(path, f"model{suffix}")
        if not found.resolve().is_relative_to(path.resolve()):
            raise InvalidModelError(
                f"{found.relative_to(path)} of model {path.name!r} is a link out of its directory: put the file there"
            )
    elif path.suffix != suffix:
        raise InvalidModelError(
            f"{path.name!r} is not {kind}: expected a {suffix} file, or a directory with model{suffix} "
            f"or VERSION/model{suffix}"
        )
    if not found.is_file():
        raise InvalidModelError(f"model file {found.name!r} does not exist: check the path")
    return found


def _in_directory(path: Path, file: str) -> Path:
    direct = path / file
    if direct.is_dir():
        return direct / file  # Triton's layout of a model with external data
    if direct.exists():
        return direct
    versions = [child for child in path.iterdir() if child.name.isascii() and child.name.isdigit() and child.is_dir()]
    if not versions:
        raise InvalidModelError(
            f"directory {path.name!r} contains neither {file} nor VERSION/{file} with a number as VERSION"
        )
    newest = max(versions, key=lambda version: int(version.name))
    direct = newest / file
    if direct.is_dir():
        direct = direct / file
    if not direct.is_file():
        raise InvalidModelError(
            f"version {newest.name} of model {path.name!r}, its highest, has no {file}: add it or remove the version"
        )
    return direct
