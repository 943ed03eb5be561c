"""The aiohttp application: the cluster lives and dies with it, and its handlers await the actors."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from aiohttp import web

import aioray
import aioray.exceptions
from examples.code_search.cluster import Hit, SearchIndex, build_index
from examples.code_search.corpus import count_terms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LONGEST_QUERY = 200
MOST_HITS = 100
PROBLEMS_SHOWN = 20

PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"}


@dataclass(frozen=True, slots=True)
class Settings:
    root: Path
    shards: int
    num_cpus: int | None = None  # None: all of the machine's
    include_tests: bool = False
    progress: Callable[[int, int], None] = lambda done, total: None


class BadQueryError(Exception):
    """Something in the request's parameters is not as it must be; the message says what and how."""


@dataclass(frozen=True, slots=True)
class Request:
    q: str
    k: int


SETTINGS = web.AppKey("settings", Settings)
INDEX = web.AppKey("index", SearchIndex)
START_SECONDS = web.AppKey("start_seconds", float)


def make_app(settings: Settings) -> web.Application:
    app = web.Application(middlewares=[errors_as_json])
    app[SETTINGS] = settings
    app.cleanup_ctx.append(search_index)
    app.router.add_get("/", show_page)
    app.router.add_get("/search", answer_search)
    app.router.add_get("/stats", answer_stats)
    return app


async def search_index(app: web.Application) -> AsyncIterator[None]:
    """Before the first request: a cluster in this very loop, and the index on it. After the last: both gone."""
    settings = app[SETTINGS]
    started = time.perf_counter()
    async with aioray.connect(num_cpus=settings.num_cpus):
        app[START_SECONDS] = time.perf_counter() - started
        app[INDEX] = await build_index(
            settings.root,
            shards=settings.shards,
            include_tests=settings.include_tests,
            progress=settings.progress,
        )
        yield


@web.middleware
async def errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadQueryError as exc:
        return web.json_response({"error": str(exc)}, status=400)
    except aioray.exceptions.RayError as exc:  # a shard died, say: nothing the client did
        return web.json_response({"error": f"the index cannot answer: {type(exc).__name__}"}, status=503)


def read_request(query: str | None, k: str | None) -> Request:
    """Check the parameters of a search. Raises BadQueryError."""
    if query is None:
        raise BadQueryError("q is missing: /search?q=binary+search&k=10")
    if len(query) > LONGEST_QUERY:
        raise BadQueryError(f"q has {len(query)} characters; at most {LONGEST_QUERY} are allowed")
    if not count_terms(query):
        raise BadQueryError(f"q has no word to search for (very common words do not count): {query!r}")
    return Request(query, read_k("10" if k is None else k))


def read_k(text: str) -> int:
    digits = text.isascii() and text.isdigit() and len(text) < 10
    if not digits or not 1 <= int(text) <= MOST_HITS:
        raise BadQueryError(f"k must be a whole number from 1 to {MOST_HITS}, not {text[:40]!r}")
    return int(text)


async def answer_search(request: web.Request) -> web.Response:
    asked = read_request(request.query.get("q"), request.query.get("k"))
    started = time.perf_counter()
    hits = await request.app[INDEX].search(asked.q, asked.k)
    took_ms = (time.perf_counter() - started) * 1e3
    answer = {"query": asked.q, "k": asked.k, "took_ms": round(took_ms, 3), "hits": [as_json(hit) for hit in hits]}
    return web.json_response(answer)


def as_json(hit: Hit) -> dict[str, Any]:
    return {**dataclasses.asdict(hit), "score": round(hit.score, 4)}


async def answer_stats(request: web.Request) -> web.Response:
    index = request.app[INDEX]
    figures = dataclasses.asdict(index.figures)
    problems = figures.pop("problems")
    seconds = {"start cluster": request.app[START_SECONDS], **figures.pop("seconds")}
    answer = {
        **figures,
        "problems": {"count": len(problems), "first": problems[:PROBLEMS_SHOWN]},
        "seconds": {phase: round(took, 4) for phase, took in seconds.items()},
        "shards": [dataclasses.asdict(shard) for shard in await index.shard_figures()],
    }
    return web.json_response(answer, dumps=lambda value: json.dumps(value, indent=2))


async def show_page(request: web.Request) -> web.Response:
    index = request.app[INDEX]
    query = request.query.get("q", "")
    status, results = 200, ""
    if query:
        try:
            asked = read_request(query, request.query.get("k"))
        except BadQueryError as exc:
            status, results = 400, f'<p class="error">{escape(str(exc))}</p>'
        else:
            results = render_hits(await index.search(asked.q, asked.k))
    figures = index.figures
    about = f"{figures.documents:,} definitions in {figures.files:,} files of {figures.root}"
    page = render_page(query=query, about=about, results=results)
    return web.Response(text=page, status=status, content_type="text/html", headers=PAGE_HEADERS)


def render_page(*, query: str, about: str, results: str) -> str:
    """The whole page. `results` is HTML already; `query` and `about` are text."""
    title = f"{query} - code search" if query else "Code search"
    return PAGE.substitute(
        title=escape(title), query=escape(query), about=escape(about), results=results, longest=LONGEST_QUERY
    )


def render_hits(hits: list[Hit]) -> str:
    if not hits:
        return "<p>Nothing found.</p>"
    return f"<ol>{''.join(render_hit(hit) for hit in hits)}</ol>"


def render_hit(hit: Hit) -> str:
    return (
        f'<li><span class="score">{hit.score:.3f}</span><span class="name">{escape(hit.name)}</span> '
        f'<span class="kind">{escape(hit.kind)}</span><br><span class="where">{escape(hit.file)}:{hit.line}</span>'
        f"<pre>{escape(hit.snippet)}</pre></li>"
    )
