"""Node <-> GCS, and whoever asks the GCS: what stands in HTTP bodies and WebSocket frames, in msgpack.

Field order is the format: append fields with defaults, never reorder. Amounts are in ten-thousandths.

A node opens a WebSocket and says Join; from then on it reports what it has to spare, and is sent deltas of the view of
all nodes. All else is asked with POST, a Question in the body and an Answered in that of the reply.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aioray.wire.events import TaskGroup
from aioray.wire.metrics import GaugesOf, Metric

PROTOCOL_VERSION = 1
PROTOCOL_HEADER = "X-Aioray-Protocol"
NODE_PATH, QUESTION_PATH = "/v1/node", "/v1/question"
METRICS_PATH = "/metrics"  # as Prometheus asks for it: without the header, which it does not know
MAX_BODY_NBYTES = 16 << 20  # of a request, and of a WebSocket frame
NODES_AT_BASE = 32  # up to so many nodes, intervals are as configured; beyond, both sides stretch them in proportion


class NodeFacts(msgspec.Struct, array_like=True, frozen=True):
    """What a node is, for as long as it lives."""

    node_id: str
    addresses: tuple[str, ...]  # paths of Unix sockets, for who shares its boot id, and host:port
    boot_id: str  # of the machine, see runtime.dialing: the same on two nodes that can share Unix sockets
    total: dict[str, int]
    labels: dict[str, str] = {}
    hostname: str = ""
    ip_address: str = "127.0.0.1"
    pid: int = 0
    started_at: float = 0.0  # Unix time (s)
    is_head: bool = False
    session_dir: str = ""
    store_nbytes: int = 0  # of shared memory
    segment: str = ""  # its shared memory, if nodes of its machine may read what lies there; "": they may not
    transfer_addresses: tuple[str, ...] = ()  # where others pull objects from, of the same kinds as `addresses`


class Demand(msgspec.Struct, array_like=True, frozen=True):
    """What waits on a node for resources, `count` times the same."""

    amounts: dict[str, int]
    count: int
    why: str  # it waits


class MemberChange(msgspec.Struct, array_like=True, frozen=True):
    """What has changed about one node since the version at which its delta begins. None: nothing of that."""

    node_id: str
    version: int  # of the view, when it last changed
    facts: NodeFacts | None = None
    available: dict[str, int] | None = None
    end: str | None = None  # why it is dead; None while it is alive
    store_used_nbytes: int | None = None


class NodeFrame(msgspec.Struct, array_like=True, frozen=True):
    """Node -> GCS, over its WebSocket."""


class Join(NodeFrame, frozen=True, tag=1):
    """First, and again over each new connection. `epoch`, `version`: of the view that the node has already."""

    facts: NodeFacts
    available: dict[str, int]
    seq: int  # of the reports of this node
    epoch: str = ""
    version: int = 0
    store_used_nbytes: int = 0
    waiting: tuple[Demand, ...] = ()


class Report(NodeFrame, frozen=True, tag=2):
    """What has changed since the report before; one in which nothing has says that the node is alive."""

    seq: int  # an older one than was heard counts for nothing
    available: dict[str, int] = {}
    store_used_nbytes: int | None = None
    waiting: tuple[Demand, ...] | None = None


class Leave(NodeFrame, frozen=True, tag=3):
    """It ends on purpose."""

    reason: str = ""


class Resync(NodeFrame, frozen=True, tag=4):
    """A delta is missing: send the whole view."""


class TaskReport(NodeFrame, frozen=True, tag=5):
    """What became of tasks since the report before. Safe to send twice: one that is no newer counts for nothing."""

    seq: int
    ended: tuple[TaskGroup, ...] = ()
    live: tuple[TaskGroup, ...] | None = None  # all that run or wait there now; None: as before


class MetricReport(NodeFrame, frozen=True, tag=6):
    """What has changed of metrics since the report before. Safe to send twice, as a TaskReport is."""

    seq: int
    sums: tuple[Metric, ...] = ()  # what was added to counters and histograms, by all processes of the node
    gauges: tuple[GaugesOf, ...] = ()
    gone: tuple[bytes, ...] = ()  # processes that have ended
    is_whole: bool = False  # there are no gauges of this node but these
    left_out: int = 0  # how often something was told of a series that there was no room for
    conflicts: int = 0  # and of one whose name means something else already


class GcsFrame(msgspec.Struct, array_like=True, frozen=True):
    """GCS -> node, over its WebSocket."""


class Admitted(GcsFrame, frozen=True, tag=1):
    """You are a member; this is how often, and how soon, the GCS wants to hear of you."""

    epoch: str
    report_interval_s: float = 0.1
    heartbeat_interval_s: float = 2.0


class Refused(GcsFrame, frozen=True, tag=2):
    """You are none, and will not become one under this id."""

    reason: str


class Delta(GcsFrame, frozen=True, tag=3):
    """Brings a view that is at `since`, or later, to `version`. Since 0: it is the whole view."""

    epoch: str  # of the GCS: versions of another one mean nothing
    since: int
    version: int
    changes: tuple[MemberChange, ...] = ()


class GcsPace(GcsFrame, frozen=True, tag=4):
    """That TaskReport is taken in; the next is to come after this time, and to tell of so many tasks one by one."""

    seq: int
    interval_s: float
    room: int


class MetricPace(GcsFrame, frozen=True, tag=5):
    """That MetricReport is taken in; the next is to come after this time."""

    seq: int
    interval_s: float


class Question(msgspec.Struct, array_like=True, frozen=True):
    """Whoever -> GCS, in a POST. Asking changes nothing: it is safe to ask twice."""

    what: str
    args: dict[str, Any] = {}


class Answered(msgspec.Struct, array_like=True, frozen=True):
    """GCS -> who asked."""

    data: Any = None
    error: str = ""


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node, for people."""

    facts: NodeFacts
    available: dict[str, int]
    store_used_nbytes: int
    waiting: tuple[Demand, ...]
    end: str | None


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `aioray status` shows."""

    epoch: str
    version: int
    members: tuple[MemberStatus, ...]
    groups: tuple[str, ...] = ()  # of placement groups that wait: why, in sentences
    tasks_left_out: int = 0  # of task events: how many tasks are known by their number only


AnyNodeFrame = Join | Report | Leave | Resync | TaskReport | MetricReport
AnyGcsFrame = Admitted | Refused | Delta | GcsPace | MetricPace
node_frame_decoder: msgspec.msgpack.Decoder[AnyNodeFrame] = msgspec.msgpack.Decoder(AnyNodeFrame)
gcs_frame_decoder: msgspec.msgpack.Decoder[AnyGcsFrame] = msgspec.msgpack.Decoder(AnyGcsFrame)
question_decoder: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
answer_decoder: msgspec.msgpack.Decoder[Answered] = msgspec.msgpack.Decoder(Answered)
