"""A simulated cluster runs every task exactly once, and nothing stays booked: `simulate` raises otherwise."""

from __future__ import annotations

import pytest

from bench import simulate
from bench.simulation import callers, cluster, sockets
from bench.simulation.cluster import NotClean


@pytest.mark.parametrize("nodes", [1, 3, 80])
def test_each_task_runs_once_and_nothing_is_left(nodes: int) -> None:
    outcome = cluster.simulate(nodes, 2000)
    assert len(outcome.latencies_s) == outcome.tasks == 2000
    assert outcome.latencies_s[0] >= callers.TASK_S
    assert (outcome.hops > 0) == (nodes > 1)


def test_nodes_that_are_not_watched_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_MOST_WATCHED", 2)
    outcome = cluster.simulate(80, 2000)
    assert (outcome.watched, outcome.callers, len(outcome.latencies_s)) == (2, 2, 2000)


def test_a_run_with_the_same_seed_is_the_same() -> None:
    """But for the CPU that it took."""
    one, two = (cluster.simulate(20, 1000, seed=7) for _ in range(2))
    assert (one.latencies_s, one.messages, one.nbytes) == (two.latencies_s, two.messages, two.nbytes)


def test_a_lost_task_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers.Caller, "_send", lambda *_: None)
    with pytest.raises(NotClean, match="10 tasks have not ended"):
        cluster.simulate(2, 10)


def test_the_table_has_a_row_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--nodes", "2,4", "--tasks", "200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["nodes", "----:", "2", "4"]


def test_what_sockets_cost_is_measured() -> None:
    costs = sockets.measure()
    assert 0 < costs.in_s < 0.01
    assert 0 <= costs.out_s < 0.01
