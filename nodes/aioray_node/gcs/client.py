"""The way to the GCS: questions, and a node's line, which is opened again when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import msgspec

from aioray.exceptions import AuthenticationError, RaySystemError
from aioray.runtime.tls import client_tls
from aioray.wire.gcs import (
    MAX_BODY_NBYTES,
    NODE_PATH,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    QUESTION_PATH,
    Question,
    answer_decoder,
    gcs_frame_decoder,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor
    from aioray.wire.gcs import AnyNodeFrame
    from aioray_node.gcs.membership import Membership

_log = logging.getLogger("aioray")

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.02, 1.0
_QUESTION_TIMEOUT_S = 10.0
_LEAVE_TIMEOUT_S = 0.2


class GcsClient:
    """Asks the GCS at an address: the path of a Unix socket, or host:port. Use it with `async with`."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        tls = None if address.startswith("/") else client_tls(os.environ)
        self._url = f"http{'s' if tls else ''}://{'gcs' if address.startswith('/') else address}"
        self._tls = tls
        self._headers = {"Authorization": f"Bearer {token}", PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        connector: aiohttp.BaseConnector
        if self.address.startswith("/"):
            connector = aiohttp.UnixConnector(self.address)
        else:
            connector = aiohttp.TCPConnector(ssl=self._tls or True)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def ask(self, what: str, **args: Any) -> Any:
        """Raises AuthenticationError, and RaySystemError when there is no answer, with the reason."""
        body = io.BytesIO(msgspec.msgpack.encode(Question(what, args)))  # a large one is sent in pieces
        timeout = aiohttp.ClientTimeout(total=_QUESTION_TIMEOUT_S)
        try:
            async with self._session.post(self._url + QUESTION_PATH, data=body, timeout=timeout) as response:
                if response.status != 200:
                    raise refusal(self.address, response.status, await response.text())
                answer = answer_decoder.decode(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as exc:
            why = getattr(exc, "os_error", exc)  # aiohttp's own words tell more of TLS than of what went wrong
            raise RaySystemError(f"the GCS at {self.address} does not answer: {why or type(exc).__name__}") from exc
        if answer.error:
            raise RaySystemError(answer.error)
        return answer.data

    def web_socket(self, heartbeat_s: float) -> Any:
        """A node's connection, to be entered."""
        return self._session.ws_connect(
            self._url + NODE_PATH, max_msg_size=MAX_BODY_NBYTES, heartbeat=heartbeat_s, autoclose=True
        )


def refusal(address: str, status: int, text: str) -> Exception:
    """What to raise for a status that is no success."""
    if status == 401:
        return AuthenticationError(f"the GCS at {address} refused this process: {text}")
    return RaySystemError(f"the GCS at {address} refused this process: {text} (HTTP status {status})")


class NodeLine:
    """Keeps a node connected. `async with` it; `joined` waits until the node is a member.

    There is no use in going on when the GCS refuses the node, or was not reached for as long as the configuration says:
    `joined` raises that, or, if the node was a member, `on_end(reason)` is called once.
    """

    def __init__(
        self,
        reactor: Reactor,
        membership: Membership,
        client: GcsClient,
        *,
        heartbeat_timeout_s: float,
        give_up_after_s: float,
        on_end: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._membership = membership
        self._client = client
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._give_up_after_s = give_up_after_s
        self._on_end = on_end
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue()
        self._joined: asyncio.Future[None]
        self._refused = ""
        self._why = "it has not answered yet"  # it is not connected, when it is not
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._joined = asyncio.get_running_loop().create_future()
        self._joined.add_done_callback(lambda joined: joined.cancelled() or joined.exception())  # who waits may be gone
        self._membership.on_admitted = self._admitted
        self._membership.on_refused = self._be_refused
        await self._client.__aenter__()
        self._task = asyncio.create_task(self._run(), name="gcs.line")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Say goodbye, if there is somebody to say it to."""
        try:
            with self._reactor.lock:
                self._membership.leave("it was stopped")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                    await self._unsent.join()
        finally:  # a cancel may come at each of these awaits
            self._task.cancel()
            try:
                await asyncio.gather(self._task, return_exceptions=True)
            finally:
                await self._client.__aexit__(*exc_info)

    async def joined(self, timeout_s: float) -> None:
        """Raises AuthenticationError, or RaySystemError with why the node is no member."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._joined)
        except TimeoutError:
            text = f"was not reached for {timeout_s:g} s: {self._why}"
            raise RaySystemError(f"the GCS at {self._client.address} {text}") from None

    def _admitted(self) -> None:
        if not self._joined.done():
            self._joined.set_result(None)

    def _be_refused(self, reason: str) -> None:
        self._refused = reason

    async def _run(self) -> None:
        """Keep connected; an error of ours must be heard of, or the node would go on without a line."""
        try:
            self._give_up(await self._connect_until_useless())
        except Exception as exc:
            _log.exception("aioray: the line to the GCS has failed")
            self._give_up(RaySystemError(f"an error in aioray: {exc!r}"))

    async def _connect_until_useless(self) -> Exception:
        """Connect, again and again; returns why there is no use in it any more."""
        loop = asyncio.get_running_loop()
        pause_s, lost_at = _FIRST_PAUSE_S, loop.time()
        while True:
            why = "it hung up"
            try:
                async with self._client.web_socket(self._heartbeat_timeout_s) as ws:
                    await self._talk(ws)
            except aiohttp.WSServerHandshakeError as exc:
                words = {401: "the token is not that of its cluster", 409: "it speaks another version of the protocol"}
                if exc.status in words:
                    return refusal(self._client.address, exc.status, words[exc.status])
                why = f"HTTP status {exc.status}"
            except (aiohttp.ClientError, OSError) as exc:
                why = str(getattr(exc, "os_error", exc)) or type(exc).__name__  # without aiohttp's words about TLS
                if isinstance(exc, aiohttp.ClientSSLError) and not self._joined.done():
                    return RaySystemError(f"the GCS at {self._client.address} cannot be talked to: {why}")
            finally:
                if self._membership.is_admitted:
                    pause_s, lost_at = _FIRST_PAUSE_S, loop.time()
                with self._reactor.lock:
                    self._membership.disconnected()
            self._why = why
            if self._refused:
                return RaySystemError(f"the GCS at {self._client.address} refused this node: {self._refused}")
            if loop.time() - lost_at > self._give_up_after_s:
                text = f"was not reached for {self._give_up_after_s:g} s: {why}"
                return RaySystemError(f"the GCS at {self._client.address} {text}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def _talk(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Until it is closed."""
        self._unsent = asyncio.Queue()
        with self._reactor.lock:
            self._membership.connected(self._send)
        writer = asyncio.create_task(self._write(ws), name="gcs.line.write")
        try:
            async for message in ws:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    return
                try:
                    frame = gcs_frame_decoder.decode(message.data)
                except msgspec.DecodeError as exc:
                    raise aiohttp.ClientPayloadError(f"it sent a frame that is none of ours: {exc}") from exc
                with self._reactor.lock:
                    self._membership.hear(frame)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def _send(self, frame: AnyNodeFrame) -> None:
        self._unsent.put_nowait(msgspec.msgpack.encode(frame))

    async def _write(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            data = await self._unsent.get()
            await ws.send_bytes(data)
            self._unsent.task_done()

    def _give_up(self, error: Exception) -> None:
        if self._joined.done():
            self._on_end(str(error))
        else:
            self._joined.set_exception(error)
