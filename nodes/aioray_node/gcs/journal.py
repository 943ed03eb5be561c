"""The journal: records that outlive this process, in SQLite, written by a thread of its own.

What was acknowledged is committed: it survives a kill of the process at any moment, though not a machine that loses
its power. While one commit is under way the next batch gathers; of records with the same key in a batch only the last
one is written, and all are acknowledged with it. Large values are *blobs*: files beside the database, named by the
record that they belong to, written before it and removed when it is replaced; what a kill leaves between the two is
removed at the next opening.

Thread and database come into being with the first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from aioray_node.gcs.records import Record, decode, encode

if TYPE_CHECKING:
    import pathlib
    import sqlite3

FORMAT = 1  # of the database; that of records is theirs
_CHUNK_NBYTES = 8 << 20  # of a blob, between two looks at whether we are to end
_SCHEMA = f"""
    CREATE TABLE records (
        kind TEXT, key BLOB, version INTEGER NOT NULL, data BLOB NOT NULL, blob TEXT, PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    PRAGMA user_version = {FORMAT};
"""

Key = tuple[str, bytes]


class JournalError(Exception):
    """A record could not be written or read; the text says why."""


class _Ended(Exception):
    """The journal is being closed."""


class _Write(msgspec.Struct):
    """What a key is to have: a record, or none."""

    record: Record | None
    blob: memoryview | None = None
    release: Callable[[], None] | None = None  # its blob is not needed any more
    waiters: list[Callable[[str], None]] = []
    file: str | None = None  # where its blob is


class _Read(msgspec.Struct):
    key: Key
    then: Callable[[Record | None, bytes, str], None]


class Journal:
    """`deliver(callbacks)` is called in the journal's thread, and has them called: each says how a request ended."""

    def __init__(self, directory: pathlib.Path, deliver: Callable[[list[Callable[[], None]]], None]) -> None:
        self._directory = directory
        self._deliver = deliver
        self._changed = threading.Condition()
        self._writes: dict[Key, _Write] = {}  # the next batch
        self._reads: list[_Read] = []
        self._closing = False
        self._thread: threading.Thread | None = None
        self._files = 0

    # from any thread

    def put(
        self,
        record: Record,
        then: Callable[[str], None],
        blob: memoryview | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        """Write it; `then("")` when it is committed, or a later one of its key; else with why not.

        `blob` must not change before `release()`: at once, when a later one comes before this one is begun.
        """
        self._write((record.kind, record.key), _Write(record, blob, release), then)

    def delete(self, key: Key, then: Callable[[str], None] | None = None) -> None:
        """Have no record of that key any more."""
        self._write(key, _Write(None), then)

    def _write(self, key: Key, write: _Write, then: Callable[[str], None] | None) -> None:
        with self._changed:
            before = self._writes.pop(key, None)
            if before is not None:
                write.waiters = before.waiters
            if then is not None:
                write.waiters.append(then)
            self._writes[key] = write
            self._wake()
        if before is not None and before.release is not None:
            before.release()

    def read(self, key: Key, then: Callable[[Record | None, bytes, str], None]) -> None:
        """`then(record, blob, error)`: what was written last; None when there is nothing, or an error."""
        with self._changed:
            self._reads.append(_Read(key, then))
            self._wake()

    async def commit(self, record: Record) -> None:
        """`put`, for coroutines. Raises JournalError."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: str) -> None:
            if done.done():
                return  # nobody waits any more
            if error:
                done.set_exception(JournalError(error))
            else:
                done.set_result(None)

        def then(error: str) -> None:
            loop.call_soon_threadsafe(settle, error)

        self.put(record, then)
        await done

    def close(self) -> None:
        """End the thread. What was not acknowledged may be lost. Safe to call twice; not with a lock of `deliver`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        if self._closing:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aioray-journal", daemon=True)
            self._thread.start()
        self._changed.notify()

    # in the thread

    def _run(self) -> None:
        database: sqlite3.Connection | None = None
        try:
            while True:
                with self._changed:
                    while not (self._writes or self._reads or self._closing):
                        self._changed.wait()
                    if self._closing:
                        return
                    writes, self._writes = self._writes, {}
                    reads, self._reads = self._reads, []
                try:
                    database = database or self._open()
                except Exception as exc:  # the disk is full, or not ours, or what is there is no journal
                    self._deliver(_refused(writes, reads, f"the journal cannot be opened: {exc}"))
                    continue
                try:
                    callbacks = self._apply(database, writes)
                except _Ended:
                    return
                self._deliver(callbacks + [self._look_up(database, read) for read in reads])
        finally:
            if database is not None:
                database.close()

    def _open(self) -> sqlite3.Connection:
        import sqlite3  # most clusters never need it

        self._directory.mkdir(mode=0o700, exist_ok=True)
        database = sqlite3.connect(self._directory / "journal.sqlite", isolation_level=None)
        try:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")  # nobody else looks: no index in shared memory
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            (found,) = database.execute("PRAGMA user_version").fetchone()
            if found == 0:
                database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            elif found != FORMAT:
                raise JournalError(f"it has format {found}, this release knows format {FORMAT}")
            self._remove_strays(database)
        except BaseException:
            database.close()
            raise
        return database

    def _remove_strays(self, database: sqlite3.Connection) -> None:
        """Blobs whose record was not committed, or was replaced, when the process before us died."""
        named = {name for (name,) in database.execute("SELECT blob FROM records WHERE blob IS NOT NULL")}
        for path in self._directory.glob("*.blob"):
            if path.name not in named:
                path.unlink()
            else:
                self._files = max(self._files, int(path.stem))

    def _apply(self, database: sqlite3.Connection, writes: dict[Key, _Write]) -> list[Callable[[], None]]:
        """Write a batch; what to call then."""
        callbacks: list[Callable[[], None]] = []
        good: dict[Key, _Write] = {}
        for key, write in writes.items():
            try:
                if write.blob is not None:
                    write.file = self._write_blob(write.blob)
                good[key] = write
            except OSError as exc:
                callbacks += _told(write, str(exc))
        try:
            replaced = _commit(database, good) if good else []
            error = ""
        except Exception as exc:  # SQLite's own errors are no one family
            error, replaced = str(exc), [write.file for write in good.values() if write.file is not None]
            if database.in_transaction:
                database.execute("ROLLBACK")
        for name in replaced:
            with contextlib.suppress(OSError):  # then the next opening removes it
                (self._directory / name).unlink()
        for write in good.values():
            callbacks += _told(write, error)
        return callbacks

    def _write_blob(self, blob: memoryview) -> str:
        self._files += 1
        path = self._directory / f"{self._files}.blob"
        try:
            with path.open("wb", buffering=0) as file:
                at = 0
                while at < len(blob):
                    if self._closing:
                        raise _Ended
                    at += file.write(blob[at : at + _CHUNK_NBYTES])
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path.name

    def _look_up(self, database: sqlite3.Connection, read: _Read) -> Callable[[], None]:
        try:
            query = "SELECT version, data, blob FROM records WHERE kind = ? AND key = ?"
            row = database.execute(query, read.key).fetchone()
            if row is None:
                return functools.partial(read.then, None, b"", "")
            version, data, name = row
            record = decode(read.key[0], version, data)
            blob = (self._directory / name).read_bytes() if name else b""
        except Exception as exc:  # as in `_apply`; and a blob may be too large to be read
            return functools.partial(read.then, None, b"", str(exc))
        return functools.partial(read.then, record, blob, "")


def _commit(database: sqlite3.Connection, writes: dict[Key, _Write]) -> list[str]:
    """One transaction; the names of the blobs that belong to nothing any more."""
    replaced = []
    database.execute("BEGIN IMMEDIATE")
    for key, write in writes.items():
        before = database.execute("SELECT blob FROM records WHERE kind = ? AND key = ?", key).fetchone()
        if before is not None and before[0]:
            replaced.append(before[0])
        if write.record is None:
            database.execute("DELETE FROM records WHERE kind = ? AND key = ?", key)
        else:
            row: tuple[Any, ...] = (*key, write.record.version, encode(write.record), write.file)
            database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", row)
    database.execute("COMMIT")
    return replaced


def _told(write: _Write, error: str) -> list[Callable[[], None]]:
    told: list[Callable[[], None]] = [] if write.release is None else [write.release]
    return told + [functools.partial(waiter, error) for waiter in write.waiters]


def _refused(writes: dict[Key, _Write], reads: list[_Read], error: str) -> list[Callable[[], None]]:
    callbacks = [callback for write in writes.values() for callback in _told(write, error)]
    return callbacks + [functools.partial(read.then, None, b"", error) for read in reads]
