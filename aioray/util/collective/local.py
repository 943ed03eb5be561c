"""What a member has to do with groups: those it is in, and the hub where their members meet.

A member is a process, or one of the light actors that share a process.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import aioray
from aioray import current
from aioray.util.collective.hub import NAME, NAMESPACE, Hub

if TYPE_CHECKING:
    from aioray.actors import ActorHandle
    from aioray.util.collective.group import Group

_MAX_WAITING = 1_000_000  # calls of the hub at once: those that wait must not keep out who ends their wait


class Membership:
    """What a process or a light actor is a member of, and has created for others, in one cluster."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.created: set[str] = set()
        self.hub: ActorHandle | None = None  # kept as long as the member lives

    def end(self) -> None:
        """The light actor is over, and its process may go on: the others are told, as they are of a dead process."""
        for group in self.groups.values():
            group.fail("its actor is gone")
            group.leave()
        self.groups.clear()


def membership() -> Membership:
    # Calls name a group and carry no handle, so something must know. It lives exactly as long as the runtime does.
    runtime = current.get()
    members: dict[int, Membership] = vars(runtime).setdefault("collective_members", {})
    slot = runtime.light_actor_here()
    found = members.get(slot)
    if found is None:
        found = members[slot] = Membership()
        if slot:
            runtime.at_end_of_light_actor_here(lambda: members.pop(slot).end())
    return found


def find_hub() -> ActorHandle | None:
    here = membership()
    if here.hub is None:
        with contextlib.suppress(ValueError):
            here.hub = aioray.get_actor(NAME, NAMESPACE)
    return here.hub


def hub() -> ActorHandle:
    found = find_hub()
    if found is None:
        options = {"num_cpus": 0, "name": NAME, "namespace": NAMESPACE, "get_if_exists": True}
        found = membership().hub = aioray.remote(Hub).options(max_concurrency=_MAX_WAITING, **options).remote()
    return found
