"""`aioray start` and `aioray stop`: nodes that outlive the command."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from aioray.exceptions import InvalidOptionError
from aioray.own_address import checked_ip

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from aioray.start_options import ClusterOptions

DEFAULT_PORT = 6379
_LOOPBACK = "127.0.0.1"
_STOP_TIMEOUT_S = 10.0
# Tunables that only a head looks at, and tells the others what comes of it.
_OF_THE_HEAD = frozenset(
    (
        "resource_report_interval_ms",
        "node_reconnect_grace_ms",
        "task_events_cleaning_interval_ms",
        "task_events_max_per_job",
        "gcs_kv_max_nbytes",
    )
)


def add_commands(commands: Any) -> None:
    """Add them to the parser's subcommands."""
    start = commands.add_parser("start", help="start a node on this machine", description=_start.__doc__)
    place = start.add_mutually_exclusive_group(required=True)
    place.add_argument("--head", action="store_true", help="of a new cluster")
    place.add_argument("--address", metavar="HOST:PORT", help="of the cluster to join")
    start.add_argument(
        "--port",
        type=int,
        help=f"where the head listens (default {DEFAULT_PORT}; 0: any that is free)",
    )
    start.add_argument(
        "--node-ip-address",
        metavar="IP",
        help="of this machine, as others reach it; the node listens there (default 127.0.0.1, for this machine only)",
    )
    start.add_argument("--num-cpus", type=float)
    start.add_argument("--num-gpus", type=float)
    start.add_argument("--memory", type=int, metavar="BYTES")
    start.add_argument("--object-store-memory", type=int, metavar="BYTES")
    start.add_argument("--resources", default="{}", metavar="JSON", help="such as '{\"disk\": 4}'")
    start.add_argument("--labels", default="", metavar="KEY=VALUE,...", help="or JSON")
    start.add_argument(
        "--system-config", default="{}", metavar="JSON", help="tunables of this node, see aioray.config.Config"
    )
    start.add_argument("--temp-dir", metavar="DIRECTORY", help="where sessions are (default: the system's)")
    start.add_argument("--block", action="store_true", help="stay until the node ends, and end it on Ctrl-C")
    start.set_defaults(run=_start)
    stop = commands.add_parser("stop", help="end what was started here", description=_stop.__doc__)
    stop.add_argument("--temp-dir", metavar="DIRECTORY")
    stop.add_argument("--force", action="store_true", help="kill, without a chance to finish")
    stop.set_defaults(run=_stop)


def _start(given: argparse.Namespace) -> int:
    """Start a node on this machine: the head of a new cluster, or one that joins. It ends by `aioray stop`."""
    from aioray.node_process import NodeProcess

    options = _options(given)
    if given.node_ip_address is not None:
        given.node_ip_address = checked_ip("--node-ip-address", given.node_ip_address)
    place = _as_head(given) if given.head else _as_member(given)
    place["ip_address"] = given.node_ip_address or _LOOPBACK
    process = NodeProcess(options, place, daemon=True)
    try:
        facts = process.wait_ready()
    except BaseException:  # Ctrl-C, too: nobody would know of it
        process.close()
        raise
    with _passing_signals_to(facts["pid"]) if given.block else contextlib.nullcontext(-1) as fd:
        _tell(given, facts)
        return _wait_for(facts["pid"], fd) if given.block else 0


def _tell(given: argparse.Namespace, facts: dict[str, Any]) -> None:
    print(f"aioray: node {facts['node_id']} runs (process {facts['pid']}), session {facts['session_dir']}")
    if given.head:
        print(f"The cluster is at {facts['gcs_address']}; its token is in {facts['token_path']}.")
        others = "" if given.node_ip_address is None else " --node-ip-address=THEIR_OWN"
        print(f"  more nodes:  aioray start --address={facts['gcs_address']}{others}")
        print('  programs:    aioray.init(address="auto")')
        print("  its end:     aioray stop", flush=True)
    else:
        print(f"It has joined the cluster at {facts['gcs_address']}.", flush=True)


def _options(given: argparse.Namespace) -> ClusterOptions:
    from aioray.start_options import check_options

    return check_options(
        num_cpus=given.num_cpus,
        num_gpus=given.num_gpus,
        memory=given.memory,
        resources=_json("--resources", given.resources),
        labels=_labels(given.labels),
        object_store_memory=given.object_store_memory,
        temp_dir=given.temp_dir,
        namespace=None,
        log_to_driver=True,
        runtime_env=None,
        job_config=None,
        system_config=_json("--system-config", given.system_config),
    )


def _as_head(given: argparse.Namespace) -> dict[str, Any]:
    port = DEFAULT_PORT if given.port is None else given.port
    if not 0 <= port < 65536:
        raise InvalidOptionError("--port", port, "a number from 0 to 65535")
    return {"head": {"host": given.node_ip_address or _LOOPBACK, "port": port}}


def _as_member(given: argparse.Namespace) -> dict[str, Any]:
    from aioray.addresses import check_address, find_node
    from aioray_node.gcs.access import find_token

    if given.port is not None:
        raise InvalidOptionError("--port", given.port, "leaving it out: only the head listens on one")
    for name in _OF_THE_HEAD & _json("--system-config", given.system_config).keys():
        raise InvalidOptionError("--system-config", name, "giving it to the head, for it is the head's to keep")
    check_address(given.address)
    address, token_path = given.address, ""
    with contextlib.suppress(ConnectionError):  # its head is on another machine: then the environment has the token
        known = find_node(given.address, given.temp_dir)
        address, token_path = known["gcs_address"], known["token_path"]
    if given.address == "auto" and not token_path:
        find_node("auto", given.temp_dir)  # which says that there is none
    find_token(os.environ, token_path)  # at once, not when the node has started
    if given.node_ip_address is None:
        _check_loopback(address)
    return {"join": {"address": address, "token_path": token_path}}


def _check_loopback(address: str) -> None:
    """A node that listens on loopback is of no use to a cluster on other machines. Raises InvalidOptionError."""
    if address.startswith("/"):
        return
    host, _, port = address.rpartition(":")
    try:
        family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        if ipaddress.ip_address(place[0]).is_loopback:
            return
        with socket.socket(family, socket.SOCK_DGRAM) as sock:  # nothing is sent: this only asks for the way there
            sock.connect(place)
            ours = f"such as {sock.getsockname()[0]}, from which {host} is reached"
    except OSError as exc:
        ours = f"but {host} cannot be reached: {exc.strerror}"
    raise InvalidOptionError("--node-ip-address", None, f"an IP address of this machine, {ours}")


def _json(option: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as exc:
        raise InvalidOptionError(option, text, "a JSON object", str(exc)) from None
    if not isinstance(found, dict):
        raise InvalidOptionError(option, text, "a JSON object")
    return found


def _labels(text: str) -> dict[str, str]:
    if text.startswith("{"):
        return _json("--labels", text)
    pairs = [part.partition("=") for part in text.split(",") if part]
    for key, equals, _ in pairs:
        if not equals:
            raise InvalidOptionError("--labels", text, "KEY=VALUE,... or JSON", f"{key!r} has no value")
    return {key: value for key, _, value in pairs}


@contextlib.contextmanager
def _passing_signals_to(pid: int) -> Iterator[int]:
    """From here on Ctrl-C and SIGTERM are for that process; a descriptor of it, readable when it has ended."""
    with _pidfd(pid) as fd:

        def pass_on(*_: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGTERM)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        yield fd


def _wait_for(pid: int, fd: int) -> int:
    """Until a child has ended; its status."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll()
    _, status = os.waitpid(pid, 0)
    return abs(os.waitstatus_to_exitcode(status))


def _stop(given: argparse.Namespace) -> int:
    """End the nodes that `aioray start` has started on this machine for this user, and nothing else."""
    from aioray_node.session import running_nodes, sessions_root, sweep

    nodes = [node for node in running_nodes(given.temp_dir) if node["daemon"]]
    with contextlib.ExitStack() as stack:
        ending = {node["node_id"]: stack.enter_context(_pidfd(node["pid"])) for node in nodes}
        for fd in ending.values():
            if fd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL if given.force else signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        left = [node_id for node_id, fd in ending.items() if not _has_ended(fd, deadline)]
    sweep(sessions_root(given.temp_dir))  # what nodes left that were killed; those that live have their sessions locked
    print(f"aioray: {len(nodes) - len(left)} of {len(nodes)} nodes have ended")
    for node_id in left:
        print(f"aioray: node {node_id} has not ended after {_STOP_TIMEOUT_S:g} s; --force kills it")
    return 1 if left else 0


def _has_ended(fd: int, deadline: float) -> bool:
    """Whether the process has ended by then."""
    if fd < 0:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """-1 when there is no such process any more."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield -1
        return
    try:
        yield fd
    finally:
        os.close(fd)
