"""Checks and parses shadows that an operator or a client requests."""

from collections.abc import Iterable, Mapping
from typing import Final

from clockwork.controller.config import ShadowSpec
from clockwork.controller.naming import load_spec
from clockwork.errors import InvalidRequestError
from clockwork.messages.faults import quoted

MAX_SHADOWS: Final = 1000
"""Largest number of models that have a shadow."""

MAX_DIGITS: Final = 18
"""Largest number of digits of a version."""


def check_share(share: float) -> None:
    """Raise InvalidRequestError unless a share is more than 0 and at most 1."""
    if not 0 < share <= 1:
        raise InvalidRequestError(f"share of a shadow is {share:g}; it must be more than 0 and at most 1")


def check_shadows(shadows: Mapping[str, ShadowSpec]) -> None:
    """Check shadows that come from a file.

    Raises:
        InvalidRequestError: a name, a version or a share is wrong, or there are too many shadows.
    """
    if len(shadows) > MAX_SHADOWS:
        raise InvalidRequestError(f"{len(shadows)} models have shadows; the limit is {MAX_SHADOWS}")
    for name, spec in shadows.items():
        load_spec(name, name, 1, 1)  # checks the name
        _check_version(spec.version, f"shadow of model {quoted(name)}")
        check_share(spec.share)


def parse_shadow(text: str) -> tuple[str, ShadowSpec]:
    """Parse a text of the form ``NAME=VERSION:SHARE``, such as ``resnet50=2:0.1``. Return the name and the shadow.

    Raises:
        InvalidRequestError: the text does not have this form, or a part of it is wrong.
    """
    name, equals, rest = text.partition("=")
    version, colon, share = rest.partition(":")
    if not (name and equals and version and colon and share):
        raise InvalidRequestError(f"invalid NAME=VERSION:SHARE {quoted(text)}; example: resnet50=2:0.1")
    load_spec(name, name, 1, 1)  # checks the name
    _check_version(version, quoted(text))
    try:
        number = float(share)
    except ValueError:
        raise InvalidRequestError(
            f"invalid share {quoted(share)} in {quoted(text)}: it must be a number that is more than 0 and at most 1"
        ) from None
    check_share(number)
    return name, ShadowSpec(version, number)


def parse_shadows(texts: Iterable[str]) -> dict[str, ShadowSpec]:
    """Parse texts of the form ``NAME=VERSION:SHARE``. Return the shadows by the name of their model.

    Raises:
        InvalidRequestError: a text is wrong, a model is given twice, or there are too many texts.
    """
    shadows: dict[str, ShadowSpec] = {}
    for text in texts:
        name, spec = parse_shadow(text)
        if name in shadows:
            raise InvalidRequestError(
                f"model {quoted(name)} has the shadows {shadows[name].version} and {spec.version}; give one"
            )
        shadows[name] = spec
    check_shadows(shadows)
    return shadows


def merge_shadows(
    saved: Mapping[str, ShadowSpec], given: Mapping[str, ShadowSpec], given_before: Mapping[str, ShadowSpec]
) -> dict[str, ShadowSpec]:
    """Return the shadows of a restarted controller. If the argument of a model has changed, the new argument applies.

    ``given_before`` contains the arguments of the process that stored the ``saved`` shadows. If a shadow from these
    arguments has ended, it does not begin again.
    """
    changed = {name: spec for name, spec in given.items() if spec != given_before.get(name)}
    return {**saved, **changed}


def _check_version(version: str, where: str) -> None:
    if not version.isascii() or not version.isdigit() or len(version) > MAX_DIGITS:
        raise InvalidRequestError(
            f"invalid version {quoted(version)} in {where}: it must be a number, as of a version's directory"
        )
