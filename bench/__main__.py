"""Measure aioray, the limit of this machine and the peers that are installed, side by side.

    python -m bench                                  all rows, three rounds; a table, and JSON in bench/results/
    python -m bench --quick                          one short round, without the slow rows
    python -m bench --rows task_sync,put_100mib      some rows only (--list names them)
    python -m bench --peers-python /tmp/peers/bin/python     Ray, Dask and xoscar from another environment

The *limit* is the simplest Python program that moves the same bytes (bench/limit.py). Each measurement has a process
of its own; the sides of a row are measured right after one another in every round, and the table shows medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import runner, table
from bench.rows import PEERS, ROWS, Side, choose


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds (3; with --quick 1)")
    parser.add_argument("--rows", metavar="A,B", help="only these rows")
    parser.add_argument("--no-peers", action="store_true", help="only aioray and the limit")
    parser.add_argument(
        "--peers-python", metavar="PATH", default=sys.executable, help="the interpreter peers run under"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write everything that was measured")
    parser.add_argument("--quick", action="store_true", help="one round of half a second a row, no slow rows")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    chosen = parser.parse_args(argv)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds}: at least 1 round is needed")
    try:
        chosen.rows = choose(chosen.rows, quick=chosen.quick)
    except ValueError as exc:
        parser.error(str(exc))
    return chosen


def main() -> int:
    chosen = arguments()
    if chosen.list:
        print(table.align([["row", "", "goal"], *([row.key, row.name, table.goal(row)] for row in ROWS)], {0, 1, 2}))
        return 0
    signal.signal(signal.SIGTERM, _interrupt)  # so that a runner that is told to go takes its measurements along
    versions = {} if chosen.no_peers else runner.installed(chosen.peers_python)
    sides: list[Side] = ["limit", "ours", *versions]
    jobs = runner.plan(chosen.rows, sides, chosen.rounds or (1 if chosen.quick else 3))
    about = describe(versions, quick=chosen.quick)
    seconds = 0.5 if chosen.quick else 2.0
    started = time.monotonic()
    outcomes = runner.run(
        jobs,
        lambda job: runner.measure(job, runner.command(job, seconds=seconds, peers_python=chosen.peers_python)),
        partial(progress, of=len(jobs)),
    )
    about["took_s"] = round(time.monotonic() - started, 1)
    return report(outcomes, about, chosen.json, [] if chosen.no_peers else list(PEERS))


def progress(number: int, outcome: runner.Outcome, *, of: int) -> None:
    row = outcome.job.row
    said = f"failed: {outcome.failure}" if outcome.value is None else f"{table.number(outcome.value)} {row.unit}"
    print(f"[{number}/{of}] {row.key} {outcome.job.side}: {said} ({outcome.took_s:.1f} s)", file=sys.stderr, flush=True)


def report(outcomes: list[runner.Outcome], about: dict[str, Any], path: Path | None, peers: list[Side]) -> int:
    """Print the table and write the JSON; 1 when aioray or the limit failed, else 0: missing a goal is no error."""
    lines = runner.summarize(outcomes)
    path = path or runner.ROOT / "bench" / "results" / f"{about['at'].replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(runner.as_json(lines, outcomes, about))
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"\n{table.render(lines, peers)}\n")
    for note in table.notes(lines, outcomes):
        print(f"* {note}")
    print(f"written: {path}")
    return int(any(outcome.failure and outcome.job.side in ("limit", "ours") for outcome in outcomes))


def describe(versions: dict[Side, str], *, quick: bool) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": f"{platform.machine()} {platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "Python": platform.python_version(),
        "aioray": metadata.version("aioray"),
        **{table.TITLES[side]: version for side, version in versions.items()},
        **({"quick": True} if quick else {}),
    }


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
