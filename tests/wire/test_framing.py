"""The bytes on the wire: pinned, so that a change of the format is a decision; and what rubbish becomes."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.wire import calls, control, events, metrics, plans
from aioray.wire.calls import Call, CallMessage
from aioray.wire.control import Ack, ControlMessage, Query
from aioray.wire.framing import (
    MAX_FRAME_NBYTES,
    WireError,
    announced_nbytes,
    append_frame,
    call_decoder,
    control_decoder,
    split_frames,
)
from aioray.wire.strategies import Affinity, InGroup, LabelTerm, Strategy
from aioray.wire.values import Value, object_id, owner_of

if TYPE_CHECKING:
    import msgspec

PINNED: list[tuple[msgspec.Struct, str]] = [
    (calls.Greeting(b"\1\2", ["/p"]), "9501c402010291a22f70c400a0"),
    (calls.Export("f", b"code"), "9302a166c404636f6465"),
    (
        Call(7, "f", b"args", ("k",), [(0, Value(b"v"))], 2, "name", 0.5, True),
        "dc00130307a166c4046172677391a16b91920099c40176900000c40090c2a0a002a46e616d65cb3fe0000000000000c300a000a000c0c0c2"
        "80",
    ),
    (calls.Cancel(7), "95040700c3c2"),
    (calls.Done(7, b"data", 12), "940507c404646174610c"),
    (
        calls.Finished(7, [Value(nbytes=64, offset=128, oid=b"o", refs=[b"r"])], 3),
        "9506079199c4009040cc80c4016f91c40172c2a0a003c2",
    ),
    (calls.GiveBack([1, 2]), "9307920102c2"),
    (
        Call(1, "f", b"", num_returns=-1, streaming=calls.Streaming(8, 2, 1, [9])),
        "dc00130301a166c4009090ffa0cb3ff0000000000000c200a000a000940802019109c0c280",
    ),
    (calls.Yielded(7, [b"a", b"bc"]), "94080792c40161c4026263c0"),
    (calls.Proceed(7, 3, 5), "9409070305"),
    (calls.CloseStream(7, 1), "930a0701"),
    (calls.Pattern(5, Call(0, "f", b"")), "930b05dc00130300a166c400909001a0cb3ff0000000000000c200a000a000c0c0c280"),
    (calls.Repeat(7, 5, b"args"), "940c0705c40461726773"),
    (calls.Batch([calls.Done(7, b"r", 9), calls.Repeat(8, 5, b"a")]), "920f92940507c4017209940c0805c40161"),
    (plans.Link(b"p", -1, 2), "940dc40170ff02"),
    (plans.Passed(7, 1, b"v"), "970e0701c4017690c0c400"),
]


def _strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Any message of a kind; numbers as large, and texts as strange, as the wire carries them."""
    integer = st.integers(-(2**63), 2**64 - 1)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    by_type: dict[str, st.SearchStrategy[Any]] = {
        "bytes": st.binary(max_size=50),
        "str": text,
        "int": integer,
        "bool": st.booleans(),
        "float": st.floats(allow_nan=False),
        "list[str]": st.lists(text, max_size=3),
        "list[bytes]": st.lists(st.binary(max_size=20), max_size=3),
        "list[int]": st.lists(integer, max_size=3),
        "dict[str, int]": st.dictionaries(text, integer, max_size=3),
        "dict[int, str]": st.dictionaries(integer, text, max_size=3),
        "dict[str, str]": st.dictionaries(text, text, max_size=3),
        "dict[str, Any]": st.dictionaries(text, st.none() | text | integer, max_size=3),
        "tuple[str, ...]": st.lists(text, max_size=3).map(tuple),
        "Any": st.none() | text | integer | st.lists(text, max_size=2),
    }
    by_type["Value"] = st.builds(
        Value,
        by_type["bytes"],
        by_type["list[bytes]"],
        integer,
        integer,
        by_type["bytes"],
        by_type["list[bytes]"],
        st.booleans(),
        text,
        text,
    )
    by_type["Value | None"] = st.none() | by_type["Value"]
    by_type["Streaming | None"] = st.none() | st.builds(
        calls.Streaming, integer, integer, integer, by_type["list[int]"]
    )
    term = st.builds(LabelTerm, text, st.sampled_from(["in", "!in", "exists", "!exists"]), by_type["tuple[str, ...]"])
    terms = st.lists(term, max_size=2).map(tuple)
    affinity = st.builds(Affinity, text, st.booleans(), st.booleans(), st.booleans())
    in_group = st.none() | st.builds(InGroup, by_type["bytes"], integer, st.booleans())
    by_type["Strategy | None"] = st.none() | st.builds(
        Strategy, st.booleans(), st.none() | affinity, terms, terms, st.lists(terms, max_size=2).map(tuple), in_group
    )
    by_type["InGroup | None"] = in_group
    by_type["list[Selector]"] = st.lists(terms, max_size=2)
    by_type["list[dict[str, int]]"] = st.lists(by_type["dict[str, int]"], max_size=2)
    by_type["list[Value]"] = st.lists(by_type["Value"], max_size=2)
    by_type["list[tuple[int, Value]]"] = st.lists(st.tuples(integer, by_type["Value"]), max_size=2)
    record = st.builds(
        events.TaskRecord, by_type["bytes"], text, by_type["float"], by_type["float"], by_type["bytes"], text
    )
    records = st.lists(record, max_size=2).map(tuple)
    group = st.builds(events.TaskGroup, by_type["bytes"], text, text, integer, integer, integer, integer, records)
    by_type["list[TaskGroup]"] = st.lists(group, max_size=2)
    series = st.builds(metrics.Series, by_type["tuple[str, ...]"], by_type["float"], st.lists(integer).map(tuple))
    metric = st.builds(metrics.Metric, text, text, text, st.just((0.5,)), st.lists(series, max_size=2).map(tuple))
    by_type["tuple[Metric, ...]"] = st.lists(metric, max_size=2).map(tuple)
    annotations: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        annotations |= getattr(cls, "__annotations__", {})
    if kind is calls.Pattern:
        return st.builds(kind, integer, _strategy(Call))
    if kind is calls.Batch:
        return st.builds(kind, st.lists(_strategy(calls.Done) | _strategy(calls.Repeat), max_size=3))
    if kind is control.HostActor:
        return st.builds(kind, _strategy(control.ActorSpec), integer)
    return st.builds(kind, *(by_type[annotations[name]] for name in kind.__struct_fields__))


CALLS = get_args(CallMessage)
CONTROLS = get_args(ControlMessage)
call_messages = st.one_of([_strategy(kind) for kind in CALLS])
control_messages = st.one_of([_strategy(kind) for kind in CONTROLS])


def frame(message: msgspec.Struct) -> bytes:
    out = bytearray()
    append_frame(out, message)
    return bytes(out)


def body(nbytes: bytes) -> bytes:
    return struct.pack("<I", len(nbytes)) + nbytes


@pytest.mark.parametrize(("message", "pinned"), PINNED, ids=lambda value: type(value).__name__)
def test_the_bytes_of_calls_and_results_are_pinned(message: msgspec.Struct, pinned: str) -> None:
    assert frame(message)[4:].hex() == pinned


def test_the_bytes_of_what_processes_tell_their_node_are_pinned() -> None:
    """Tag and fields of every control message, in order: what an older and a newer process must agree on."""
    pinned = """
        1 Hello process_id role pid version namespace sys_path address log_to_driver entrypoint first heard
        2 Welcome node_id session_dir segment capacity_nbytes error
        3 LeaseRequest lease_id demand name environment strategy hops argument_nbytes
        4 LeaseGrant lease_id worker_id address
        5 LeaseReturn lease_id kill retire
        6 LeaseLost lease_id reason setup_failed unschedulable node_died group_removed
        7 Blocked blocked
        8 Share oid value
        9 Hold holder oids req
        10 Release holder oids
        11 Fetch oid value where_will_do is_urgent
        12 Fetched oid value segment
        13 Seal value req
        14 Ack req
        15 Reserve nbytes
        16 Reserved offset nbytes used_nbytes
        17 GiveExtent offset nbytes
        18 ActorSpec actor_id cls cls_data call placement running creator name namespace max_concurrency
           detached methods is_async num_cpus sys_path get_if_exists error isolation slot concurrency_groups
           job_id environment max_restarts restarts checkpoint strategy quiet labels is_suspect
        19 ActorUpdate actor_id state address reason error slot ended_by
        20 ActorStarted actor_id error restarts
        21 WatchActor actor_id
        23 Query req what args
        24 Answer req data error
        25 Notice text
        26 LogLines label pid stream lines
        27 Exit reason crashed call
        28 ForkWorker worker_id session_dir environment gpus host
        29 Forked worker_id pid error
        30 Exited worker_id status
        31 Inherit session_dir
        32 CancelCall oid force recursive
        33 EndActor slot now
        34 ActorExit actor_id reason restarts crashed call
        36 Checkpoint actor_id oid value restarts req
        40 Spill lease_id node_id address hops
        41 ActorReport actor_id restarts what reason address number error call
        42 HostActor spec hops
        43 LeaveActor actor_id now
        44 ProcessEnded process_id driver req
        45 Unheld actor_id
        46 Unwatched actor_id
        47 LeaseRecall lease_id
        50 GroupSpec group_id bundles strategy owner name namespace detached selectors target_node req
        51 RemoveGroup group_id req
        52 WatchGroup group_id req
        53 GroupUpdate group_id state reason where bundles req
        54 PrepareBundle group_id attempt index demand patient req
        55 CommitBundle group_id index req
        56 ReturnBundle group_id attempt index req
        57 DropGroup group_id req
        58 Notify process_id text
        60 Read req node_id offset nbytes
        61 Write offset data
        62 TaskEvents ended now
        63 TaskPace interval_s room
        64 DriverStarted process_id namespace pid entrypoint started_at
        65 Orphaned oids req
        66 SendPackage name upload
        67 PackageFound name upload pieces error
        68 MetricsTold metrics left_out
        69 MetricInterval interval_s
        70 Heard count
    """
    found: list[str] = []
    for kind in CONTROLS:
        found += [str(kind.__struct_config__.tag), kind.__name__, *kind.__struct_fields__]
    # Appended fields are fine: add them here. Anything else needs a new PROTOCOL_VERSION.
    assert found == pinned.split()
    assert control.PROTOCOL_VERSION == 6
    assert frame(Ack(5)).hex() == "03000000920e05"
    assert frame(control.Blocked(True)).hex() == "030000009207c3"


def test_tags_are_unique_in_each_protocol() -> None:
    for kinds in (CALLS, CONTROLS):
        tags = [kind.__struct_config__.tag for kind in kinds]
        assert len(set(tags)) == len(tags)


@given(st.lists(call_messages, max_size=5), st.data())
def test_calls_survive_the_wire_however_it_is_cut(messages: list[Any], data: st.DataObject) -> None:
    assert _through_chunks(messages, call_decoder, data) == messages


@given(st.lists(control_messages, max_size=5), st.data())
def test_control_messages_survive_the_wire_however_it_is_cut(messages: list[Any], data: st.DataObject) -> None:
    assert _through_chunks(messages, control_decoder, data) == messages


def _through_chunks(messages: list[Any], decoder: Any, data: st.DataObject) -> list[Any]:
    """What a receiver decodes that gets the bytes in pieces, and keeps what is left of each."""
    out = bytearray()
    for message in messages:
        append_frame(out, message)
    stream = bytes(out)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    received: list[Any] = []
    inbox = bytearray()
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        inbox += stream[start:stop]
        some, taken = split_frames(inbox, decoder)
        received += some
        del inbox[:taken]
        assert len(inbox) < 4 or len(inbox) < announced_nbytes(inbox)
    assert not inbox
    return received


@given(st.binary(max_size=200))
def test_random_bytes_are_a_wire_error_or_an_unfinished_frame(noise: bytes) -> None:
    for decoder in (call_decoder, control_decoder):
        try:
            messages, taken = split_frames(body(noise), decoder)
        except WireError:
            continue
        assert len(messages) == 1  # by chance it was one of ours
        assert taken == 4 + len(noise)


@given(st.binary(max_size=200))
def test_a_random_stream_never_raises_anything_but_a_wire_error(noise: bytes) -> None:
    for decoder in (call_decoder, control_decoder):
        try:
            _, taken = split_frames(noise, decoder)
            assert taken <= len(noise)
            announced_nbytes(noise)
        except WireError:
            pass


@given(control_messages, st.integers(0, 2**32), st.integers(0, 255))
def test_a_flipped_byte_is_a_wire_error_or_another_message(message: Any, at: int, value: int) -> None:
    raw = bytearray(frame(message)[4:])
    raw[at % len(raw)] = value
    with contextlib.suppress(WireError):
        split_frames(body(bytes(raw)), control_decoder)


@pytest.mark.parametrize(
    ("what", "nbytes"),
    [
        ("nested too deeply", b"\x94\x17\x01\xa1x\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"),
        ("text that is no UTF-8", b"\x92\x19\xa2\xff\xfe"),
        ("a list that claims to be enormous", b"\x97\x01\xc4\x00\xa0\x00\x00\xa0\xdd\xff\xff\xff\xff"),
        ("an unknown tag", b"\x92\xcc\xff\x01"),
        ("no array", b"\xa5hello"),
        ("empty", b""),
        ("a field of another type", b"\x92\x0e\xa1x"),
        ("too few fields", b"\x91\x0e"),
        ("something after the end", b"\x92\x0e\x05\x05"),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_message_is_a_wire_error(what: str, nbytes: bytes) -> None:
    with pytest.raises(WireError, match="no message of ours"):
        split_frames(body(nbytes), control_decoder)


def test_a_frame_that_is_announced_too_long_is_refused_before_it_comes() -> None:
    prefix = struct.pack("<I", MAX_FRAME_NBYTES + 1)
    with pytest.raises(WireError, match=str(MAX_FRAME_NBYTES)):
        split_frames(prefix, control_decoder)
    with pytest.raises(WireError, match=str(MAX_FRAME_NBYTES)):
        announced_nbytes(prefix)
    assert announced_nbytes(struct.pack("<I", MAX_FRAME_NBYTES)) == MAX_FRAME_NBYTES + 4
    assert announced_nbytes(prefix[:3]) == 0


def test_what_cannot_be_encoded_leaves_the_messages_before_it_whole() -> None:
    out = bytearray(frame(Ack(1)))
    with pytest.raises(UnicodeEncodeError):
        append_frame(out, Query(1, "\ud800"))
    with pytest.raises(TypeError):
        append_frame(out, Query(1, "what", {"a": object()}))
    append_frame(out, Ack(2))
    assert split_frames(out, control_decoder) == ([Ack(1), Ack(2)], len(out))


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**48 - 1), st.integers(0, 2**16 - 1))
def test_an_object_id_says_who_owns_it(process_id: bytes, seq: int, index: int) -> None:
    oid = object_id(process_id, seq, index)
    assert len(oid) == 16
    assert owner_of(oid) == process_id
    assert int.from_bytes(oid[8:], "big") == seq << 16 | index
