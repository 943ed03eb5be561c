"""Fixtures of all tests: clusters, each with the check that nothing of it is left."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

import aioray
import tests
from aioray import cloudpickle
from tests.leftovers import Leftovers, own_temp_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# `make test` judges a change: the same examples every time. `make explore` looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False, database=None, print_blob=True)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in the background with Ctrl-C ignored, nohup with SIGHUP: the programs of tests, which
    # are ended by them, would inherit that. (Not at import: workers import this module, too.)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        directory = own_temp_dir(worker)
        config.add_cleanup(lambda: shutil.rmtree(directory))


def pytest_collection_finish() -> None:
    # The leak check collects garbage twice a test; what was imported until now never is any, and is most of the heap.
    gc.collect()
    gc.freeze()
    # Workers that import a test's module import pytest, which takes longer than most tests: its functions and classes
    # go to them by value, as those of a script do.
    cloudpickle.register_pickle_by_value(tests)


@pytest.fixture(autouse=True, scope="module")
def _what_stays_is_never_garbage() -> Iterator[None]:
    """What a module of tests leaves (imports, reports, what Hypothesis knows) would be looked through twice a test."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails the test that leaves processes, threads, descriptors, shared memory, files or asyncio tasks."""
    gc.collect()
    before = Leftovers()
    yield
    gc.collect()
    left = Leftovers.that_stay(before)
    assert not left, f"left behind: {left}"


@pytest.fixture
def ray(nothing_left: None) -> Iterator[Any]:
    """A cluster of two CPUs, for synchronous tests."""
    aioray.init(num_cpus=2)
    yield aioray
    aioray.shutdown()


@pytest.fixture
def one_cpu(nothing_left: None) -> Iterator[Any]:
    """A cluster of a single CPU, on which everything must still be possible."""
    aioray.init(num_cpus=1)
    yield aioray
    aioray.shutdown()


@pytest.fixture
async def cluster(nothing_left: None) -> AsyncIterator[aioray.Cluster]:
    """A cluster of two CPUs in the test's event loop."""
    tasks = asyncio.all_tasks()
    started = await aioray.connect(num_cpus=2)
    yield started
    await started.shutdown()
    left = {task for task in asyncio.all_tasks() - tasks if not task.done()} - {asyncio.current_task()}
    assert not left, f"asyncio tasks left behind: {left}"
