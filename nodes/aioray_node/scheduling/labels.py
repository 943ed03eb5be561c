"""Which labels match which conditions, and both in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioray.wire.strategies import LabelTerm


def holds(term: LabelTerm, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels meets the condition."""
    match term.operator:
        case "in":
            return labels.get(term.key) in term.values
        case "!in":
            return labels.get(term.key) not in term.values
        case "exists":
            return term.key in labels
        case "!exists":
            return term.key not in labels


def matches(terms: Iterable[LabelTerm], labels: Mapping[str, str]) -> bool:
    return all(holds(term, labels) for term in terms)


def terms_in_words(terms: Iterable[LabelTerm]) -> str:
    """Such as "region=us, zone in (a, b), tier!=slow, gpu, !spot"."""
    return ", ".join(map(_term_in_words, terms))


def _term_in_words(term: LabelTerm) -> str:
    if term.operator in ("exists", "!exists"):
        return term.key if term.operator == "exists" else f"!{term.key}"
    negated = term.operator == "!in"
    if len(term.values) == 1:
        return f"{term.key}{'!=' if negated else '='}{term.values[0]}"
    return f"{term.key}{' not' if negated else ''} in ({', '.join(term.values)})"


def labels_in_words(labels: Mapping[str, str], keys: Iterable[str]) -> str:
    """What of `keys` a node has, such as "region=eu, no zone"."""
    return ", ".join(f"{key}={labels[key]}" if key in labels else f"no {key}" for key in dict.fromkeys(keys))
