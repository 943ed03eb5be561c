"""One process's side of one cluster: what drivers and workers share."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from aioray import placement
from aioray.exceptions import (
    RaySystemError,
    RayTaskError,
    TaskCancelledError,
)
from aioray.options import ActorOptions
from aioray.refs import CANCELLED, PENDING, READY, ObjectRef
from aioray.runtime.actor_calls import ActorCaller
from aioray.runtime.callbacks import CallbackThread
from aioray.runtime.calls import check_cluster
from aioray.runtime.canceller import Canceller
from aioray.runtime.errors import error_value, to_raise
from aioray.runtime.exports import Exports
from aioray.runtime.far_memory import FarBringing, FarMemory
from aioray.runtime.groups import GroupClient
from aioray.runtime.here import Here
from aioray.runtime.link import NodeLink, SideChannel
from aioray.runtime.loop_callbacks import LoopCallbacks
from aioray.runtime.metric_reporter import MetricReporter
from aioray.runtime.objects import ObjectTable, serialize_value
from aioray.runtime.overtime import Overtime
from aioray.runtime.serialization import load_plain
from aioray.runtime.shared_memory import SharedMemory
from aioray.runtime.speculating import Speculator
from aioray.runtime.streams import Streams
from aioray.runtime.task_reporter import TaskReporter
from aioray.runtime.tasks import TaskSubmitter
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
    MetricInterval,
    Notice,
    Query,
    Reserve,
    Spill,
    TaskPace,
    Welcome,
)
from aioray.wire.values import Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aioray.config import Config
    from aioray.logging_config import LoggingConfig
    from aioray.options import TaskOptions
    from aioray.runtime.actor_lines import RemoteActor
    from aioray.runtime.dialing import Dialer
    from aioray.runtime.plans import Plan
    from aioray.runtime.reactor import Reactor
    from aioray.runtime_env import RuntimeEnv
    from aioray.wire.control import Reserved
    from aioray.wire.strategies import InGroup


_MAX_ENTRYPOINT = 1000  # characters


class Runtime(Here):
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
        super().__init__(process_id, namespace)
        self.reactor = reactor
        self.config = config
        self.dialer = dialer
        self.process_id = process_id
        self.role = role
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
        self.seqs = itertools.count(1)  # for whatever is new of ours: see wire.values.object_id
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
        self.metrics = MetricReporter(self)
        self.tasks = TaskSubmitter(self)
        self.actors = ActorCaller(self)
        self.groups = GroupClient(self)
        self.exports = Exports(self)
        self.overtime = Overtime(self)
        self.speculator = Speculator(self)
        self.canceller = Canceller(self)
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

    def greeting(self) -> Greeting:
        """What a worker hears first."""
        return Greeting(self.process_id, self.sys_path, self.job_here(), self.namespace_here())

    def open(self, address: str = "") -> None:
        """Introduce this process to its node; `welcome` has the answer. `address`: where a worker listens."""
        self.link.open(self._hello(self.role, address))

    def welcome(self, welcome: Welcome) -> None:
        """The node let us in."""
        self.node_id = welcome.node_id
        self.metrics.open()
        self.session_dir = welcome.session_dir
        session_dir = "" if self.is_far else welcome.session_dir
        self.environments = Environments(
            self._own_environment, session_dir, self.config.runtime_env_max_nbytes, self.ask, self.owner_here
        )
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

    @property
    def node_address(self) -> str:
        """Where our node listens."""
        return self._node_address

    def adopt_environment(self, given: Mapping[str, Any], logging_config: LoggingConfig | None = None) -> None:
        """What all that this process submits has from here on. Copies files, blocking. Raises InvalidOptionError."""
        own = Environment.of(self.environments.resolve(checked_env(given)))
        self.environments.own = msgspec.structs.replace(own, logging_config=logging_config).text()

    def runtime_env(self) -> RuntimeEnv:
        """What this process was started with, and hands on; paths are those of the node's copies."""
        return Environment.of(self.environments.own).as_given(self.session_dir)

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
        with self.reactor.lock:
            self.metrics.close()
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

    def tell_all(self) -> None:
        """Tell the node what it was not told of tasks and metrics: this process is about to end. The lock is held."""
        self.reporter.tell()
        self.metrics.tell()

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
                self.tasks.leases.heard(message)
            case ActorUpdate():
                self.actors.updated(message)
            case GroupUpdate():
                self.groups.updated(message)
            case Fetched():
                self.objects.fetched(message)
            case CancelCall():
                self.canceller.for_borrower(message)
            case TaskPace():
                self.reporter.paced(message)
            case MetricInterval():
                self.metrics.paced(message)
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
        ref: ObjectRef[Any] = ObjectRef(self, next(self.seqs))
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

    def outcome_error(self, ref: ObjectRef[Any]) -> BaseException:
        """Why there is no value, for callers that block."""
        if ref._status == CANCELLED:
            return TaskCancelledError(ref.task_id().hex(), name=ref._task or "")
        if ref._status == PENDING:
            return RaySystemError(self.closed_because)
        return self.load_error(ref)

    def awaited(self, ref: ObjectRef[Any]) -> None:
        """Somebody awaits a pending ref."""
        if ref._task is None or ref._value is not None:  # else its value comes by itself
            self.objects.want(ref)

    # calls and actors

    def followed_group(self, options: TaskOptions | ActorOptions) -> InGroup | None:
        """The placement group into which a call made here goes because its caller is in there.

        Raises InvalidOptionError when it does not fit there, and for a bundle without a group.
        """
        group = placement.captured(self.group_here(), options)
        if group is not None:
            demand = options.placement_demand() if isinstance(options, ActorOptions) else options.demand()
            placement.check_fits(group, self.groups.bundles_of(group.group_id), demand)
        return group

    def adopt_actor(self, actor_id: bytes, cls: str, methods: dict[str, str]) -> RemoteActor:
        """The RemoteActor of this process for an actor."""
        with self.reactor.lock:
            return self.actors.adopt(actor_id, cls, methods, held=False)

    def next_seq(self) -> int:
        """The next of `seqs`."""
        return next(self.seqs)


def _what_is(ref: ObjectRef[Any], part: str) -> str:
    name = ref._task if isinstance(ref._task, str) else getattr(ref._task, "name", None)
    return f"the {'result' if part == 'value' else part} of {name} ({ref!r})" if name else f"the {part} of {ref!r}"
