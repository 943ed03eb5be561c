"""Which packages a node has to fetch, for which environments: each once, however many need it. Pure.

The head is asked for one, and says in which pieces it lies in the store, when it lies there; they are asked for, a few
at a time, and unpacked when all have come. What was removed from the store meanwhile is asked for again. Nothing is
called off: what nobody waits for any more is there for who asks next.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from aioray.record import Record
from aioray_node.environments.window import Window

_MOST_ATTEMPTS = 3


class Missing(msgspec.Struct, frozen=True):
    """An environment needs packages that are not here; answered by one Complete or GiveUp. It waits for none yet."""

    environment: str
    names: tuple[str, ...]


class TimeUp(msgspec.Struct, frozen=True):
    """An environment waits no longer."""

    environment: str


class Found(msgspec.Struct, frozen=True):
    """The head says where a package lies, or why it cannot be had. Words that come late do nothing, here and below."""

    name: str
    upload: str = ""
    pieces: int = 0
    error: str = ""


class PieceCame(msgspec.Struct, frozen=True):
    name: str
    attempt: int


class PieceLost(msgspec.Struct, frozen=True):
    """The store does not have it any more."""

    name: str
    attempt: int
    reason: str


class Ended(msgspec.Struct, frozen=True):
    """It is unpacked, or `error` says why it will not be."""

    name: str
    attempt: int
    error: str = ""


class Ask(msgspec.Struct, frozen=True):
    """The head for a package; answered by Found."""

    name: str


class AskPiece(msgspec.Struct, frozen=True):
    """Answered by PieceCame, PieceLost, or Ended with an error."""

    name: str
    upload: str
    attempt: int  # numbered over all packages
    index: int


class Unpack(msgspec.Struct, frozen=True):
    """All of it is here; answered by Ended."""

    name: str
    attempt: int


class Complete(msgspec.Struct, frozen=True):
    """All packages that the environment needs are here."""

    environment: str


class GiveUp(msgspec.Struct, frozen=True):
    environment: str
    names: tuple[str, ...]  # what it does not get
    reason: str


Event = Missing | TimeUp | Found | PieceCame | PieceLost | Ended
Command = Ask | AskPiece | Unpack | Complete | GiveUp


class Fetch(Record):
    """One package on its way."""

    attempts: int = 0
    attempt: int = 0  # 0: the head has not said yet where it lies
    upload: str = ""
    window: Window = field(default_factory=lambda: Window(0))


class State(Record):
    fetches: dict[str, Fetch] = field(default_factory=dict)
    waiting: dict[str, set[str]] = field(default_factory=dict)  # environment -> packages that it waits for
    attempts: int = 0


def handle(state: State, event: Event) -> list[Command]:
    """Apply `event`; return what the shell must do, in that order."""
    match event:
        case Missing(environment, names):
            state.waiting[environment] = set(names)
            new = [name for name in dict.fromkeys(names) if name not in state.fetches]
            state.fetches.update({name: Fetch() for name in new})
            return [Ask(name) for name in new]
        case TimeUp(environment):
            late = tuple(sorted(state.waiting.pop(environment, ())))
            return [GiveUp(environment, late, "it did not come in time (setup_timeout_seconds)")] if late else []
        case Found(name, upload, pieces, error):
            return _found(state, name, upload, pieces, error)
        case PieceCame(name, attempt):
            fetch = _fetch(state, name, attempt)
            if fetch is None:
                return []
            fetch.window.done += 1
            return [Unpack(name, attempt)] if fetch.window.is_over else _pieces(name, fetch)
        case PieceLost(name, attempt, reason):
            fetch = _fetch(state, name, attempt)
            if fetch is None:
                return []
            if fetch.attempts == _MOST_ATTEMPTS:
                return _fail(state, name, reason)
            fetch.attempt = 0
            return [Ask(name)]
        case Ended(name, attempt, error):
            if _fetch(state, name, attempt) is None:
                return []
            return _fail(state, name, error) if error else _arrived(state, name)


def is_under_way(state: State, name: str, attempt: int) -> bool:
    """Whether what that attempt brings is of use."""
    return _fetch(state, name, attempt) is not None


def _fetch(state: State, name: str, attempt: int) -> Fetch | None:
    """What that attempt is about, unless it is over."""
    fetch = state.fetches.get(name)
    return fetch if fetch is not None and fetch.attempt == attempt else None


def _found(state: State, name: str, upload: str, pieces: int, error: str) -> list[Command]:
    fetch = _fetch(state, name, 0)
    if fetch is None:
        return []
    if error:
        return _fail(state, name, error)
    state.attempts += 1
    fetch.attempts += 1
    fetch.attempt, fetch.upload, fetch.window = state.attempts, upload, Window(pieces)
    return _pieces(name, fetch)


def _pieces(name: str, fetch: Fetch) -> list[Command]:
    return [AskPiece(name, fetch.upload, fetch.attempt, index) for index in fetch.window.next()]


def _arrived(state: State, name: str) -> list[Command]:
    del state.fetches[name]
    complete = []
    for environment, names in state.waiting.items():
        names.discard(name)
        if not names:
            complete.append(environment)
    for environment in complete:
        del state.waiting[environment]
    return [Complete(environment) for environment in complete]


def _fail(state: State, name: str, reason: str) -> list[Command]:
    del state.fetches[name]
    failed = [environment for environment, names in state.waiting.items() if name in names]
    for environment in failed:
        del state.waiting[environment]
    return [GiveUp(environment, (name,), reason) for environment in failed]


def check(state: State) -> None:
    """Assert what holds between any two events."""
    assert all(state.waiting.values()), f"an environment waits for nothing: {state}"
    for environment, names in state.waiting.items():
        assert names <= state.fetches.keys(), f"nobody fetches what {environment} waits for: {state}"
    for fetch in state.fetches.values():
        window = fetch.window
        assert not fetch.attempt or 0 < window.pieces >= window.begun >= window.done, f"{fetch}"
