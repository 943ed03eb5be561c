"""aioray's figures of objects between nodes: the nodes' object stores and transfers, each in a process of its own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import posix_ipc

from aioray.config import Config
from aioray.runtime.reactor import Reactor
from aioray.wire.values import Value, object_id
from aioray_node.objects import directory
from aioray_node.objects.segment import Segment
from aioray_node.objects.store import ObjectStore
from aioray_node.objects.transfer import TransferDesk
from bench.measure import MIB, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OID = object_id(b"owner---", 1)
OTHERS = 8
_MOST_NBYTES = 1 << 30
_ROUNDS = 5


class StoreNode:
    """What of a node has to do with objects; it obeys lines of JSON on its standard input."""

    def __init__(self, address: str, capacity_nbytes: int) -> None:
        self.name = f"/aioray-bench-{os.getpid()}"
        posix_ipc.SharedMemory(self.name, posix_ipc.O_CREX, mode=0o600, size=capacity_nbytes).close_fd()
        self.reactor = Reactor("bench")
        self.segment = Segment(self.name, capacity_nbytes)
        self.store = ObjectStore(capacity_nbytes, lambda process, message: None, lambda oid: None)
        self.desk = TransferDesk(
            self.reactor, self.store, self.segment, Config(), node_id=self.name, token="of the benchmark"
        )
        self.address = self.desk.listen(address)

    def put(self, nbytes: int) -> None:
        offset = self.store.allocate(nbytes)
        assert offset is not None
        with self.segment.view(offset, nbytes) as view:
            for at in range(0, nbytes, MIB):
                view[at : at + MIB] = os.urandom(1024) * 1024
        value = Value(nbytes=nbytes, offset=offset, oid=OID)
        self.store.feed(directory.Shared(OID, value))

    def pull(self, nbytes: int, source: str) -> None:
        """Until it is here; the copy is let go of at once, so that its memory is warm for the next time."""
        answers: list[tuple[Value | None, str]] = []
        with self.reactor.lock:
            wanted = Value(nbytes=nbytes, offset=0, oid=OID)
            ticket = self.desk.pull(wanted, source, 0, lambda *answer: answers.append(answer))
        self.reactor.run_until(lambda: bool(answers))
        assert answers[0][0] is not None, answers[0][1]
        with self.reactor.lock:
            self.desk.let_go(ticket)

    def forget(self) -> None:
        with self.reactor.lock:
            self.store.feed(directory.CopyGone(OID))
            self.reactor.flush()

    def close(self) -> None:
        with self.reactor.lock:
            self.desk.close()
            self.segment.close()
        self.reactor.close()
        posix_ipc.unlink_shared_memory(self.name)


def serve(address: str, capacity_nbytes: int) -> None:
    """A node as a process: one line in, one line out, and transfers all the time."""
    node = StoreNode(address, capacity_nbytes)
    node.reactor.start_helper()
    try:
        print(node.address, flush=True)
        for line in sys.stdin:
            what, *args = json.loads(line)
            start = time.perf_counter()
            getattr(node, what)(*args)
            print(json.dumps([time.perf_counter() - start, node.desk.figures()]), flush=True)
    finally:
        node.close()


class Remote:
    """A node in another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self.address = self._out.readline().strip()

    def tell(self, what: str, *args: Any) -> None:
        self._in.write(json.dumps([what, *args]) + "\n")
        self._in.flush()

    def heard(self) -> tuple[float, dict[str, int]]:
        """How long the last thing took (s), and the figures of its transfers."""
        taken_s, figures = json.loads(self._out.readline())
        return taken_s, figures

    def do(self, what: str, *args: Any) -> tuple[float, dict[str, int]]:
        self.tell(what, *args)
        return self.heard()


@contextmanager
def nodes(count: int, nbytes: int, *, tcp: bool) -> Iterator[Sequence[Remote]]:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as undo:
        started = []
        for number in range(count):
            address = "127.0.0.1:0" if tcp else str(pathlib.Path(directory) / f"{number}.sock")
            program = f"from bench.ours_transfer import serve; serve({address!r}, {nbytes + 16 * MIB})"
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            undo.enter_context(process)  # closes its pipes, which ends it, and waits
            started.append(process)
        yield [Remote(process) for process in started]


def transfer_tcp(_seconds: float) -> Figure:
    """256 MiB to another node over TCP on loopback, into memory that was touched before."""
    nbytes = 256 * MIB
    with nodes(2, nbytes, tcp=True) as (home, other):
        home.do("put", nbytes)
        taken_s = _pull_again_and_again(home, other, nbytes)
    return Figure(nbytes / sorted(taken_s)[len(taken_s) // 2] / 1e9, {"taken_s": taken_s})


def _pull_again_and_again(home: Remote, other: Remote, nbytes: int) -> list[float]:
    taken_s = []
    for round_ in range(_ROUNDS + 1):
        took_s, _ = other.do("pull", nbytes, home.address)
        if round_:  # the first touches the memory
            taken_s.append(took_s)
        other.do("forget")
    return taken_s


def size_for(copies: int) -> int:
    """1 GiB, or what lets so many copies fit into half of the memory that is free."""
    free_nbytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    shared = os.statvfs("/dev/shm")
    free_nbytes = min(free_nbytes, shared.f_bavail * shared.f_frsize)
    return min(_MOST_NBYTES, free_nbytes // 2 // copies // MIB * MIB)


def broadcast_8(seconds: float) -> Figure:
    """One object for eight nodes of this machine at once, in transfers of its bytes to one of them.

    They read it where it is. What eight transfers cost, as on eight machines, is in the detail.
    """
    nbytes = size_for(OTHERS + 1) if seconds >= 1.0 else 128 * MIB
    sent = _sent_to_8(nbytes)
    read = _read_by_8(nbytes)
    return Figure(sorted(read["all_s"])[_ROUNDS // 2] / sent["one_s"], {"nbytes": nbytes, "sent": sent, "read": read})


def _sent_to_8(nbytes: int) -> dict[str, Any]:
    """Through sockets, into memory of each that was touched before."""
    with nodes(OTHERS + 1, nbytes, tcp=False) as (home, *others):
        home.do("put", nbytes)
        for other in others:
            other.do("pull", nbytes, home.address)
            other.do("forget")
        one_s = sorted(_pull_again_and_again(home, others[0], nbytes))[_ROUNDS // 2]
        sent_before = home.do("forget")[1]["sent_nbytes"]
        all_s = []
        for _ in range(2):
            start = time.perf_counter()
            for other in others:
                other.tell("pull", nbytes, home.address)
            for other in others:
                other.heard()
            all_s.append(time.perf_counter() - start)
            for other in others:
                other.do("forget")
        sent_nbytes = home.do("forget")[1]["sent_nbytes"] - sent_before
    return {"one_s": one_s, "all_s": all_s, "sent_by_its_home": sent_nbytes / nbytes / len(all_s)}


class Reader:
    """An actor on one of the nodes."""

    def ends(self, array: Any) -> int:
        """It has all of it, and has looked at both ends."""
        return int(array[0] + array[-1])

    def pages(self, array: Any) -> int:
        """It has looked at every page."""
        return int(array[::4096].sum())


def _read_by_8(nbytes: int) -> dict[str, Any]:
    """From a driver at the first node of a cluster of processes, to an actor on each of the others, a new object each
    time."""
    import numpy as np

    import aioray
    from aioray.testing import LocalCluster

    taken: dict[str, list[float]] = {"one_s": [], "all_s": [], "all_pages_s": []}
    places = [{"home": 1.0}, *({"other": 1.0} for _ in range(OTHERS))]
    with LocalCluster(nodes=OTHERS + 1, num_cpus=1, resources=places, object_store_memory=2 * nbytes + 64 * MIB):
        remote = aioray.remote(num_cpus=0, resources={"other": 1.0})(Reader)
        readers = [remote.remote() for _ in range(OTHERS)]
        aioray.get([reader.ends.remote(np.ones(2, np.uint8)) for reader in readers])
        array = np.ones(nbytes, np.uint8)
        for _ in range(_ROUNDS):
            for name, asked, method in (
                ("one_s", 1, "ends"),
                ("all_s", OTHERS, "ends"),
                ("all_pages_s", OTHERS, "pages"),
            ):
                ref = aioray.put(array)
                start = time.perf_counter()
                aioray.get([getattr(reader, method).remote(ref) for reader in readers[:asked]])
                taken[name].append(time.perf_counter() - start)
                del ref
    return taken
