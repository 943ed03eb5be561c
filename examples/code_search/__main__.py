"""python -m examples.code_search demo|serve [PATH]"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import uvloop
from aiohttp import web
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from examples.code_search import demo
from examples.code_search.cluster import EmptyCorpusError
from examples.code_search.corpus import standard_library
from examples.code_search.service import INDEX, Settings, make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

console = Console()


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.code_search", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("demo", "index, serve, query, print the figures, leave"), ("serve", "serve until Ctrl-C")):
        command = commands.add_parser(name, help=what)
        command.add_argument("path", nargs="?", type=_directory, default=standard_library().resolve())
        command.add_argument("--num-cpus", type=_positive, help="CPUs for the cluster (default: all)")
        command.add_argument("--shards", type=_positive, default=min(8, len(os.sched_getaffinity(0))))
        command.add_argument("--tests", action="store_true", help="index test directories too")
        if name == "demo":
            command.add_argument("--queries", type=_positive, default=300, help="queries to measure")
        else:
            command.add_argument("--host", default="127.0.0.1")
            command.add_argument("--port", type=_port, default=8000)
    return parser.parse_args(argv)


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return path.resolve()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 0 (any free one) to 65535, not {number}")
    return number


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("indexing", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, refresh=True)

        yield advance


@contextlib.asynccontextmanager
async def running(arguments: argparse.Namespace, host: str, port: int) -> AsyncIterator[tuple[web.Application, str]]:
    """The service, indexed and listening; yields it and its URL."""
    with progress_bar() as advance:
        settings = Settings(arguments.path, arguments.shards, arguments.num_cpus, arguments.tests, advance)
        app = make_app(settings)
        runner = web.AppRunner(app, access_log=None)
        try:
            await runner.setup()
        except BaseException:
            await runner.cleanup()
            raise
    try:
        site = web.TCPSite(runner, host, port, shutdown_timeout=1.0)
        await site.start()
        bound = runner.addresses[0][1]
        yield app, f"http://{host}:{bound}"
    finally:
        await runner.cleanup()


async def run_demo(arguments: argparse.Namespace) -> None:
    console.print(Text(f"Indexing {arguments.path}"), soft_wrap=True)
    async with running(arguments, "127.0.0.1", 0) as (app, url):
        console.print(Text(f"Serving at {url}"))
        async with aiohttp.ClientSession(url) as session:
            sample = app[INDEX].sample
            await demo.show_hits(session, demo.questions_for(arguments.path, sample), console)
            latencies = await demo.measure(session, sample, arguments.queries)
            async with session.get("/stats") as response:
                stats = await response.json()
        console.print()
        console.print(demo.figures_table(stats, latencies))
        demo.show_problems(stats["problems"], console)
        leaving = time.perf_counter()
    console.print(f"Shut down in {time.perf_counter() - leaving:.2f} s.")


async def run_serve(arguments: argparse.Namespace) -> None:
    this = asyncio.current_task()
    assert this is not None
    # Ctrl-C cancels this task (asyncio.run sees to it); a plain `kill` shall leave as clean.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    console.print(Text(f"Indexing {arguments.path}"), soft_wrap=True)
    async with running(arguments, arguments.host, arguments.port) as (_, url):
        console.print(Text(f"Serving at {url} (Ctrl-C to stop)"))
        await asyncio.Event().wait()


def main(argv: Sequence[str]) -> int:
    arguments = read_arguments(argv)
    run = run_demo if arguments.command == "demo" else run_serve
    try:
        uvloop.run(run(arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped.")
        return 0 if arguments.command == "serve" else 130
    except (EmptyCorpusError, demo.DemoFailedError, OSError) as exc:
        Console(stderr=True).print(Text(f"error: {exc}"), soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
