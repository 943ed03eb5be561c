"""A node in its cluster: as the head, which serves the GCS, or as one that joins. A node alone needs none of this."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.exceptions import AuthenticationError
from aioray.runtime.dialing import TOKEN_FILE
from aioray.wire.reach import host_and_port
from aioray_node.gcs.access import find_token, keep_token, make_token
from aioray_node.gcs.local_line import LocalLine
from aioray_node.gcs.member_desk import MemberDesk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aioray_node.gcs.state_desk import StateDesk
    from aioray_node.node import Node
    from aioray_node.node_options import HeadOptions, JoinOptions, NodeOptions
    from aioray_node.session import Session

GCS_SOCKET = "gcs.sock"  # in the session directory of the head
_LOOK_AGAIN_S = 0.02
_JOIN_TIMEOUT_S = 20.0  # less than who starts a node waits for it: so it hears the reason


def prepare(session: Session, options: NodeOptions) -> None:
    """Have the token where the node, which is about to open, finds it. Raises AuthenticationError."""
    if options.head is not None:
        make_token(session.dir, os.environ)
    elif options.join is not None and options.host:
        keep_token(session.dir, find_token(os.environ, options.join.token_path or None))


@contextlib.asynccontextmanager
async def in_cluster(node: Node, options: NodeOptions, on_end: Callable[[str], None]) -> AsyncIterator[dict[str, Any]]:
    """Have an open node be what its options say; gives where it and its GCS are. Leaving it, the node leaves.

    `on_end(reason)`: the cluster is gone, or wants the node no more. Raises AuthenticationError, RaySystemError,
    OSError for a port that is taken.
    """
    facts: dict[str, Any] = {
        "address": node.address,
        "node_id": node.node_id,
        "session_dir": str(node.session.dir),
        "pid": os.getpid(),
        "started_at": node.started_at,
        "is_head": options.join is None,
        "daemon": options.daemon,
        "parent": os.getppid(),
    }
    async with contextlib.AsyncExitStack() as stack:
        if options.head is not None:
            facts |= await stack.enter_async_context(_as_head(node, options, options.head))
        elif options.join is not None:
            facts |= await stack.enter_async_context(_as_member(node, options, options.join, on_end))
        if "gcs_address" in facts:
            node.gcs_address = facts["gcs_address"]
            node.session.note_node(facts)
        yield facts


@contextlib.asynccontextmanager
async def _as_head(node: Node, options: NodeOptions, head: HeadOptions) -> AsyncIterator[dict[str, Any]]:
    from aioray.runtime.tls import server_tls
    from aioray_node.gcs.app import GcsApp

    state = node.state
    desk = MemberDesk(node.reactor, options.config, node.node_id, state.tasks, state.metrics)
    LocalLine(desk, node.reactor, node.membership, node.reactor).open()
    path = str(node.session.dir / GCS_SOCKET)
    questions = {"status": lambda: _status(desk, state), **state.questions()}
    token = (node.session.dir / TOKEN_FILE).read_text()
    app = GcsApp(node.reactor, desk, token, questions, state.all_metrics)
    try:
        tls = None if head.port is None else server_tls(os.environ)
        await app.open(path=path, host=head.host, port=head.port, tls=tls)
        address = path if head.port is None else host_and_port(head.host, app.port)
        yield {"gcs_address": address, "gcs_socket": path, "token_path": str(node.session.dir / TOKEN_FILE)}
    finally:
        await app.close("its cluster has ended")


def _status(desk: MemberDesk, state: StateDesk) -> Any:
    return msgspec.to_builtins(state.status(desk.status()))


@contextlib.asynccontextmanager
async def _as_member(
    node: Node, options: NodeOptions, join: JoinOptions, on_end: Callable[[str], None]
) -> AsyncIterator[dict[str, Any]]:
    from aioray_node.gcs.client import GcsClient, NodeLine

    config = options.config
    client = GcsClient(join.address, await _token(join, config.gcs_reconnect_timeout_s))
    line = NodeLine(
        node.reactor,
        node.membership,
        client,
        heartbeat_timeout_s=config.heartbeat_timeout_ms / 1000,
        give_up_after_s=config.gcs_reconnect_timeout_s,
        on_end=on_end,
    )
    async with line:
        await line.joined(min(config.gcs_reconnect_timeout_s, _JOIN_TIMEOUT_S))
        token_path = str(node.session.dir / TOKEN_FILE) if options.host else join.token_path
        yield {"gcs_address": join.address, "token_path": token_path}


async def _token(join: JoinOptions, timeout_s: float) -> str:
    """Of the environment, or of the file, which the head may be about to write."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            return find_token(os.environ, join.token_path or None)
        except AuthenticationError as exc:
            if not isinstance(exc.__cause__, FileNotFoundError) or loop.time() > deadline:
                raise
        await asyncio.sleep(_LOOK_AGAIN_S)
