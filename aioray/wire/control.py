"""Process <-> its node: leases, shared objects, shared memory, actors, questions.

Field order is the format: append fields with defaults, never reorder.
Requests that need an answer carry `req`, a number of the asker's choosing, which the answer repeats.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aioray.wire.events import TaskGroup
from aioray.wire.metrics import Metric
from aioray.wire.strategies import Selector, Strategy
from aioray.wire.values import Value

PROTOCOL_VERSION = 6


class Message(msgspec.Struct, array_like=True):
    """A control frame."""


class Hello(Message, tag=1):
    """Process -> node, first. `role`: driver, worker, side (a second socket, for questions), visitor (a process of
    another node that wants leases here), or node (another node)."""

    process_id: bytes
    role: str
    pid: int
    version: int = PROTOCOL_VERSION
    namespace: str = ""
    sys_path: list[str] = []
    address: str = ""  # where a worker listens, see wire.reach
    log_to_driver: bool = True
    entrypoint: str = ""  # of a driver: its command line
    first: int = 0  # of a node: with which of its words it begins, counted over all connections of this line,
    heard: int = 0  # and how many of ours it has heard


class Welcome(Message, tag=2):
    """Node -> process: come in. The segment is mapped when the first object in it is touched."""

    node_id: str
    session_dir: str
    segment: str
    capacity_nbytes: int
    error: str = ""  # why not, when the node refuses


class LeaseRequest(Message, tag=3):
    """Caller -> node: one worker, please."""

    lease_id: int
    demand: dict[str, int]  # unit 1/10,000
    name: str  # what it is for; shown in warnings
    environment: str = ""  # see aioray.runtime_env.environment
    strategy: Strategy | None = None
    hops: int = 0  # as in the Spill that sent it here
    argument_nbytes: dict[str, int] = {}  # node id -> how much of what it is for lies there


class LeaseGrant(Message, tag=4):
    """Node -> caller: yours until you return it or it dies."""

    lease_id: int
    worker_id: str
    address: str


class LeaseReturn(Message, tag=5):
    """Caller -> node: not needed any more, whether granted or still waiting. Safe to send twice."""

    lease_id: int
    kill: bool = False  # end the worker too: it runs something that was cancelled by force
    retire: bool = False  # let the worker go: it has said that it is through


class LeaseLost(Message, tag=6):
    """Node -> caller: the worker of this lease is dead, or could not be started."""

    lease_id: int
    reason: str
    setup_failed: bool = False  # no worker can be had in that environment
    unschedulable: bool = False  # its strategy has it fail rather than wait
    node_died: bool = False  # its worker died with its node
    group_removed: bool = False  # and so is the placement group in which it was, or was to be


class Blocked(Message, tag=7):
    """Worker -> node: waiting inside a task (True: take my CPU back) or running again (False)."""

    blocked: bool


class Share(Message, tag=8):
    """Owner -> node: others may ask you for this object. Without a value: it is still being computed."""

    oid: bytes
    value: Value | None = None


class Hold(Message, tag=9):
    """Process -> node: `holder` keeps these objects alive. Answered by Ack when `req` is not 0."""

    holder: bytes  # the process, or the object that contains them
    oids: list[bytes]
    req: int = 0


class Release(Message, tag=10):
    """Process -> node: `holder` does not hold these any more; no oids means all it held."""

    holder: bytes
    oids: list[bytes]


class Fetch(Message, tag=11):
    """Process -> node: send me this object when it is there. `value`: where it lies, if that is known.

    Once more to hasten it.
    """

    oid: bytes
    value: Value | None = None
    where_will_do: bool = False  # it is only passed on: its bytes may be on another node
    is_urgent: bool = True  # False: it will be needed later; what somebody waits for goes first


class Fetched(Message, tag=12):
    """Node -> process: here it is."""

    oid: bytes
    value: Value
    segment: str = ""  # of a value in the memory of another node that can be read there: the name of that memory


class Seal(Message, tag=13):
    """Worker -> node: a large result of a call is written; it belongs to the caller now. Answered by Ack."""

    value: Value
    req: int


class Ack(Message, tag=14):
    """Node -> process: done."""

    req: int


class Reserve(Message, tag=15):
    """Process -> node: an extent of shared memory to fill."""

    nbytes: int


class Reserved(Message, tag=16):
    """Node -> process: from here on it is yours; offset -1 means that the store is full."""

    offset: int
    nbytes: int
    used_nbytes: int


class GiveExtent(Message, tag=17):
    """Process -> node: shared memory that I do not need any more."""

    offset: int
    nbytes: int


class ActorSpec(Message, tag=18):
    """Caller -> node -> worker: what an actor is made of."""

    actor_id: bytes
    cls: str  # shown name
    cls_data: bytes  # pickled class
    call: bytes  # an encoded Call for __init__
    placement: dict[str, int]  # what it takes to be placed
    running: dict[str, int]  # what it keeps
    creator: bytes = b""  # process id
    name: str = ""
    namespace: str = ""
    max_concurrency: int = 0  # 0: 1 for sync actors, 1000 for async ones
    detached: bool = False
    methods: dict[str, str] = {}  # name -> how many values it returns and what arguments it takes, see aioray.actors
    is_async: bool = False
    num_cpus: float = 1.0
    sys_path: list[str] = []
    get_if_exists: bool = False
    error: Value | None = None  # of an argument of the constructor: the actor is dead before it was alive
    isolation: str = "process"  # or "shared": a light actor, in a process with others
    slot: int = 0  # node -> worker: its number there, if it is light
    concurrency_groups: dict[str, int] = {}  # name -> how many calls at once
    job_id: bytes = b""  # of the driver at the root
    environment: str = ""  # as in LeaseRequest
    max_restarts: int = 0  # -1: without end
    restarts: int = 0  # how often it was constructed again so far; tells one life of it from the next
    checkpoint: Value | None = None  # node -> worker: what to go on from, after the constructor
    strategy: Strategy | None = None
    quiet: bool = False  # its tasks are left out of task events


class ActorUpdate(Message, tag=19):
    """Node -> process: what became of an actor. `state`: pending, alive, restarting, dead."""

    actor_id: bytes
    state: str
    address: str = ""
    reason: str = ""
    error: Value | None = None  # the constructor's exception
    slot: int = 0  # of a light actor, at its address
    ended_by: bytes = b""  # the call that wanted it to end, as the id of its result: who made it knows why it fails


class ActorStarted(Message, tag=20):
    """Worker -> node: the constructor is through; `error` when it raised."""

    actor_id: bytes
    error: Value | None = None
    restarts: int = 0  # as in its ActorSpec: late words of an earlier life mean nothing


class WatchActor(Message, tag=21):
    """Process -> node: tell me what becomes of it (at once, and whenever it changes)."""

    actor_id: bytes


class Query(Message, tag=23):
    """Process -> node: a question; `what` names it."""

    req: int
    what: str
    args: dict[str, Any] = {}


class Answer(Message, tag=24):
    """Node -> process."""

    req: int
    data: Any = None
    error: str = ""


class Notice(Message, tag=25):
    """Node -> driver: something the user should read."""

    text: str


class LogLines(Message, tag=26):
    """Node -> driver: what a worker printed. `stream` is 1 (stdout) or 2 (stderr)."""

    label: str
    pid: int
    stream: int
    lines: list[str]


class Exit(Message, tag=27):
    """Node -> worker, or zygote: finish and go. Process -> node (a worker): I am going on purpose."""

    reason: str = ""
    crashed: bool = False  # from a worker: not on purpose, so its actor may be constructed again
    call: bytes = b""  # from a worker: the call that wanted that, as the id of its result


class ForkWorker(Message, tag=28):
    """Node -> zygote: one more worker for the node of this session; its stdout and stderr ride along as two fds."""

    worker_id: str
    session_dir: str
    environment: str = ""  # as in LeaseRequest
    gpus: tuple[str, ...] = ()  # ids of the devices that it may see
    host: str = ""  # the IP address at which it is to listen for other machines; "": not at all


class Forked(Message, tag=29):
    """Zygote -> node: it runs, or could not be started."""

    worker_id: str
    pid: int
    error: str = ""


class Exited(Message, tag=30):
    """Zygote -> node: a worker is gone; `status` as from os.waitstatus_to_exitcode."""

    worker_id: str
    status: int


class Inherit(Message, tag=31):
    """Node -> zygote, first: should I end without an Exit to you, remove what my session leaves."""

    session_dir: str


class CancelCall(Message, tag=32):
    """Process -> node -> owner: stop what computes this object. Does nothing when it is done."""

    oid: bytes
    force: bool = False
    recursive: bool = True


class EndActor(Message, tag=33):
    """Node -> worker: this light actor is over; unless `now`, what has come is done first."""

    slot: int
    now: bool


class ActorExit(Message, tag=34):
    """Worker -> node: this light actor goes."""

    actor_id: bytes
    reason: str
    restarts: int = 0  # as in its ActorSpec
    crashed: bool = False  # as in Exit
    call: bytes = b""  # as in Exit


class Checkpoint(Message, tag=36):
    """Worker -> node: go on from this when the actor is constructed again. The node knows the object already."""

    actor_id: bytes
    oid: bytes
    value: Value
    restarts: int  # as in its ActorSpec
    req: int = 0  # answered by Ack when it is in the journal


class Spill(Message, tag=40):
    """Node -> caller: ask that node for it; here it is forgotten."""

    lease_id: int
    node_id: str
    address: str
    hops: int  # for the LeaseRequest there


class ActorReport(Message, tag=41):
    """Node -> head: what has become of an actor that it hosts, or was to."""

    actor_id: bytes
    restarts: int  # as in its ActorSpec
    what: str  # up, failed (its constructor, or what it needs), died, left (on purpose), group removed, moved (away)
    reason: str = ""
    address: str = ""  # of its worker, when up; when moved, the id of the node
    number: int = 0  # when up, its slot, if it is light; when moved, the hops so far
    error: Value | None = None
    call: bytes = b""  # as in Exit


class HostActor(Message, tag=42):
    """Head -> node: this actor is to be yours. Answered by reports."""

    spec: ActorSpec
    hops: int  # as in a LeaseRequest


class LeaveActor(Message, tag=43):
    """Head -> node: it is not, any more. Unless `now`, its worker may finish what has come to it."""

    actor_id: bytes
    now: bool


class ProcessEnded(Message, tag=44):
    """Node -> head: a process that may have had to do with actors is gone."""

    process_id: bytes
    driver: bool
    req: int = 0  # answered by Ack


class Unheld(Message, tag=45):
    """Node -> head: no handle is left of an actor whose handles are counted here."""

    actor_id: bytes


class Unwatched(Message, tag=46):
    """Node -> head: nobody here wants to hear of that actor any more."""

    actor_id: bytes


class LeaseRecall(Message, tag=47):
    """Node -> caller: others have waited long; send no more tasks there, and return it when those sent are done."""

    lease_id: int


class GroupSpec(Message, tag=50):
    """Caller -> node: a placement group, please. The process that made the id is the one that tells."""

    group_id: bytes
    bundles: list[dict[str, int]]  # unit 1/10,000
    strategy: str  # PACK, SPREAD, STRICT_PACK, STRICT_SPREAD
    owner: bytes = b""  # with this driver, or detached actor, it goes
    name: str = ""
    namespace: str = ""
    detached: bool = False
    selectors: list[Selector] = []  # one for each bundle, or none at all
    target_node: str = ""  # STRICT_PACK: rather there
    req: int = 0  # as in RemoveGroup


class RemoveGroup(Message, tag=51):
    """Process -> node: the placement group is needed no more. Safe to send twice."""

    group_id: bytes
    req: int = 0  # from node to head: answered by Ack


class WatchGroup(Message, tag=52):
    """Process -> node: tell me what becomes of it (at once, and whenever it changes)."""

    group_id: bytes
    req: int = 0  # as in RemoveGroup


class GroupUpdate(Message, tag=53):
    """Node -> process: where a placement group stands. `state`: pending, created, rescheduling, removed."""

    group_id: bytes
    state: str
    reason: str = ""  # what it waits for, why it was refused
    where: dict[int, str] = {}  # for nodes: which has which of its bundles
    bundles: list[dict[str, int]] = []  # as in its GroupSpec, where `where` says of some where they are
    req: int = 0  # from head to node: answered by Ack


class PrepareBundle(Message, tag=54):
    """Head -> node: hold that much for a bundle. Answered by Answer, with whether it does. Safe to send twice."""

    group_id: bytes
    attempt: int
    index: int
    demand: dict[str, int]
    patient: bool  # wait for it; else the answer comes at once
    req: int


class CommitBundle(Message, tag=55):
    """Head -> node: what you hold is a bundle from here on. Answered by Ack. Safe to send twice."""

    group_id: bytes
    index: int
    req: int


class ReturnBundle(Message, tag=56):
    """Head -> node: do not hold it, as of that attempt. Answered by Ack. Safe to send twice."""

    group_id: bytes
    attempt: int
    index: int
    req: int


class DropGroup(Message, tag=57):
    """Head -> node: end what is in the group, and let go of its bundles. Answered by Ack. Safe to send twice."""

    group_id: bytes
    req: int


class Notify(Message, tag=58):
    """Node -> node: a Notice for a process of yours."""

    process_id: bytes
    text: str


class Read(Message, tag=60):
    """Driver on another machine -> node: these bytes of shared memory, please. Answered by an Answer with them."""

    req: int
    node_id: str  # in whose memory they lie: yours, or one that you can read
    offset: int
    nbytes: int


class Write(Message, tag=61):
    """Driver on another machine -> node: put these bytes into the extent that I have reserved. Answered by Ack."""

    offset: int
    data: bytes


class TaskEvents(Message, tag=62):
    """Process -> node: what became of tasks since the last time, and those that run or wait now."""

    ended: list[TaskGroup]
    now: list[TaskGroup]


class TaskPace(Message, tag=63):
    """Node -> process: when to tell of tasks next, and of how many that have ended in detail."""

    interval_s: float
    room: int


class DriverStarted(Message, tag=64):
    """Node -> head: a driver is there."""

    process_id: bytes
    namespace: str
    pid: int
    entrypoint: str
    started_at: float  # Unix time (s)


class Orphaned(Message, tag=65):
    """Node -> node: the home of these is dead, and their bytes are mine: hold what is held of them at yours.

    Answered by Ack when that is done.
    """

    oids: list[bytes]
    req: int


class SendPackage(Message, tag=66):
    """Head -> node: bring a package of files that you have to the GCS's store, under this number."""

    name: str
    upload: str


class PackageFound(Message, tag=67):
    """Head -> node, which has asked: it lies in the GCS's store, as this upload, in so many pieces; or why not."""

    name: str
    upload: str = ""
    pieces: int = 0
    error: str = ""


class MetricsTold(Message, tag=68):
    """Process -> node: what has changed of its metrics since the last time."""

    metrics: tuple[Metric, ...]
    left_out: int = 0  # how often something was told of a series that there was no room for


class MetricInterval(Message, tag=69):
    """Node -> process: how often to tell of metrics."""

    interval_s: float


class Heard(Message, tag=70):
    """Node <-> node: so many of your words have come, counted over all connections of this line."""

    count: int


ControlMessage = (
    Hello
    | Welcome
    | LeaseRequest
    | LeaseGrant
    | LeaseReturn
    | LeaseLost
    | Blocked
    | Share
    | Hold
    | Release
    | Fetch
    | Fetched
    | Seal
    | Ack
    | Reserve
    | Reserved
    | GiveExtent
    | ActorSpec
    | ActorUpdate
    | ActorStarted
    | WatchActor
    | Query
    | Answer
    | Notice
    | LogLines
    | Exit
    | ForkWorker
    | Forked
    | Exited
    | Inherit
    | CancelCall
    | EndActor
    | ActorExit
    | Checkpoint
    | Spill
    | ActorReport
    | HostActor
    | LeaveActor
    | ProcessEnded
    | Unheld
    | Unwatched
    | LeaseRecall
    | GroupSpec
    | RemoveGroup
    | WatchGroup
    | GroupUpdate
    | PrepareBundle
    | CommitBundle
    | ReturnBundle
    | DropGroup
    | Notify
    | Read
    | Write
    | TaskEvents
    | TaskPace
    | DriverStarted
    | Orphaned
    | SendPackage
    | PackageFound
    | MetricsTold
    | MetricInterval
    | Heard
)
