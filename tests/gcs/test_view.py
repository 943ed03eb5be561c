"""What a node makes of the deltas that it is sent: a view that is never wrong for longer than they take."""

from __future__ import annotations

import pytest

from aioray.wire.gcs import Delta, MemberChange, NodeFacts
from aioray_node.gcs.view import Changed, ClusterView, Died, Joined, News
from aioray_node.scheduling.policy import Chosen, Here, NodeView, Wish, choose
from aioray_node.scheduling.resources import UNIT, NodeResources

CPU = {"CPU": 2 * UNIT}


def facts(node_id: str, *addresses: str, boot_id: str = "boot") -> NodeFacts:
    return NodeFacts(node_id, addresses or (f"/{node_id}.sock",), boot_id, CPU)


def view_of(node_id: str) -> ClusterView:
    return ClusterView(facts(node_id), NodeView(NodeResources(CPU)))


def test_a_node_alone_knows_itself() -> None:
    view = view_of("a")
    assert [each.node_id for each in view.alive()] == ["a"]
    assert view.address_of("a") == "/a.sock"
    assert choose(Wish({"CPU": UNIT}), view.nodes, Here("a")) == Chosen("a")


def test_another_node_joins_fills_up_and_dies() -> None:
    """
    1. b joins: it can be chosen, and reached
    2. it has nothing to spare: nothing goes there
    3. it dies: it is known as dead, and no choice any more
    """
    view, news = view_of("a"), list[News]()
    view.subscribe(news.append)
    joined = MemberChange("b", 2, facts("b"), CPU)
    assert view.apply(Delta("gcs", 0, 2, (MemberChange("a", 1, facts("a"), CPU), joined)))
    assert news == [Joined("b")]
    assert view.nodes["b"].fits(CPU)
    assert view.apply(Delta("gcs", 2, 3, (MemberChange("b", 3, available={"CPU": 0}),)))
    assert news.pop() == Changed("b")
    assert not view.nodes["b"].fits({"CPU": UNIT})
    assert view.apply(Delta("gcs", 3, 4, (MemberChange("b", 4, end="it was killed"),)))
    assert news.pop() == Died("b", "it was killed")
    assert "b" not in view.nodes
    with pytest.raises(LookupError, match="node b is dead: it was killed"):
        view.address_of("b")


def test_a_late_or_repeated_delta_changes_nothing() -> None:
    view = view_of("a")
    first = Delta("gcs", 0, 2, (MemberChange("b", 2, facts("b"), CPU),))
    second = Delta("gcs", 2, 3, (MemberChange("b", 3, end="gone"),))
    for delta in (first, second, first, second, first):
        assert view.apply(delta)
    assert not view.known["b"].alive


def test_a_gap_is_noticed_and_the_whole_view_heals_it() -> None:
    view = view_of("a")
    assert view.apply(Delta("gcs", 0, 1, ()))
    assert not view.apply(Delta("gcs", 2, 3, (MemberChange("b", 3, facts("b"), CPU),)))
    assert "b" not in view.known
    assert view.apply(Delta("gcs", 0, 3, (MemberChange("b", 3, facts("b"), CPU),)))
    assert view.known["b"].alive


def test_a_new_gcs_is_believed_from_its_whole_view_on() -> None:
    """Its versions begin again below those of the one before."""
    view, news = view_of("a"), list[News]()
    assert view.apply(Delta("old", 0, 9, (MemberChange("b", 9, facts("b"), CPU),)))
    view.subscribe(news.append)
    assert not view.apply(Delta("new", 1, 2, ()))
    assert view.apply(Delta("new", 0, 2, (MemberChange("c", 2, facts("c"), CPU),)))
    assert news == [Died("b", "the GCS does not know it any more"), Joined("c")]


def test_the_own_entry_is_what_the_scheduler_works_on() -> None:
    view = view_of("a")
    own = view.nodes["a"]
    own.resources.acquire({"CPU": UNIT})
    view.apply(Delta("gcs", 0, 1, (MemberChange("a", 1, facts("a"), CPU),)))
    assert view.nodes["a"] is own
    assert own.resources.available == {"CPU": UNIT}


def test_a_path_is_an_address_on_its_own_machine_only() -> None:
    view = view_of("a")
    far = facts("far", "/far.sock", "10.0.0.2:7000", boot_id="other")
    near = facts("near", "10.0.0.1:7000", "/near.sock")
    mute = facts("mute", boot_id="other")
    changes = tuple(MemberChange(each.node_id, 1, each, CPU) for each in (far, near, mute))
    view.apply(Delta("gcs", 0, 1, changes))
    assert view.address_of("far") == "10.0.0.2:7000 other /far.sock"
    assert view.address_of("near") == "10.0.0.1:7000 boot /near.sock"
    with pytest.raises(LookupError, match="listens only on Unix sockets"):
        view.address_of("mute")
    with pytest.raises(LookupError, match="not known here"):
        view.address_of("nobody")


def test_news_of_a_delta_are_heard_one_by_one_and_then_all_at_once() -> None:
    heard: list[object] = []
    view = view_of("a")
    view.subscribe(heard.append)
    view.subscribe_to_deltas(lambda news: heard.append(len(news)))
    view.apply(Delta("gcs", 0, 2, (MemberChange("b", 1, facts("b"), CPU), MemberChange("c", 2, facts("c"), CPU))))
    assert heard == [Joined("b"), Joined("c"), 2]
