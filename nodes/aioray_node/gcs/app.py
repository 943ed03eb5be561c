"""The GCS on HTTP: a WebSocket for each node, POST for questions, GET for metrics.

Who has no token gets nothing but a refusal.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hmac
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from aioray.runtime.refusals import Refusals
from aioray.wire.gcs import (
    MAX_BODY_NBYTES,
    METRICS_PATH,
    NODE_PATH,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    QUESTION_PATH,
    Answered,
    node_frame_decoder,
    question_decoder,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from aioray.runtime.reactor import Reactor
    from aioray.wire.metrics import Metric
    from aioray_node.gcs.member_desk import MemberDesk, Packet

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger("aioray")
_MAX_UNSENT_NBYTES = 64 << 20  # a node that reads so slowly is better off with a new view of everything
_CLOSE_TIMEOUT_S = 0.5
_BEARER = "Bearer "


class _Rubbish(logging.Filter):
    """What aiohttp says of requests that are none: one line of ours, no traceback."""

    def __init__(self, refusals: Refusals) -> None:
        super().__init__()
        self._refusals = refusals

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            self._refusals.note(None, "what it sent is no HTTP request")
            return False
        return record.levelno >= logging.WARNING


class _NodeOutlet:
    """The way to one node: frames wait here until its socket takes them."""

    def __init__(self, ws: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self._ws = ws
        self._transport = transport
        self._unsent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._unsent_nbytes = 0
        self._reason = ""

    def send(self, packet: Packet) -> None:
        self._unsent_nbytes += len(packet.data)
        if self._unsent_nbytes > _MAX_UNSENT_NBYTES and self._transport is not None:
            self._transport.abort()  # it will connect again, if it lives
            return
        self._unsent.put_nowait(packet.data)

    def close(self, reason: str) -> None:
        self._reason = reason
        self._unsent.put_nowait(None)
        if self._transport is not None:  # who does not read will not hear of it either
            asyncio.get_running_loop().call_later(2 * _CLOSE_TIMEOUT_S, self._transport.abort)

    async def write(self) -> None:
        """Until it is closed, or the node is gone."""
        with contextlib.suppress(ConnectionError):
            while (data := await self._unsent.get()) is not None:
                await self._ws.send_bytes(data)
                self._unsent_nbytes -= len(data)
            await self._ws.close(message=self._reason.encode()[:120])


class GcsApp:
    """Serves the desk's members; `questions` answers what is asked by name, `metrics` gives what Prometheus is told."""

    def __init__(
        self,
        reactor: Reactor,
        desk: MemberDesk,
        token: str,
        questions: Mapping[str, Callable[..., Any]],
        metrics: Callable[[], list[Metric]],
    ) -> None:
        self._reactor = reactor
        self._desk = desk
        self._token = token.encode()
        self._questions = questions
        self._metrics = metrics
        self._rendering = asyncio.Lock()  # one at a time, however many ask
        self._refusals = Refusals("the GCS")
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_NBYTES)
        app.router.add_get(NODE_PATH, self._serve_node)
        app.router.add_post(QUESTION_PATH, self._answer)
        app.router.add_get(METRICS_PATH, self._show_metrics)
        logger = logging.Logger("aioray.http", logging.DEBUG)  # on which aiohttp tells of what is no request
        logger.addFilter(_Rubbish(self._refusals))
        logger.parent = _log
        self._runner = web.AppRunner(app, access_log=None, logger=logger, shutdown_timeout=_CLOSE_TIMEOUT_S)
        self.port = 0  # where it listens, if it does on TCP

    async def open(
        self, *, path: str = "", host: str = "", port: int | None = None, tls: ssl.SSLContext | None
    ) -> None:
        """Listen on a Unix socket, on TCP (port 0: any that is free), or both. Raises OSError."""
        await self._runner.setup()
        if path:
            await web.UnixSite(self._runner, path).start()
            os.chmod(path, 0o600)
        if port is not None:
            site = web.TCPSite(self._runner, host, port, ssl_context=tls)
            await site.start()
            self.port = self._runner.addresses[-1][1]

    async def close(self, farewell: str = "") -> None:
        """Hang up on all nodes, and listen no more. Safe to call twice.

        `farewell`: why they need not wait for a GCS that comes back.
        """
        with self._reactor.lock:
            self._desk.close(farewell)
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        token = given.removeprefix(_BEARER) if given.startswith(_BEARER) else ""
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            reason = "its token is not that of this cluster" if token else "it has no token"
            self._refusals.note(request.remote, reason)
            return web.Response(status=401, text=reason)
        version = request.headers.get(PROTOCOL_HEADER, "none")
        if version != str(PROTOCOL_VERSION) and request.path != METRICS_PATH:  # text is for everybody
            reason = f"protocol version {version:.20} was offered, this GCS speaks {PROTOCOL_VERSION}"
            self._refusals.note(request.remote, reason)
            return web.Response(status=409, text=reason)
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            self._refusals.note(request.remote, f"its request has more than {MAX_BODY_NBYTES} bytes")
            raise

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            question = question_decoder.decode(await request.read())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            self._refusals.note(request.remote, "what it asked is no question of ours")
            return web.Response(status=400, text=str(exc))
        answer = self._questions.get(question.what)
        if answer is None:
            return _body(Answered(error=f"the GCS cannot answer {question.what!r:.200}"))
        with self._reactor.lock:
            try:
                return _body(Answered(answer(**question.args)))
            except LookupError as exc:
                return _body(Answered(error=str(exc.args[0])))
            except TypeError:
                return _body(Answered(error=f"{question.what!r} cannot be asked with {question.args!r:.200}"))

    async def _show_metrics(self, request: web.Request) -> web.Response:
        async with self._rendering:
            with self._reactor.lock:
                metrics = self._metrics()
            # 10,000 series take 65 ms. A thread that is ours goes when this is done.
            with concurrent.futures.ThreadPoolExecutor(1, "aioray-metrics") as thread:
                text, kind = await asyncio.get_running_loop().run_in_executor(thread, _as_text, metrics)
        return web.Response(body=text.encode(), headers={"Content-Type": kind})

    async def _serve_node(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=MAX_BODY_NBYTES, timeout=_CLOSE_TIMEOUT_S)
        await ws.prepare(request)
        outlet = _NodeOutlet(ws, request.transport)
        with self._reactor.lock:
            connection = self._desk.connect(outlet)
        writer = asyncio.create_task(outlet.write(), name="gcs.write")
        reason = "it was closed by the other side"
        try:
            async for message in ws:
                if (complaint := self._hear(connection, message.type, message.data)) is not None:
                    self._refusals.note(request.remote, complaint)
                    reason = complaint
                    break
        finally:
            with self._reactor.lock:
                self._desk.gone(connection, reason)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        await ws.close()
        return ws

    def _hear(self, connection: int, kind: WSMsgType, data: Any) -> str | None:
        """What is wrong with a frame, if anything is."""
        if kind is WSMsgType.ERROR:
            return f"its WebSocket failed: {data}"
        if kind is not WSMsgType.BINARY:
            return "it sent a frame that is not binary"
        try:
            frame = node_frame_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "it sent a frame that is none of ours"
        with self._reactor.lock:
            self._desk.hear(connection, frame)
        return None


def _as_text(metrics: list[Metric]) -> tuple[str, str]:
    """For Prometheus; and what kind of text that is."""
    from aioray.prometheus_text import CONTENT_TYPE, rendered  # late, and in this thread: it takes 15 to 40 ms

    return rendered(metrics), CONTENT_TYPE


def _body(answer: Answered) -> web.Response:
    return web.Response(body=msgspec.msgpack.encode(answer), content_type="application/msgpack")
