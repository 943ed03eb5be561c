"""Every public name has a test that shows what it does: the table of `shown.py` is whole, and its tests are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import shown, test_api_names
from tests.mentions import mentioned

ROOT = Path(__file__).parent.parent


def rows(area: dict[str, dict[str, str]]) -> list[tuple[str, str, str]]:
    """Where a name is from, the name, and its test."""
    return [
        (owner, name, test) for owner, tests in area.items() for test, names in tests.items() for name in names.split()
    ]


@pytest.mark.parametrize(("owner", "name", "test"), rows(shown.NAMES) + rows(shown.MEMBERS) + rows(shown.OPTIONS))
def test_a_name_is_mentioned_by_the_test_that_shows_it(owner: str, name: str, test: str) -> None:
    words = mentioned(test)  # a KeyError: there is no such test
    assert name in words or (owner.endswith("Context") and name.removeprefix("get_") in words), f"{owner}.{name}"


def test_every_name_has_one_test() -> None:
    named = [(owner, name) for owner, name, _ in rows(shown.NAMES)]
    never_raised = [("aioray.exceptions", name) for name in shown.NEVER_RAISED.split()]
    assert sorted(named + never_raised) == sorted(test_api_names.pairs(test_api_names.PRESENT))


def test_every_member_has_one_test() -> None:
    known = test_api_names.pairs(test_api_names.MEMBERS)
    assert sorted((owner, name) for owner, name, _ in rows(shown.MEMBERS)) == sorted(known)


def test_every_option_that_is_not_refused_has_one_test() -> None:
    known = [("init", name) for name in test_api_names.INIT]
    known += [("task", name) for name in test_api_names.OF_BOTH + test_api_names.OF_TASKS]
    known += [("actor", name) for name in test_api_names.OF_ACTORS]
    not_refused = [(owner, name) for owner, name in known if not test_api_names.is_refused(owner, name)]
    assert sorted((owner, name) for owner, name, _ in rows(shown.OPTIONS)) == sorted(not_refused)


def test_errors_that_nothing_raises_are_raised_by_nothing() -> None:
    """When this fails because one is raised now: give it a row, with a test that shows when."""
    sources = [*(ROOT / "aioray").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources if path.parent.name != "exceptions")
    assert [name for name in shown.NEVER_RAISED.split() if name in text] == []


def test_what_a_test_uses_is_mentioned_by_it_and_docstrings_are_not() -> None:
    """As NoSuchName is not."""
    words = mentioned("tests/test_shown.py::test_errors_that_nothing_raises_are_raised_by_nothing")
    assert {"shown", "NEVER_RAISED", "read_text", "exceptions", "Path"} <= words
    assert "when" not in words
