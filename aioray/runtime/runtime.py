"""One process's side of one cluster: what drivers and workers share."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import os
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from aioray import placement
from aioray.exceptions import (
    BlockingCallError,
    RaySystemError,
    RayTaskError,
    TaskCancelledError,
)
from aioray.options import ActorOptions
from aioray.refs import CANCELLED, PENDING, RAISED, READY, ObjectRef
from aioray.runtime.actor_calls import ActorCaller, ActorCallRecord, RemoteActor
from aioray.runtime.actor_creation import create_actor
from aioray.runtime.callbacks import CallbackThread
from aioray.runtime.calls import NO_DEADLINE, cancelled, check_cluster, fail, pack_arguments
from aioray.runtime.deadlines import Deadlines, deadline_of
from aioray.runtime.errors import error_value, one_line, to_raise
from aioray.runtime.far_memory import FarBringing, FarMemory
from aioray.runtime.groups import GroupClient, Wait
from aioray.runtime.link import NodeLink, SideChannel
from aioray.runtime.loop_callbacks import LoopCallbacks
from aioray.runtime.objects import ObjectTable, serialize_value
from aioray.runtime.passes import Pass
from aioray.runtime.serialization import load_plain, serialize_code
from aioray.runtime.shared_memory import SharedMemory
from aioray.runtime.streams import Streams
from aioray.runtime.task_reporter import TaskReporter
from aioray.runtime.tasks import Function, Task, TaskSubmitter, TaskTarget
from aioray.runtime.unseen import looked_at
from aioray.runtime_env import checked_env
from aioray.runtime_env.environment import Environment
from aioray.runtime_env.resolving import Environments
from aioray.wire.calls import Greeting
from aioray.wire.control import (
    ActorUpdate,
    CancelCall,
    Fetched,
    GiveExtent,
    GroupUpdate,
    Hello,
    LeaseGrant,
    LeaseLost,
    LeaseRecall,
    LogLines,
    Notice,
    Query,
    Reserve,
    Spill,
    TaskPace,
    Welcome,
)
from aioray.wire.values import Value, owner_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aioray.config import Config
    from aioray.logging_config import LoggingConfig
    from aioray.options import TaskOptions
    from aioray.runtime.actor_calls import MethodTarget
    from aioray.runtime.arrivals import Arrivals
    from aioray.runtime.calls import Running, UnderWay
    from aioray.runtime.deadlines import Limits
    from aioray.runtime.dialing import Dialer
    from aioray.runtime.plans import Plan
    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.runtime.streams import Stream
    from aioray.runtime_env import RuntimeEnv
    from aioray.wire.control import ActorSpec, Reserved
    from aioray.wire.strategies import InGroup


_MAX_ENTRYPOINT = 1000  # characters
_BROUGHT_AHEAD = 16  # values that `get` has on their way from other nodes at once
_LATE_S = 1.0  # how long after its deadline a call is stopped whose parent, which has the same, should have ended it


class Runtime:
    """Tasks, actors and objects of one process. Thread-safe: the reactor's lock guards everything here."""

    def __init__(
        self,
        reactor: Reactor,
        config: Config,
        node_address: str,
        *,
        dialer: Dialer,
        process_id: bytes,
        role: str = "driver",
        namespace: str = "",
        exchange: Callable[[Any], Any] | None = None,
        on_message: Callable[[Any], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
        on_log: Callable[[LogLines], None] | None = None,
        log_to_driver: bool = True,
        environment: str = "",
        gpus: tuple[str, ...] = (),
    ) -> None:
        self.reactor = reactor
        self.config = config
        self.dialer = dialer
        self.process_id = process_id
        self.job_id = process_id  # of the driver at the root; a worker learns it from who calls it
        self.role = role
        self.namespace = namespace
        self.log = logging.getLogger("aioray")
        self.sys_path = [path or os.getcwd() for path in sys.path]
        self.closed = False
        self.closed_because = "this cluster was shut down"
        self.shutdown: Callable[[], Awaitable[None]] | None = None  # of the cluster, if this loop runs it
        self.end: Callable[[], None] | None = None  # the same, blocking, for when the loop is gone
        self._hung_up = False
        self.node_id = ""
        self.session_dir = ""
        self.memory: SharedMemory
        self.environments: Environments
        self._own_environment = environment
        self._gpus = gpus
        self._node_address = node_address
        self._seqs = itertools.count(1)
        self._functions: weakref.WeakKeyDictionary[Any, Function] = weakref.WeakKeyDictionary()
        self._functions_by_id: dict[int, tuple[Any, Function]] = {}
        self._deadlines = Deadlines()
        self._deadline_timer: Timer | None = None
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_log = on_log
        self._log_to_driver = log_to_driver
        self._side_channel = SideChannel(dialer, node_address, self._hello("side"))
        self._exchange = exchange or self._side_channel.exchange  # a node in our own event loop answers directly
        self.link = NodeLink(reactor, dialer, node_address, self._dispatch, self._lost)
        self.objects = ObjectTable(self)
        self.streams = Streams(self)
        self.reporter = TaskReporter(self)
        self.tasks = TaskSubmitter(self)
        self.actors = ActorCaller(self)
        self.groups = GroupClient(self)
        self.callbacks = CallbackThread()
        self.loop_callbacks = LoopCallbacks()
        self.plans: set[Plan] = set()  # compiled graphs that have links here

    # opening and closing

    def _hello(self, role: str, address: str = "") -> Hello:
        return Hello(
            self.process_id,
            role,
            os.getpid(),
            namespace=self.namespace,
            sys_path=self.sys_path,
            address=address,
            log_to_driver=self._log_to_driver,
            entrypoint=" ".join(sys.argv)[:_MAX_ENTRYPOINT] if role == "driver" else "",
        )

    def visitors_hello(self) -> Hello:
        """How this process introduces itself to a node that is not its own."""
        hello = self._hello("visitor")
        hello.log_to_driver = self._log_to_driver and self.role == "driver"
        return hello

    def open(self, address: str = "") -> None:
        """Introduce this process to its node; `welcome` has the answer. `address`: where a worker listens."""
        self.link.open(self._hello(self.role, address))

    def welcome(self, welcome: Welcome) -> None:
        """The node let us in."""
        self.node_id = welcome.node_id
        self.session_dir = welcome.session_dir
        session_dir = "" if self.is_far else welcome.session_dir
        self.environments = Environments(self._own_environment, session_dir, self.config.runtime_env_max_nbytes)
        if self.is_far:
            memory = FarMemory(welcome.capacity_nbytes, self._exchange, self._give_extent)
            self.memory, self.objects.bringing = memory, FarBringing(self, memory)
            return
        self.memory = SharedMemory(
            welcome.segment,
            welcome.capacity_nbytes,
            self._reserve,
            self._give_extent,
            extent_nbytes=self.config.extent_nbytes,
            cache_nbytes=self.config.local_arena_cache_nbytes,
        )

    @property
    def is_far(self) -> bool:
        """Whether the node is on another machine."""
        return not self.dialer.from_here(self._node_address).startswith("/")

    def adopt_environment(self, given: Mapping[str, Any], logging_config: LoggingConfig | None = None) -> None:
        """What all that this process submits has from here on. Copies files, blocking. Raises InvalidOptionError."""
        own = Environment.of(self.environments.resolve(checked_env(given)))
        self.environments.own = msgspec.structs.replace(own, logging_config=logging_config).text()

    def runtime_env(self) -> RuntimeEnv:
        """What this process was started with, and hands on; paths are those of the node's copies."""
        return Environment.of(self.environments.own).as_given()

    def accelerator_ids(self) -> dict[str, list[str]]:
        """The devices that were given to what runs here, by the name of their resource."""
        return {"GPU": list(self._gpus)}

    def _reserve(self, nbytes: int) -> Reserved:
        answer: Reserved = self._exchange(Reserve(nbytes))
        return answer

    def ask(self, what: str, **args: Any) -> Any:
        """Ask the node something. Raises ValueError with its words when it has no answer."""
        self.require_open()
        self.reactor.flush()  # the answer is to what the node knows after all that was told before
        answer = self._exchange(Query(0, what, args))
        if answer.error:
            raise ValueError(answer.error)
        return answer.data

    def _give_extent(self, offset: int, nbytes: int) -> None:
        with self.reactor.lock:
            self.link.send(GiveExtent(offset, nbytes))

    def stop(self, reason: str = "the cluster was shut down") -> None:
        """Fail what is pending, and refuse what is new. Safe to call twice."""
        if self.closed:
            return
        self.closed = True
        with self.reactor.lock:
            self.tasks.close(reason)
            self.actors.close(reason)
            self.groups.close(reason)
            self.objects.close()
            for plan in list(self.plans):
                plan.cut()
        self.reactor.nudge()

    def close(self) -> None:
        """Stop, hang up, let go of memory. Safe to call twice."""
        self.stop()
        if self._hung_up:
            return
        self._hung_up = True
        self.callbacks.close()
        self.link.close()
        self._side_channel.close()
        if self.node_id:
            self.memory.close()

    def disown(self) -> None:
        """In a forked child: the cluster is the parent's."""
        self.closed = self._hung_up = True
        self.closed_because = "this cluster belongs to the process that forked this one; start one of your own"

    @property
    def orphaned(self) -> bool:
        """Whether the event loop that did the I/O was closed before the cluster was shut down."""
        loop = self.reactor.loop
        return loop is not None and loop.is_closed()

    def _lost(self, reason: str) -> None:
        if not self.closed:
            self.closed_because = f"the node is gone: {reason}"
            self.stop(self.closed_because)
        if self._on_lost is not None:
            self._on_lost(reason)

    def _dispatch(self, message: Any) -> None:
        match message:
            case LeaseGrant() | LeaseLost() | LeaseRecall() | Spill():
                self.tasks.heard(message)
            case ActorUpdate():
                self.actors.updated(message)
            case GroupUpdate():
                self.groups.updated(message)
            case Fetched():
                self.objects.fetched(message)
            case CancelCall():
                self._cancel_for_borrower(message)
            case TaskPace():
                self.reporter.paced(message)
            case Notice(text):
                self.log.warning("%s", text)
            case LogLines():
                if self._on_log is not None:
                    self._on_log(message)
            case _:
                if self._on_message is not None:
                    self._on_message(message)

    def heard_from_afar(self, message: Any) -> None:
        """What a node other than our own says that is not about leases."""
        match message:
            case Notice(text):
                self.log.warning("%s", text)
            case LogLines() if self._on_log is not None:
                self._on_log(message)

    def require_open(self) -> None:
        """Raises RaySystemError when the cluster was shut down, or is gone."""
        if self.closed:
            raise RaySystemError(self.closed_because)

    # objects

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value; see aioray.put."""
        self.require_open()
        serialized = serialize_value(value)
        check_cluster(self, serialized.refs)
        ref: ObjectRef[Any] = ObjectRef(self, next(self._seqs))
        if serialized.nbytes > self.config.inline_max_nbytes:
            self.objects.sweep_now()
            self.objects.put(ref, serialized)
        elif serialized.refs:
            self.objects.put(ref, serialized)
        else:
            ref._status = READY
            ref._value = Value(serialized.data, [bytes(buffer) for buffer in serialized.buffers])
        return ref

    def load(self, ref: ObjectRef[Any]) -> Any:
        """The Python value of what is READY. What unpickling raises says of what it is."""
        value: Value = ref._value
        try:
            if not value.nbytes and not value.refs and not value.buffers:
                return load_plain(value.data)
            return self.objects.load(value)
        except Exception as exc:  # of user code, as a rule
            exc.add_note(f"It was raised here (pid={os.getpid()}) while {_what_is(ref, 'value')} was unpickled.")
            raise

    def load_error(self, ref: ObjectRef[Any]) -> BaseException:
        """The exception of what RAISED; a RayTaskError that is also an instance of what was raised there."""
        looked_at(ref)
        value: Value | BaseException = ref._value
        if isinstance(value, BaseException):
            return to_raise(value)
        try:
            error = self.objects.load(value)
        except Exception as exc:  # the class of the exception is not to be had here, for example
            exc.add_note(
                f"It was raised here (pid={os.getpid()}) while {_what_is(ref, 'error')} was unpickled: {value.summary}"
            )
            raise
        if isinstance(error, RayTaskError):
            return error.as_instanceof_cause()
        assert isinstance(error, BaseException)
        return error

    def wire_value(self, ref: ObjectRef[Any]) -> Value:
        """What another process gets for a ref that is done; it may look at an error from then on."""
        looked_at(ref)
        if ref._status == CANCELLED:
            return error_value(TaskCancelledError(ref.task_id().hex(), name=ref._task or ""))
        if isinstance(ref._value, BaseException):
            return error_value(ref._value)
        value: Value = ref._value
        return value

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """The values, blocking. Raises what was raised, and GetTimeoutError."""
        self.wait_all(refs, timeout_s)
        results = []
        for ref in refs:
            if ref._status == READY:
                results.append(self.load(ref))
            else:
                for each in refs:  # one error is raised for all of them, as by asyncio.gather
                    each._when_done(looked_at)
                raise self.outcome_error(ref)
        return results

    def outcome_error(self, ref: ObjectRef[Any]) -> BaseException:
        """Why there is no value, for callers that block."""
        if ref._status == CANCELLED:
            return TaskCancelledError(ref.task_id().hex(), name=ref._task or "")
        if ref._status == PENDING:
            return RaySystemError(self.closed_because)
        return self.load_error(ref)

    def wait_all(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> None:
        """Block until all are done, or one has an error. Raises GetTimeoutError."""
        for ref in refs:
            if ref._status == PENDING:
                break
            if ref._status != READY:
                return
        else:
            return
        self.check_may_block("aioray.get(ref)", "await ref")
        for each in refs:
            self.objects.want(each)
        with _Blocked(self):
            self._wait_in_turn(refs, timeout_s)

    def _wait_in_turn(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for at, ref in enumerate(refs):
            if ref._status == PENDING:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                is_there = self.reactor.run_until(ref._is_made, left)
                if is_there and ref._status == PENDING:
                    is_there = self._wait_until_here(refs[at : at + _BROUGHT_AHEAD], deadline)
                if not is_there:
                    self.require_open()
                    done = sum(each._status != PENDING for each in refs)
                    raise ref._late_error(f"{done} of {len(refs)} objects were there after {timeout_s} s", timeout_s)
            if ref._status != READY:
                return

    def _wait_until_here(self, refs: Sequence[ObjectRef[Any]], deadline: float | None) -> bool:
        """The value of the first lies on another node, and perhaps those of what comes next: wait for that one."""
        for ref in refs:
            self.objects.want(ref)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return self.reactor.run_until(refs[0].done, left)

    def wait(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Block until `num_returns` are done or time is up."""
        if sum(ref._status != PENDING for ref in refs) < num_returns:
            self.check_may_block("aioray.wait(refs)", "await aioray.wait(refs)")
            with _Blocked(self):
                counter = _Countdown(refs, num_returns)
                try:
                    self.reactor.run_until(counter.reached, timeout_s)
                finally:
                    counter.stop()
        return split_ready(refs, num_returns)

    def wait_for_any(self, arrivals: Arrivals, timeout_s: float | None) -> bool:
        """Block until a ref is done; False when time is up first."""
        if arrivals.any():
            return True
        self.check_may_block("for ref in aioray.as_completed(refs)", "async for ref in aioray.as_completed(refs)")
        with _Blocked(self):
            return self.reactor.run_until(arrivals.any, timeout_s)

    async def wait_async(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """The same, awaited. Cancelling it cancels no call."""
        if sum(ref._status != PENDING for ref in refs) < num_returns:
            loop = asyncio.get_running_loop()
            event = asyncio.Event()
            counter = _Countdown(refs, num_returns, lambda: loop.call_soon_threadsafe(event.set))
            self.on_block(True)
            try:
                async with asyncio.timeout(timeout_s):
                    await event.wait()
            except TimeoutError:
                pass
            finally:
                self.on_block(False)
                counter.stop()
        return split_ready(refs, num_returns)

    def wait_until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Block until `done()`; False when time is up first. Not in an event loop."""
        with _Blocked(self):
            return self.reactor.run_until(done, timeout_s)

    def check_may_block(self, call: str, instead: str) -> None:
        """Raises BlockingCallError in the event loop that does the I/O."""
        if self.reactor.in_loop():
            raise BlockingCallError(call, instead)

    def on_block(self, blocked: bool) -> None:
        """A thread of user code waits for the cluster, or goes on. Workers give their CPU back meanwhile."""

    def awaited(self, ref: ObjectRef[Any]) -> None:
        """Somebody awaits a pending ref."""
        if ref._task is None or ref._value is not None:  # else its value comes by itself
            self.objects.want(ref)

    def call_here(self) -> Running | None:
        """The call that this thread, or this coroutine, is; None when it is none."""
        return None

    def spares_children(self) -> bool:
        """Whether a cancelled await leaves what it awaits alone: `cancel(recursive=False)` is at work."""
        return False

    def actor_here(self) -> ActorSpec | None:
        """What the actor is made of that this thread, or this coroutine, works for."""
        return None

    def exit_actor(self) -> NoReturn:
        """See aioray.actor."""
        raise TypeError("exit_actor() is for the code of an actor, and this is none")

    @property
    def node_address(self) -> str:
        """Where our node listens."""
        return self._node_address

    def namespace_here(self) -> str:
        """Where actors are named, and looked for, that say nothing else."""
        return self.namespace

    def job_here(self) -> bytes:
        """The driver for which this thread, or this coroutine, works."""
        return self.job_id

    captures = False  # calls made here may have to follow the one that makes them into its placement group

    def group_here(self) -> InGroup | None:
        """The placement group in which the call is that this thread, or this coroutine, is busy with."""
        return None

    def followed_group(self, options: TaskOptions | ActorOptions) -> InGroup | None:
        """The placement group into which a call made here goes because its caller is in there.

        Raises InvalidOptionError when it does not fit there, and for a bundle without a group.
        """
        group = placement.captured(self.group_here(), options)
        if group is not None:
            demand = options.placement_demand() if isinstance(options, ActorOptions) else options.demand()
            placement.check_fits(group, self.groups.bundles_of(group.group_id), demand)
        return group

    def greeting(self) -> Greeting:
        """What a worker hears first."""
        return Greeting(self.process_id, self.sys_path, self.job_here(), self.namespace_here())

    def in_call(self) -> bool:
        """Whether this thread runs a task or a method."""
        return False

    # tasks

    def function(self, fn: Any, name: str) -> Function:
        """A function as the cluster knows it; pickled once per runtime."""
        try:
            function = self._functions.get(fn)
        except TypeError:  # it cannot be hashed, or not be referenced weakly
            return self._function_by_id(fn, name)
        if function is None:
            function = self._functions[fn] = self._pickled_function(fn, name)
        return function if function.name == name else function.renamed(name)

    def _function_by_id(self, fn: Any, name: str) -> Function:
        """Kept until shutdown, or its id could become another's."""
        entry = self._functions_by_id.get(id(fn))
        if entry is None:
            entry = self._functions_by_id[id(fn)] = fn, self._pickled_function(fn, name)
        function = entry[1]
        return function if function.name == name else function.renamed(name)

    def _pickled_function(self, fn: Any, name: str) -> Function:
        data, refs = serialize_code(fn, name)
        check_cluster(self, refs)
        return Function(hashlib.blake2b(data, digest_size=12).hexdigest(), name, data, refs)

    def task_target(
        self, function: Function, options: TaskOptions, num_returns: int, group: InGroup | None = None
    ) -> TaskTarget:
        """A function with its options, as `submit_task` takes it; in `group`, if the options name none."""
        environment = self.environments.resolve(options.runtime_env)
        with self.reactor.lock:
            queue = self.tasks.queue_for(options.demand(), environment, placement.with_group(options.strategy(), group))
        types = options.retry_exceptions
        exported = (
            self._pickled_function(types, f"retry_exceptions of {function.name}")
            if types and types is not True
            else None
        )
        return TaskTarget(self, function, options, queue, num_returns, exported)

    def submit_task(
        self, target: TaskTarget, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Stream | None = None
    ) -> tuple[ObjectRef[Any], ...]:
        """Queue one task; its refs. `stream`: where its values go, if they come one after the other."""
        if self.closed:
            self.require_open()
        arguments = pack_arguments(self, args, kwargs)
        seq = next(self._seqs)
        if target.num_returns == 1:
            refs: tuple[ObjectRef[Any], ...] = (ObjectRef(self, seq),)
        elif stream is not None:
            refs = (stream.numbered(seq),)
        else:
            refs = tuple(ObjectRef(self, seq, index) for index in range(target.num_returns))
        with self.reactor.lock:
            parent = self.call_here()
            task = Task(
                seq,
                target,
                arguments,
                refs,
                target.queue,
                target.function.duration,
                target.options.max_retries,
                parent,
            )
            for ref in refs:
                ref._task = task
            if stream is not None:
                self.streams.begin(stream, task)
            for _, dep in arguments.deps:
                self.objects.want(dep, here=False)
            if (target.limits is None and parent is None) or self._in_time(task, target.limits, parent):
                self.tasks.submit(task)
        return refs

    def submit_actor_call(
        self,
        actor: RemoteActor,
        target: MethodTarget,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        stream: Stream | None = None,
    ) -> tuple[ObjectRef[Any], ...]:
        """Queue one call of an actor; its refs. `stream`: as in `submit_task`. Raises PendingCallsLimitExceeded."""
        self.require_open()
        self.actors.require_room(actor.line, target.name)
        arguments = pack_arguments(self, args, kwargs)
        seq = next(self._seqs)
        if target.num_returns == 1:
            refs: tuple[ObjectRef[Any], ...] = (ObjectRef(self, seq),)
        elif stream is not None:
            refs = (stream.numbered(seq),)
        else:
            refs = tuple(ObjectRef(self, seq, index) for index in range(target.num_returns))
        with self.reactor.lock:
            parent = self.call_here()
            record = ActorCallRecord(actor, seq, target, arguments, refs, target.max_retries, parent)
            for ref in refs:
                ref._task = record
            if stream is not None:
                self.streams.begin(stream, record)
            for _, dep in arguments.deps:
                self.objects.want(dep, here=False)
            if (target.limits is None and parent is None) or self._in_time(record, target.limits, parent):
                self.actors.submit(actor.line, record)
        return refs

    # deadlines

    def _in_time(self, call: Task | ActorCallRecord, limits: Limits | None, parent: Running | None) -> bool:
        """Watch the deadline of a new call, if it has one; False when that has passed, and the call has failed."""
        now = self.reactor.time()
        call.deadline = deadline_of(limits, parent, now, time.time() if limits is not None else 0.0)
        if call.deadline == NO_DEADLINE:
            return True
        if call.deadline <= now:
            call.cancelled = call.timed_out = True
            fail(self, call, cancelled(call))
            return False
        # What only inherits it ends with its parent, which is told first. Unless nobody is left to tell that.
        inherited = parent is not None and not parent.is_canceled and parent.deadline <= call.deadline
        if self._deadlines.add(call, call.deadline + (_LATE_S if inherited else 0.0)):
            self._watch_deadlines()
        return True

    def _watch_deadlines(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        when = self._deadlines.next()
        if when is not None:
            self._deadline_timer = self.reactor.call_later(max(0.0, when - self.reactor.time()), self._time_is_up)

    def _time_is_up(self) -> None:
        self._deadline_timer = None
        for call in self._deadlines.due(self.reactor.time()):
            self._time_out(call)
        self._watch_deadlines()

    def _time_out(self, call: UnderWay) -> None:
        """Who waits for it hears at once, whatever it takes to stop it."""
        if call.cancelled or (call.refs and all(ref._is_made() for ref in call.refs)):
            return
        call.timed_out = True
        fail(self, call, cancelled(call))
        self.cancel_task(call)

    def create_actor(
        self, cls: type, methods: dict[str, str], options: ActorOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[RemoteActor, bool]:
        """See actor_creation."""
        self.require_open()
        return create_actor(self, cls, methods, options, args, kwargs)

    def adopt_actor(self, actor_id: bytes, cls: str, methods: dict[str, str]) -> RemoteActor:
        """The RemoteActor of this process for an actor."""
        with self.reactor.lock:
            return self.actors.adopt(actor_id, cls, methods, held=False)

    def next_seq(self) -> int:
        """A number for something new of ours: see wire.values.object_id."""
        return next(self._seqs)

    def cancel_task(
        self, task: Any, ref: ObjectRef[Any] | None = None, *, force: bool = False, recursive: bool = True
    ) -> None:
        """Cancel whatever computes `ref`. The lock is held."""
        if isinstance(task, Task):
            self.tasks.cancel(task, force=force, recursive=recursive)
        elif isinstance(task, ActorCallRecord):
            self.actors.cancel(task, recursive=recursive)
        elif isinstance(task, Wait):
            self.groups.cancel(task)
            task.ref._complete(RAISED, TaskCancelledError(task.ref.task_id().hex(), name=task.name))
        elif isinstance(task, Pass):
            task.cancel()

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool = True) -> None:
        """aioray.cancel."""
        with self.reactor.lock:
            if owner_of(ref.binary()) != self.process_id:
                self.ask_owner_to_cancel(ref, force=force, recursive=recursive)
            elif ref._status == PENDING and ref._task is not None:
                if force and isinstance(ref._task, ActorCallRecord):
                    raise ValueError(
                        "force=True is for tasks: the process of an actor is ended with aioray.kill(actor)"
                    )
                self.cancel_task(ref._task, ref, force=force, recursive=recursive)
        self.reactor.nudge()

    def ask_owner_to_cancel(self, ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
        """Cancel a call that another process made. The lock is held."""
        if ref._status in (PENDING, CANCELLED):
            self.link.send(CancelCall(ref.binary(), force, recursive))

    def _cancel_for_borrower(self, message: CancelCall) -> None:
        ref = self.objects.known_ref(message.oid)
        if ref is not None and ref._status == PENDING and ref._task is not None:
            self.cancel_task(ref._task, ref, force=message.force, recursive=message.recursive)

    def group_awaited_by(self, ref: ObjectRef[Any]) -> bytes:
        """The placement group for which a ref of its `ready()` waits; b"" when it is no such ref."""
        with self.reactor.lock:
            return ref._task.group_id if isinstance(ref._task, Wait) else b""

    def actor_awaited_by(self, ref: ObjectRef[Any]) -> bytes:
        """The actor that is not there yet for the call that a ref is of; b"" when it waits for none."""
        with self.reactor.lock:
            record = ref._task
            if not isinstance(record, ActorCallRecord) or record.actor.line.state not in ("pending", "restarting"):
                return b""
            return record.actor.actor_id

    def explain_state(self, ref: ObjectRef[Any]) -> tuple[str, int | None]:
        """What is known here of where a ref is; and the lease request to ask the node about."""
        with self.reactor.lock:
            if ref._status == READY:
                return "is ready", None
            if ref._status == RAISED:
                error = ref._value
                summary = error.summary if isinstance(error, Value) else one_line(error)
                return f"has failed: {summary or 'it was cancelled'}", None
            if ref._status == CANCELLED:
                left = self.tasks.after_its_cancel(ref._seq) or self.actors.after_its_cancel(ref._seq)
                return f"was cancelled, and still {left}" if left else "was cancelled", None
            if isinstance(ref._task, Task):
                return self.tasks.state_of(ref._task)
            if isinstance(ref._task, ActorCallRecord):
                return self.actors.state_of(ref._task), None
            if isinstance(ref._task, Wait):
                return "waits for its placement group", None
            if isinstance(ref._task, Pass):
                return ref._task.state(), None
            return "is being computed for another process", None


def _what_is(ref: ObjectRef[Any], part: str) -> str:
    name = ref._task if isinstance(ref._task, str) else getattr(ref._task, "name", None)
    return f"the {'result' if part == 'value' else part} of {name} ({ref!r})" if name else f"the {part} of {ref!r}"


class _Blocked:
    """A thread of user code waits. Interrupts of the main thread are raised by `run_until`, or when all is settled."""

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __enter__(self) -> None:
        reactor = self._runtime.reactor
        reactor.raise_shield()
        try:
            self._runtime.on_block(True)
        except BaseException:
            reactor.lower_shield()
            raise

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._runtime.on_block(False)
        finally:
            self._runtime.reactor.lower_shield()


class _Countdown:
    """Counts refs that get done."""

    __slots__ = ("_left", "_refs", "_then")

    def __init__(self, refs: list[ObjectRef[Any]], count: int, then: Callable[[], object] | None = None) -> None:
        self._left = count
        self._then = then
        self._refs = refs
        for ref in refs:
            ref._when_done(self._one)

    def _one(self, _: ObjectRef[Any]) -> None:
        self._left -= 1
        if self._left == 0 and self._then is not None:
            with contextlib.suppress(RuntimeError):  # the loop that waited is closed
                self._then()

    def reached(self) -> bool:
        return self._left <= 0

    def stop(self) -> None:
        """Nobody waits any more: take the callbacks out, or a loop of waits would pile them up."""
        for ref in self._refs:
            ref._drop_callback(self._one)


def split_ready(refs: list[ObjectRef[Any]], num_returns: int) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """At most `num_returns` that are done, in the order given, and all others."""
    ready: list[ObjectRef[Any]] = []
    rest: list[ObjectRef[Any]] = []
    for ref in refs:
        if ref._status != PENDING and len(ready) < num_returns:
            ready.append(ref)
        else:
            rest.append(ref)
    return ready, rest
