"""ActorGroup in an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aioray.exceptions import BlockingCallError
from aioray.util import ActorGroup, list_named_actors
from tests.util.classes import PlainDoubler

if TYPE_CHECKING:
    from aioray import Cluster


async def test_a_group_is_called_and_ended_by_awaiting(cluster: Cluster) -> None:
    group = ActorGroup(PlainDoubler, 2, num_cpus_per_actor=0)
    assert await asyncio.gather(*group.double.remote(2)) == [4, 4]
    with pytest.raises(BlockingCallError, match=r"await group\.shutdown_async\(\)"):
        group.shutdown()
    await group.shutdown_async()
    assert len(group) == 0
    assert list_named_actors() == []
