"""Which file a path means.

Rules of the file: a path is a file with the runtime's suffix, a directory with a ``model`` of that suffix, or a
repository's ``NAME`` or ``NAME/VERSION``, as with Triton (the highest version is taken). Nothing outside the directory
that was named is meant, wherever links lead. Messages name files relative to it.
"""

from pathlib import Path

from clockwork.errors import InvalidModelError


def locate(path: Path, suffix: str, kind: str) -> Path:
    """The model file that a path means; ``suffix`` is that of its kind, which is called ``kind`` in messages.

    Raises:
        InvalidModelError: there is none, or it lies outside the path.
    """
    found = path
    if path.is_dir():
        found = _in_directory(path, f"model{suffix}")
        if not found.resolve().is_relative_to(path.resolve()):
            raise InvalidModelError(
                f"{found.relative_to(path)} of model {path.name!r} leads out of its directory: put the file there"
            )
    elif path.suffix != suffix:
        raise InvalidModelError(
            f"{path.name!r} is no {kind}: expected a {suffix} file, or a directory with model{suffix} "
            f"or VERSION/model{suffix}"
        )
    if not found.is_file():
        raise InvalidModelError(f"there is no model file {found.name!r}: check the path")
    return found


def _in_directory(path: Path, file: str) -> Path:
    direct = path / file
    if direct.is_dir():
        return direct / file  # Triton's form of a model with external data
    if direct.exists():
        return direct
    versions = [it for it in path.iterdir() if it.name.isascii() and it.name.isdigit() and it.is_dir()]
    if not versions:
        raise InvalidModelError(
            f"directory {path.name!r} holds neither {file} nor a VERSION/{file} with a number as version"
        )
    newest = max(versions, key=lambda it: int(it.name))
    direct = newest / file
    if direct.is_dir():
        direct = direct / file
    if not direct.is_file():
        raise InvalidModelError(
            f"version {newest.name} of model {path.name!r}, its highest, has no {file}: add it, or remove the version"
        )
    return direct
