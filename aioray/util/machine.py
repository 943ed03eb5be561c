"""Facts about this machine."""

from __future__ import annotations

import socket

from aioray import current


def get_node_ip_address() -> str:
    """The address of this process's node, as `nodes()` and its resource "node:ADDRESS" have it.

    Without a node on this machine: that by which other machines reach it; "127.0.0.1" where there is no network.
    """
    runtime = current.find()
    if runtime is not None and not runtime.is_far:
        for node in runtime.ask("nodes"):
            if node["NodeID"] == runtime.node_id:
                return str(node["NodeManagerAddress"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only looks up the route (the address is nobody's)
            address: str = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
    return address
