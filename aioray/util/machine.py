"""Facts about this machine."""

from __future__ import annotations

import socket


def get_node_ip_address() -> str:
    """The address by which other machines reach this one; "127.0.0.1" where there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only looks up the route (the address is nobody's)
            address: str = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
    return address
