from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.labels import selector_of
from aioray.wire.strategies import Affinity, LabelTerm, Selector, Strategy
from aioray_node.scheduling.devices import Devices
from aioray_node.scheduling.labels import holds, labels_in_words, matches, terms_in_words
from aioray_node.scheduling.policy import (
    PACK_UNTIL,
    TOP_FRACTION,
    Chosen,
    Decision,
    Here,
    Infeasible,
    NodeView,
    Wait,
    Wish,
    choose,
    strategy_in_words,
)
from aioray_node.scheduling.resources import UNIT, NodeResources, from_floats


def node(labels: dict[str, str] | None = None, *, used: dict[str, float] | None = None, **total: float) -> NodeView:
    resources = NodeResources(from_floats(total or {"CPU": 4}))
    resources.acquire(from_floats(used or {}))
    return NodeView(resources, labels or {})


def wish(strategy: Strategy | None = None, nbytes: dict[str, int] | None = None, **demand: float) -> Wish:
    return Wish(from_floats(demand or {"CPU": 1}), strategy, nbytes or {})


def selectors(*given: dict[str, str]) -> Strategy:
    return Strategy(selectors=tuple(map(selector_of, given)))


A = Here("a")


# labels


@pytest.mark.parametrize(
    ("term", "met_by"),
    [
        (LabelTerm("k", "in", ("1", "2")), [{"k": "1"}, {"k": "2"}]),
        (LabelTerm("k", "!in", ("1", "2")), [{}, {"k": "3"}]),
        (LabelTerm("k", "exists"), [{"k": "1"}, {"k": "2"}, {"k": "3"}]),
        (LabelTerm("k", "!exists"), [{}]),
    ],
)
def test_a_condition_is_met_by_these_labels_and_no_others(term: LabelTerm, met_by: list[dict[str, str]]) -> None:
    assert [labels for labels in ({}, {"k": "1"}, {"k": "2"}, {"k": "3"}) if holds(term, labels)] == met_by


def test_conditions_and_labels_in_words() -> None:
    terms = (
        *selector_of({"a": "1", "b": "in(1,2)", "c": "!1", "d": "!in(1,2)"}),
        LabelTerm("e", "exists"),
        LabelTerm("f", "!exists"),
    )
    assert terms_in_words(terms) == "a=1, b in (1, 2), c!=1, d not in (1, 2), e, !f"
    assert labels_in_words({"a": "2", "x": "y"}, ["a", "b", "a"]) == "a=2, no b"


def test_a_strategy_in_words() -> None:
    assert strategy_in_words(None) == strategy_in_words(Strategy(spread=True)) == ""
    assert strategy_in_words(selectors({"a": "1"}, {"b": "!2"}, {})) == " with a=1, else with b!=2, else anywhere"
    assert strategy_in_words(Strategy(affinity=Affinity("12ab"))) == " on node 12ab"
    soft = Strategy(affinity=Affinity("12ab", soft=True), required=(LabelTerm("gpu", "exists"),))
    assert strategy_in_words(soft) == " rather on node 12ab, with gpu"


# what says nothing


def test_it_stays_here_until_half_of_the_node_is_in_use_then_goes_where_the_least_is() -> None:
    nodes = {"a": node(CPU=4), "b": node(CPU=4), "c": node(CPU=4, used={"CPU": 3})}
    places = []
    for _ in range(6):
        decision = choose(wish(), nodes, A)
        assert isinstance(decision, Chosen)
        nodes[decision.node_id].resources.acquire({"CPU": UNIT})
        places.append(decision.node_id)
    assert places == ["a", "a", "b", "b", "a", "b"]


def test_when_all_are_in_use_it_waits_here() -> None:
    nodes = {"a": node(CPU=1, used={"CPU": 1}), "b": node(CPU=2, used={"CPU": 2})}
    assert choose(wish(), nodes, A) == Wait("a")
    assert choose(wish(CPU=2), nodes, A) == Wait("b")


def test_it_goes_where_its_arguments_lie() -> None:
    """
    1. most bytes are at b, which may be nearly full, and have GPUs that it does not need
    2. b is full, or too small: the next one that has some
    3. a strategy comes before that
    """
    nodes = {"a": node(CPU=4), "b": node(CPU=4, GPU=1), "c": node(CPU=4)}
    nbytes = {"a": 1, "b": 100, "c": 50, "gone": 1000}
    nodes["b"].resources.acquire({"CPU": 3 * UNIT})
    assert choose(wish(nbytes=nbytes), nodes, A) == Chosen("b")
    nodes["b"].resources.acquire({"CPU": UNIT})
    assert choose(wish(nbytes=nbytes), nodes, A) == Chosen("c")
    nodes["b"] = node(CPU=0.5)
    assert choose(wish(nbytes=nbytes), nodes, A) == Chosen("c")
    assert choose(wish(Strategy(spread=True), nbytes), nodes, A) == Chosen("a")
    assert choose(wish(nbytes={"a": 7, "c": 7}), nodes, A) == Chosen("a")


def test_what_needs_no_gpu_leaves_nodes_with_gpus_alone_if_it_can() -> None:
    nodes = {"a": node(CPU=4, GPU=1), "b": node(CPU=4, used={"CPU": 3})}
    assert choose(wish(), nodes, A) == Chosen("b")
    assert choose(wish(GPU=1), nodes, A) == Chosen("a")
    assert choose(wish(CPU=2), nodes, A) == Chosen("a")


def test_chance_decides_among_the_best_where_all_are_crowded() -> None:
    nodes = {f"n{at:02}": node(CPU=100, used={"CPU": 60 + at}) for at in range(10)}
    chosen = {choose(wish(), nodes, Here("elsewhere", draw=draw)) for draw in range(20)}
    assert chosen == {Chosen("n00"), Chosen("n01")}
    assert int(len(nodes) * TOP_FRACTION) == 2


def test_gpus_that_are_free_in_parts_are_not_a_whole_one() -> None:
    devices = Devices(2)
    devices.acquire(UNIT // 2)
    devices.free[1] = UNIT // 2
    view = node(CPU=4, GPU=2, used={"GPU": 1})
    view.devices = devices
    assert choose(wish(GPU=1), {"a": view}, A) == Wait("a")
    assert choose(wish(GPU=0.5), {"a": view}, A) == Chosen("a")


# SPREAD


def test_spread_goes_round_the_nodes_that_are_free() -> None:
    nodes = {"a": node(), "b": node(used={"CPU": 4}), "c": node(), "d": node()}
    last, places = "", []
    for _ in range(7):
        decision = choose(wish(Strategy(spread=True)), nodes, Here("c", spread_after=last))
        assert isinstance(decision, Chosen)
        places.append(last := decision.node_id)
        if len(places) == 4:
            del nodes["c"]  # dead: the round goes on
    assert places == ["a", "c", "d", "a", "d", "a", "d"]


# affinity


def test_a_node_that_is_asked_for_is_waited_for() -> None:
    nodes = {"a": node(), "b": node(CPU=2, used={"CPU": 2})}
    assert choose(wish(Strategy(affinity=Affinity("b"))), nodes, A) == Wait("b")
    assert choose(wish(Strategy(affinity=Affinity("b", soft=True))), nodes, A) == Wait("b")
    nodes["b"].resources.release({"CPU": UNIT})
    assert choose(wish(Strategy(affinity=Affinity("b"))), nodes, A) == Chosen("b")


def test_a_node_that_is_asked_for_and_cannot_be_had_is_the_end_or_falls_back() -> None:
    nodes = {"a": node(), "dead": node(), "small": node(CPU=0.5)}
    nodes["dead"].alive = False
    for node_id, reason in {
        "none": "was to run on node none, which does not exist, or not any more",
        "dead": "was to run on node dead, which does not exist, or not any more",
        "small": "was to run on node small, but needs 1 CPU, node small has 0.5",
    }.items():
        hard = choose(wish(Strategy(affinity=Affinity(node_id))), nodes, A)
        assert hard == Infeasible(reason, for_good=True)
        assert choose(wish(Strategy(affinity=Affinity(node_id, soft=True))), nodes, A) == Chosen("a")


def test_a_node_that_is_busy_may_be_reason_enough_to_go_elsewhere_or_to_fail() -> None:
    nodes = {"a": node(), "b": node(used={"CPU": 4})}
    spill = Strategy(affinity=Affinity("b", soft=True, spill_on_unavailable=True))
    assert choose(wish(spill), nodes, A) == Chosen("a")
    nodes["a"].resources.acquire({"CPU": 4 * UNIT})
    assert choose(wish(spill), nodes, A) == Wait("b")
    assert choose(wish(Strategy(affinity=Affinity("b", fail_on_unavailable=True))), nodes, A) == Infeasible(
        "was not to wait for node b, of which not enough is free", for_good=True
    )


# conditions on labels


def test_required_labels_are_required_and_preferred_ones_preferred() -> None:
    nodes = {"a": node({"zone": "1"}), "b": node({"zone": "2"}), "c": node({"zone": "2", "ssd": "yes"})}
    terms = selector_of({"zone": "2"})
    assert choose(wish(Strategy(required=terms)), nodes, A) == Chosen("b")
    liked = Strategy(required=terms, preferred=(LabelTerm("ssd", "exists"),))
    assert choose(wish(liked), nodes, A) == Chosen("c")
    nodes["c"].resources.acquire({"CPU": 4 * UNIT})
    assert choose(wish(liked), nodes, A) == Chosen("b")
    nodes["b"].resources.acquire({"CPU": 4 * UNIT})
    assert choose(wish(liked), nodes, A) == Wait("c")


def test_selectors_are_tried_in_order() -> None:
    """
    1. the first that a free node matches
    2. when its nodes are in use, the next one
    3. when all are, it waits for the first
    """
    nodes = {"a": node({"k": "1"}), "b": node({"k": "2"})}
    in_order = wish(selectors({"k": "3"}, {"k": "2"}, {"k": "1"}))
    assert choose(in_order, nodes, A) == Chosen("b")
    nodes["b"].resources.acquire({"CPU": 4 * UNIT})
    assert choose(in_order, nodes, A) == Chosen("a")
    nodes["a"].resources.acquire({"CPU": 4 * UNIT})
    assert choose(in_order, nodes, A) == Wait("b")


def test_why_no_node_will_do_names_what_is_asked_and_the_best_node() -> None:
    nodes = {"a": node({"k": "1"}), "b": node({"k": "2", "z": "1"})}
    assert choose(wish(selectors({"k": "3", "z": "1"})), nodes, A) == Infeasible(
        "needs a node with k=3, z=1, the best node, b, has k=2, z=1"
    )
    assert choose(wish(selectors({"k": "9"}, {"k": "!in(1,2)"}), CPU=1), nodes, A) == Infeasible(
        "needs a node with k=9, the best node, a, has k=1;"
        " else needs a node with k not in (1, 2), the best node, a, has k=1"
    )
    assert choose(wish(selectors({"k": "1"}), CPU=8), nodes, A) == Infeasible("needs 8 CPU, the best node, a, has 4")
    nodes["c"] = node({}, CPU=6)
    assert choose(wish(CPU=8), nodes, A) == Infeasible("needs 8 CPU, the best node, c, has 6"), "it lacks the least"
    assert choose(wish(CPU=8), {"a": nodes["a"]}, A) == Infeasible("needs 8 CPU, this node has 4")
    assert choose(wish(), {}, A) == Infeasible("needs a node, and there is none")


# whatever the cluster looks like

names = st.sampled_from("abcdef")
values = st.sampled_from("123")
keys = st.sampled_from("xyz")
term = st.builds(LabelTerm, keys, st.sampled_from(["in", "!in"]), st.lists(values, min_size=1, max_size=2).map(tuple))
terms: st.SearchStrategy[Selector] = st.lists(
    term | st.builds(LabelTerm, keys, st.sampled_from(["exists", "!exists"])), max_size=2
).map(tuple)
strategies = st.none() | st.builds(
    Strategy,
    st.booleans(),
    st.none() | st.builds(Affinity, names, st.booleans(), st.booleans(), st.booleans()),
    terms,
    terms,
    st.lists(terms, max_size=3).map(tuple),
)
amounts = st.integers(0, 4).map(lambda n: n * UNIT // 2)
demands = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "x"]), amounts, max_size=3)


@st.composite
def views(draw: Any) -> NodeView:
    resources = NodeResources(draw(demands))
    for name, total in resources.total.items():
        resources.available[name] = draw(st.integers(-UNIT if name == "CPU" else 0, total))
    view = NodeView(resources, draw(st.dictionaries(keys, values)), alive=draw(st.booleans()))
    if draw(st.booleans()):
        view.devices = Devices(resources.total.get("GPU", 0) // UNIT)
        view.devices.free = [draw(st.sampled_from([0, UNIT // 2, UNIT])) for _ in view.devices.free]
    return view


clusters = st.dictionaries(names, views(), max_size=6)
wishes = st.builds(Wish, demands, strategies, st.dictionaries(names, st.integers(0, 3)))
asked_by = st.builds(Here, names, names, st.integers(0, 1000))


def allowed(wish: Wish, view: NodeView) -> bool:
    """Whether its labels are among those that will do."""
    strategy = wish.strategy or Strategy()
    options = strategy.selectors or ((),)
    return matches(strategy.required, view.labels) and any(matches(each, view.labels) for each in options)


@given(wishes, clusters, asked_by)
def test_what_is_chosen_is_alive_matches_and_fits_and_nothing_that_could_run_waits(
    wish: Wish, nodes: dict[str, NodeView], here: Here
) -> None:
    decision = choose(wish, nodes, here)
    able = {
        node_id: view
        for node_id, view in nodes.items()
        if view.alive and view.resources.could_ever_fit(wish.demand) and allowed(wish, view)
    }
    affinity = wish.strategy.affinity if wish.strategy else None
    bound = affinity is not None and (affinity.node_id in able or not affinity.soft)
    match decision:
        case Chosen(node_id):
            assert able[node_id].fits(wish.demand)
            if bound and affinity is not None and not affinity.spill_on_unavailable and not wish.strategy.selectors:  # type: ignore[union-attr]
                assert node_id == affinity.node_id
        case Wait(node_id):
            assert node_id in able
            if affinity is None:
                assert not any(view.fits(wish.demand) for view in able.values())
        case Infeasible(reason, for_good):
            assert reason
            assert not able or (affinity is not None and not (affinity.soft and not affinity.fail_on_unavailable))
            assert not for_good or affinity is not None


@given(wishes, clusters, asked_by)
def test_the_same_question_has_the_same_answer_in_whatever_order_nodes_are_known(
    wish: Wish, nodes: dict[str, NodeView], here: Here
) -> None:
    backwards = dict(reversed(nodes.items()))
    assert choose(wish, nodes, here) == choose(wish, backwards, here)


@given(demands, clusters, asked_by)
def test_the_short_way_of_what_says_nothing_leads_where_the_long_one_does(
    demand: dict[str, int], nodes: dict[str, NodeView], here: Here
) -> None:
    anything = Strategy(selectors=((),))
    assert choose(Wish(demand), nodes, here) == choose(Wish(demand, anything), nodes, here)


@given(clusters, demands, st.dictionaries(names, st.integers(0, 3)), asked_by)
def test_a_soft_wish_never_fails_where_none_at_all_would_not(
    nodes: dict[str, NodeView], demand: dict[str, int], nbytes: dict[str, int], here: Here
) -> None:
    plain = choose(Wish(demand), nodes, here)
    for soft in (
        Strategy(spread=True),
        Strategy(affinity=Affinity("f", soft=True)),
        Strategy(affinity=Affinity("f", soft=True, spill_on_unavailable=True)),
        Strategy(preferred=selector_of({"x": "1"})),
        selectors({"x": "1"}, {}),
    ):
        assert isinstance(choose(Wish(demand, soft), nodes, here), Infeasible) == isinstance(plain, Infeasible)
    assert type(choose(Wish(demand, None, nbytes), nodes, here)) is type(plain)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 5))
def test_spread_is_even_on_equal_nodes(count: int, tasks: int, start: int) -> None:
    nodes = {f"n{at}": node(CPU=40) for at in range(count)}
    last, load = f"n{start}", Counter[str]()
    for _ in range(tasks):
        decision = choose(wish(Strategy(spread=True)), nodes, Here("n0", spread_after=last))
        assert isinstance(decision, Chosen)
        last = decision.node_id
        nodes[last].resources.acquire({"CPU": UNIT})
        load[last] += 1
    loads = [load[node_id] for node_id in nodes]
    assert max(loads) - min(loads) <= 1


@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.lists(st.integers(1, 3), max_size=60), st.data())
def test_a_stream_of_tasks_never_overbooks_and_fills_the_cluster(
    sizes: list[int], tasks: list[int], data: st.DataObject
) -> None:
    nodes = {f"n{at}": node(CPU=size) for at, size in enumerate(sizes)}
    placed: dict[int, Decision] = {}
    for number, cpus in enumerate(tasks):
        strategy = data.draw(st.sampled_from([None, Strategy(spread=True)]))
        decision = choose(wish(strategy, CPU=cpus), nodes, Here("n0", draw=number))
        if isinstance(decision, Chosen):
            nodes[decision.node_id].resources.acquire({"CPU": cpus * UNIT})  # raises where it does not fit
            placed[number] = decision
        else:
            assert all(view.resources.available["CPU"] < cpus * UNIT for view in nodes.values())
    free = sum(view.resources.available["CPU"] for view in nodes.values())
    assert free == sum(sizes) * UNIT - sum(tasks[number] for number in placed) * UNIT


@given(st.integers(2, 6), st.integers(1, 30))
def test_the_node_that_asks_is_filled_to_half_before_any_other_is_touched(count: int, tasks: int) -> None:
    nodes = {f"n{at}": node(CPU=10) for at in range(count)}
    for _ in range(tasks):
        decision = choose(wish(), nodes, Here("n1"))
        assert isinstance(decision, (Chosen, Wait))
        if isinstance(decision, Wait):
            return
        home = nodes["n1"].resources
        if home.available["CPU"] > (1 - PACK_UNTIL) * home.total["CPU"]:
            assert decision.node_id == "n1"
        nodes[decision.node_id].resources.acquire({"CPU": UNIT})
