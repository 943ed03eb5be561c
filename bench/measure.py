"""What the measuring programs share: figures, rates, and the one line of JSON with which each of them ends.

A measuring program is run as `python -m bench.<side> ROW SECONDS`. It may run under an interpreter that has a peer
installed and aioray not, so nothing here imports aioray.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

MIB = 1 << 20
STREAM_ITEMS = 10_000  # of one stream
IN_FLIGHT = 1_000
BIG_PUTS = 100
ACTORS = 20
WAIT_AT_A_TIME = 100
FAN_OUT, FAN_OUT_NODES = 10_000, 10  # tasks at once, over so many nodes


@dataclass(frozen=True)
class Figure:
    """One measured value in the unit of its row, with whatever else is worth keeping in the JSON."""

    value: float
    detail: dict[str, Any] = field(default_factory=dict)


def main(measurements: Mapping[str, Callable[[float], Figure]]) -> None:
    """Run the measurement that the command line names and print its figure."""
    faulthandler.register(signal.SIGUSR1)  # the runner asks with it where a measurement hangs
    row, seconds = sys.argv[1], float(sys.argv[2])
    figure = measurements[row](seconds)
    print(json.dumps(asdict(figure)), flush=True)


def in_loop(
    measurement: Callable[[float], Coroutine[Any, Any, Figure]],
) -> Callable[[float], Figure]:
    """An async measurement as a plain one, in a uvloop where there is one: the limit runs in uvloop too."""

    def run(seconds: float) -> Figure:
        try:
            import uvloop
        except ImportError:
            import asyncio

            return asyncio.run(measurement(seconds))
        return uvloop.run(measurement(seconds))

    return run


def rate(step: Callable[[], object], *, per_step: int, seconds: float) -> Figure:
    """How many a second when each `step` does `per_step` of them: the mean over `seconds`, pauses included."""
    _repeat(step, seconds / 4)  # the first calls export functions, start workers, fill caches
    steps, elapsed = _repeat(step, seconds)
    return Figure(steps * per_step / elapsed, {"calls": steps * per_step, "elapsed_s": elapsed})


async def rate_async(step: Callable[[], Awaitable[object]], *, per_step: int, seconds: float) -> Figure:
    await _repeat_async(step, seconds / 4)
    steps, elapsed = await _repeat_async(step, seconds)
    return Figure(steps * per_step / elapsed, {"calls": steps * per_step, "elapsed_s": elapsed})


def _repeat(step: Callable[[], object], seconds: float) -> tuple[int, float]:
    start = time.perf_counter()
    steps = 0
    while True:
        step()
        steps += 1
        if (elapsed := time.perf_counter() - start) >= seconds:
            return steps, elapsed


async def _repeat_async(step: Callable[[], Awaitable[object]], seconds: float) -> tuple[int, float]:
    start = time.perf_counter()
    steps = 0
    while True:
        await step()
        steps += 1
        if (elapsed := time.perf_counter() - start) >= seconds:
            return steps, elapsed


def put_gb_per_s(put: Callable[[], object], *, nbytes: int, most_s: float = 30.0) -> Figure:
    """GB/s (10**9 bytes) sustained over BIG_PUTS puts (or what `most_s` allows), after a tenth as many to warm up."""
    for _ in range(BIG_PUTS // 10):
        put()
    each_s: list[float] = []
    start = now = time.perf_counter()
    while len(each_s) < BIG_PUTS and now - start < most_s:
        put()
        before, now = now, time.perf_counter()
        each_s.append(now - before)
    detail = {"puts": len(each_s), "median_put_s": statistics.median(each_s), "worst_put_s": max(each_s)}
    return Figure(len(each_s) * nbytes / (now - start) / 1e9, detail)


def start_seconds(program: str, *, times: int, warm_up: bool = True) -> Figure:
    """Seconds from starting a Python with `program` to the moment the program prints as its `time.monotonic()`."""
    if warm_up:
        _start_once(program)  # files come from disk and are compiled once
    taken_s = [_start_once(program) for _ in range(times)]
    return Figure(statistics.median(taken_s), {"taken_s": taken_s})


def _start_once(program: str) -> float:
    # Files, not pipes: a stray process that holds one would keep us reading.
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaint:
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program], stdout=said, stderr=complaint, timeout=60, check=False)
        said.seek(0)
        complaint.seek(0)
        stamps = [line.split()[1] for line in said if line.startswith("RESULT-AT ")]
        reasons = [line.strip() for line in complaint if line.strip()] or ["it said nothing"]
    if done.returncode != 0 or not stamps:
        raise RuntimeError(f"the started program ended with exit status {done.returncode}: {reasons[-1]}")
    return float(stamps[-1]) - began


RESULT_AT = 'print("RESULT-AT", time.monotonic(), flush=True)'  # how such a program tells; it has to import time
