"""What a node is told when it starts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from aioray.config import Config  # msgspec looks it up
from aioray.options import PLACE
from aioray_node import gpus

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOPBACK = "127.0.0.1"  # where nobody from another machine gets to


class HeadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How other nodes reach the GCS: over a Unix socket in the session directory, and over TCP if there is a port."""

    host: str = LOOPBACK
    port: int | None = None  # 0: any that is free


class JoinOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which cluster to join."""

    address: str  # of its GCS: host:port, or the path of a Unix socket
    token_path: str = ""  # "": the environment has it


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is told when it starts. None: find out."""

    config: Config
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None  # bytes
    resources: dict[str, float] = {}
    object_store_memory: int | None = None  # bytes
    temp_dir: str | None = None
    labels: dict[str, str] = {}  # beside those that it gives itself
    session_id: str = ""  # "": a new one
    ip_address: str = LOOPBACK
    is_head: bool = True  # among nodes of one process; who joins is none in any case
    head: HeadOptions | None = None  # None, and nothing to join: a node alone, which no other can join
    join: JoinOptions | None = None
    daemon: bool = False  # it does not end with who started it

    @property
    def host(self) -> str:
        """The IP address at which it listens for other machines; "": not at all."""
        if self.join is not None:
            return "" if self.join.address.startswith("/") else self.ip_address
        return "" if self.head is None or self.head.port is None else self.ip_address

    def totals(self, found: Sequence[gpus.Gpu], store_nbytes: int) -> dict[str, float]:
        """The node's resources, with the GPUs that were found, and its object store."""
        cpus = float(len(os.sched_getaffinity(0))) if self.num_cpus is None else float(self.num_cpus)
        totals = {"CPU": cpus, **gpus.kinds(found), "object_store_memory": float(store_nbytes)}
        totals |= self._places() | self.resources
        if found:
            totals["GPU"] = float(len(found))
        if self.memory is None:
            totals["memory"] = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        else:
            totals["memory"] = float(self.memory)
        return totals

    def _places(self) -> dict[str, float]:
        """One of each, as in Ray: programs ask for a thousandth to be on a certain machine, or on the head."""
        is_head = self.is_head and self.join is None
        return {f"{PLACE}{self.ip_address}": 1.0} | ({f"{PLACE}__internal_head__": 1.0} if is_head else {})
