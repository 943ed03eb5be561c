"""Labels of nodes, and what selects them: the syntax, which is that of Kubernetes. Raises ValueError throughout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aioray.wire.strategies import LabelTerm, Selector

RESERVED = "ray.io/"  # prefix of labels that nodes give themselves
NODE_ID, ACCELERATOR_TYPE = "ray.io/node-id", "ray.io/accelerator-type"
LABELS_ALLOWED = (
    "a dict of keys to values, such as {'region': 'us'}: each up to 63 letters, digits, '-', '_' and '.', the first "
    "and the last of them a letter or digit; a value may be empty, a key may have a prefix such as 'example.com/', "
    f"but not {RESERVED!r}"
)
SELECTOR_ALLOWED = "a dict of keys of labels to 'value', '!value', 'in(a,b)' or '!in(a,b)'"

_MAX_CHARS, _MAX_PREFIX_CHARS = 63, 253
# Not compiled before they are needed, by most programs never.
_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_LIST = r"!?in\(([^()]*)\)"


def checked_labels(labels: Any) -> dict[str, str]:
    """The labels that a user gives a node."""
    if not isinstance(labels, Mapping):
        raise ValueError("not a dict")
    for key, value in labels.items():
        check_key(key)
        if key.startswith(RESERVED):
            raise ValueError(f"{key!r}: {RESERVED} is for labels that nodes give themselves")
        check_value(value)
    return dict(labels)


def check_key(key: Any) -> None:
    """Whether it can be the key of a label, a reserved one included."""
    if not isinstance(key, str):
        raise ValueError(f"{key!r} is no key of a label: not a str")
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > _MAX_PREFIX_CHARS or not re.fullmatch(_PREFIX, prefix)):
        raise ValueError(f"{key!r} is no key of a label: {prefix!r} is no name of a domain")
    if len(name) > _MAX_CHARS or not re.fullmatch(_WORD, name):
        raise ValueError(f"{key!r} is no key of a label: {_what_is_wrong(name)}")


def check_value(value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no value of a label: not a str")
    if value and (len(value) > _MAX_CHARS or not re.fullmatch(_WORD, value)):
        raise ValueError(f"{value!r} is no value of a label: {_what_is_wrong(value)}")


def _what_is_wrong(word: str) -> str:
    if not word:
        return "empty"
    if len(word) > _MAX_CHARS:
        return f"more than {_MAX_CHARS} characters"
    return "letters, digits, '-', '_' and '.', between letters or digits"


def selector_of(given: Any) -> Selector:
    """A `label_selector` as terms, by key: in whatever order it was written, it is the same."""
    if not isinstance(given, Mapping):
        raise ValueError("not a dict")
    for key in given:
        check_key(key)
    return tuple(_term(key, given[key]) for key in sorted(given))


def _term(key: str, condition: Any) -> LabelTerm:
    if not isinstance(condition, str):
        raise ValueError(f"{key}: {condition!r} is not a str")
    listed = re.fullmatch(_LIST, condition)
    negated = condition.startswith("!")
    if listed is not None:
        values = [value.strip() for value in listed[1].split(",")]
        if not all(values):
            raise ValueError(f"{key}: {condition!r} has an empty value")
    else:
        values = [condition.removeprefix("!")]
        if negated and not values[0]:
            raise ValueError(f"{key}: nothing comes after the '!'")
    for value in values:
        try:
            check_value(value)
        except ValueError as exc:
            raise ValueError(f"{key}: {exc}") from None
    return LabelTerm(key, "!in" if negated else "in", tuple(sorted(set(values))))
