"""The GCS on HTTP: nodes that come, go and come back, and strangers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aioray.config import Config
from aioray.exceptions import AuthenticationError, InvalidOptionError, RaySystemError
from aioray.prometheus_text import CONTENT_TYPE
from aioray.runtime import tls
from aioray.wire.control import MetricsTold
from aioray.wire.gcs import (
    MAX_BODY_NBYTES,
    METRICS_PATH,
    NODE_PATH,
    PROTOCOL_HEADER,
    QUESTION_PATH,
    Leave,
    MetricReport,
    Report,
)
from aioray.wire.metrics import COUNTER, Metric, Series
from aioray_node.gcs import access
from aioray_node.gcs.client import GcsClient
from aioray_node.gcs.metrics.desks import MetricLogDesk
from tests.gcs.stage import TOKEN, GcsStage, StagedNode

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator


@pytest.fixture
async def gcs(nothing_left: None, tmp_path: pathlib.Path) -> AsyncIterator[GcsStage]:
    stage = GcsStage(tmp_path)
    stage.reactor.attach(asyncio.get_running_loop())
    await stage.open()
    yield stage
    await stage.close()
    stage.reactor.close()


async def test_nodes_see_each_other_come_fill_up_and_go(gcs: GcsStage) -> None:
    async with gcs.node("a") as a:
        async with gcs.node("b") as b:
            await a.until(lambda view: "b" in view.nodes)
            await b.until(lambda view: "a" in view.nodes)
            b.load.free = {"CPU": 0}
            b.membership.load_changed()
            await a.until(lambda view: view.nodes["b"].resources.available == {"CPU": 0})
        await a.until(lambda view: "b" not in view.nodes)
        assert a.view.known["b"].end == "it was stopped"
    assert gcs.members() == {"a": "it was stopped", "b": "it was stopped"}


async def test_a_node_whose_connection_breaks_comes_back_as_the_same(gcs: GcsStage) -> None:
    """The socket is cut under a node that lives: it joins again within the grace, and nobody hears of a death."""
    async with gcs.node("a") as a, gcs.node("b") as b:
        await a.until(lambda view: "b" in view.nodes)
        again = asyncio.Event()
        b.membership.on_admitted = again.set
        for outlet in list(gcs.desk._outlets.values()):
            outlet._transport.abort()  # type: ignore[attr-defined] # of a _NodeOutlet
        await asyncio.wait_for(again.wait(), 10)
        assert gcs.members() == {"a": None, "b": None}
        assert a.view.known["b"].alive


async def test_nodes_ride_out_a_gcs_that_ends_and_comes_back_without_memory(gcs: GcsStage) -> None:
    async with gcs.node("a") as a, gcs.node("b"):
        await a.until(lambda view: "b" in view.nodes)
        await gcs.close()
        await gcs.open("another")
        await a.until(lambda view: view.epoch == "another" and "b" in view.nodes)
        assert not a.end.done()


async def test_nodes_of_a_cluster_that_ends_on_purpose_end_with_it(gcs: GcsStage) -> None:
    """And do not look for its GCS until `gcs_reconnect_timeout_s` has gone by."""
    async with gcs.node("a") as a, gcs.node("b") as b:
        await a.until(lambda view: "b" in view.nodes)
        await gcs.close("its cluster has ended")
        for node in (a, b):
            assert (await asyncio.wait_for(node.end, 5)).endswith("refused this node: its cluster has ended")


async def test_a_node_that_was_declared_dead_is_told_to_end(gcs: GcsStage) -> None:
    first, again = StagedNode("a", gcs.reactor), StagedNode("a", gcs.reactor)
    async with gcs.line(first) as line:
        await line.joined(5)
    async with gcs.line(again) as line:
        with pytest.raises(RaySystemError, match="declared dead"):
            await line.joined(5)


async def test_a_member_that_cannot_come_back_is_told_to_end(gcs: GcsStage) -> None:
    """The GCS takes it for dead while its connection is broken: what ran there runs elsewhere by then."""
    async with gcs.node("a") as a:
        connection = next(iter(gcs.desk._outlets))
        gcs.desk.hear(connection, Leave("an impostor says so"))
        reason = await asyncio.wait_for(a.end, 10)
    assert "declared dead (an impostor says so)" in reason


async def test_a_node_gives_up_on_a_gcs_that_is_not_there(nothing_left: None, tmp_path: pathlib.Path) -> None:
    stage = GcsStage(tmp_path, Config(gcs_reconnect_timeout_s=0.1))
    stage.reactor.attach(asyncio.get_running_loop())
    node = StagedNode("a", stage.reactor)
    async with stage.line(node) as line:
        with pytest.raises(RaySystemError, match=r"was not reached for 0\.1 s"):
            await line.joined(5)
    stage.reactor.close()


async def test_a_silent_node_is_dead(nothing_left: None, tmp_path: pathlib.Path) -> None:
    """Its connection stays: whoever stopped it, or its network, keeps still about it."""
    stage = GcsStage(tmp_path, Config(heartbeat_timeout_ms=300))
    stage.reactor.attach(asyncio.get_running_loop())
    await stage.open()
    async with stage.node("a") as a:
        async with stage.node("b") as b:
            await a.until(lambda view: "b" in view.nodes)
            b.membership._report = lambda: None  # type: ignore[method-assign]
            b.membership._cancel_timer()
            await a.until(lambda view: "b" not in view.nodes)
            assert a.view.known["b"].end == "nothing was heard of it for 0.3 s"
        assert stage.members()["a"] is None
    await stage.close()
    stage.reactor.close()


async def test_an_error_of_ours_ends_the_node_and_is_not_swallowed(
    gcs: GcsStage, caplog: pytest.LogCaptureFixture
) -> None:
    async with gcs.node("a") as a:

        def fail(_: object) -> None:
            raise ZeroDivisionError("a bug")

        a.membership.hear = fail  # type: ignore[assignment, method-assign]
        async with gcs.node("b"):
            assert "ZeroDivisionError('a bug')" in await asyncio.wait_for(a.end, 10)
    assert "the line to the GCS has failed" in caplog.text


# strangers


async def test_a_node_with_another_token_is_refused_and_does_not_try_again(
    gcs: GcsStage, caplog: pytest.LogCaptureFixture
) -> None:
    async with gcs.node("a") as a:
        for _ in range(3):
            stranger = StagedNode("s", gcs.reactor)
            async with gcs.line(stranger, token="guessed") as line:
                with pytest.raises(AuthenticationError, match="token is not that of its cluster"):
                    await line.joined(5)
            assert not stranger.end.done(), "it was never a member"
        assert gcs.members() == {"a": None}
        assert a.membership.is_admitted
    refusals = [record for record in caplog.records if "refused" in record.message]
    assert len(refusals) == 1, "said once, however often it knocks"
    assert "guessed" not in caplog.text, "what may be a mistyped token is nobody else's business"


def headers(token: str | None = TOKEN, version: str | None = "1") -> dict[str, str]:
    given = {"Authorization": f"Bearer {token}"} if token is not None else {}
    return given | ({PROTOCOL_HEADER: version} if version is not None else {})


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        (headers(token=None), 401, "no token"),
        (headers(token=""), 401, "no token"),
        (headers(token=TOKEN + "x"), 401, "not that of this cluster"),
        ({"Authorization": TOKEN, PROTOCOL_HEADER: "1"}, 401, "no token"),
        (headers(version=None), 409, "protocol version none was offered, this GCS speaks 1"),
        (headers(version="99"), 409, "protocol version 99 was offered"),
    ],
)
async def test_who_has_not_what_it_takes_is_told_what_is_missing(
    gcs: GcsStage, given: dict[str, str], status: int, words: str
) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(gcs.path), headers=given) as session:
        async with session.post(f"http://gcs{QUESTION_PATH}", data=b"\x92\xa6status\x80") as response:
            assert response.status == status
            assert words in await response.text()
        async with session.get(f"http://gcs{NODE_PATH}") as response:
            assert response.status == status
    assert gcs.members() == {}


async def test_who_has_the_token_gets_metrics_as_prometheus_asks_for_them(gcs: GcsStage) -> None:
    """Without the header of the protocol, which Prometheus cannot send; without the token, not at all."""
    told = Metric("c_total", COUNTER, series=(Series(("k", 'a "quoted"\nvalue'), 2.0),))
    gcs.metrics.reported("0000000a", MetricReport(1, (told,)))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(gcs.path)) as session:
        for given in (headers(None, None), headers("guessed", None), headers(None)):
            async with session.get(f"http://gcs{METRICS_PATH}", headers=given) as response:
                assert response.status == 401
                assert "c_total" not in await response.text()
        async with session.get(f"http://gcs{METRICS_PATH}", headers=headers(version=None)) as response:
            assert (response.status, response.headers["Content-Type"]) == (200, CONTENT_TYPE)
            text = await response.text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (sample,) = families["aioray_c"].samples
    assert (sample.name, sample.value, sample.labels) == ("aioray_c_total", 2.0, {"k": 'a "quoted"\nvalue'})


async def test_a_node_that_leaves_tells_what_its_processes_have_counted(gcs: GcsStage) -> None:
    """The first word is told at once; the others come before the interval is over, and are not due when it leaves."""
    node = StagedNode("0000000a", gcs.reactor)
    log = node.membership.metrics = MetricLogDesk(gcs.reactor, gcs.config, lambda *_: None, tuple)

    def tell(count: float) -> None:
        with gcs.reactor.lock:
            log.told(b"w", MetricsTold((Metric("c_total", COUNTER, series=(Series((), count),)),)))

    async def until_counted(total: float) -> None:
        async with asyncio.timeout(10):
            while total not in [  # noqa: ASYNC110 # nobody is told
                series.value for metric in gcs.metrics.all_metrics() for series in metric.series if not series.labels
            ]:
                await asyncio.sleep(0.005)

    async with gcs.line(node) as line:
        await line.joined(10)
        tell(1.0)
        await until_counted(1.0)
        tell(2.0)
        tell(4.0)
    await until_counted(7.0)


async def test_bodies_that_are_no_questions_or_too_large_are_refused(
    gcs: GcsStage, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        gcs.node("a"),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(gcs.path), headers=headers()) as session,
    ):
        url = f"http://gcs{QUESTION_PATH}"
        for rubbish in (b"", b"\xc1", b"\x93\x01\x02\x03", b"\x91" * 5000, bytes(range(256))):
            async with session.post(url, data=rubbish) as response:
                assert response.status == 400
        async with session.post(url, data=io.BytesIO(bytes(MAX_BODY_NBYTES + 1))) as response:
            assert response.status == 413
        assert gcs.members() == {"a": None}
    assert len([record for record in caplog.records if "refused" in record.message]) == 2


async def test_random_bytes_are_refused_and_disturb_nobody(gcs: GcsStage, caplog: pytest.LogCaptureFixture) -> None:
    """On the socket itself, instead of HTTP; and as frames of a WebSocket that was let in."""
    caplog.set_level(logging.DEBUG)
    async with gcs.node("a") as a:
        for rubbish in (bytes(range(256)) * 40, b"\x16\x03\x01" + bytes(100), b"GET\r\n\r\n", b"\0" * 100_000):
            reader, writer = await asyncio.open_unix_connection(gcs.path)
            writer.write(rubbish)
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.") or answer == b""
            writer.close()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(gcs.path), headers=headers()) as session:
            for frame in (b"", b"\xc1", b"\x93\x01\x02\x03", bytes(MAX_BODY_NBYTES + 1)):
                async with session.ws_connect(f"http://gcs{NODE_PATH}") as ws:
                    with contextlib.suppress(ConnectionError):  # it hangs up before it has read all
                        await ws.send_bytes(frame)
                    message = await ws.receive(10)
                    assert message.type in (
                        aiohttp.WSMsgType.CLOSE,
                        aiohttp.WSMsgType.CLOSED,
                        aiohttp.WSMsgType.ERROR,
                    ), message
            async with session.ws_connect(f"http://gcs{NODE_PATH}") as ws:
                await ws.send_str("hello")
                assert (await ws.receive(10)).type is aiohttp.WSMsgType.CLOSE
        assert gcs.members() == {"a": None}
        assert a.membership.is_admitted
    assert not [record for record in caplog.records if record.exc_info], "a traceback for each would fill the disk"
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == len(set(warnings)) == 4, warnings


async def test_reports_of_who_has_not_joined_mean_nothing(gcs: GcsStage) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(gcs.path), headers=headers()) as session,
        session.ws_connect(f"http://gcs{NODE_PATH}") as ws,
    ):
        await ws.send_bytes(msgspec.msgpack.encode(Report(1, {"CPU": 1})))
        async with GcsClient(gcs.path, TOKEN) as client:
            status: dict[str, Any] = await client.ask("status")
        assert status["members"] == []


async def test_what_nobody_can_answer_is_said(gcs: GcsStage) -> None:
    async with GcsClient(gcs.path, TOKEN) as client:
        with pytest.raises(RaySystemError, match="cannot answer 'weather'"):
            await client.ask("weather")
        with pytest.raises(RaySystemError, match="cannot be asked with"):
            await client.ask("status", of="today")
    async with GcsClient(gcs.path, "guessed") as client:
        with pytest.raises(AuthenticationError, match="its token is not that of this cluster"):
            await client.ask("status")
    async with GcsClient("/nowhere/gcs.sock", TOKEN) as client:
        with pytest.raises(RaySystemError, match="does not answer"):
            await client.ask("status")


# tokens and certificates


def test_a_token_is_for_its_user_alone(tmp_path: pathlib.Path) -> None:
    token = access.make_token(tmp_path, {})
    assert len(token) == 64
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert access.find_token({}, str(tmp_path / "token")) == token
    assert access.find_token({"AIORAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}) == token
    assert access.find_token({"AIORAY_AUTH_TOKEN": "given"}, str(tmp_path / "token")) == "given"
    with pytest.raises(AuthenticationError, match="AIORAY_AUTH_TOKEN"):
        access.find_token({})
    with pytest.raises(AuthenticationError, match="cannot be read"):
        access.find_token({}, str(tmp_path / "none"))


def test_certificates_are_given_together_or_not_at_all(tmp_path: pathlib.Path) -> None:
    assert tls.server_tls({}) is tls.client_tls({}) is None
    (tmp_path / "cert").write_text("no certificate")
    path = str(tmp_path / "cert")
    with pytest.raises(InvalidOptionError, match="AIORAY_TLS_SERVER_KEY"):
        tls.server_tls({"AIORAY_TLS_SERVER_CERT": path})
    with pytest.raises(InvalidOptionError, match="PEM files"):
        tls.client_tls(dict.fromkeys((tls.CERT_VARIABLE, tls.KEY_VARIABLE, tls.CA_VARIABLE), path))


def certificates(directory: pathlib.Path) -> dict[str, str]:
    """A CA, and a certificate that it has signed."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    openssl(*new, "-subj", "/CN=node", "-keyout", "node.key", "-out", "node.csr")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    openssl("x509", "-req", "-in", "node.csr", *signing, "-out", "node.pem")
    names = {tls.CERT_VARIABLE: "node.pem", tls.KEY_VARIABLE: "node.key", tls.CA_VARIABLE: "ca.pem"}
    return {variable: str(directory / name) for variable, name in names.items()}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make certificates with")
async def test_over_tcp_with_tls_both_sides_show_a_certificate(
    nothing_left: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    1. a node with a certificate of the same CA joins
    2. without one, or with that of another CA, there is no connection
    """
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = certificates(tmp_path / "ours"), certificates(tmp_path / "theirs")
    stage = GcsStage(tmp_path, Config(gcs_reconnect_timeout_s=0.05))
    stage.reactor.attach(asyncio.get_running_loop())
    app = await stage.open(port=0, tls=tls.server_tls(ours))
    address = f"127.0.0.1:{app.port}"
    for environ in (ours, {}, theirs):
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            async with GcsClient(address, TOKEN) as client:
                if environ is ours:
                    assert (await client.ask("status"))["members"] == []
                else:
                    with pytest.raises(RaySystemError, match="does not answer"):
                        await client.ask("status")
    await stage.close()
    stage.reactor.close()
