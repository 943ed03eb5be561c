"""`aioray status`: the nodes, what of them is in use, and what waits, and why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aioray.options import PLACE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from aioray.wire.gcs import ClusterStatus, MemberStatus

_UNIT = 10_000
_GIB = 1 << 30


def add_command(commands: Any) -> None:
    """Add it to the parser's subcommands."""
    status = commands.add_parser("status", help="nodes, resources, and what waits", description=_status.__doc__)
    status.add_argument(
        "--address", default="auto", metavar="HOST:PORT", help="of the cluster (default: the newest on this machine)"
    )
    status.add_argument("--temp-dir", metavar="DIRECTORY")
    status.set_defaults(run=_status)


def _status(given: argparse.Namespace) -> int:
    """Tell how a cluster is: its nodes, what of their resources is in use, and which demands wait, and why."""
    import msgspec

    from aioray.cluster_questions import ask_cluster
    from aioray.wire.gcs import ClusterStatus

    address, answer = ask_cluster(given.address, given.temp_dir, "status")
    print("\n".join(rendered(address, msgspec.convert(answer, ClusterStatus), time.time())))
    return 0


def rendered(address: str, status: ClusterStatus, now: float) -> Iterator[str]:
    """The lines to print. `now`: Unix time (s)."""
    alive = [member for member in status.members if member.end is None]
    dead = [member for member in status.members if member.end is not None]
    yield f"Cluster at {address}: {len(alive)} node{'s' * (len(alive) != 1)} alive, {len(dead)} dead"
    yield ""
    for member in alive:
        facts = member.facts
        role = " (head)" if facts.is_head else ""
        age = _duration(now - facts.started_at)
        yield f"Node {facts.node_id}{role} on {facts.hostname} ({facts.ip_address}), up {age}"
        yield f"  {', '.join(_used(member)) or 'nothing to use'}"
    for member in dead:
        yield f"Node {member.facts.node_id} on {member.facts.hostname} is dead: {member.end}"
    waiting = [(member, demand) for member in alive for demand in member.waiting]
    yield ""
    yield "Waiting:" if waiting or status.groups else "Nothing waits."
    for member, demand in waiting:
        amounts = ", ".join(_amount(name, amount) for name, amount in demand.amounts.items()) or "nothing"
        yield f"  {demand.count} x {amounts} at node {member.facts.node_id}: {demand.why}"
    for text in status.groups:
        yield f"  {text}"
    if status.tasks_left_out:
        yield ""
        yield f"Task events: {status.tasks_left_out} tasks were only counted, not told one by one."


def _used(member: MemberStatus) -> Iterator[str]:
    """Such as "1 of 2 CPU used"."""
    held = {name: total - member.available.get(name, 0) for name, total in member.facts.total.items()}
    reserved = held.pop("object_store_memory", 0)
    for name, used in held.items():
        if name.startswith(PLACE) and not used:  # each node has them
            continue
        yield f"{_amount(name, used, bare=True)} of {_amount(name, member.facts.total[name])} used"
    store, more = member.facts.store_nbytes, f", {reserved / _UNIT / _GIB:.2f} reserved" if reserved else ""
    yield f"{member.store_used_nbytes / _GIB:.2f} of {store / _GIB:.2f} GiB object store used{more}"


def _amount(name: str, amount: int, *, bare: bool = False) -> str:
    is_memory = name == "memory"
    number = f"{amount / _UNIT / _GIB:.2f}" if is_memory else f"{amount / _UNIT:g}"
    return number if bare else f"{number}{' GiB' if is_memory else ''} {name}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
