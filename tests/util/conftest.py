"""One cluster for each module of tests of the synchronous face, with the leak check around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.api.support import started

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[Any]:
    """Two CPUs, kept for all tests of the module."""
    with started(num_cpus=2, namespace="tests") as ray:
        yield ray
