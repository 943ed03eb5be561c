"""What stands on the wire between nodes and the GCS: pinned, so that a change of the format is a decision."""

from __future__ import annotations

import msgspec

from aioray.wire import events, gcs, metrics

PINNED = """
    NodeFacts node_id addresses boot_id total labels hostname ip_address pid started_at is_head session_dir store_nbytes
      segment transfer_addresses
    Demand amounts count why
    MemberChange node_id version facts available end store_used_nbytes
    1 Join facts available seq epoch version store_used_nbytes waiting
    2 Report seq available store_used_nbytes waiting
    3 Leave reason
    4 Resync
    5 TaskReport seq ended live
    6 MetricReport seq sums gauges gone is_whole left_out conflicts
    1 Admitted epoch report_interval_s heartbeat_interval_s
    2 Refused reason
    3 Delta epoch since version changes
    4 GcsPace seq interval_s room
    5 MetricPace seq interval_s
    Question what args
    Answered data error
    Metric name kind description boundaries series
    Series labels value counts
    GaugesOf process metrics
"""


def test_the_frames_between_nodes_and_the_gcs_are_pinned_to_their_version() -> None:
    """Change PROTOCOL_VERSION when a field is put anywhere but at the end, with a default."""
    kinds = (
        gcs.NodeFacts, gcs.Demand, gcs.MemberChange, gcs.Join, gcs.Report, gcs.Leave, gcs.Resync, gcs.TaskReport,
        gcs.MetricReport, gcs.Admitted, gcs.Refused, gcs.Delta, gcs.GcsPace, gcs.MetricPace, gcs.Question, gcs.Answered,
        metrics.Metric, metrics.Series, metrics.GaugesOf,
    )  # fmt: skip
    lines = []
    for kind in kinds:
        tag = kind.__struct_config__.tag
        lines.append(" ".join([*([] if tag is None else [str(tag)]), kind.__name__, *kind.__struct_fields__]))
    assert " ".join(lines).split() == PINNED.split()
    assert gcs.PROTOCOL_VERSION == 1


def test_frames_come_out_as_they_went_in() -> None:
    record = events.TaskRecord(b"task", events.FAILED, 2.0, 1.0, b"worker", "KeyError")
    group = events.TaskGroup(b"job", "f", events.NORMAL_TASK, finished=3, failed=1, records=(record,))
    metric = metrics.Metric("h", metrics.HISTOGRAM, "", (1.0,), (metrics.Series(("k", "v"), 1.5, (0, 1)),))
    facts = gcs.NodeFacts("a", ("/a.sock", "10.0.0.1:7000"), "boot", {"CPU": 20_000}, {"region": "us"})
    for frame in (
        gcs.Join(facts, {"CPU": 10_000}, 7, "epoch", 3, 100, (gcs.Demand({"GPU": 10_000}, 2, "none is here"),)),
        gcs.Report(8, {"CPU": 0}, 5, ()),
        gcs.Report(9),
        gcs.Leave("it was stopped"),
        gcs.Resync(),
        gcs.TaskReport(3, (group,), ()),
        gcs.TaskReport(4),
        gcs.MetricReport(1, (metric,), (metrics.GaugesOf(b"p", (metric,)),), (b"q",), True, 2, 3),
    ):
        assert gcs.node_frame_decoder.decode(msgspec.msgpack.encode(frame)) == frame
    change = gcs.MemberChange("a", 4, facts, {"CPU": 1}, None, 9)
    for pushed in (
        gcs.Admitted("e"),
        gcs.GcsPace(3, 1.0, 9),
        gcs.MetricPace(3, 1.0),
        gcs.Refused("no"),
        gcs.Delta("e", 3, 4, (change, gcs.MemberChange("b", 4))),
    ):
        assert gcs.gcs_frame_decoder.decode(msgspec.msgpack.encode(pushed)) == pushed
