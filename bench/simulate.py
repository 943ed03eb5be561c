"""What scheduling and the GCS cost in large clusters: the real cores under a virtual clock.

    python -m bench.simulate                        10, 100, 1,000 and 5,000 nodes: the curve, as a table
    python -m bench.simulate --quick                10 and 100 nodes, fewer tasks
    python -m bench.simulate --nodes 1000 --tasks 1000000

Schedulers, callers' pipelines, the GCS's table and the nodes' views of it are the real ones, and so are the messages
between them, encoded and decoded. Not there: processes, sockets, workers (a lease is granted when it is placed, and a
task takes its 10 ms of virtual time). CPU is what this thread needs for a part. What the GCS's WebSockets need comes
from a measurement of real ones, per message and byte, and is added.

Callers begin bursts of 40 tasks at any time, so that nearly each task needs a lease of its own, and half of all CPUs
are in use meanwhile: the dearest case. The GCS is watched while each node has something new to report at any time.
Of large clusters 100 nodes have all that a node has; the others share a view (see bench/simulation/nodes.py).
"""

from __future__ import annotations

import argparse
import sys
import time

from bench import table
from bench.simulation import sockets
from bench.simulation.cluster import Outcome, simulate

CURVE = (10, 100, 1000, 5000)
QUICK = (10, 100)
TASKS, QUICK_TASKS = 200_000, 10_000
HEAD = [
    "nodes",
    "tasks",
    "lease requests a task",
    "schedulers, us a task",
    "callers, us a task",
    "latency, median, ms",
    "99 %, ms",
    "node's view, % of a core",
    "GCS in, /s",
    "GCS out, /s",
    "MB/s",
    "GCS, % of a core",
    "of it sockets",
    "all join, GCS s",
]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", metavar="A,B", help="how many nodes, one run for each number")
    parser.add_argument("--tasks", type=int, metavar="N", help=f"of each run ({TASKS:,}; with --quick {QUICK_TASKS:,})")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args(argv)
    counts = [int(text) for text in chosen.nodes.split(",")] if chosen.nodes else QUICK if chosen.quick else CURVE
    tasks = chosen.tasks or (QUICK_TASKS if chosen.quick else TASKS)
    costs = sockets.measure()
    print(
        f"a WebSocket message: in {costs.in_s * 1e6:.0f} us, out {costs.out_s * 1e6:.0f} us"
        f" and {costs.out_byte_s * 1e9:.2f} ns a byte",
        file=sys.stderr,
    )
    rows = [HEAD]
    for nodes in counts:
        start = time.monotonic()
        outcome = simulate(nodes, tasks)
        print(f"{nodes} nodes took {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        rows.append(row(outcome, costs))
    print(table.align(rows, set()))
    return 0


def row(outcome: Outcome, costs: sockets.SocketCosts) -> list[str]:
    """One line of the table."""
    core = outcome.cpu_s["gcs"] / outcome.virtual_s
    on_sockets = outcome.per_s("gcs in") * costs.in_s + outcome.per_s("gcs out") * costs.out_s
    on_sockets += outcome.nbytes["gcs out"] / outcome.virtual_s * costs.out_byte_s
    view = outcome.cpu_s["view"] / outcome.watched / outcome.virtual_s
    return [
        f"{outcome.nodes:,}",
        f"{outcome.tasks:,}",
        f"{outcome.lease_requests / outcome.tasks:.2f}",
        f"{outcome.per_task_us('node'):.0f}",
        f"{outcome.per_task_us('caller'):.0f}",
        f"{outcome.latency_s(0.5) * 1e3:.1f}",
        f"{outcome.latency_s(0.99) * 1e3:.1f}",
        f"{view * 100:.2f}",
        f"{outcome.per_s('gcs in'):.0f}",
        f"{outcome.per_s('gcs out'):.0f}",
        f"{outcome.nbytes['gcs out'] / outcome.virtual_s / 1e6:.1f}",
        f"{(core + on_sockets) * 100:.1f}",
        f"{on_sockets * 100:.1f}",
        f"{outcome.joining_gcs_s:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
