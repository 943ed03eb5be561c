"""Finding a node of a cluster on this machine: who joins a cluster does so through one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from aioray.exceptions import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

_THIS_MACHINE = ("localhost", "127.0.0.1", "0.0.0.0")
_ALLOWED = 'None, "local", "auto", HOST:PORT, or the path of the GCS\'s Unix socket'


def find_node(address: str, temp_dir: str | None) -> dict[str, Any]:
    """What a node of that cluster has noted: its head, if that is here. Raises ConnectionError when there is none."""
    from aioray_node.session import running_nodes

    check_address(address)
    nodes = running_nodes(temp_dir)
    matching = [node for node in nodes if (_is_meant(node) if address == "auto" else same_gcs(address, node))]
    heads = [node for node in matching if node["is_head"]]
    if not matching:
        which = "a cluster" if address == "auto" else f"the cluster at {address}"
        how = "--head" if address == "auto" else f"--address={address}"
        raise ConnectionError(
            f"no node of {which} runs on this machine for this user: start one with `aioray start {how}`"
            + ("" if address == "auto" else ", or set AIORAY_AUTH_TOKEN to join without")
        )
    return (heads or matching)[0]


def is_elsewhere(address: str, environ: Mapping[str, str]) -> bool:
    """Whether a cluster can be joined over TCP: its address is host:port, and the environment has a token."""
    from aioray_node.gcs.access import TOKEN_PATH_VARIABLE, TOKEN_VARIABLE

    is_tcp = address != "auto" and not address.startswith("/")
    return is_tcp and any(environ.get(name) for name in (TOKEN_VARIABLE, TOKEN_PATH_VARIABLE))


def _is_meant(node: dict[str, Any]) -> bool:
    """By "auto": what `aioray start` started, or this process; not the clusters of other programs' tests."""
    return bool(node["daemon"] or os.getpid() in (node["parent"], node["pid"]))


def same_gcs(address: str, node: dict[str, Any]) -> bool:
    """Whether that is the address of the node's GCS."""
    ours = node["gcs_address"]
    if address == ours or address == node.get("gcs_socket"):
        return True
    if address.startswith("/") or ours.startswith("/"):
        return False
    (host, _, port), (our_host, _, our_port) = address.rpartition(":"), ours.rpartition(":")
    return bool(port == our_port and node["is_head"] and host in _THIS_MACHINE and our_host in _THIS_MACHINE)


def check_address(address: Any) -> None:
    """Raises InvalidOptionError."""
    if isinstance(address, str):
        if "://" in address:
            raise InvalidOptionError("address", address, _ALLOWED, "there is no client server: HOST:PORT is the GCS's")
        host, colon, port = address.rpartition(":")
        if address == "auto" or address.startswith("/") or (host and colon and port.isdecimal() and int(port) < 65536):
            return
    raise InvalidOptionError("address", address, _ALLOWED)
