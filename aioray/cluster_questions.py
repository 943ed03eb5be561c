"""Asking the GCS of a cluster something, for who is not in that cluster. Blocking."""

from __future__ import annotations

import os
from typing import Any


def ask_cluster(address: str, temp_dir: str | None, what: str, **args: Any) -> tuple[str, Any]:
    """Where the GCS is, and its answer. `address`: host:port, or "auto" for the newest cluster of this machine.

    Raises ConnectionError when there is none, AuthenticationError, and RaySystemError with the reason for no answer.
    Not in an event loop.
    """
    import asyncio

    from aioray.addresses import find_node
    from aioray_node.gcs.access import find_token

    token_path = None
    try:
        known = find_node(address, temp_dir)
        address, token_path = known["gcs_address"], known["token_path"]
    except ConnectionError:
        if address == "auto":
            raise
    return address, asyncio.run(_ask(address, find_token(os.environ, token_path), what, args))


async def _ask(address: str, token: str, what: str, args: dict[str, Any]) -> Any:
    from aioray_node.gcs.client import GcsClient

    async with GcsClient(address, token) as client:
        return await client.ask(what, **args)
