"""The hub: the actor at which members meet. It passes on what they bring, and sees when one is gone."""

from __future__ import annotations

import asyncio
from typing import Any

from aioray.exceptions import RayError
from aioray.util.collective.types import CollectiveError, GroupDissolved

NAME, NAMESPACE = "hub", "aioray.collective"
EVERYBODY = -1

Parts = dict[int, Any]  # rank, or EVERYBODY, -> what it is to get


class _Round:
    """One call that all members make."""

    def __init__(self, what: str, rank: int) -> None:
        self.what = what
        self.first = rank
        self.parts: dict[int, Parts] = {}
        self.taken = 0


class _Generation:
    """The group from its members' joining to their leaving. A name that is used again begins another one."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.joined: set[int] = set()
        self.left: set[int] = set()
        self.ends: dict[int, asyncio.Event] = {}  # rank -> told when it leaves
        self.watches: dict[int, asyncio.Task[None]] = {}
        self.rounds: dict[int, _Round] = {}
        self.mail: dict[tuple[int, int], list[Any]] = {}  # (from, to) -> sent, not yet received
        self.broken: CollectiveError | None = None
        self.news = asyncio.Condition()


class Hub:
    """An async actor, one a cluster: whichever process is the first to need it creates it, and all keep it.

    Not one a group, which would end with its last member's handle: who uses the name again might find it while it ends.
    """

    def __init__(self) -> None:
        self._meetings: dict[str, Meeting] = {}

    async def call(self, name: str, method: str, *args: Any) -> Any:
        """Call a method of the meeting of that name."""
        meeting = self._meetings.setdefault(name, Meeting(name))
        try:
            return await getattr(meeting, method)(*args)
        finally:
            if meeting.is_over() and self._meetings.get(name) is meeting:
                del self._meetings[name]


class Meeting:
    """What the hub knows of one name of a group. Times are in seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._generations: dict[int, _Generation] = {}
        self._next = 0
        self._declared: dict[str, int] = {}  # actor id -> rank
        self._declared_timeout_s = 0.0

    def is_over(self) -> bool:
        """Whether nobody is in a group of this name, or is to be."""
        return not self._generations and not self._declared

    # who is in it

    async def declare(self, ranks: dict[str, int], timeout_s: float) -> None:
        """Actors that are to join when they first use the group."""
        if self._declared:
            raise ValueError(f"group {self._name!r} exists already: destroy it first")
        self._declared, self._declared_timeout_s = ranks, timeout_s

    async def declared(self, actor_id: str) -> tuple[int, int, float] | None:
        """The rank, world size and timeout of an actor; None if it is not to be in the group."""
        rank = self._declared.get(actor_id)
        return None if rank is None else (rank, len(self._declared), self._declared_timeout_s)

    async def dissolve(self) -> None:
        """Who declared the group has destroyed it."""
        self._declared = {}
        for number in list(self._generations):
            await self._break(number, GroupDissolved(self._name, "it was destroyed by who created it"))

    async def sit(self, number: int, rank: int) -> None:
        """Comes back when the member leaves. The member owns the ref to this: when it dies, that says so."""
        generation = self._generations.get(number)
        if generation is not None and rank in generation.ends:
            await generation.ends[rank].wait()

    async def enter(self, rank: int, world_size: int) -> int:
        """Take a rank; the number of the generation. A member that was in an earlier one, and left, is in the next."""
        number = next((n for n, g in self._generations.items() if not (rank in g.joined or g.broken or g.left)), None)
        if number is None:
            waiting = [g for g in self._generations.values() if rank in g.joined - g.left and not g.broken]
            if waiting:
                raise ValueError(f"rank {rank} of group {self._name!r} is taken by another member")
            number = self._next
            self._next += 1
            self._generations[number] = _Generation(world_size)
        generation = self._generations[number]
        if generation.world_size != world_size:
            raise ValueError(
                f"group {self._name!r} has {generation.world_size} members by the word of those that are there, and"
                f" {world_size} by that of rank {rank}"
            )
        generation.joined.add(rank)
        generation.ends[rank] = asyncio.Event()
        return number

    async def join(self, number: int, rank: int, alive: list[Any], timeout_s: float) -> None:
        """Wait until all members are there. `alive`: the ref to this member's `sit`."""
        generation = self._open(number, rank)
        generation.watches[rank] = asyncio.create_task(self._watch(number, rank, alive.pop()))
        async with generation.news:
            generation.news.notify_all()
        everybody = set(range(generation.world_size))
        await self._until(
            number,
            lambda: len(generation.watches) == generation.world_size,
            timeout_s,
            lambda: f"{_ranks(everybody - generation.watches.keys())} did not join",
        )

    async def _watch(self, number: int, rank: int, alive: Any) -> None:
        try:
            await alive
        except RayError:
            await self._break(number, CollectiveError(self._name, f"rank {rank} died"))
            await self.leave(number, rank)

    async def leave(self, number: int, rank: int) -> None:
        """A member destroys its part of the group, or is dead."""
        generation = self._generations.get(number)
        if generation is None or rank in generation.left:
            return
        generation.left.add(rank)
        generation.ends[rank].set()
        async with generation.news:
            generation.news.notify_all()
        if generation.left == generation.joined:
            del self._generations[number]

    async def fail(self, number: int, rank: int, reason: str) -> None:
        """A member cannot go on."""
        await self._break(number, CollectiveError(self._name, f"rank {rank} gave up: {reason}"))

    async def _break(self, number: int, error: CollectiveError) -> None:
        generation = self._generations.get(number)
        if generation is not None and generation.broken is None:
            generation.broken = error
            generation.rounds.clear()
            async with generation.news:
                generation.news.notify_all()

    # what they do

    async def exchange(self, number: int, rank: int, seq: int, what: str, parts: Parts, timeout_s: float) -> list[Any]:
        """Bring parts for others, get those for this rank: one of each member, in the order of ranks."""
        generation = self._open(number, rank)
        turn = generation.rounds.get(seq)
        if turn is None:
            turn = generation.rounds[seq] = _Round(what, rank)
        if turn.what != what:
            error = CollectiveError(
                self._name, f"members make different calls: rank {turn.first} {turn.what}, rank {rank} {what}"
            )
            await self._break(number, error)
            raise error
        turn.parts[rank] = parts
        if len(turn.parts) == generation.world_size:
            async with generation.news:
                generation.news.notify_all()
        everybody = set(range(generation.world_size))
        await self._until(
            number,
            lambda: len(turn.parts) == generation.world_size,
            timeout_s,
            lambda: f"{_ranks(everybody - turn.parts.keys())} did not come to {what}",
        )
        turn.taken += 1
        if turn.taken == generation.world_size:
            generation.rounds.pop(seq, None)
        return [turn.parts[each].get(rank, turn.parts[each].get(EVERYBODY)) for each in range(generation.world_size)]

    async def post(self, number: int, source: int, destination: int, item: Any) -> None:
        """Leave something for another member."""
        generation = self._open(number, source)
        generation.mail.setdefault((source, destination), []).append(item)
        async with generation.news:
            generation.news.notify_all()

    async def collect(self, number: int, source: int, destination: int, timeout_s: float) -> Any:
        """The oldest that `source` left for `destination`."""
        generation = self._generations.get(number)
        key = (source, destination)
        if generation is not None and generation.mail.get(key):  # the sender may be gone by now
            return generation.mail[key].pop(0)
        generation = self._open(number, destination)
        await self._until(
            number,
            lambda: bool(generation.mail.get(key)),
            timeout_s,
            lambda: f"rank {source} did not send to rank {destination}",
        )
        return generation.mail[key].pop(0)

    def _open(self, number: int, rank: int) -> _Generation:
        generation = self._generations.get(number)
        if generation is None:
            raise GroupDissolved(self._name, "it was destroyed")
        if generation.broken is not None:
            raise generation.broken
        if generation.left:
            raise CollectiveError(self._name, f"{_ranks(generation.left)} has destroyed its part of the group")
        return generation

    async def _until(self, number: int, holds: Any, timeout_s: float, complaint: Any) -> None:
        """Wait until something is true of a group, or it is broken; break it when time is up."""
        generation = self._generations[number]
        try:
            async with asyncio.timeout(timeout_s), generation.news:
                await generation.news.wait_for(lambda: holds() or generation.broken or generation.left)
        except TimeoutError:
            await self._break(number, CollectiveError(self._name, f"{complaint()} within {timeout_s:g} s"))
        except asyncio.CancelledError:
            await self._break(number, CollectiveError(self._name, "a member gave up a call"))
            raise
        if holds():
            return
        if generation.broken is None:
            who = f"{_ranks(generation.left)} has destroyed its part of the group"
            await self._break(number, CollectiveError(self._name, who))
        assert generation.broken is not None
        raise generation.broken


def _ranks(ranks: set[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, sorted(ranks)))}"
