"""Labels: names that an operator gives to versions, such as ``stable`` and ``canary``. This module is pure.

A request may contain a label in place of a version. A label begins with a letter, so that it cannot be confused with a
version.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from clockwork.controller.naming import LABEL_RULE, MAX_LABELS, is_label, load_spec
from clockwork.errors import InvalidRequestError
from clockwork.messages.faults import MAX_LISTED, quoted
from clockwork.repository.policy import MAX_VERSION

MAX_MODELS: Final = 20_000
"""Largest number of models that have labels."""

_LABEL: Final = re.compile(r"(.+):([^:=]*)=([^:=]*)", re.DOTALL)


class Labels(Struct, frozen=True):
    """The labels of all models. For each model name, a table maps labels to versions."""

    versions: dict[str, dict[str, int]] = {}

    def version(self, model: str, label: str) -> int:
        """Return the version that a label stands for.

        Raises:
            InvalidRequestError: the model has no such label.
        """
        known = self.versions.get(model, {})
        if label not in known:
            names = sorted(known)
            shown = ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "") or "none"
            raise InvalidRequestError(f"model {quoted(model)} has no label {quoted(label)}; its labels: {shown}")
        return known[label]


def parse_labels(texts: Iterable[str]) -> Labels:
    """Parse values of the form ``NAME:LABEL=VERSION``, such as ``resnet50:stable=3``.

    Raises:
        InvalidRequestError: a value does not have this form, a label is given twice, or there are too many labels.
    """
    versions: dict[str, dict[str, int]] = {}
    for text in texts:
        model, label, version = _parse(text)
        labels = versions.setdefault(model, {})
        if label in labels:
            raise InvalidRequestError(
                f"label {label!r} of model {model!r} has the versions {labels[label]} and {version}; give one"
            )
        labels[label] = version
        if len(labels) > MAX_LABELS:
            raise InvalidRequestError(f"model {model!r} has more than {MAX_LABELS} labels, which is the limit")
        if len(versions) > MAX_MODELS:
            raise InvalidRequestError(f"more than {MAX_MODELS} models have labels, which is the limit")
    return Labels(versions)


def _parse(text: str) -> tuple[str, str, int]:
    found = _LABEL.fullmatch(text)
    if found is None:
        raise InvalidRequestError(f"invalid NAME:LABEL=VERSION {quoted(text)}; example: resnet50:stable=3")
    load_spec(found[1], found[1], 1, 1)  # checks the name
    if not is_label(found[2]):
        raise InvalidRequestError(f"invalid label {quoted(found[2])} in {quoted(text)}: {LABEL_RULE}")
    number = found[3]
    if not number.isascii() or not number.isdigit() or len(number) > len(str(MAX_VERSION)):
        raise InvalidRequestError(
            f"invalid version {quoted(number)} in {quoted(text)}: it must be a number, as of a version's directory"
        )
    return found[1], found[2], int(number)
