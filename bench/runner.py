"""Runs measurements, each in a fresh process, in interleaved rounds, and makes medians of what they print.

`plan` and `summarize` decide and are pure; `measure` is the one that starts a process, limits its time and clears up.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.processes import MARK, Brood, wait_gone
from bench.rows import PEERS, ROWS, Row, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = {"limit": 1.0, "ours": 2.0}  # for the last processes of a measurement to go by themselves; peers: 10 s
MODULES: dict[Side, str] = {
    "limit": "bench.limit",
    "ours": "bench.ours",
    "ray": "bench.peer_ray",
    "dask": "bench.peer_dask",
    "xoscar": "bench.peer_xoscar",
}
LIBRARIES: dict[Side, str] = {"ours": "aioray", "ray": "ray", "dask": "distributed", "xoscar": "xoscar"}


@dataclass(frozen=True)
class Job:
    """One measurement to make: `row` by `side`, in round `round` (from 1)."""

    round: int
    row: Row
    side: Side


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a `value` in the row's unit, or the `failure` that kept it from being one."""

    job: Job
    value: float | None = None
    failure: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    left_behind: tuple[str, ...] = ()  # command lines of processes that had to be killed afterwards
    took_s: float = 0.0
    stderr_tail: str = ""


@dataclass(frozen=True)
class Cell:
    """A row's figure on one side: the median over the rounds that worked."""

    values: tuple[float, ...]
    failures: tuple[str, ...]

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None


@dataclass(frozen=True)
class Line:
    """A row with its cells and what follows from them; sides that did not measure it have no cell."""

    row: Row
    cells: Mapping[Side, Cell]

    def median(self, side: Side) -> float | None:
        cell = self.cells.get(side)
        return cell.median if cell else None

    @property
    def ratio(self) -> float | None:
        """Ours / limit, of the medians."""
        return _divide(self.median("ours"), self.median("limit"))

    @property
    def times_ray(self) -> float | None:
        """How many times better than Ray: ours / Ray, or Ray / ours where lower is better."""
        if self.row.lower_is_better:
            return _divide(self.median("ray"), self.median("ours"))
        return _divide(self.median("ours"), self.median("ray"))

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None when what it takes to say so was not measured."""
        figure = self.ratio if self.row.goal.against == "ratio" else self.median("ours")
        return None if figure is None else holds(self.row, figure)


def holds(row: Row, figure: float) -> bool:
    return figure <= row.goal.bound if row.lower_is_better else figure >= row.goal.bound


def _divide(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def plan(rows: Sequence[Row], sides: Sequence[Side], rounds: int) -> list[Job]:
    """Round by round and row by row, a row's sides right after one another, so that they meet the same drift."""
    return [
        Job(number, row, side)
        for number in range(1, rounds + 1)
        for row in rows
        if row.most_rounds is None or number <= row.most_rounds
        for side in row.sides
        if side in sides
    ]


def summarize(outcomes: Iterable[Outcome]) -> list[Line]:
    """One line for each row that has outcomes, in the table's order."""
    of_row: dict[str, dict[Side, list[Outcome]]] = {}
    for outcome in outcomes:
        of_row.setdefault(outcome.job.row.key, {}).setdefault(outcome.job.side, []).append(outcome)
    return [
        Line(row, {side: _cell(made) for side, made in of_row[row.key].items()}) for row in ROWS if row.key in of_row
    ]


def _cell(outcomes: Sequence[Outcome]) -> Cell:
    return Cell(
        values=tuple(outcome.value for outcome in outcomes if outcome.value is not None),
        failures=tuple(outcome.failure for outcome in outcomes if outcome.failure is not None),
    )


def installed(python: str, sides: Sequence[Side] = PEERS) -> dict[Side, str]:
    """The versions of those peers that the interpreter `python` can import."""
    program = (
        "import importlib.util, importlib.metadata, json, sys\n"
        "found = {s: importlib.metadata.version(l) for s, l in json.loads(sys.argv[1]).items()"
        " if importlib.util.find_spec(l)}\n"
        "print(json.dumps(found))"
    )
    libraries = json.dumps({side: LIBRARIES[side] for side in sides})
    done = subprocess.run([python, "-c", program, libraries], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{python} cannot say which peers it has: {last_line(done.stderr)}")
    versions: dict[Side, str] = json.loads(done.stdout)
    return versions


def run(jobs: Sequence[Job], measure: Callable[[Job], Outcome], tell: Callable[[int, Outcome], None]) -> list[Outcome]:
    """Make the measurements in order; `tell` hears of each. Ctrl-C ends it with what there is by then."""
    outcomes: list[Outcome] = []
    try:
        for number, job in enumerate(jobs, 1):
            outcomes.append(measure(job))
            tell(number, outcomes[-1])
    except KeyboardInterrupt:
        pass
    return outcomes


def command(job: Job, *, seconds: float, peers_python: str) -> list[str]:
    python = peers_python if job.side in PEERS else sys.executable
    return [python, "-m", MODULES[job.side], job.row.key, str(seconds)]


def measure(job: Job, command: Sequence[str]) -> Outcome:
    """Make one measurement in a fresh process. Whatever comes of it, none of its processes is left on return."""
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,  # files, not pipes: a stray grandchild cannot keep us reading
    ):
        with Brood() as brood:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(job, brood.mark, scratch),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for the runner, which then clears up
            )
            try:
                failure = _wait(process, job.row.timeout_s)
            finally:
                process.kill()
                process.wait()
            left_behind = _left_behind(brood, GRACE_S.get(job.side, 10.0)) if failure is None else ()
        outcome = read_outcome(job, failure, _read(stdout), _read(stderr))
    return replace(outcome, left_behind=left_behind, took_s=time.monotonic() - start)


def _environment(job: Job, mark: str, scratch: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, MARK: mark, "PYTHONPATH": path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages are compiled; ours, in the tree, shall be too
    if job.side in PEERS:  # their session directories go with the measurement
        environment |= {"TMPDIR": scratch, "RAY_TMPDIR": scratch, "RAY_USAGE_STATS_ENABLED": "0"}
    return environment


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> str | None:
    """Why the process has failed, if it has."""
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGUSR1)  # its stacks go to stderr, and from there into the JSON
        time.sleep(0.5)
        process.kill()
        return f"timed out after {timeout_s:g} s"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}" if status else None


def _left_behind(brood: Brood, grace_s: float) -> tuple[str, ...]:
    """The command lines of what is still there of the measurement when it has had `grace_s` to go by itself."""
    names = []
    for process in wait_gone(brood.living(), grace_s):
        with suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[:200])
    return tuple(names)


def _read(file: Any) -> str:
    file.seek(0)
    text: bytes = file.read()
    return text.decode(errors="replace")


def read_outcome(job: Job, failure: str | None, stdout: str, stderr: str) -> Outcome:
    """What a measuring program said: the last line of its output that is a figure, or why there is none."""
    if failure is not None:
        said = last_line(stderr) if failure.startswith("exit status") else ""
        return Outcome(job, failure=said or failure, stderr_tail=stderr[-4000:])
    for line in reversed(stdout.splitlines()):
        try:
            figure = json.loads(line)
            value, detail = float(figure["value"]), figure["detail"]
        except (ValueError, TypeError, KeyError):
            continue
        return Outcome(job, value=value, detail=detail, stderr_tail=stderr[-4000:])
    return Outcome(job, failure="printed no figure", stderr_tail=stderr[-4000:])


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def as_json(lines: Sequence[Line], outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> str:
    """Everything that was measured, with the medians and ratios of the table."""
    rows = [
        {
            "row": line.row.key,
            "name": line.row.name,
            "unit": line.row.unit,
            "goal": {"against": line.row.goal.against, "bound": line.row.goal.bound},
            "medians": {side: cell.median for side, cell in line.cells.items()},
            "values": {side: cell.values for side, cell in line.cells.items()},
            "failures": {side: cell.failures for side, cell in line.cells.items() if cell.failures},
            "ours_to_limit": line.ratio,
            "times_ray": line.times_ray,
            "met": line.met,
        }
        for line in lines
    ]
    measurements = [
        {
            "round": outcome.job.round,
            "row": outcome.job.row.key,
            "side": outcome.job.side,
            "value": outcome.value,
            "failure": outcome.failure,
            "detail": outcome.detail,
            "left_behind": outcome.left_behind,
            "took_s": round(outcome.took_s, 3),
            **({"stderr_tail": outcome.stderr_tail} if outcome.stderr_tail else {}),
        }
        for outcome in outcomes
    ]
    return json.dumps({"about": about, "rows": rows, "measurements": measurements}, indent=1)
