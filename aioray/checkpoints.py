"""Checkpoints of actors: the hooks of a class, and when they are called."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from aioray.exceptions import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

SAVE, RESTORE = "__aioray_checkpoint__", "__aioray_restore__"
_PERIOD = "__aioray_checkpoint_period__"
_AFTER_EVERY_CALL = (1, None)


def checkpoint(*, every_calls: int | None = None, every_s: float | None = None) -> Callable[[F], F]:
    """Say when `__aioray_checkpoint__` of an actor class is called (ours; without this: after every call).

    An actor that may be restarted (`max_restarts`), whose class has `__aioray_checkpoint__(self)` -> state and
    `__aioray_restore__(self, state)`, resumes from its newest checkpoint: first it is constructed, with the arguments
    that it had, then restored. Both may be coroutine functions.

    every_calls: after so many calls, and before the last of them is answered, so that what was answered is saved.
    every_s: so many seconds after the first call that was not saved. With both: whichever comes first. One is taken,
    too, when the actor leaves with sys.exit. In an actor whose methods run in threads it runs beside calls; else no
    call runs meanwhile, but for coroutines where the hook awaits. The state is pickled as a result is, and kept as long
    as the actor lives: in the object store, and in the journal of the node, on disk. Calls that it saves are answered
    when it is written there; or when that cannot be done, of which the driver hears. One that fails is logged, and
    leaves the one before as it was. A restore that fails is the end of the actor, as a constructor is that raises.

    Raises InvalidOptionError. A class with one of the two hooks alone is a TypeError when an actor is created.
    """
    if every_calls is None and every_s is None:
        raise InvalidOptionError("every_calls", None, "a whole number >= 1, where every_s is not given")
    if every_calls is not None and (type(every_calls) is not int or every_calls < 1):
        raise InvalidOptionError("every_calls", every_calls, "a whole number >= 1")
    if every_s is not None and (type(every_s) not in (int, float) or not 0.0 < every_s < math.inf):
        raise InvalidOptionError("every_s", every_s, "a number of seconds > 0")

    def mark(fn: F) -> F:
        setattr(fn, _PERIOD, (every_calls, every_s))
        return fn

    return mark


def check_hooks(cls: type) -> None:
    """Raises TypeError for a class with one of the hooks and without the other: nothing would ever be restored."""
    there, missing = (SAVE, RESTORE) if hasattr(cls, SAVE) else (RESTORE, SAVE)
    if hasattr(cls, there) and not hasattr(cls, missing):
        raise TypeError(f"{cls.__name__} has {there}() and no {missing}(): a checkpoint takes both")


def period_of(cls: type) -> tuple[int | None, float | None] | None:
    """(every_calls, every_s) of a class; None when it has not both hooks."""
    save = getattr(cls, SAVE, None)
    if save is None or getattr(cls, RESTORE, None) is None:
        return None
    period: tuple[int | None, float | None] = getattr(save, _PERIOD, _AFTER_EVERY_CALL)
    return period
