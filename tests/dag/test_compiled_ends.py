"""How compiled graphs end in the middle of things: nothing is left, and who executes them hears why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aioray import current
from aioray.exceptions import ActorDiedError
from tests.api.support import eventually
from tests.dag.test_compiled import chain, remote_adder

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def hold_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Callable[[], None]]:
    """What the node says of actors is late from here on; until it is let through."""

    def begin() -> Callable[[], None]:
        runtime = current.get()
        updates: list[Any] = []
        updated = runtime.actors.updated
        monkeypatch.setattr(runtime.actors, "updated", updates.append)

        def let_through() -> None:
            with runtime.reactor.lock:
                monkeypatch.setattr(runtime.actors, "updated", updated)
                for update in updates:
                    updated(update)

        return let_through

    return begin


def test_a_pass_that_begins_when_a_link_is_broken_and_nobody_has_said_why_fails_as_those_before(
    ray: Any, hold_back: Any
) -> None:
    compiled = chain(remote_adder.remote().die).experimental_compile()
    let_through = hold_back()
    before = compiled.execute(-1)
    (connection,) = compiled._plan._connections.values()
    eventually(lambda: connection.closed)
    after = compiled.execute(1)
    let_through()
    for ref in (before, after):
        with pytest.raises(ActorDiedError):
            ray.get(ref, timeout=20)
    with pytest.raises(ActorDiedError):
        compiled.execute(1)
    eventually(lambda: compiled._plan not in current.get().plans)
