"""What this process has to do with groups: those it is in, and the hub where their members meet."""

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
    """What this process is a member of, and what it has created for others, in one cluster."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.created: set[str] = set()
        self.hub: ActorHandle | None = None  # kept as long as this process lives


def membership() -> Membership:
    # Calls name a group and carry no handle, so something must know. It lives exactly as long as the runtime does.
    found: Membership = vars(current.get()).setdefault("collective_membership", Membership())
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
