"""What the caller's side keeps of actors: rules, methods, calls, and where each actor lives."""

from __future__ import annotations

import collections
import functools
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.exceptions import InvalidOptionError
from aioray.options import returns_of
from aioray.record import Record
from aioray.refs import ObjectRef
from aioray.runtime.calls import NO_DEADLINE, Arguments, Running
from aioray.runtime.deadlines import limits_of
from aioray.runtime.patterns import Patterns

if TYPE_CHECKING:
    import weakref

    from aioray.options import MethodOptions
    from aioray.runtime.connection import Connection
    from aioray.runtime.plans import Plan
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.unseen import Unseen
    from aioray.wire.values import Value


class CallRules(Record, frozen=True):
    """What concerns all calls of an actor; it travels with its handles, as text."""

    max_task_retries: int = 0  # -1: without end
    max_pending_calls: int = -1  # -1: without limit
    any_order: bool = False  # a call whose arguments are late does not hold up others
    groups: tuple[str, ...] = ()  # its concurrency groups


@functools.lru_cache(maxsize=256)
def rules_of(text: str) -> CallRules:
    if not text:
        return CallRules()
    retries, pending, any_order, groups = msgspec.json.decode(text)
    return CallRules(retries, pending, any_order, tuple(groups))


class MethodTarget:
    """A method with its options: what all calls of one `handle.method` have in common."""

    __slots__ = (
        "ahead", "generates", "given_name", "group", "limits", "max_retries", "method", "name", "num_returns",
        "quiet", "retry_on",
    )  # fmt: skip

    def __init__(
        self, method: str, name: str, options: MethodOptions, rules: CallRules, *, generates: bool = False
    ) -> None:
        """Raises InvalidOptionError for a concurrency group that the actor has not."""
        self.method = method
        self.name = options.name or name  # for messages; as a rule, the method with its class
        self.given_name = options.name or ""
        self.generates = generates  # it is a generator function
        self.num_returns = returns_of(options, generates=generates)  # as in the Call
        self.ahead = options._generator_backpressure_num_objects
        self.group = options.concurrency_group or ""
        if self.group and self.group not in rules.groups:
            known = ", ".join(rules.groups)
            allowed = f"one of the groups that actor {name.partition('.')[0]} was created with: {known or 'none'}"
            raise InvalidOptionError("concurrency_group", self.group, allowed)
        self.limits = limits_of(options)
        retries = options.max_task_retries
        self.max_retries = rules.max_task_retries if retries is None else retries
        self.retry_on = options.retry_exceptions
        self.quiet = not options.enable_task_events


class ActorCallRecord(msgspec.Struct, eq=False, weakref=True):
    """One method call, until it has a result."""

    actor: RemoteActor  # which lives until the call is through
    seq: int
    target: MethodTarget
    arguments: Arguments
    refs: tuple[ObjectRef[Any], ...]
    retries_left: int  # -1: without end
    parent: Running | None = None  # the call, in this process, that made it
    deadline: float = NO_DEADLINE
    timed_out: bool = False
    sent: bool = False
    cancelled: bool = False
    lost_worker: bool = False  # one died, or raised, that may have told the node of what is not its result

    def take_retry(self) -> bool:
        """Whether it may be sent again; uses that up."""
        if self.cancelled or self.retries_left == 0:
            return False
        if self.retries_left > 0:
            self.retries_left -= 1
        return True

    @property
    def name(self) -> str:
        """What is called, for messages."""
        return self.target.name


class RemoteActor:
    """An actor as one process sees it. All its handles here share this; when it goes, the actor may."""

    __slots__ = ("__weakref__", "_line", "actor_id", "cls", "creation_pins", "is_going", "methods", "runtime")

    def __init__(self, runtime: Runtime, actor_id: bytes, cls: str, methods: dict[str, str], line: ActorLine) -> None:
        self.runtime = runtime
        self.actor_id = actor_id
        self.cls = cls
        self.methods = methods
        self._line = line
        self.is_going = False
        self.creation_pins: Any = None  # arguments of the constructor, until it has run

    @property
    def line(self) -> ActorLine:
        return self._line

    def __del__(self) -> None:
        self.is_going = True
        self.runtime.actors.gone(self._line)


class ActorProcess:
    """A process in which actors live, light ones by the thousand; and the calls that were sent there."""

    __slots__ = ("connection", "flight", "lines", "patterns")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.patterns = Patterns(connection)
        self.flight: dict[int, ActorCallRecord] = {}
        self.lines: dict[ActorLine, None] = {}  # in the order in which they came

    def flight_of(self, line: ActorLine) -> list[ActorCallRecord]:
        """What was sent to one actor, oldest first."""
        return [record for record in self.flight.values() if record.actor.line is line]


class ActorLine:
    """The calls to one actor, and the process it lives in. Sends in the order of submission."""

    __slots__ = (
        "actor_id",
        "address",
        "cls",
        "ended_by",
        "error",
        "killed_here",
        "late",
        "on_hold",
        "plans",
        "process",
        "queue",
        "reason",
        "remote",
        "remotes",
        "rules",
        "slot",
        "state",
        "unseen",
        "updates",
        "watched",
    )

    def __init__(self, actor_id: bytes, cls: str, rules: CallRules) -> None:
        self.actor_id = actor_id
        self.cls = cls
        self.rules = rules
        self.state = "pending"
        self.address = ""
        self.reason = ""
        self.ended_by = b""  # the call that wanted it to end, as the id of its result
        self.error: Value | None = None
        self.slot = 0  # its number in its process, if that has others
        self.process: ActorProcess | None = None
        self.queue: collections.deque[ActorCallRecord] = collections.deque()
        self.late: dict[int, ActorCallRecord] = {}  # in any order: calls that wait for arguments, by seq
        self.remote: weakref.ref[RemoteActor] | None = None
        self.remotes = 0  # one as a rule, two while one is dying as the next handle arrives
        self.watched = False
        self.updates = 0  # how often the node has told of it
        self.on_hold = False  # it was ended, and the node is about to say so
        self.killed_here = False  # this process asked for it: its calls fail as they should
        self.plans: list[Plan] = []  # compiled graphs that it takes part in
        self.unseen: Unseen | None = None  # of a constructor's error, where it was called
