"""How user code ends its worker, or its actor: on purpose or not, and in which words."""

from __future__ import annotations

from aioray.exceptions import AsyncioActorExit

ON_PURPOSE = "it exited on purpose: exit_actor() was called"
Exiting = SystemExit | KeyboardInterrupt | AsyncioActorExit


class ActorExit(SystemExit):
    """Raised by exit_actor() to leave a method that runs in a thread."""

    def __init__(self, reason: str = ON_PURPOSE) -> None:
        super().__init__(0)
        self.reason = reason


def reason_of(exc: Exiting) -> str:
    """Why an actor or a worker went, in words."""
    match exc:
        case ActorExit():
            return exc.reason
        case AsyncioActorExit():
            return ON_PURPOSE
        case SystemExit():
            return f"it called sys.exit({'' if exc.code is None else repr(exc.code)})"
    return "it raised KeyboardInterrupt"


def is_crash(exc: Exiting) -> bool:
    """Whether an actor that ends in this way may be constructed again. Status 0 means that it wanted to end."""
    return status_of(exc) not in (None, 0)


def status_of(exc: Exiting) -> object:
    """The status of a process that ends in this way."""
    match exc:
        case AsyncioActorExit():
            return 0
        case SystemExit():
            return exc.code
    return 130  # as shells have it for SIGINT
