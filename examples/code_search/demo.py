"""The demonstration: real HTTP queries against the running service, and the figures of the run."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from examples.code_search.corpus import standard_library

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import aiohttp
    from rich.console import Console

QUESTIONS = (  # for the standard library
    "insert item into a sorted list",
    "parse http headers",
    "create a temporary directory",
    "wait for the first completed future",
    "guess the mime type of a file",
    "shared memory block",
    "least recently used cache",
)
SHOWN_HITS = 3
AT_ONCE = 16


class DemoFailedError(Exception):
    """The service did not do what the demonstration exists to show."""


@dataclass(frozen=True, slots=True)
class Latencies:
    p50_ms: float
    p99_ms: float
    queries: int
    per_second_at_once: float


def questions_for(root: Path, sample: Sequence[str]) -> list[str]:
    """Good questions for the standard library; names from the corpus itself for any other tree."""
    if root == standard_library().resolve():
        return list(QUESTIONS)
    step = max(1, len(sample) // len(QUESTIONS))
    return list(sample[::step][: len(QUESTIONS)])


async def ask(session: aiohttp.ClientSession, query: str, k: int) -> list[dict[str, Any]]:
    """The hits of one query. Raises DemoFailedError when the service refuses."""
    async with session.get("/search", params={"q": query, "k": str(k)}) as response:
        answer = await response.json()
        if response.status != 200:
            raise DemoFailedError(f"{query!r}: {response.status} {answer}")
        hits: list[dict[str, Any]] = answer["hits"]
        return hits


async def show_hits(session: aiohttp.ClientSession, questions: Sequence[str], console: Console) -> None:
    for question in questions:
        hits = await ask(session, question, SHOWN_HITS)
        if not hits:
            raise DemoFailedError(f"{question!r} found nothing")
        console.print(Text(f"\n{question}", style="bold"), soft_wrap=True)
        for hit in hits:
            line = Text(f"  {hit['score']:.3f}  ")
            line.append(f"{hit['file']}:{hit['line']}", style="cyan").append(f"  {hit['kind']} {hit['name']}")
            console.print(line, soft_wrap=True)


async def measure(session: aiohttp.ClientSession, sample: Sequence[str], queries: int) -> Latencies:
    """Ask `queries` questions one at a time, then as many again, AT_ONCE at a time."""
    if not sample:
        raise DemoFailedError("no definition has a name to search for")
    asked = [sample[number % len(sample)] for number in range(queries)]
    took_ms = []
    for query in asked:
        started = time.perf_counter()
        await ask(session, query, 10)
        took_ms.append((time.perf_counter() - started) * 1e3)
    turn = iter(asked)

    async def client() -> None:
        for query in turn:
            await ask(session, query, 10)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    cuts = statistics.quantiles(took_ms, n=100, method="inclusive") if queries > 1 else took_ms * 99
    return Latencies(cuts[49], cuts[98], queries, queries / (time.perf_counter() - started))


def figures_table(stats: dict[str, Any], latencies: Latencies) -> Table:
    """Figures as `/stats` gives them, and what the queries took."""
    seconds = stats["seconds"]
    table = Table(title="The figures of this run", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("files", f"{stats['files']:,}")
    table.add_row("  source", f"{stats['source_bytes'] / 1e6:,.1f} MB")
    table.add_row("  not parsed", f"{stats['problems']['count']:,}")
    table.add_row("definitions", f"{stats['documents']:,}")
    table.add_row("terms", f"{stats['terms']:,}")
    for phase, took in seconds.items():
        table.add_row(f"seconds: {phase}", f"{took:.2f}")
    table.add_row("parse tasks", f"{stats['parse_tasks']:,}")
    table.add_row("parse tasks/s", f"{stats['parse_tasks'] / seconds['parse']:,.1f}")
    shards = stats["shards"]
    shared = "matrix shared" if all(shard["mapped_from"] for shard in shards) else "matrix, not shared"
    table.add_row(shared, f"{stats['matrix_bytes'] / 1e6:,.1f} MB")
    copied = sum(shard["copied_bytes"] for shard in shards)
    table.add_row(f"  copied by {len(shards)} shard{'s' * (len(shards) > 1)}", f"{copied / 1e6:,.2f} MB")
    table.add_row(f"query p50 of {latencies.queries}", f"{latencies.p50_ms:.2f} ms")
    table.add_row("query p99", f"{latencies.p99_ms:.2f} ms")
    table.add_row(f"queries/s, {AT_ONCE} at once", f"{latencies.per_second_at_once:,.0f}")
    return table


def show_problems(problems: dict[str, Any], console: Console) -> None:
    for problem in problems["first"]:
        console.print(Text(f"not parsed: {problem['file']}: {problem['reason']}"), soft_wrap=True)
    more = problems["count"] - len(problems["first"])
    if more:
        console.print(f"not parsed: {more:,} more")
