"""ActorGroup: actors of one class that are called together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import aioray
from aioray.actors import ActorClass, ActorHandle
from aioray.util.waiting import check_count, check_timeout, refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aioray.refs import ObjectRef


class GroupMethod:
    """One method of all actors of a group."""

    def __init__(self, actors: Sequence[ActorHandle], name: str) -> None:
        self._methods = [getattr(actor, name) for actor in actors]

    def remote(self, *args: Any, **kwargs: Any) -> list[ObjectRef[Any]]:
        """Call it on each actor; the refs in the order of the actors."""
        return [method.remote(*args, **kwargs) for method in self._methods]


class ActorGroup:
    """`group.method.remote(...)` calls all actors, `group[0].method.remote(...)` one of them.

    actor_cls: a class, remote or plain. The amounts are those of each actor, which init_args and init_kwargs go to.
    The actors start at once, and end with `shutdown`, or when nobody holds them any more.
    """

    def __init__(
        self,
        actor_cls: type[Any] | ActorClass[Any],
        num_actors: int = 1,
        num_cpus_per_actor: float = 1,
        num_gpus_per_actor: float = 0,
        resources_per_actor: Mapping[str, float] | None = None,
        init_args: Iterable[Any] | None = None,
        init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_count(num_actors, "num_actors")
        remote: Any = aioray.remote  # for checkers an actor class may be a class
        actor_class: ActorClass[Any] = actor_cls if isinstance(actor_cls, ActorClass) else remote(actor_cls)
        self._actor_class = actor_class.options(
            num_cpus=num_cpus_per_actor, num_gpus=num_gpus_per_actor, resources=resources_per_actor
        )
        self._args = tuple(init_args or ())
        self._kwargs = dict(init_kwargs or {})
        self._count = num_actors
        self._actors: list[ActorHandle] = []
        self.start()

    def start(self) -> None:
        """Start the actors again after a shutdown. Raises RuntimeError when they run."""
        if self._actors:
            raise RuntimeError("the actors of this group run already")
        self.add_actors(self._count)

    def add_actors(self, num_actors: int) -> None:
        """Start more of them."""
        check_count(num_actors, "num_actors")
        self._actors += [self._actor_class.remote(*self._args, **self._kwargs) for _ in range(num_actors)]

    def remove_actors(self, actor_indexes: Iterable[int]) -> None:
        """Let go of the actors at these places: each ends when nobody else holds it and its calls are done.

        Raises IndexError, and removes none, when there is no such place.
        """
        gone = {range(len(self._actors))[index] for index in actor_indexes}
        self._actors = [actor for at, actor in enumerate(self._actors) if at not in gone]

    @property
    def actors(self) -> list[ActorHandle]:
        """The handles, in order."""
        return list(self._actors)

    def __getattr__(self, name: str) -> GroupMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        if not self._actors:
            raise RuntimeError("this group has no actors: it was shut down; call start()")
        return GroupMethod(self._actors, name)

    def __len__(self) -> int:
        return len(self._actors)

    @overload
    def __getitem__(self, index: int) -> ActorHandle: ...
    @overload
    def __getitem__(self, index: slice) -> list[ActorHandle]: ...

    def __getitem__(self, index: int | slice) -> ActorHandle | list[ActorHandle]:
        return self._actors[index]

    def __iter__(self) -> Iterator[ActorHandle]:
        return iter(self.actors)

    def shutdown(self, patience_s: float = 5) -> None:
        """End the actors. Calls that were made have `patience_s` (seconds) to end; 0 kills at once."""
        refuse_in_loop("ActorGroup.shutdown()", "await group.shutdown_async()")
        check_timeout(patience_s, "patience_s")
        actors, last = self._last_calls(patience_s)
        if last:
            aioray.wait(last, num_returns=len(last), timeout=patience_s)
        for actor in actors:
            aioray.kill(actor)

    async def shutdown_async(self, patience_s: float = 5) -> None:
        """`shutdown`, awaited. When it is cancelled, the actors end at once."""
        check_timeout(patience_s, "patience_s")
        actors, last = self._last_calls(patience_s)
        try:
            if last:
                await aioray.wait(last, num_returns=len(last), timeout=patience_s)
        finally:
            for actor in actors:
                aioray.kill(actor)

    def _last_calls(self, patience_s: float) -> tuple[list[ActorHandle], list[ObjectRef[Any]]]:
        actors, self._actors = self._actors, []
        # Calls are begun in order: when this one is through, a sync actor is through with those before it.
        return actors, [actor.__ray_ready__.remote() for actor in actors] if patience_s else []
