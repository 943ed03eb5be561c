"""Where a process is reached: an address that others pass on, whichever machine they are on. Pure.

On one machine it is the path of a Unix socket. What is reached from other machines as well has `host:port`, the machine
it is on and the path, with a blank between them: each one who dials takes what leads there from where it is.
"""

from __future__ import annotations


def reachable(path: str, tcp: str = "", machine: str = "") -> str:
    """The address of who listens at `path` on `machine`, and at `tcp` (host:port), if that is given."""
    return f"{tcp} {machine} {path}" if tcp else path


def nearest(address: str, machine: str) -> str:
    """The path or host:port to dial from `machine`."""
    tcp, blank, rest = address.partition(" ")
    if address.startswith("/") or not blank:
        return address
    where, _, path = rest.partition(" ")
    return path if where == machine else tcp


def host_and_port(host: str, port: int) -> str:
    """As it is written: an IPv6 address has brackets around it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
