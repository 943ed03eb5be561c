"""Objects from node to node: real stores, shared memory and sockets in one process, and a clock that stands still."""

from __future__ import annotations

import contextlib
import pathlib
import random
import socket
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from aioray.exceptions import InvalidOptionError
from aioray.wire.preamble import preamble
from aioray.wire.values import Value
from aioray_node.objects.directory import Held, Released
from tests.objects.nodes import Net, StoreNode, Wish

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE = {"pulls": 0, "tickets": 0, "rooms": 0, "sending": 0, "lent": 0}
READER = b"reader--"


@pytest.fixture
def net(nothing_left: None) -> Iterator[Net]:
    with tempfile.TemporaryDirectory() as directory:
        net = Net(pathlib.Path(directory))
        yield net
        net.close()


def noise(nbytes: int) -> bytes:
    return random.Random(nbytes).randbytes(nbytes)


def idle(node: StoreNode) -> bool:
    return {name: figure for name, figure in node.desk.figures().items() if name in IDLE} == IDLE


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_a_copy_has_the_bytes_and_everything_returns_to_zero(net: Net, way: str) -> None:
    """
    1. B pulls an object of A, twice at once: one transfer, two answers
    2. both let go: the copy stays for the next reader, who has it without a word to A
    3. the owner lets go: A frees it, and so does B
    """
    a, b = (net.node(tcp=way == "tcp") for _ in range(2))
    data = noise(100_001)
    value = a.put(data)
    first, second = Wish(b, value, a), Wish(b, value, a)
    net.run_until(lambda: bool(first.answers and second.answers))
    assert first.data == second.data == data
    assert first.copy.oid == value.oid
    assert a.desk.serving.sent_nbytes == 100_001
    first.let_go()
    second.let_go()
    third = Wish(b, value, a)
    net.run_until(lambda: bool(third.answers))
    assert third.data == data
    assert a.desk.serving.sent_nbytes == 100_001
    third.let_go()
    net.run_until(lambda: idle(a) and idle(b))
    a.free(value)
    net.run_until(lambda: a.store.used_nbytes == b.store.used_nbytes == 0)


def test_a_copy_that_is_held_stays_when_the_object_is_freed_at_home(net: Net) -> None:
    a, b = net.node(), net.node()
    value = a.put(noise(9999))
    wish = Wish(b, value, a)
    net.run_until(lambda: bool(wish.answers))
    b.store.feed(Held(READER, [value.oid]))
    wish.let_go()
    net.settle()
    a.free(value)
    net.settle()
    assert a.store.used_nbytes == 0
    assert wish.data == noise(9999)
    b.store.feed(Released(READER, [value.oid]))
    assert b.store.used_nbytes == 0


def test_copies_that_nobody_holds_make_way_the_oldest_first(net: Net) -> None:
    a, b = net.node(), net.node(capacity_nbytes=64 * 1024)
    values = [a.put(noise(20_000 + n)) for n in range(4)]
    for value in values:
        wish = Wish(b, value, a)
        net.run_until(lambda wish=wish: bool(wish.answers))  # type: ignore[misc]
        wish.let_go()
    assert [b.store.copy_of(value.oid) is not None for value in values] == [False, True, True, True]


def test_a_full_store_has_pulls_wait_until_there_is_room(net: Net) -> None:
    """
    1. a copy that is held fills B: the next one waits
    2. the first is let go: the second comes
    """
    a, b = net.node(), net.node(capacity_nbytes=64 * 1024)
    first = Wish(b, a.put(noise(40_000)), a)
    net.run_until(lambda: bool(first.answers))
    second = Wish(b, a.put(noise(40_001)), a)
    net.settle()
    assert second.answers == []
    first.let_go()
    net.run_until(lambda: bool(second.answers))
    assert second.data == noise(40_001)


def test_a_pull_fails_in_words_when_room_does_not_come(net: Net) -> None:
    a, b = net.node(), net.node(capacity_nbytes=64 * 1024, transfer_full_wait_s=5)
    too_large = Wish(b, a.put(noise(80_000)), a)
    held = Wish(b, a.put(noise(40_000)), a)
    waiting = Wish(b, a.put(noise(40_001)), a)
    net.run_until(lambda: bool(held.answers and too_large.answers))
    assert too_large.failure == "its 80000 bytes are more than this node's object store has (65536)"
    net.now += 6.0
    net.run_until(lambda: bool(waiting.answers))
    assert waiting.failure == "the object store had no room for its 40001 bytes for 5 s"


def test_a_source_keeps_the_bytes_while_it_sends_them(net: Net) -> None:
    """
    1. B is in the middle of pulling when the owner lets go: A still has the bytes
    2. B has all: A has let go, and B hears that the object is no more
    """
    a, b = net.node(), net.node()
    data = noise(800_000)
    value = a.put(data)
    wish = Wish(b, value, a)
    net.run_until(lambda: a.desk.serving.sent_nbytes > 0)
    a.free(value)
    assert a.store.used_nbytes > 0
    net.run_until(lambda: bool(wish.answers))
    assert wish.data == data
    net.run_until(lambda: a.store.used_nbytes == 0)
    wish.let_go()
    net.run_until(lambda: b.store.used_nbytes == 0)


def cut(node: StoreNode) -> None:
    """All links to other nodes break."""
    for link in list(node.desk.serving._incoming.values()):
        link._sock.shutdown(socket.SHUT_RDWR)


def test_after_a_lost_connection_only_what_is_missing_is_sent_again(net: Net) -> None:
    a, b = net.node(), net.node(transfer_window=2)
    data = noise(400_000)
    wish = Wish(b, a.put(data), a)
    net.run_until(lambda: a.desk.serving.sent_nbytes > 200_000)
    cut(a)
    net.run_until(lambda: bool(b.desk._pulls.paused))
    net.now += 1.0
    net.run_until(lambda: bool(wish.answers))
    assert wish.data == data
    assert a.desk.serving.sent_nbytes <= 400_000 + 3 * 4096


def test_a_source_that_is_gone_is_told_to_who_waits(net: Net) -> None:
    a, b = net.node(), net.node()
    value = a.put(noise(400_000))
    wish = Wish(b, value, a)
    net.run_until(lambda: a.desk.serving.sent_nbytes > 0)
    a.close()
    for _ in range(6):
        net.settle()
        net.now += 1.0
    net.run_until(lambda: bool(wish.answers))
    assert wish.failure.startswith(f"no node sends it ({a.address}: ")
    assert idle(b)
    assert b.store.used_nbytes == 0


def test_a_cancelled_pull_leaves_nothing_and_writes_nothing_any_more(net: Net) -> None:
    """The room of a cancelled pull is given to somebody else while its bytes are still on their way."""
    a, b = net.node(), net.node(transfer_chunk_nbytes=1 << 19)
    wish = Wish(b, a.put(noise(800_000)), a)
    net.run_until(lambda: a.desk.serving.sent_nbytes > 0)
    wish.let_go()
    assert b.store.used_nbytes == 0
    offset = b.store.allocate(800_000)
    assert offset is not None
    with b.segment.view(offset, 800_000) as view:
        view[:] = bytes(800_000)
    net.settle()
    with b.segment.view(offset, 800_000) as view:
        assert bytes(view) == bytes(800_000)
    net.run_until(lambda: idle(a) and idle(b))
    assert wish.answers == []


def test_many_nodes_get_an_object_at_the_cost_of_a_few_transfers_at_its_home(net: Net) -> None:
    home, *others = [net.node() for _ in range(9)]
    data = noise(300_000)
    value = home.put(data)
    wishes = [Wish(node, value, home) for node in others]
    net.run_until(lambda: all(wish.answers for wish in wishes))
    assert [wish.data == data for wish in wishes] == [True] * 8
    assert home.desk.serving.sent_nbytes <= 3 * 300_000
    for wish in wishes:
        wish.let_go()
    net.run_until(lambda: all(idle(node) for node in net.nodes))
    home.free(value)
    net.run_until(lambda: all(node.store.used_nbytes == 0 for node in net.nodes))


def test_when_a_node_in_the_middle_of_the_tree_dies_those_below_it_get_the_rest_elsewhere(net: Net) -> None:
    home, *others = [net.node(transfer_fan_out=1) for _ in range(4)]
    data = noise(600_000)
    value = home.put(data)
    wishes = [Wish(node, value, home) for node in others]
    net.run_until(lambda: others[0].desk.serving.sent_nbytes > 100_000)
    others[0].close()
    net.run_until(lambda: all(wish.answers for wish in wishes))
    assert wishes[0].failure == "the node was shut down"
    assert [wish.data == data for wish in wishes[1:]] == [True, True]


def test_a_copy_that_came_after_its_home_was_lost_goes_with_its_holders(net: Net) -> None:
    """
    1. C gets an object of A from B, which has it, since A sends it to D; A dies meanwhile
    2. C has it all: when it lets go nothing would ever tell it that the object is no more
    """
    a, b = net.node(transfer_fan_out=1), net.node()
    c, d = net.node(transfer_window=1), net.node(transfer_window=1)
    data = noise(200_000)
    value = a.put(data)
    first = Wish(b, value, a)
    net.run_until(lambda: bool(first.answers))
    third = Wish(d, value, a)
    net.run_until(lambda: bool(a.desk.serving._sources.serving))
    second = Wish(c, value, a)
    net.run_until(lambda: b.desk.serving.sent_nbytes > 0)
    a.close()
    net.run_until(lambda: bool(second.answers))
    assert second.data == data
    third.let_go()
    second.let_go()
    net.run_until(lambda: c.store.used_nbytes == 0)
    first.let_go()
    net.run_until(lambda: b.store.used_nbytes == 0)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_link_may_be_compressed(net: Net, codec: str) -> None:
    pytest.importorskip({"lz4": "lz4.block", "zstd": "zstandard"}[codec])
    a, b = net.node(tcp=True), net.node(tcp=True, transfer_codec=codec)
    data = bytes(50_000) + noise(50_000)  # half of it cannot be made smaller
    wish = Wish(b, a.put(data), a)
    net.run_until(lambda: bool(wish.answers))
    assert wish.data == data


def test_a_codec_that_is_none_is_refused_where_it_is_given(net: Net) -> None:
    with pytest.raises(InvalidOptionError, match="transfer_codec") as caught:
        net.node(transfer_codec="gzip")
    assert "'lz4', 'zstd'" in str(caught.value)


def test_a_source_that_cannot_compress_so_says_it_and_is_not_asked_again(net: Net, monkeypatch: Any) -> None:
    pytest.importorskip("lz4.block")
    a, b = net.node(), net.node(transfer_codec="lz4")
    monkeypatch.setattr("aioray_node.objects.codecs.CODECS", ("",))
    wish = Wish(b, a.put(noise(9999)), a)
    net.run_until(lambda: bool(wish.answers))
    assert "cannot compress with 'lz4'" in wish.failure


def test_over_tcp_who_does_not_know_the_token_gets_nothing(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    a, b = net.node(tcp=True), net.node(tcp=True, token="guess")
    value = a.put(noise(9999))
    wishes = [Wish(b, value, a) for _ in range(2)]
    for _ in range(6):
        net.settle()
        net.now += 1.0
    net.run_until(lambda: all(wish.answers for wish in wishes))
    assert "no node sends it" in wishes[0].failure
    assert ["does not know the token" in message for message in caplog.messages] == [True]  # said once
    assert a.desk.serving.sent_nbytes == 0


def test_the_token_is_not_sent_over_tcp_but_a_proof_that_it_is_known(net: Net) -> None:
    b = net.node(tcp=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Wish(b, Value(nbytes=9999, oid=b"0123456789abcdef"), f"127.0.0.1:{listener.getsockname()[1]}")
        net.settle()
        with listener.accept()[0] as called:
            said = called.recv(4096)
    assert said.startswith(preamble("secret"))
    assert b"secret" not in said


def test_strangers_over_tcp_are_few_at_a_time_and_nothing_they_say_is_decoded(net: Net) -> None:
    a = net.node(tcp=True)
    host, port = a.address.split(":")
    with contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(257)]
        net.settle()
        first.settimeout(5.0)
        assert first.recv(1) == b""
        assert not a.desk.serving._strangers  # which are links, and may say LinkHello


def test_tcp_without_a_token_is_refused(net: Net) -> None:
    with pytest.raises(InvalidOptionError, match="token"):
        net.node(tcp=True, token="")


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n", b"\x05\0\0\0hello", b"\xff" * 64, b"\0\0\0\0"])
@pytest.mark.parametrize("knows_the_token", [False, True])
def test_rubbish_is_hung_up_on_and_disturbs_nobody(net: Net, rubbish: bytes, knows_the_token: bool) -> None:
    a, b = net.node(tcp=True), net.node(tcp=True)
    host, port = a.address.split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(preamble("secret") * knows_the_token + rubbish)
        wish = Wish(b, a.put(noise(9999)), a)
        net.run_until(lambda: bool(wish.answers) and not a.desk.serving._strangers)
        stranger.settimeout(5.0)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    assert wish.data == noise(9999)


def test_who_says_nothing_is_hung_up_on(net: Net) -> None:
    a = net.node()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(a.address)
        net.settle()
        assert len(a.desk.serving._strangers) == 1
        net.now += 6.0
        net.run_until(lambda: not a.desk.serving._strangers)


def test_what_cannot_be_pulled_is_refused_at_the_call(net: Net) -> None:
    a, b = net.node(), net.node()
    with pytest.raises(ValueError, match="shared memory"):
        Wish(b, Value(b"inline"), a)
    with pytest.raises(ValueError, match="is no address"):
        Wish(b, a.put(noise(9999)), "somewhere:port")
    assert idle(b)
