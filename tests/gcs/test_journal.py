"""The journal: what was acknowledged is there again, whatever happened to the process that wrote it."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import sqlite3
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioray.wire.values import Value
from aioray_node.gcs.journal import Journal, JournalError
from aioray_node.gcs.records import CheckpointRecord, RecordError, decode, encode
from tests.processes.programs import Program

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 10.0
KEY = ("checkpoint", b"actor")


def record(data: bytes, key: bytes = b"actor") -> CheckpointRecord:
    return CheckpointRecord(key, 0, Value(data, refs=[b"ref"]))


class Ledger:
    """A journal, and the answers of its thread: `opened` again after each `close`."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.journal = Journal(directory, self.deliver)
        self.gate = threading.Event()  # the thread waits for it before it answers
        self.gate.set()
        self.answering = threading.Event()

    def deliver(self, callbacks: list[Callable[[], None]]) -> None:
        self.answering.set()
        assert self.gate.wait(PATIENCE_S)
        for callback in callbacks:
            callback()

    def wait(self, request: Callable[[Callable[..., None]], None]) -> tuple[Any, ...]:
        """What a request is answered."""
        answered = threading.Event()
        answer: list[tuple[Any, ...]] = []

        def then(*args: Any) -> None:
            answer.append(args)
            answered.set()

        request(then)
        assert answered.wait(PATIENCE_S)
        return answer[0]

    def put(self, record: CheckpointRecord, blob: bytes | None = None) -> str:
        view = None if blob is None else memoryview(blob)
        (error,) = self.wait(lambda then: self.journal.put(record, then, view))
        return str(error)

    def read(self, key: tuple[str, bytes] = KEY) -> tuple[Any, ...]:
        return self.wait(lambda then: self.journal.read(key, then))

    def delete(self) -> None:
        assert self.wait(lambda then: self.journal.delete(KEY, then)) == ("",)

    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal(self.directory, self.deliver)

    def blobs(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("*.blob"))


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> Any:
    ledger = Ledger(tmp_path / "journal")
    yield ledger
    ledger.gate.set()
    ledger.journal.close()


def test_a_database_that_cannot_be_read_is_an_answer_and_the_next_request_is_heard(ledger: Ledger) -> None:
    ledger.put(record(b"saved"))
    ledger.journal.close()
    with contextlib.closing(sqlite3.connect(ledger.directory / "journal.sqlite")) as database:
        database.execute("ALTER TABLE records RENAME COLUMN data TO lost")
        database.commit()
    ledger.reopen()
    for _ in range(2):
        found, blob, error = ledger.read()
        assert (found, blob) == (None, b"")
        assert "no such column" in error


def test_records_are_read_as_they_were_written_by_this_journal_and_the_next(ledger: Ledger) -> None:
    assert ledger.read() == (None, b"", "")
    assert ledger.put(record(b"one")) == ledger.put(record(b"two")) == ledger.put(record(b"x", b"other")) == ""
    for _ in range(2):
        assert ledger.read() == (record(b"two"), b"", "")
        assert ledger.read(("checkpoint", b"other")) == (record(b"x", b"other"), b"", "")
        ledger.reopen()
    ledger.delete()
    assert ledger.read() == (None, b"", "")


def test_nothing_is_there_before_it_is_needed(tmp_path: pathlib.Path) -> None:
    before = threading.active_count()
    journal = Journal(tmp_path / "journal", lambda callbacks: None)
    assert threading.active_count() == before
    assert not (tmp_path / "journal").exists()
    journal.close()
    journal.put(record(b"late"), lambda error: None)
    assert threading.active_count() == before


def test_blobs_live_as_long_as_their_record(ledger: Ledger) -> None:
    """
    1. a record with a blob; it is read with it
    2. a later one takes its place, and one without a blob that of that
    3. one is deleted
    4. what no record names is removed at the next opening; what one names is not, and its name is not used again
    """
    large = bytes(range(256)) * 100_000
    assert ledger.put(record(b""), large) == ""
    assert ledger.read() == (record(b""), large, "")
    assert ledger.put(record(b""), b"second") == ""
    assert ledger.read() == (record(b""), b"second", "")
    assert len(ledger.blobs()) == 1
    ledger.put(record(b"none"))
    assert ledger.blobs() == []
    ledger.put(record(b""), b"third")
    ledger.delete()
    assert ledger.blobs() == []
    ledger.put(record(b""), b"fourth")
    (name,) = ledger.blobs()
    (ledger.directory / "1.blob").write_bytes(b"stray")
    ledger.reopen()
    assert ledger.read() == (record(b""), b"fourth", "")
    assert ledger.blobs() == [name]
    ledger.put(record(b"", b"other"), b"fifth")
    assert ledger.read() == (record(b""), b"fourth", "")


def test_of_what_gathers_while_a_commit_is_under_way_only_the_newest_is_written(ledger: Ledger) -> None:
    """
    1. the thread is busy with its first answer; three more come: the blobs of two are let go at once
    2. the thread goes on: the last is written, and all are acknowledged
    """
    ledger.gate.clear()
    answers: list[str] = []
    released: list[int] = []
    ledger.journal.put(record(b"0"), answers.append)
    assert ledger.answering.wait(PATIENCE_S)
    for number in (1, 2, 3):
        ledger.journal.put(
            record(b"n"), answers.append, memoryview(b"%d" % number), functools.partial(released.append, number)
        )
    assert (answers, released) == ([], [1, 2])
    ledger.gate.set()
    assert ledger.read() == (record(b"n"), b"3", "")
    assert (answers, released) == ([""] * 4, [1, 2, 3])
    assert len(ledger.blobs()) == 1


def test_what_cannot_be_written_says_why_and_is_tried_again(ledger: Ledger) -> None:
    ledger.directory.write_text("in the way")
    assert "cannot be opened" in ledger.put(record(b"one"))
    assert "cannot be opened" in ledger.read()[2]
    ledger.directory.unlink()
    assert ledger.put(record(b"two")) == ""
    assert ledger.read() == (record(b"two"), b"", "")


def test_a_blob_that_cannot_be_written_leaves_the_record_before_it(ledger: Ledger) -> None:
    assert ledger.put(record(b"one")) == ""
    (ledger.directory / "1.blob").mkdir()
    assert "1.blob" in ledger.put(record(b"two"), b"blob")
    assert ledger.read() == (record(b"one"), b"", "")


def test_a_blob_that_is_gone_is_an_error(ledger: Ledger) -> None:
    ledger.put(record(b""), b"blob")
    (ledger.directory / ledger.blobs()[0]).unlink()
    found, blob, error = ledger.read()
    assert (found, blob) == (None, b"")
    assert "1.blob" in error


async def test_a_coroutine_may_await_a_commit(ledger: Ledger) -> None:
    await ledger.journal.commit(record(b"awaited"))
    assert ledger.read() == (record(b"awaited"), b"", "")
    ledger.reopen()
    (ledger.directory / "journal.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(JournalError, match="cannot be opened"):
        await ledger.journal.commit(record(b"two"))


def test_a_record_that_is_not_known_is_refused() -> None:
    data = encode(record(b"data"))
    assert decode("checkpoint", 1, data) == record(b"data")
    assert data == b"\x93\xc4\x05actor\x00\x98\xc4\x04data\x90\x00\x00\xc4\x00\x91\xc4\x03ref\xc2\xa0"
    for kind, version, damaged in (("x", 1, data), ("checkpoint", 2, data), ("checkpoint", 1, data[:-1])):
        with pytest.raises(RecordError):
            decode(kind, version, damaged)


writes = st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from(["small", "blob", "delete", "reopen"]))


@settings(max_examples=25, deadline=None)
@given(st.lists(writes, max_size=15))
def test_whatever_is_written_and_deleted_the_last_counts(steps: list[tuple[bytes, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        ledger = Ledger(pathlib.Path(name) / "journal")
        expected: dict[bytes, tuple[bytes, bytes]] = {}
        for number, (key, what) in enumerate(steps):
            if what == "reopen":
                ledger.read()  # all that was asked before is done
                ledger.reopen()
            elif what == "delete":
                ledger.journal.delete(("checkpoint", key))
                expected.pop(key, None)
            else:
                data, blob = b"%d" % number, b"%d" % number if what == "blob" else b""
                view = memoryview(blob) if what == "blob" else None
                ledger.journal.put(record(data, key), lambda error: None, view)
                expected[key] = data, blob
        found = {}
        for key in (b"a", b"b"):
            read, blob, error = ledger.read(("checkpoint", key))
            assert not error
            if read is not None:
                found[key] = read.value.data, blob
        assert found == expected
        assert len(ledger.blobs()) == sum(bool(blob) for _, blob in expected.values())
        ledger.journal.close()


WRITER = """
import pathlib, sys, threading
from aioray.wire.values import Value
from aioray_node.gcs.journal import Journal
from aioray_node.gcs.records import CheckpointRecord

def deliver(callbacks):
    for callback in callbacks:
        callback()

journal = Journal(pathlib.Path("journal"), deliver)
for number in range(1_000_000):
    done = threading.Event()
    blob = memoryview(b"%d," % number * 20_000) if number % 2 else None
    journal.put(CheckpointRecord(b"actor", number, Value()), lambda error: error or done.set(), blob)
    done.wait()
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 50, 75])
def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: pathlib.Path, lines: int) -> None:
    """
    1. a process writes one record after the other, every other with a blob, and prints those that are acknowledged
    2. it is killed, with SIGKILL, in the middle of that
    3. the newest that was acknowledged is there, or one that was written after it, with its blob and no other
    """
    with Program(tmp_path, WRITER) as program:
        for _ in range(lines):
            assert program.line()
        program.kill()
        assert program.process.stdout is not None
        rest = program.process.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else lines - 1
    ledger = Ledger(tmp_path / "journal")
    found, blob, error = ledger.read()
    ledger.journal.close()
    assert not error
    assert acknowledged <= found.restarts <= acknowledged + 1
    assert blob == (b"%d," % found.restarts * 20_000 if found.restarts % 2 else b"")
    assert len(ledger.blobs()) == found.restarts % 2
