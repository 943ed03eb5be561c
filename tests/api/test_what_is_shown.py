"""What a user sees of clusters themselves: their reprs, what is refused at the start and at the end, `sys.argv`."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError, RaySystemError
from tests.api.support import eventually, started

if TYPE_CHECKING:
    import pathlib


@aioray.remote
def argv() -> list[str]:
    return sys.argv


@aioray.remote(memory=1 << 49)
def greedy() -> None: ...


# options


@pytest.mark.parametrize("start", [aioray.init, aioray.connect])
def test_a_misspelt_option_is_refused_with_the_nearest_name(start: Any) -> None:
    with pytest.raises(
        InvalidOptionError, match=rf"{start.__name__} has no such option; did you mean num_cpus\?"
    ) as it:
        start(num_cpu=2)
    assert "object_store_memory" in it.value.allowed
    with pytest.raises(InvalidOptionError, match="has no such option") as it:
        start(zzz=2)
    assert "did you mean" not in str(it.value)


def test_a_place_for_sessions_whose_path_is_too_long_is_a_bad_option_in_both_faces(
    nothing_left: None, tmp_path: pathlib.Path
) -> None:
    async def connect() -> None:
        await aioray.connect(num_cpus=1, _temp_dir=too_long)

    too_long = str(tmp_path / ("x" * 100))
    for start in (lambda: aioray.init(num_cpus=1, _temp_dir=too_long), lambda: asyncio.run(connect())):
        with pytest.raises(InvalidOptionError, match=r"at most \d+ bytes") as caught:
            start()
        assert (caught.value.option, caught.value.value) == ("_temp_dir", too_long)


# reprs


def test_the_context_of_init_shows_its_node_and_that_it_has_ended(nothing_left: None) -> None:
    with aioray.init(num_cpus=1) as context:
        assert repr(context) == f"<aioray.init, node {context['node_id']} at {context['session_dir']}>"
    assert repr(context) == "<aioray.init, ended>"


async def test_a_cluster_shows_its_node_and_what_became_of_it(nothing_left: None) -> None:
    cluster = aioray.connect(num_cpus=1)
    assert repr(cluster) == "<aioray.Cluster, not started>"
    async with cluster:
        info = cluster.address_info
        assert repr(cluster) == f"<aioray.Cluster, node {info['node_id']} at {info['session_dir']}>"
    assert repr(cluster) == "<aioray.Cluster, ended>"


# the end


async def test_shutdown_says_how_a_cluster_of_connect_ends(nothing_left: None) -> None:
    async with aioray.connect(num_cpus=1) as cluster:
        with pytest.raises(RaySystemError, match="ends when its `async with"):
            aioray.shutdown()
        with pytest.raises(RaySystemError, match="disconnect"):
            await asyncio.to_thread(aioray.shutdown)
        assert await argv.remote()
    aioray.shutdown()  # nothing to end: nothing is said
    await cluster.start()
    with pytest.raises(RaySystemError, match="disconnect"):
        aioray.shutdown()
    await aioray.disconnect()


async def test_shutdown_in_a_block_ends_what_init_started_beside_it(nothing_left: None) -> None:
    context = await asyncio.to_thread(aioray.init, num_cpus=1)
    async with aioray.connect(num_cpus=1):
        aioray.shutdown()
        assert "ended" in repr(context)
        with pytest.raises(RaySystemError):
            aioray.shutdown()


# in workers


async def test_workers_do_not_show_how_they_were_started(nothing_left: None) -> None:
    async with aioray.connect(num_cpus=1):
        assert await argv.remote() == [""]


def test_workers_of_a_head_process_do_not_either_and_memory_is_told_in_units(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "aioray")
    with started(num_cpus=1) as ray:
        assert ray.get(argv.remote()) == [""]
        ref = greedy.remote()
        eventually(lambda: "greedy needs 512 TiB memory, this node has " in caplog.text)
        assert "iB" in caplog.text.partition("this node has ")[2]
        assert "can never run here: needs 512 TiB memory" in ray.explain(ref)
        ray.cancel(ref)
