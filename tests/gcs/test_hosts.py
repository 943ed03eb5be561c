from aioray_node.gcs import hosts
from aioray_node.gcs.hosts import (
    Command,
    EndHost,
    Event,
    HostDown,
    HostUp,
    Lost,
    Over,
    Settle,
    StartHost,
    State,
    Wanted,
)


def run(state: State, event: Event) -> list[Command]:
    commands = hosts.handle(state, event)
    hosts.check(state)
    return commands


def test_actors_of_different_environments_share_no_process() -> None:
    """
    1. two actors of one environment share a process; the third, of another, gets its own
    2. one process dies: the actor of the other is not disturbed
    """
    state = State(max_hosts=1)
    started = run(state, Wanted(b"a", "red"))
    assert isinstance(started[0], StartHost)
    red = started[0].host
    assert started == [StartHost(red, "red")]
    assert run(state, Wanted(b"b", "red")) == []
    started = run(state, Wanted(b"c", "blue"))
    assert isinstance(started[0], StartHost)
    blue = started[0].host
    assert started == [StartHost(blue, "blue")]
    assert run(state, HostUp(red)) == [Settle(b"a", red, 1), Settle(b"b", red, 2)]
    assert run(state, HostDown(red, "it died")) == [Lost(b"a", "it died"), Lost(b"b", "it died")]
    assert run(state, HostUp(blue)) == [Settle(b"c", blue, 3)]
    assert run(state, Over(b"c")) == [EndHost(blue)]
