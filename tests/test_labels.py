"""The syntax of labels and selectors, and what stands for a strategy on the wire."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.exceptions import InvalidOptionError
from aioray.ids import NodeID
from aioray.labels import checked_labels, selector_of
from aioray.options import actor_options, task_options
from aioray.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)
from aioray.wire.strategies import Affinity, LabelTerm, Strategy


@pytest.mark.parametrize(
    "labels",
    [{}, {"region": "us"}, {"a": ""}, {"A-b_c.d": "x" * 63}, {"example.com/zone": "1"}, {"x" * 63: "9"}],
)
def test_labels_that_are_fine_are_taken_as_they_are(labels: dict[str, str]) -> None:
    assert checked_labels(labels) == labels


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (["a"], "not a dict"),
        ({1: "a"}, "not a str"),
        ({"a": 1}, "not a str"),
        ({"": "a"}, "empty"),
        ({"a/": "a"}, "empty"),
        ({"-a": "a"}, "between letters or digits"),
        ({"a": "a."}, "between letters or digits"),
        ({"a": "two words"}, "between letters or digits"),
        ({"a": "a\n"}, "between letters or digits"),
        ({"x" * 64: "a"}, "more than 63"),
        ({"a": "x" * 64}, "more than 63"),
        ({"Example.com/a": "a"}, "no name of a domain"),
        ({"/a": "a"}, "no name of a domain"),
        ({"a/b/c": "a"}, "no name of a domain"),
        ({"ray.io/node-id": "a"}, "give themselves"),
    ],
)
def test_labels_that_are_not_say_what_is_wrong(labels: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        checked_labels(labels)


def test_a_selector_is_the_same_however_it_is_written() -> None:
    terms = (
        LabelTerm("a", "in", ("1",)),
        LabelTerm("b", "!in", ("2",)),
        LabelTerm("c", "in", ("3", "4")),
        LabelTerm("d", "!in", ("5", "6")),
        LabelTerm("ray.io/node-id", "in", ("",)),
    )
    one = {"a": "1", "b": "!2", "c": "in(3,4)", "d": "!in(5,6)", "ray.io/node-id": ""}
    other = {"ray.io/node-id": "", "d": "!in( 6, 5, 6 )", "c": "in(4, 3)", "b": "!2", "a": "in(1)"}
    assert selector_of(one) == selector_of(other) == terms


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=12) | st.none() | st.integers(), max_size=3))
def test_whatever_is_given_is_a_selector_or_a_value_error(given: Any) -> None:
    try:
        terms = selector_of(given)
    except ValueError:
        return
    assert [term.key for term in terms] == sorted(given)
    assert all(term.values for term in terms)


def test_options_become_one_strategy_or_none() -> None:
    for options_of in (task_options, actor_options):
        assert options_of({}).strategy() is None
        assert options_of({"scheduling_strategy": "DEFAULT", "label_selector": {}}).strategy() is None
        assert options_of({"scheduling_strategy": "SPREAD"}).strategy() == Strategy(spread=True)
        selected = options_of(
            {
                "label_selector": {"a": "1"},
                "fallback_strategy": [{"label_selector": {"a": "!2"}}, {"label_selector": {}}],
            }
        )
        terms = LabelTerm("a", "in", ("1",)), LabelTerm("a", "!in", ("2",))
        assert selected.strategy() == Strategy(selectors=((terms[0],), (terms[1],), ()))
        assert options_of({"label_selector": None, "fallback_strategy": None}, selected).strategy() is None  # type: ignore[arg-type]


def test_objects_for_the_option_are_compared_shown_and_pickled() -> None:
    near = NodeAffinitySchedulingStrategy("0123456789abcdef", soft=True, _spill_on_unavailable=True)
    assert near.__aioray_strategy__() == Strategy(affinity=Affinity("0123456789abcdef", True, True))
    assert NodeAffinitySchedulingStrategy(NodeID.from_hex("0123456789abcdef"), False).node_id == "0123456789abcdef"
    labels = NodeLabelSchedulingStrategy(
        {"gpu": Exists(), "zone": In("b", "a")}, soft={"spot": DoesNotExist(), "tier": NotIn("x")}
    )
    assert labels.__aioray_strategy__() == Strategy(
        required=(LabelTerm("gpu", "exists"), LabelTerm("zone", "in", ("a", "b"))),
        preferred=(LabelTerm("spot", "!exists"), LabelTerm("tier", "!in", ("x",))),
    )
    for strategy in (near, labels):
        options = task_options({"scheduling_strategy": strategy})
        again = pickle.loads(pickle.dumps(options))
        assert again == options
        assert hash(again.strategy()) == hash(options.strategy())
        assert again.strategy() == options.strategy() == strategy.__aioray_strategy__()
    assert repr(labels.hard["zone"]) == "In('b', 'a')"
    assert "soft=True" in repr(near)
    assert near != labels


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: NodeAffinitySchedulingStrategy("here", True), "node_id"),
        (lambda: NodeAffinitySchedulingStrategy("", True), "node_id"),
        (lambda: NodeAffinitySchedulingStrategy(None, True), "node_id"),  # type: ignore[arg-type]
        (lambda: NodeAffinitySchedulingStrategy("ab", "yes"), "soft"),  # type: ignore[arg-type]
        (lambda: NodeAffinitySchedulingStrategy("ab", False, _spill_on_unavailable=True), "_spill_on_unavailable"),
        (lambda: NodeAffinitySchedulingStrategy("ab", True, _fail_on_unavailable=True), "_fail_on_unavailable"),
        (lambda: In(), "In"),
        (lambda: In("a", 1), "In"),  # type: ignore[arg-type]
        (lambda: NotIn("two words"), "NotIn"),
        (lambda: NodeLabelSchedulingStrategy({}), "hard"),
        (lambda: NodeLabelSchedulingStrategy(["a"]), "hard"),  # type: ignore[arg-type]
        (lambda: NodeLabelSchedulingStrategy({"a": "b"}), "hard"),  # type: ignore[dict-item]
        (lambda: NodeLabelSchedulingStrategy({"a": Exists()}, soft={"": Exists()}), "soft"),
    ],
)
def test_objects_for_the_option_refuse_what_makes_no_sense(make: Any, option: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        make()
    assert caught.value.option == option
    assert caught.value.allowed in str(caught.value)
