"""Errors that few programs meet, each where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import ActorDiedError, AsyncioActorExit, ObjectLostError, OwnerDiedError
from tests.api.support import Meeting

if TYPE_CHECKING:
    import pathlib


@aioray.remote
def wait(meeting: Meeting) -> None:
    meeting.wait()


@aioray.remote
class Owner:
    def make(self, meeting: Meeting) -> list[Any]:
        return [wait.remote(meeting), aioray.put("kept")]


@aioray.remote
class Leaver:
    async def leave(self, note: pathlib.Path) -> None:
        try:
            aioray.actor.exit_actor()
        except AsyncioActorExit as exc:
            note.write_text(type(exc).__name__)  # noqa: ASYNC240 # a few bytes
            raise


def test_a_ref_to_what_nobody_will_make_any_more_says_that_its_owner_died(ray: Any, tmp_path: pathlib.Path) -> None:
    """What the owner had made already outlives it."""
    owner = Owner.remote()  # type: ignore[attr-defined]
    pending, made = ray.get(owner.make.remote(Meeting(tmp_path / "never")))
    ray.kill(owner)
    with pytest.raises(OwnerDiedError, match=pending.hex()) as it:
        ray.get(pending)
    assert isinstance(it.value, ObjectLostError)
    assert ray.get(made) == "kept"


def test_exit_actor_raises_asyncio_actor_exit_in_an_async_method_which_may_clean_up(
    ray: Any, tmp_path: pathlib.Path
) -> None:
    leaver = Leaver.remote()  # type: ignore[attr-defined]
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(leaver.leave.remote(tmp_path / "note"))
    assert (tmp_path / "note").read_text() == "AsyncioActorExit"
